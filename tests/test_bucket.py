"""Runs at gs://BUCKET/RUN, with an emulator of the service: as in a local folder, or one line."""

import collections
import gc
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from google.cloud.storage.retry import DEFAULT_RETRY
from ml_collections import ConfigDict
from storage import Service, service
from tiny_run import assert_same_run, interrupted, make_config, some_digits, without_timing

from bsce_jax import data, errors, export, train
from bsce_jax.errors import UserError
from bsce_jax.report.runs import read_all
from bsce_jax.runs import bucket, log, results
from bsce_jax.runs.bucket import LOCK, Objects, Unreachable
from bsce_jax.runs.checkpoint import Checkpoints
from bsce_jax.runs.extension import Extension
from bsce_jax.runs.lease import Lease
from bsce_jax.runs.saved import SavedRun
from bsce_jax.training import mesh
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.seeds import refuse_seeds, run_seeds

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIGITS = some_digits()
URL = "gs://bucket/runs/tiny"
Said = list[str]


@pytest.fixture(autouse=True, scope="module")
def short_chunks() -> Iterator[None]:
    """Chunks of about an epoch, after each of which a checkpoint is saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "chunk_steps", lambda problem, task, size=0: 5)
        yield


def config(**fields: Any) -> ConfigDict:
    named = {path.replace("__", "."): value for path, value in fields.items()}
    return make_config("icarl", fields={"runtime.checkpoint_epochs": 1, **named})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An empty bucket; requests are repeated without long pauses, and locks lapse at once."""
    quick = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05)
    monkeypatch.setattr(bucket, "retry", lambda: quick.with_timeout(bucket.SECONDS))
    monkeypatch.setattr("bsce_jax.runs.lease.BEAT", 0.1)
    monkeypatch.setattr("bsce_jax.runs.lease.LAPSE", 0.5)
    with service() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.address)
        monkeypatch.setenv("no_proxy", "*")
        yield running
        gc.collect()  # models have cycles, and hold copies
        assert not errors.COPIES


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The run in a local folder, with the model of its first task too."""
    folder = tmp_path_factory.mktemp("straight")
    run(config(runtime__keep_models="all"), folder, DIGITS)
    return folder


def assert_same(store: Service, straight: pathlib.Path, folder: pathlib.Path) -> None:
    """The bucket has the run of the local folder."""
    there = store.download("runs/tiny", folder)
    assert_same_run(there, straight, 1)
    assert without_timing(results.read(there) or {}) == without_timing(results.read(straight) or {})

    def names(top: pathlib.Path) -> set[str]:
        paths = (path.relative_to(top) for path in top.rglob("*") if path.is_file())
        random = ("checkpoints", "tensorboard")
        return {str(path) for path in paths if path.parts[0] not in random and str(path) != LOCK}

    assert names(there) == names(straight) - {"model/task_00.npz"}
    assert LOCK not in store.objects("runs/tiny")


# --- a run


def what_a_kill_would_lose(objects: Mapping[str, bytes]) -> list[str]:
    """What is missing, or not as it was written, among the objects that others describe."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in objects.items()}
    wrong = []
    for name in objects:
        if name.endswith(".sealed"):
            folder = name.removesuffix("sealed").replace(".", "/")
            sealed = {f"{folder}{file}": s for file, (s, _) in json.loads(objects[name]).items()}
            there = {file: s for file, s in sums.items() if file.startswith(folder)}
            wrong += [name] if there != sealed else []
    if "model/model.json" in objects:
        model = json.loads(objects["model/model.json"])
        right = sums.get(f"model/{model['weights']}") == model["weights_sha256"]
        wrong += [] if right else ["model"]
    if "results.json" in objects:
        tasks = len(json.loads(objects["results.json"])["cnn"]["accuracy"])
        needed = {f"predictions/task_{task:02d}.npz" for task in range(tasks)}
        wrong += sorted(needed - objects.keys())
    return wrong


def seals(objects: Iterable[str]) -> list[str]:
    return sorted(name for name in objects if name.endswith(".sealed"))


