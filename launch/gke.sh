#!/usr/bin/env bash
# Train on a slice of Cloud TPUs in GKE: bash launch/gke.sh COMMAND. The cluster has JobSet.
#   image            build the image of the last commit, and push it to IMAGE
#   render ARGS...   print the JobSet that runs bsce_jax.train with these arguments
#   apply ARGS...    start it
#   logs [HOST]      follow what a host prints, by default host 0
#   delete           stop it; apply with the same arguments resumes the run
# NAME (bsce-jax), IMAGE, TPU (tpu-v5-lite-podslice), TOPOLOGY (4x4) and CHIPS of a host (4)
# say what runs where. CLAIM (shared) is the persistent volume claim that all hosts see as /shared.
# DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
name=${NAME:-bsce-jax}

render() {
  NAME=$name python3 - "$@" <<'PY'
import json, math, os, pathlib, string, sys

given = {"TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "CHIPS": "4", "CLAIM": "shared"}
given |= {name: os.environ[name] for name in [*given, "NAME", "IMAGE"] if name in os.environ}
chips = math.prod(int(side) for side in given["TOPOLOGY"].split("x"))
given["HOSTS"] = str(chips // int(given["CHIPS"]))
given["ARGS"] = json.dumps(sys.argv[1:])
template = string.Template(pathlib.Path("launch/gke_jobset.yaml").read_text().split("\n", 1)[1])
print(template.substitute(given), end="")
PY
}

command=${1:-}
case $command in
  image | render | apply | logs | delete) shift ;;
  *) sed -n '2,10s/^# //p' launch/gke.sh >&2; exit 2 ;;
esac
if [[ $command =~ image|render|apply ]] && [ -z "${IMAGE:-}" ]; then
  echo "error: set IMAGE to the name of an image in a registry of yours" >&2
  exit 2
fi
case $command in
  image)
    run bash -c "git archive HEAD | docker build --file=launch/Dockerfile --tag=${IMAGE@Q} -"
    run docker push "$IMAGE"
    ;;
  render) render "$@" ;;
  apply)
    manifest=$(render "$@")
    run kubectl apply --filename=- <<< "$manifest"
    ;;
  logs)
    host=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=${1:-0}
    run kubectl logs --follow --tail=40 --selector="$host"
    ;;
  delete) run kubectl delete jobset "$name" ;;
esac
