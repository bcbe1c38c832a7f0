#!/usr/bin/env bash
# Train in N processes on the CPUs of this machine:
#   bash launch/processes.sh 2 --config digits --workdir runs/two
# They talk over the loopback interface. All other arguments are passed to bsce_jax.train.
# If one process fails, the others are ended within seconds, and its exit code is returned.
# Ctrl-C and SIGTERM reach all of them; the same command resumes the run.
set -euo pipefail
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "error: say how many processes: bash launch/processes.sh 2 --config digits --workdir DIR" >&2
  exit 2
fi
count=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$here/launch/environment.sh"
(cd "$here" && run make_environment)
train=("$here/.venv/bin/python" -m bsce_jax.train "$@" --processes "$count")
if [ -n "${DRY_RUN:-}" ]; then
  for ((process = 0; process < count; process++)); do
    run "${train[@]}" --process "$process" --coordinator localhost:PORT
  done
  exit
fi
port=$("$here/.venv/bin/python" -c \
  'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

running=()
send() { # a signal, to the process groups of all that run
  if [ "${#running[@]}" -gt 0 ]; then kill -s "$1" -- "${running[@]/#/-}" 2>/dev/null || true; fi
}
stopped=0 # the exit code of a process that was asked to stop
trap 'stopped=130; send INT' INT
trap 'stopped=143; send TERM' TERM
trap 'send KILL' EXIT

set -m # each process leads a group of its own, so that a Ctrl-C reaches it once, by send
for ((process = 0; process < count; process++)); do
  "${train[@]}" --process "$process" --coordinator "localhost:$port" &
  running+=($!)
done

exec 3>&2 2>/dev/null # bash would name each process that is killed
code=0
deadline=
while [ "${#running[@]}" -gt 0 ]; do
  sleep 0.2 & wait $! || true # a signal is handled during wait, but not during sleep
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then send KILL; fi
  for process in "${!running[@]}"; do
    if kill -0 "${running[process]}"; then continue; fi
    ended=0
    wait "${running[process]}" || ended=$?
    unset "running[process]"
    if [ "$code" = 0 ]; then code=$ended; fi
    if [ "$ended" != 0 ] && [ "$ended" != "$stopped" ] && [ -z "$deadline" ]; then
      echo "process $process ended with exit code $ended; ending the others" >&3
      deadline=$((SECONDS + 5))
      send TERM
    fi
  done
done
exit "$code"
