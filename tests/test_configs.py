"""Every config file takes every method and loss, and gives the references' hyper-parameters."""

import itertools
import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from bsce_jax import train
from bsce_jax.config import make_method
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.training.loop import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted(path.name for path in (ROOT / "configs").glob("*.py"))


def config_of(file: str, arguments: str = "") -> ConfigDict:
    separator = ":" if arguments else ""
    argv = [f"--config={ROOT}/configs/{file}{separator}{arguments}", "--workdir=unused"]
    return train.parse(argv)[0]


@pytest.mark.parametrize("file", FILES)
def test_every_method_and_loss_has_a_config(file: str) -> None:
    for method, loss in itertools.product(METHODS, CRITERIA):
        c = config_of(file, f"method={method},loss={loss},base=10,increment=5")
        assert (c.method.name, c.loss.name) == (method, loss)
        assert (c.scenario.base, c.scenario.increment) == (10, 5)
        assert isinstance(make_method(c), METHODS[method])
        assert (c.memory.size > 0) == METHODS[method].memory


def test_without_a_loss_a_method_has_its_own() -> None:
    losses = {m: config_of("cifar100.py", f"method={m}").loss.name for m in METHODS}
    assert losses["podnet"] == "nca"
    assert losses["ss_il"] == losses["lwf"] == "separated_softmax"
    assert losses["lwf_mc"] == "binary_cross_entropy"
    assert losses["lucir"] == losses["bic"] == losses["wa"] == "cross_entropy"
    assert config_of("cifar100.py").loss.name == "balanced_softmax"


@pytest.mark.parametrize(
    ("file", "method", "expected"),
    [
        (
            "cifar100.py",
            "lucir",
            {"model.name": "resnet32", "train.epochs": 160, "train.learning_rate": 0.1}
            | {"train.schedule": "step", "train.weight_decay": 5e-4, "train.batch_size": 128}
            | {"memory.policy": "per_class", "memory.size": 20, "method.less_forget": 5.0},
        ),
        (
            "cifar100.py",
            "podnet",
            {"model.name": "resnet32_podnet", "train.schedule": "cosine", "method.clamp": 5.0}
            | {"train.augmentation": "crop+flip+brightness", "method.spatial": 3.0}
            | {"method.flat": 1.0, "method.finetune_epochs": 20}
            | {"method.finetune_learning_rate": 0.05, "loss.margin": 0.6},
        ),
        ("cifar100.py", "ss_il", {"train.replay_batch_size": 32}),
        (
            "imagenet_subset.py",
            "lucir",
            {"train.epochs": 90, "train.weight_decay": 1e-4, "method.less_forget": 10.0}
            | {"method.finetune_epochs": 20, "method.finetune_learning_rate": 0.01},
        ),
        (
            "imagenet_subset.py",
            "podnet",
            {"train.batch_size": 64, "train.learning_rate": 0.05, "train.weight_decay": 5e-4}
            | {"method.spatial": 8.0, "method.flat": 10.0},
        ),
        (
            "imagenet.py",
            "podnet",
            {"train.weight_decay": 1e-4, "memory.policy": "total", "memory.size": 20_000},
        ),
    ],
)
def test_the_references_hyper_parameters(file: str, method: str, expected: dict[str, Any]) -> None:
    c = config_of(file, f"method={method}")
    flat = {f"{a}.{b}": v for a, section in c.items() if a != "seed" for b, v in section.items()}
    assert {name: flat[name] for name in expected} == expected


def test_two_tasks_of_real_imagenet_images(
    imagenet_subset_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for split in ("train", "val"):
        for classes in sorted((imagenet_subset_folder / split).iterdir())[:4]:
            copy = tmp_path / "imagenet-subset" / split / classes.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(classes)
    argv = [
        f"--config={ROOT}/configs/imagenet_subset.py:base=2,increment=2",
        f"--workdir={tmp_path / 'run'}",
        f"--config.dataset.data_dir={tmp_path}",
        "--config.dataset.image_size=32",
        "--config.model.name=small",
        "--config.train.epochs=1",
        "--config.train.batch_size=32",
        "--config.scenario.class_order=3,1,0,2",
    ]
    results = run(*train.parse(argv))
    assert results["tasks"] == [[3, 1], [0, 2]]
    assert [len(c) for c in results["memory"]["indices"][1]] == [20] * 4
