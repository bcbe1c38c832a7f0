#!/usr/bin/env bash
# All that a GPU is wanted for, the most important first; the same command resumes:
#   bash benchmarks/gpu.sh DATA OUT
# DATA has CIFAR-100. The figures are JSON files in OUT; one that is there is not measured again.
# PYTHON is the interpreter, .venv/bin/python by default. Where it has no torch, the comparison with
# PyTorch is left out.
# MINIATURE=1 does the same with a small network on small images for one epoch, in minutes on a CPU.
set -euo pipefail
data=$(realpath "$1")
out=$(mkdir -p "$2" && realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=.

small=() step=(--config.runtime.dtype=bfloat16) study=() pairs=(--bfloat16)
replicas=(resnet32 32 128)
ccil=(--config.memory.policy=total --config.memory.size=2000) # as its published figures
sd=(--config.train.self_distillation_epochs=70)
if [ -n "${MINIATURE:-}" ]; then
  small=(--config.model.name=resnet8 --config.dataset.image_size=8 --config.train.epochs=1
    --config.train.self_distillation_epochs=1)
  sd=()
  step=(--seconds 0.2 --config.model.name=resnet8 --config.train.batch_size=16)
  study=(--seeds 0 --config.model.name=resnet8 --config.dataset.image_size=8
    --config.train.epochs=1)
  pairs=(--pairs 1 --seconds 0.2)
  replicas=(resnet8 8 16)
fi

# Run a command that prints a result, unless the file of the result exists.
once() {
  local file=$out/$1
  shift
  if [ -e "$file" ]; then return; fi
  echo "$file" >&2
  "$@" > "$file.part"
  mv "$file.part" "$file"
}

"$python" -c "import sys; from bsce_jax import data, errors
errors.exit_on_user_error(lambda: data.load('cifar100', sys.argv[1]))" "$data"

bench=("$python" -m bsce_jax.bench --parts steps --methods finetune il_baseline podnet)
once steps.json "${bench[@]}" "${step[@]}"
graphs="${XLA_FLAGS:+$XLA_FLAGS }${GRAPHS---xla_gpu_graph_min_graph_size=3}" # not of CPUs
once steps_graphs.json env "XLA_FLAGS=$graphs" "${bench[@]}" "${step[@]}"
if "$python" -c "import torch" 2>/dev/null; then
  once versus.txt "$python" benchmarks/versus.py "${pairs[@]}"
fi
once replicas.txt "$python" benchmarks/replicas.py "${replicas[@]}"

train() { "$python" benchmarks/study.py --data_dir "$data" --results "$out" "${study[@]}" "$@"; }
train --methods il_baseline lucir podnet --protocols base50_increment10
"$python" -m bsce_jax.train --config cifar100_best --seeds "${SEEDS:-0,1,2}" \
  --config.dataset.data_dir="$data" --workdir "$out/best" "${small[@]}"
"$python" -m bsce_jax.train --config cifar100:method=ccil --seeds "${SEEDS:-0,1,2}" \
  --config.dataset.data_dir="$data" --workdir "$out/ccil_sd" "${ccil[@]}" "${sd[@]}" "${small[@]}"
train --methods der --protocols base0_increment10
if [ -z "${MINIATURE:-}" ]; then train; fi
