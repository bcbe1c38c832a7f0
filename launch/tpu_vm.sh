#!/usr/bin/env bash
# Train on a slice of Cloud TPU VMs: bash launch/tpu_vm.sh COMMAND, with NAME and ZONE set.
#   create           ask for the slice
#   wait             until it is there
#   copy             the last commit to all workers, and Python 3.12; then run SETUP there
#   run ARGS...      start bsce_jax.train with these arguments on all workers, and return
#   logs [WORKER]    follow what a worker prints, by default worker 0
#   stop             save a checkpoint and stop
#   resume ARGS...   run; first create, wait and copy if the slice was taken away
#   delete           give the slice back
# TYPE (v5litepod-16), RUNTIME (v2-alpha-tpuv5-lite) and CREATE (flags such as --spot) choose the
# slice. SETUP is a shell command of yours, to mount folders. DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

queue=(gcloud compute tpus queued-resources)

on() { # workers (a number, or all): a shell command
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

state() {
  run "${queue[@]}" describe "$NAME" --zone="$ZONE" --format="value(state.state)"
}

create() {
  local flags
  read -ra flags <<< "${CREATE:-}"
  run "${queue[@]}" create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="${TYPE:-v5litepod-16}" \
    --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" "${flags[@]}"
}

await() {
  if [ -n "${DRY_RUN:-}" ]; then state; return; fi
  local now
  while now=$(state); [ "$now" != ACTIVE ]; do
    case $now in
      "" | FAILED | SUSPEND*) echo "error: $NAME is ${now:-not there}" >&2; exit 1 ;;
    esac
    echo "$NAME is $now" >&2
    sleep "${POLL:-30}"
  done
}

copy() {
  run git bundle create --quiet bsce_jax.bundle HEAD
  run gcloud compute tpus tpu-vm scp bsce_jax.bundle "$NAME:" --zone="$ZONE" --worker=all
  run rm bsce_jax.bundle
  # the images of TPU VMs have Python 3.10
  on all "set -e
python3 -m pip install --quiet --user uv
~/.local/bin/uv python install --quiet 3.12
git init --quiet bsce_jax
git -C bsce_jax fetch --quiet ~/bsce_jax.bundle HEAD
git -C bsce_jax checkout --quiet --force --detach FETCH_HEAD
${SETUP:-}"
}

train() {
  on all "if kill -0 \$(cat bsce_jax.pid) 2>/dev/null; then
  echo 'error: it runs already; see: bash launch/tpu_vm.sh logs' >&2
  exit 1
fi
export ACCELERATOR=tpu PYTHON=\$(~/.local/bin/uv python find 3.12)
nohup bash bsce_jax/launch/local.sh ${*@Q} >> bsce_jax.log 2>&1 < /dev/null &
echo \$! > bsce_jax.pid"
}

stop() {
  on all "kill \$(cat bsce_jax.pid)
while kill -0 \$(cat bsce_jax.pid) 2>/dev/null; do sleep 1; done"
}

resume() {
  local now=SUSPENDED
  if [ -n "${DRY_RUN:-}" ]; then state; else now=$(state || true); fi
  if [ "$now" != ACTIVE ]; then
    if [ -n "$now" ]; then delete; fi
    create
    await
    copy
  fi
  train "$@"
}

delete() {
  run "${queue[@]}" delete "$NAME" --zone="$ZONE" --force --quiet
}

command=${1:-}
case $command in
  create | wait | copy | run | logs | stop | resume | delete) shift ;;
  *) sed -n '2,12s/^# //p' launch/tpu_vm.sh >&2; exit 2 ;;
esac
if [ -z "${NAME:-}" ] || [ -z "${ZONE:-}" ]; then
  echo "error: set NAME to a name for the slice and ZONE to its zone, such as us-west4-a" >&2
  exit 2
fi
case $command in
  wait) await ;;
  run) train "$@" ;;
  logs) on "${1:-0}" "tail -n 40 -F bsce_jax.log" ;;
  *) "$command" "$@" ;;
esac