def test_a_run_in_a_bucket_is_that_of_a_folder_and_can_be_killed_after_each_request(
    store: Service, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    states: list[dict[str, bytes]] = []
    store.changed = lambda: states.append(store.objects("runs/tiny"))
    found = run(config(), URL, DIGITS)
    assert without_timing(found) == without_timing(results.read(straight) or {})
    assert_same(store, straight, tmp_path / "there")

    assert [what_a_kill_would_lose(state) for state in states] == [[]] * len(states)
    begun = next(i for i, state in enumerate(states) if seals(state))
    assert all(seals(state) for state in states[begun:])
    assert seals(states[-1]) == ["checkpoints/5.sealed", "checkpoints/6.sealed"]
    first_with = {tuple(seals(state)): state for state in reversed(states[begun:])}
    assert len(first_with) > 8
    for number, state in enumerate(first_with.values()):
        folder = tmp_path / str(number)
        for name, content in state.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        with Checkpoints(folder / "checkpoints", {}, mesh.replicated(mesh.make_mesh())) as there:
            latest = there.latest()
        assert latest is not None
        assert log.damage(folder, latest[0].log_bytes, latest[0].log_digest) is None
        assert len(list((folder / "predictions").glob("*"))) >= latest[0].task

    store.requests.clear()
    assert without_timing(run(config(), pathlib.Path(URL), DIGITS)) == without_timing(found)
    wrote = [request for request in store.requests if not request.startswith("GET")]
    assert {request.split("/")[-1] for request in wrote} == {LOCK}


def test_a_killed_run_goes_on_from_the_bucket(
    store: Service, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    code = (
        "import os, tiny_run\nfrom bsce_jax.training.loop import run\n"
        "print(os.getpid(), flush=True)\n"
        "made = tiny_run.make_config('icarl', fields={'runtime.checkpoint_epochs': 1})\n"
        f"run(made, {URL!r}, tiny_run.some_digits())"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": str(tmp_path)}

    def kill(request: str) -> None:
        if request == "POST runs/tiny/checkpoints/2/model/_METADATA":
            killed.send_signal(signal.SIGKILL)

    store.fail = kill
    killed = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | paths, stderr=subprocess.DEVNULL
    )
    assert killed.wait(120) == -signal.SIGKILL
    there = store.objects("runs/tiny")
    assert LOCK in there
    assert seals(there) == ["checkpoints/1.sealed"]
    run(config(), URL, DIGITS)
    assert_same(store, straight, tmp_path / "there")


def test_a_stopped_run_goes_on_without_a_damaged_checkpoint(
    store: Service,
    straight: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with interrupted("stopped", task=1, epoch=2):
        run(config(), URL, DIGITS)
    there = store.objects("runs/tiny")
    assert (straight / "metrics.jsonl").read_bytes().startswith(there["metrics.jsonl"])
    assert there["metrics.jsonl"].count(b"\n") > 5
    newest = seals(there)[-1].removesuffix(".sealed")
    store.put(f"runs/tiny/{newest}/_CHECKPOINT_METADATA", b"{}")
    run(config(), URL, DIGITS)
    assert "is damaged (_CHECKPOINT_METADATA is not as it was written)" in capsys.readouterr().err
    assert_same(store, straight, tmp_path)


def test_another_config_is_refused_by_the_name_of_the_bucket(store: Service) -> None:
    with interrupted("stopped", task=0, epoch=1):
        run(config(), URL, DIGITS)
    before = store.objects("runs/tiny")
    with pytest.raises(UserError, match=f"^{URL} holds a run of another config"):
        run(config(seed=1), URL, DIGITS)
    assert store.objects("runs/tiny") == before


# --- the lock


def test_a_second_run_is_refused(store: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsce_jax.runs.lease.LAPSE", 30.0)  # of a pause it is not to lapse
    said: Said = []
    lease = Lease(Objects(URL), said.append)
    with pytest.raises(UserError, match=f"training in {URL}, process {os.getpid()} of") as error:
        run(config(), URL, DIGITS)
    assert error.value.exit_code == 2
    lease.check()
    lease.release()
    assert not store.objects("runs/tiny")
    assert not said


def test_a_lock_without_a_sign_of_life_is_replaced_once(
    store: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bsce_jax.runs.lease.BEAT", 60.0)  # as if its process were gone
        gone = Lease(Objects(URL), lambda text: None)
    got: list[Lease | UserError] = []
    said: Said = []

    def lock() -> None:
        try:
            got.append(Lease(Objects(URL), said.append))
        except UserError as error:
            got.append(error)

    racing = [threading.Thread(target=lock) for _ in range(3)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    (winner,) = (one for one in got if isinstance(one, Lease))
    assert len(got) == 3
    assert said[0].startswith(f"{URL} is locked by process {os.getpid()} of ")
    with pytest.raises(UserError, match=r"\.lock was removed or replaced"):
        gone.check()
    gone.release()
    winner.check()
    winner.release()
    assert not store.objects("runs/tiny")


def test_a_lock_whose_answer_was_lost_is_held(store: Service) -> None:
    def lose() -> None:
        store.changed = lambda: None
        raise ConnectionResetError  # the object is made; the client asks again and finds it

    store.changed = lose
    lease = Lease(Objects(URL), lambda text: pytest.fail(text))
    assert store.requests.count(f"POST runs/tiny/{LOCK}") == 2
    lease.check()
    lease.release()


def test_a_run_that_lost_its_lock_saves_nothing_more(store: Service) -> None:
    def steal(request: str) -> None:
        if request.endswith("checkpoints/1.sealed"):
            store.remove(f"runs/tiny/{LOCK}")

    store.fail = steal
    with pytest.raises(UserError, match="was removed or replaced while this process"):
        run(config(), URL, DIGITS)
    assert seals(store.objects("runs/tiny")) == ["checkpoints/1.sealed"]


# --- bad input, and a network that fails


@pytest.mark.parametrize("url", ["gs://bucket", "gs://bucket/", "gs:///run", "gs://"])
def test_a_bucket_needs_a_name_and_a_run(url: str, store: Service) -> None:
    with pytest.raises(UserError, match="say gs://BUCKET/RUN"):
        run(config(), url, DIGITS)


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("gs://nowhere/run", None, "is in no bucket that exists"),
        ("gs://Bad_/run", None, "gs://Bad_/run cannot exist: Bucket names must start"),
        (URL, HTTPStatus.FORBIDDEN, f"no right to use {URL}"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused(
    url: str, status: HTTPStatus | None, message: str, store: Service
) -> None:
    store.fail = lambda request: status
    with pytest.raises(UserError, match=message) as error:
        run(config(), url, DIGITS)
    assert error.value.exit_code == 2
    assert not store.objects("runs/tiny")


def test_the_client_is_asked_for_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(UserError, match=r"needs google-cloud-storage: pip install 'bsce_jax\[gcs"):
        run(config(), URL, DIGITS)


def test_without_credentials_the_line_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(UserError, match="gcloud auth application-default login"):
        run(config(), URL, DIGITS)


# the client leaves the connections of requests that failed to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_network_that_fails_loses_nothing(
    store: Service,
    straight: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: collections.Counter[str] = collections.Counter()

    def fail(request: str) -> HTTPStatus | None:
        asked[request] += 1
        return HTTPStatus.SERVICE_UNAVAILABLE if gone(request) else None

    store.fail = fail
    gone = lambda request: any(name.startswith("POST runs/tiny/checkpoints/3") for name in asked)
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "SECONDS", 0.1)
        with pytest.raises(Unreachable, match=f"^cannot reach {URL} ") as error:
            run(config(), URL, DIGITS)
    assert error.value.exit_code == 4
    asked.clear()
    gone = lambda request: asked[request] == 1
    run(config(), URL, DIGITS)
    assert_same(store, straight, tmp_path)


@pytest.mark.slow
def test_two_processes_with_disks_of_their_own_are_killed_and_go_on(
    store: Service, tmp_path: pathlib.Path
) -> None:
    def train_in(folder: str) -> list[int]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        words = [sys.executable, "-m", "bsce_jax.train", "--config=digits:base=5,increment=5"]
        words += ["--config.train.epochs=2", "--config.method.name=icarl", f"--workdir={folder}"]
        words += [f"--coordinator={address}", "--processes=2"]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        none = subprocess.DEVNULL
        for process in range(2):
            command = [*words, f"--process={process}"]
            running.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=none, stderr=none)
            )
        codes = [process.wait(120) for process in running]
        running.clear()
        return codes

    def kill(request: str) -> None:
        if request == "POST runs/tiny/checkpoints/2.sealed":
            store.fail = lambda request: None
            for process in running:
                process.kill()

    running: list[subprocess.Popen[bytes]] = []
    store.fail = kill
    assert train_in(URL) == [-signal.SIGKILL] * 2
    assert train_in(URL) == [0, 0]
    assert train_in(str(tmp_path / "local")) == [0, 0]
    there = store.download("runs/tiny", tmp_path / "there")
    assert_same_run(there, tmp_path / "local", 1)


# --- what reads runs


@pytest.fixture
def finished(store: Service, straight: pathlib.Path) -> str:
    """The run, copied into the bucket."""
    files = [path for path in straight.rglob("*") if path.is_file() and path.name != LOCK]
    Objects(URL).upload([str(path.relative_to(straight)) for path in files], straight)
    return URL


def test_a_model_opens_from_a_bucket(
    finished: str, store: Service, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    images = DIGITS.test.images(np.arange(5))
    there, here = SavedRun.open(finished), SavedRun.open(straight)
    np.testing.assert_array_equal(there.predict(images), here.predict(images))
    assert there.results == here.results
    assert not [name for name in os.listdir(there.folder) if name not in ("model", "results.json")]
    store.remove("runs/tiny/model/task_00.npz")
    with pytest.raises(UserError, match=f"no {URL}/model/task_00.npz: there is task_01"):
        SavedRun.open(finished, task=0)
    with pytest.raises(UserError, match="no model in gs://bucket/none"):
        SavedRun.open("gs://bucket/none")
    del there


def test_a_model_is_exported_from_a_bucket(
    finished: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main(["--workdir", finished, "--out", str(tmp_path / "model")])
    assert capsys.readouterr().out.startswith(f"{URL} is exported, in {tmp_path}")


def test_runs_are_reported_from_a_bucket(finished: str, straight: pathlib.Path) -> None:
    (found,), notes = read_all([pathlib.Path(finished), pathlib.Path(finished)])
    assert (found.folder, notes) == (URL, [])
    assert found.cnn == read_all([straight])[0][0].cnn
    assert found.norms is not None
    with pytest.raises(UserError, match=r"^no run in gs://bucket/none"):
        read_all([pathlib.Path("gs://bucket/none")])


def test_a_run_starts_from_one_in_a_bucket(finished: str, straight: pathlib.Path) -> None:
    there, here = (
        Problem(config(train__init_from=str(folder)), DIGITS).start for folder in (URL, straight)
    )
    assert there is not None
    assert here is not None
    assert there.identity == here.identity


def test_a_run_extends_one_in_a_bucket(
    finished: str, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    there, here = Extension(URL), Extension(straight)
    assert there.identity == here.identity
    assert there.begin(tmp_path / "there") == here.begin(tmp_path / "here")
    for file in ("metrics.jsonl", "predictions/task_01.npz"):
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()
    made, folder = train.parse(["--extend", URL, "--workdir", "gs://bucket/runs/second"])
    assert (made.scenario.extends, made.method.name) == (URL, "icarl")
    assert folder == "gs://bucket/runs/second"


@pytest.mark.slow
def test_seeds_in_a_bucket_have_a_summary(store: Service, tmp_path: pathlib.Path) -> None:
    quick = ["--config=digits:base=5,increment=5", "--workdir=x", "--config.train.epochs=1"]
    made, _ = train.parse([*quick, "--config.model.name=tiny_linear"])
    found = run_seeds(made, "gs://bucket/runs", [1])
    there = store.download("runs", tmp_path)
    assert found == run_seeds(made, tmp_path, [1])  # which are finished
    assert (there / "seed_1" / "results.json").exists()
    assert (there / "summary.json").exists()
    with pytest.raises(UserError, match=r"^gs://bucket/runs has runs of several seeds"):
        refuse_seeds("gs://bucket/runs")
    with pytest.raises(UserError, match=r"^gs://bucket/runs/seed_1 has the run of a single seed"):
        run_seeds(made, "gs://bucket/runs/seed_1", [1])


def test_data_in_a_bucket_is_to_be_copied() -> None:
    with pytest.raises(UserError, match="data_dir=gs://bucket/photos is remote: copy it"):
        data.load("image_folder", "gs://bucket/photos", 8)
