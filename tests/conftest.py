"""What tests share: the real CIFAR-100, where it is at hand."""

import fcntl
import gc
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax
import pytest
from hypothesis import settings

from bsce_jax.callbacks import CALLBACKS
from bsce_jax.data import DATASETS
from bsce_jax.data.augment import AUGMENTATIONS
from bsce_jax.data.feed import FEEDS
from bsce_jax.memory import SELECTIONS
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.models import HEADS, NETWORKS
from bsce_jax.optim import OPTIMIZERS, SCHEDULES


def pytest_collection_finish() -> None:
    """Leaves what was imported out of the searches for cycles, a twentieth of the time."""
    gc.collect()
    gc.freeze()


REGISTRIES = (
    *(AUGMENTATIONS, CALLBACKS, CRITERIA, DATASETS, FEEDS, HEADS, METHODS, NETWORKS),
    *(OPTIMIZERS, SCHEDULES, SELECTIONS),
)

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Most programs run once or twice: compiling them well takes longer than running them badly. Not at
# level 0, at which jaxlib 0.10.2 makes some programs that compute something else. Commands inherit
# it. `XLA_FLAGS= python -m pytest` tests with the compiler as users have it.
QUICK = {
    "xla_backend_optimization_level": "1",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_parallel_codegen_split_count": "1",
}
if jax.__version_info__ < (0, 12):  # which refuses the flag
    QUICK["xla_cpu_use_fusion_emitters"] = "false"
os.environ.setdefault("XLA_FLAGS", " ".join(f"--{name}={value}" for name, value in QUICK.items()))

# a pause of the machine is no failure, and a failure comes again
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

# what a user exports does not make a terminal of a pipe
for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)

# shapes that broadcast by chance are mistakes
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lets the tests, their worker processes and the commands they start compile a thing once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # what the workers of one session share
    settings = {
        "jax_compilation_cache_dir": str(folder / "xla"),
        "jax_persistent_cache_min_compile_time_secs": "0",
    }
    for name, value in settings.items():
        os.environ[name.upper()] = value
        jax.config.update(name, type(getattr(jax.config, name) or "")(value))


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], set[str]]]:
    """Lists what is new in the temporary folder of the tests and of the commands they start."""
    folder = tmp_path_factory.mktemp("temporary")
    known: set[str] = set()

    def new() -> set[str]:
        # those of multiprocessing are there as long as its server of processes
        found = {p.name for p in folder.iterdir() if not p.name.startswith("pymp-")} - known
        known.update(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield new


@pytest.fixture(autouse=True)
def nothing_is_left(temporary_files: Callable[[], set[str]]) -> Iterator[None]:
    """Fails a test that leaves something in the temporary folder."""
    yield
    assert not temporary_files()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    for registry in REGISTRIES:
        for name in ("_things", "_places"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> pathlib.Path:
    """The folder of the real data sets: $BSCE_DATA, or unpacked from beside the checkout."""
    if "BSCE_DATA" in os.environ:
        return pathlib.Path(os.environ["BSCE_DATA"])
    unpack = ROOT.parent / "shared" / "data" / "unpack.py"
    if not unpack.exists():
        pytest.skip("no real data: set BSCE_DATA to the folder that holds cifar-100-python")
    destination = pytestconfig.cache.mkdir("real_data")  # for later sessions too
    with open(destination / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        subprocess.run([sys.executable, unpack, destination], check=True, capture_output=True)
    return destination


@pytest.fixture(scope="session")
def cifar100_folder(real_data: pathlib.Path) -> pathlib.Path:
    """The official `cifar-100-python` folder."""
    return _existing(real_data / "cifar-100-python")


@pytest.fixture(scope="session")
def imagenet_subset_folder(real_data: pathlib.Path) -> pathlib.Path:
    """100 ImageNet classes at 84x84 pixels: `train/` and `val/`, a folder for each class."""
    return _existing(real_data / "imagenet-subset-84px")


def _existing(folder: pathlib.Path) -> pathlib.Path:
    if not folder.is_dir():
        pytest.skip(f"no real data: there is no {folder}")
    return folder
