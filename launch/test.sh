#!/usr/bin/env bash
# Run the tests: bash launch/test.sh [arguments for pytest]
# Those that take long are run by: bash launch/test.sh -m slow
# It makes the environment first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
make_environment dev
exec .venv/bin/python -m pytest --numprocesses 2 --dist worksteal "$@"
