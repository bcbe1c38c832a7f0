#!/usr/bin/env bash
# Train on this machine: bash launch/local.sh --config configs/digits.py --workdir runs/digits
# It makes the environment first. All arguments are passed to bsce_jax.train.
# ACCELERATOR is cuda12 or cuda13 for NVIDIA GPUs, tpu for Cloud TPUs; without it CPUs are used.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/environment.sh"
(cd "$here" && run make_environment "${ACCELERATOR:-base}")
run exec "$here/.venv/bin/python" -m bsce_jax.train "$@"
