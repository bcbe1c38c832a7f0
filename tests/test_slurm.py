"""launch/slurm.sbatch in a SLURM of its own, with one node of two cores: this machine."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from launch_tools import Checkout, program, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("slurmctld") and shutil.which("munged")),
        reason="needs apt-get install --no-install-recommends slurm-wlm munge",
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="slurmd starts only as root"),
]

CONFIGURATION = """
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _slurm(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start munged, slurmctld and slurmd, and name them to the SLURM commands."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(folder=folder, host=host, ports=_free_ports(2))
    (folder / "slurm.conf").write_text(text)
    places = ["key-file=munge.key", "socket=munge.socket", "pid-file=munged.pid"]
    places += ["log-file=munged.log", "seed-file=munged.seed"]
    options = [f"--{place.replace('=', f'={folder}/')}" for place in places]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            for command in (["munged", "--force", *options], ["slurmctld"], ["slurmd"]):
                subprocess.run(command, check=True, capture_output=True)
            wait_for(lambda: subprocess.getoutput("sinfo --noheader --format=%t") == "idle")
            yield
        finally:
            for name in ("slurmd", "slurmctld", "munged"):
                if (folder / f"{name}.pid").exists():
                    os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def _submit(checkout: Checkout, folder: pathlib.Path, *train: str) -> str:
    """Submit a job of two processes, with the arguments of train; return the job's number."""
    job = ["sbatch", "--parsable", f"--chdir={checkout.path}", "--ntasks-per-node=2"]
    job += [f"--output={folder}/log", "launch/slurm.sbatch"]
    started = subprocess.run(
        [*job, *train],
        check=True,
        cwd=checkout.path,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return started.stdout.strip()


def _submit_stand_in(folder: pathlib.Path, config: str) -> str:
    return _submit(Checkout(folder), folder, "--config", config, "--workdir", str(folder))


def _wait_for_state(job: str, state: str, seconds: float = 60) -> str:
    """Wait until a job is in a state; return all that SLURM knows about the job."""
    known = ""

    def reached() -> bool:
        nonlocal known  # a request that fails, because the controller is busy, is made again
        known = subprocess.getoutput(f"scontrol show job {job}")
        return f"JobState={state} " in known

    wait_for(reached, seconds)
    return known


def _start_soon(job: str) -> None:
    """Start a job that queued again, which would wait two minutes.

    Not at once: slurmd refuses a job whose credential is of the second in which it ended the job.
    """
    _slurm("scontrol", "update", f"JobId={job}", "StartTime=now+3")


@pytest.mark.usefixtures("slurm")
def test_a_job_that_is_told_to_stop_queues_again_and_resumes(tmp_path: pathlib.Path) -> None:
    job = _submit_stand_in(tmp_path, "wait")
    wait_for(lambda: len(list(tmp_path.glob("*.started"))) == 2)
    _slurm("scancel", "--signal=TERM", job)
    assert "Restarts=1 " in _wait_for_state(job, "PENDING")
    assert [file.read_text() for file in sorted(tmp_path.glob("*.stopped"))] == ["SIGTERM"] * 2
    _start_soon(job)
    assert "Restarts=1 " in _wait_for_state(job, "COMPLETED")
    assert sorted(file.name for file in tmp_path.glob("*.done")) == ["0.done", "1.done"]


@pytest.mark.usefixtures("slurm")
def test_a_job_with_a_process_that_fails_ends_and_does_not_come_back(
    tmp_path: pathlib.Path,
) -> None:
    job = _submit_stand_in(tmp_path, "fail")
    ended = _wait_for_state(job, "FAILED")
    assert "Restarts=0 " in ended
    assert "ExitCode=7:0" in ended


@pytest.mark.usefixtures("slurm")
def test_a_job_that_is_cancelled_does_not_come_back(tmp_path: pathlib.Path) -> None:
    job = _submit_stand_in(tmp_path, "wait")
    wait_for(lambda: len(list(tmp_path.glob("*.started"))) == 2)
    _slurm("scancel", job)
    assert "Restarts=0 " in _wait_for_state(job, "CANCELLED")
    wait_for(lambda: len(list(tmp_path.glob("*.stopped"))) == 2)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_run_trains_in_two_tasks_is_told_to_stop_and_goes_on(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    checkout = Checkout(tmp_path)
    python = checkout.path / ".venv" / "bin" / "python"
    program(python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')  # this one, as it is installed
    train = ["--config=digits:base=5,increment=5", f"--workdir={folder}"]
    train += ["--config.train.epochs=12", "--config.runtime.checkpoint_epochs=100"]
    job = _submit(checkout, tmp_path, *train)

    def begun() -> bool:
        entries = folder / "metrics.jsonl"
        return entries.exists() and '"epoch": 1,' in entries.read_text()

    wait_for(begun, seconds=400)  # also beside other work
    _slurm("scancel", "--signal=TERM", job)
    assert "Restarts=1 " in _wait_for_state(job, "PENDING")
    _start_soon(job)
    assert "Restarts=1 " in _wait_for_state(job, "COMPLETED", seconds=400)
    printed = (tmp_path / "log").read_text()
    assert printed.count("stopped; the same command goes on") == 1
    assert "resuming task" in printed
    assert printed.count("average incremental accuracy") == 1
    assert len(json.loads((folder / "results.json").read_text())["cnn"]["accuracy"]) == 2
