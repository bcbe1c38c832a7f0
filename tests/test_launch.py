"""The scripts of launch/: what they run, and what becomes of what they run."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
import yaml
from launch_tools import ROOT, Checkout, wait_for

SCRIPTS = [
    *sorted((ROOT / "launch").glob("*.s*")),
    ROOT / ".ci" / "run",
    ROOT / "benchmarks" / "gpu.sh",
]
SSH = "gcloud compute tpus tpu-vm ssh pod --zone=zone"
QUEUE = "gcloud compute tpus queued-resources"
CREATE = (
    f"{QUEUE} create pod --node-id=pod --zone=zone --accelerator-type=v5litepod-16"
    " --runtime-version=v2-alpha-tpuv5-lite"
)
TRAIN = "-m bsce_jax.train --config 'my digits' --workdir runs/x"
HOST = "jobset.sigs.k8s.io/jobset-name=pod,batch.kubernetes.io/job-completion-index"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: pathlib.Path) -> None:
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    subprocess.run([shellcheck, "--external-sources", script], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("local.sh ARGS", ["make_environment cuda12", f"exec CHECKOUT/.venv/bin/python {TRAIN}"]),
        (
            "processes.sh 2 ARGS",
            ["make_environment"]
            + [
                f"CHECKOUT/.venv/bin/python {TRAIN} --processes 2 --process {process}"
                " --coordinator localhost:PORT"
                for process in range(2)
            ],
        ),
        ("slurm.sbatch ARGS", ["make_environment cuda12", f"srun .* .venv/bin/python {TRAIN}"]),
        ("tpu_vm.sh create", [CREATE]),
        ("tpu_vm.sh wait", [f"{QUEUE} describe pod --zone=zone '--format=value\\(state.state\\)'"]),
        (
            "tpu_vm.sh copy",
            [
                "git bundle create --quiet bsce_jax.bundle HEAD",
                "gcloud compute tpus tpu-vm scp bsce_jax.bundle pod: --zone=zone --worker=all",
                "rm bsce_jax.bundle",
                rf"{SSH} --worker=all \$'--command=set -e.*FETCH_HEAD.*'",
            ],
        ),
        (
            "tpu_vm.sh run ARGS",
            [rf"{SSH} --worker=all \$'--command=.*nohup .*/local.sh .*my digits.* bsce_jax.pid'"],
        ),
        ("tpu_vm.sh logs", [f"{SSH} --worker=0 '--command=tail -n 40 -F bsce_jax.log'"]),
        ("tpu_vm.sh logs 3", [f"{SSH} --worker=3 '--command=tail -n 40 -F bsce_jax.log'"]),
        ("tpu_vm.sh stop", [rf"{SSH} --worker=all .*--command=kill \$\(cat bsce_jax.pid\).*"]),
        (
            "tpu_vm.sh resume ARGS",
            [
                f"{QUEUE} describe .*",
                f"{QUEUE} delete pod --zone=zone --force --quiet",
                CREATE,
                f"{QUEUE} describe .*",
                "git bundle .*",
                ".* scp .*",
                "rm .*",
                ".* ssh .*",
                ".* ssh .*my digits.*",
            ],
        ),
        ("tpu_vm.sh delete", [f"{QUEUE} delete pod --zone=zone --force --quiet"]),
        (
            "gke.sh image",
            [
                r"bash -c 'git archive HEAD \| docker build --file=launch/Dockerfile --tag=.* -'",
                "docker push registry/bsce",
            ],
        ),
        ("gke.sh apply ARGS", ["kubectl apply --filename=-"]),
        ("gke.sh logs", [f"kubectl logs --follow --tail=40 --selector={HOST}=0"]),
        ("gke.sh logs 2", [f"kubectl logs --follow --tail=40 --selector={HOST}=2"]),
        ("gke.sh delete", ["kubectl delete jobset pod"]),
    ],
)
def test_a_dry_run_prints_the_commands_and_does_nothing(
    tmp_path: pathlib.Path, command: str, expected: list[str]
) -> None:
    checkout = Checkout(tmp_path, dict.fromkeys(["docker", "gcloud", "git", "kubectl", "srun"], ""))
    script, *args = command.split()
    if args and args[-1] == "ARGS":
        args[-1:] = ["--config", "my digits", "--workdir", "runs/x"]
    printed = checkout.run(
        script,
        *args,
        DRY_RUN="1",
        ACCELERATOR="cuda12",
        IMAGE="registry/bsce",
        NAME="pod",
        ZONE="zone",
    )
    lines = printed.replace(str(checkout.path), "CHECKOUT").splitlines()
    assert len(lines) == len(expected), printed
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert checkout.calls.read_text() == ""


def test_a_job_of_a_slurm_array_trains_the_seed_of_its_number(tmp_path: pathlib.Path) -> None:
    checkout = Checkout(tmp_path)
    words = ["--config", "digits", "--workdir", "runs/x"]
    printed = checkout.run("slurm.sbatch", *words, DRY_RUN="1", SLURM_ARRAY_TASK_ID="3")
    assert printed.endswith("bsce_jax.train --config digits --workdir runs/x --seeds 3\n")


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("processes.sh", [], "error: say how many processes"),
        ("processes.sh", ["0"], "error: say how many processes"),
        ("tpu_vm.sh", [], "Train on a slice of Cloud TPU VMs"),
        ("tpu_vm.sh", ["create"], "error: set NAME"),
        ("gke.sh", ["aply"], "Train on a slice of Cloud TPUs in GKE"),
        ("gke.sh", ["apply"], "error: set IMAGE"),
    ],
)
def test_a_wrong_call_is_told_what_is_right(
    tmp_path: pathlib.Path, script: str, args: list[str], message: str
) -> None:
    assert Checkout(tmp_path).run(script, *args, code=2).startswith(message)


def test_an_unknown_accelerator_is_refused_before_anything_is_made(tmp_path: pathlib.Path) -> None:
    checkout = Checkout(tmp_path)
    environment = (ROOT / "launch" / "environment.sh").read_text()
    (checkout.path / "launch" / "environment.sh").write_text(environment)
    printed = checkout.run("local.sh", code=2, ACCELERATOR="gpu")
    assert printed == "error: ACCELERATOR=gpu: it is cuda12, cuda13, tpu or, for CPUs, not set\n"


# processes.sh


def started(folder: pathlib.Path) -> list[list[str]]:
    """The process id and the arguments of each process, in order."""
    return [file.read_text().splitlines() for file in sorted(folder.glob("*.started"))]


def is_running(pid: str) -> bool:
    return pathlib.Path(f"/proc/{pid}").exists()


def test_each_process_gets_its_number_and_the_same_address(tmp_path: pathlib.Path) -> None:
    Checkout(tmp_path).run("processes.sh", "3", "--config", "finish", "--workdir", str(tmp_path))
    calls = [args for _, *args in started(tmp_path)]
    address = calls[0][-1]
    assert re.fullmatch(r"localhost:[1-9]\d+", address)
    train = ["-m", "bsce_jax.train", "--config", "finish", "--workdir", str(tmp_path)]
    assert calls == [
        [*train, "--processes", "3", "--process", number, "--coordinator", address]
        for number in "012"
    ]
    assert len(list(tmp_path.glob("*.done"))) == 3


def test_one_that_fails_ends_those_that_would_never_end(tmp_path: pathlib.Path) -> None:
    printed = Checkout(tmp_path).run(
        "processes.sh", "3", "--config", "fail", "--workdir", str(tmp_path), code=7
    )
    assert printed == "process 1 ended with exit code 7; ending the others\n"
    assert [is_running(pid) for pid, *_ in started(tmp_path)] == [False] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_the_same_command_resumes(
    tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    checkout = Checkout(tmp_path)
    command = ["processes.sh", "2", "--config", "wait", "--workdir", str(tmp_path)]
    running = checkout.start(*command)
    wait_for(lambda: len(started(tmp_path)) == 2)
    os.kill(running.pid, number)
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + number, printed
    assert [file.read_text() for file in tmp_path.glob("*.stopped")] == [number.name] * 2
    checkout.run(*command)
    assert len(list(tmp_path.glob("*.done"))) == 2


# tpu_vm.sh

# runs what it is asked to on two workers, which are folders; the slice is there after some time
GCLOUD = """
case "$*" in
  *" describe "*) cat state; echo ACTIVE > state ;;
  *" delete "*) rm -r workers ;;
  *" create "*) echo PROVISIONING > state; mkdir -p workers/0 workers/1 ;;
  *" scp "*) for worker in workers/*; do cp "$5" "$worker"; done ;;
  *" ssh "*)
    for command; do :; done
    for worker in workers/*; do
      mkdir -p "$worker/.local/bin"
      printf '#!/bin/sh\\necho python3.12\\n' > "$worker/.local/bin/uv"
      chmod +x "$worker/.local/bin/uv"
      (export HOME="$PWD/$worker" WORKER="${worker#workers/}" WORKERS=2
       cd "$worker" && bash -c "${command#--command=}" < /dev/null) || exit
    done ;;
esac
"""


def test_a_slice_trains_stops_and_resumes_after_it_was_taken_away(tmp_path: pathlib.Path) -> None:
    checkout = Checkout(tmp_path, {"gcloud": GCLOUD, "python3": ""})
    for command in ["init -q", "add -Af .", "-c user.name=a -c user.email=a commit -qm a"]:
        subprocess.run(["git", *command.split()], cwd=checkout.path, check=True)
    args = ["--config", "wait", "--workdir", str(tmp_path)]

    def call(*command: str, code: int = 0) -> str:
        return checkout.run("tpu_vm.sh", *command, code=code, POLL="0", NAME="pod", ZONE="zone")

    call("create")
    assert call("wait") == "pod is PROVISIONING\n"
    call("copy")
    call("run", *args)
    wait_for(lambda: len(started(tmp_path)) == 2)
    assert "it runs already" in call("run", *args, code=1)
    call("stop")
    assert [file.read_text() for file in tmp_path.glob("*.stopped")] == ["SIGTERM"] * 2
    assert not any(is_running(pid) for pid, *_ in started(tmp_path))
    (checkout.path / "state").write_text("SUSPENDED\n")
    assert call("wait", code=1) == "error: pod is SUSPENDED\n"
    (checkout.path / "state").write_text("SUSPENDED\n")
    call("resume", *args)
    wait_for(lambda: len(list(tmp_path.glob("*.done"))) == 2)
    assert [each[1:] for each in started(tmp_path)] == [["-m", "bsce_jax.train", *args]] * 2
    call("delete")
    assert not (checkout.path / "workers").exists()


# gke.sh


def render(tmp_path: pathlib.Path, *args: str, **environment: str) -> Any:
    return yaml.safe_load(
        Checkout(tmp_path).run(
            "gke.sh", "render", *args, code=0, IMAGE="registry/bsce", **environment
        )
    )


def errors(manifest: Any) -> list[str]:
    schema = json.loads((ROOT / "tests" / "jobset_schema.json").read_text())
    checker = jsonschema.Draft202012Validator(schema)
    return [error.message for error in checker.iter_errors(manifest)]


def test_the_jobset_is_a_jobset_and_has_what_was_asked_for(tmp_path: pathlib.Path) -> None:
    args = ["--config", 'it\'s "$HOME"', "--workdir", "/shared/runs/x"]
    manifest = render(tmp_path, *args, TOPOLOGY="4x8", CHIPS="4", NAME="mine", CLAIM="disk")
    assert errors(manifest) == []
    assert manifest["metadata"]["name"] == "mine"
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 8
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x8"
    assert pod["containers"][0]["args"] == args
    assert pod["containers"][0]["image"] == "registry/bsce"
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "disk"}}]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"parallelism": 4', '"paralelism": 4'),
        ('"parallelism": 4', '"parallelism": "four"'),
        ('"maxRestarts"', '"maxRestart"'),
        ('"FailJobSet"', '"EndJobSet"'),
        ('"onExitCodes"', '"onExitCode"'),
        ('"restartPolicy"', '"restart"'),
        ('"mountPath"', '"path"'),
        ('"claimName"', '"claim"'),
    ],
)
def test_the_schema_finds_what_is_wrong(tmp_path: pathlib.Path, right: str, wrong: str) -> None:
    text = json.dumps(render(tmp_path))
    assert right in text
    assert errors(json.loads(text.replace(right, wrong)))


def test_apply_gives_the_manifest_to_kubectl(tmp_path: pathlib.Path) -> None:
    checkout = Checkout(tmp_path, {"kubectl": f"cat > {tmp_path}/applied\n"})
    rendered = checkout.run("gke.sh", "render", "a b", IMAGE="registry/bsce")
    checkout.run("gke.sh", "apply", "a b", IMAGE="registry/bsce")
    assert (tmp_path / "applied").read_text() == rendered
    assert checkout.calls.read_text() == "kubectl apply --filename=-\n"
