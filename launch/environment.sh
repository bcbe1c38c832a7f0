# shellcheck shell=bash
# What the scripts in this folder share; they source it.

# Make .venv in the checkout, and again when pyproject.toml or the lock file changes.
# The argument is the extra to install (dev, cuda12, cuda13, tpu); its packages, versions and hashes
# are in launch/lock/. PYTHON is the interpreter, python3 by default.
make_environment() {
  local extra=${1:-base} lock install stamp
  lock=launch/lock/$extra.txt
  if [ ! -f "$lock" ]; then
    echo "error: ACCELERATOR=$extra: it is cuda12, cuda13, tpu or, for CPUs, not set" >&2
    exit 2
  fi
  if [ "$(cat ".venv/stamp-$extra" 2>/dev/null)" = "$(_stamp "$extra")" ]; then return; fi
  "${PYTHON:-python3}" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; "
             "name another with PYTHON=python3.12")
PY
  # what another version of the lock files installed is about to change
  for stamp in .venv/stamp-*; do
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" != "$(_stamp "${stamp#.venv/stamp-}")" ]; then
      rm "$stamp"
    fi
  done
  echo "installing into .venv (about a minute, about 1 GB) ..." >&2
  "${PYTHON:-python3}" -m venv .venv
  install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
  # setuptools comes first: with it from the lock file, no build fetches what has no hash
  "${install[@]}" --require-hashes -r <(sed -n '/^setuptools==/,/[^\\]$/p' "$lock")
  "${install[@]}" --require-hashes --use-pep517 --no-build-isolation -r "$lock"
  # setuptools warns of what every editable installation is
  PYTHONWARNINGS=ignore "${install[@]}" --no-deps --use-pep517 --no-build-isolation --editable .
  _stamp "$extra" > ".venv/stamp-$extra"
  # each extra has the packages of base too, in the same versions
  _stamp base > .venv/stamp-base
}

# Identify what make_environment installs for an extra.
_stamp() { cat pyproject.toml "launch/lock/$1.txt" | sha256sum; }

# Run a command; with DRY_RUN set, print it instead.
run() {
  if [ -z "${DRY_RUN:-}" ]; then
    "$@"
  else
    echo "${*@Q}" | sed -E "s/'([A-Za-z0-9_.,:=@%+/-]+)'/\\1/g" # quotes where they are needed
  fi
}
