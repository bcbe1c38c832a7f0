# Make .venv in the checkout, and again when constraints.txt or pyproject.toml changes.
# The scripts in this folder source it; the argument is the extras to install, such as "[dev]".
# PYTHON is the interpreter, python3 by default.

make_environment() {
  local extras=${1:-} stamp
  stamp=$(cat pyproject.toml constraints.txt <(echo "$extras") | sha256sum)
  if [ "$(cat ".venv/stamp$extras" 2>/dev/null)" = "$stamp" ]; then return; fi
  "${PYTHON:-python3}" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; "
             "name another with PYTHON=python3.12")
PY
  echo "installing into .venv (about a minute, about 1 GB) ..." >&2
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
    --constraint constraints.txt --editable ".$extras"
  echo "$stamp" > ".venv/stamp$extras"
}
