#!/usr/bin/env bash
# Train on this machine: bash launch/local.sh --config configs/digits.py --workdir runs/digits
# It makes the environment first. All arguments are passed to bsce_jax.train.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/environment.sh"
(cd "$here" && make_environment)
exec "$here/.venv/bin/python" -m bsce_jax.train "$@"
