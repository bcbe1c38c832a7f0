# Makes .venv in the checkout once, and again when the pins or the project's needs change.
# Sourced by the scripts beside it; takes the extras to install, such as "[dev]".
# PYTHON names another interpreter than python3.

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
