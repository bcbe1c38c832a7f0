"""What tests share: the real CIFAR-100, where it is at hand."""

import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import pytest

from bsce_jax.callbacks import CALLBACKS
from bsce_jax.data import DATASETS
from bsce_jax.data.augment import AUGMENTATIONS
from bsce_jax.data.feed import FEEDS
from bsce_jax.memory import SELECTIONS
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.models import HEADS, NETWORKS
from bsce_jax.optim import OPTIMIZERS, SCHEDULES

REGISTRIES = (
    *(AUGMENTATIONS, CALLBACKS, CRITERIA, DATASETS, FEEDS, HEADS, METHODS, NETWORKS),
    *(OPTIMIZERS, SCHEDULES, SELECTIONS),
)

ROOT = pathlib.Path(__file__).resolve().parent.parent

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


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    for registry in REGISTRIES:
        for name in ("_things", "_places"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of the real data sets: $BSCE_DATA, or unpacked from beside the checkout."""
    if "BSCE_DATA" in os.environ:
        return pathlib.Path(os.environ["BSCE_DATA"])
    unpack = ROOT.parent / "shared" / "data" / "unpack.py"
    if not unpack.exists():
        pytest.skip("no real data: set BSCE_DATA to the folder that holds cifar-100-python")
    destination = pathlib.Path(tempfile.gettempdir()) / "bsce_jax_test_data"
    destination.mkdir(exist_ok=True)
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
