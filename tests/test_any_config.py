"""Any values of any fields: a config runs, or is refused in one line that names a field."""

import functools
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from tiny_run import flat_images

from bsce_jax import config, loading
from bsce_jax.data import DATASETS, Dataset
from bsce_jax.data.augment import AUGMENTATIONS
from bsce_jax.errors import UserError
from bsce_jax.fields import Field
from bsce_jax.methods import METHODS, ModelState, Stage
from bsce_jax.methods.criterion import CRITERIA
from bsce_jax.models import Classifier, make_model
from bsce_jax.runs import results
from bsce_jax.training import fit, loop, problem, tasks
from bsce_jax.training.probe import FeedProbe
from bsce_jax.training.state import Batches
from bsce_jax.training.step import TrainChunk
from bsce_jax.training.trainer import Trainer

# --- a run without the work: each program is traced and not compiled, and learns nothing


class Pixels(nn.Module):
    """A backbone of one matrix."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        flat = images.reshape(len(images), -1)
        weight = self.param("weight", nn.initializers.zeros, (flat.shape[1], 3))
        return flat @ weight, (images,)


class RandomProbe(FeedProbe):
    """Finds random features and logits, whatever the model."""

    def outputs(
        self, model: ModelState, records: np.ndarray, mirrored: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(len(records))
        classes = model.params["head"]["weight"].shape[0]
        features, logits = (rng.normal(size=(len(records), n)) for n in (3, classes))
        return features.astype(np.float32), logits.astype(np.float32)


class TracingTrainer(Trainer):
    """Traces the programs that a trainer compiles, once for each shape of batches."""

    def __init__(self, problem: problem.Problem):
        super().__init__(problem)
        self.traced: dict[Any, Any] = {}

    def probe(self, network: Classifier, *, test: bool = False) -> FeedProbe:
        feed = self._test_feed if test else self.feed
        return RandomProbe(network, feed, self.recipe.normalize, self.mesh, self._initial)

    def _initial(self) -> ModelState:
        image = jax.ShapeDtypeStruct((1, *self.problem.dataset.image_shape), np.float32)
        make = functools.partial(self.problem.network_of(0).init, train=False)
        shapes = jax.eval_shape(make, jax.random.key(0), image)
        variables = jax.tree.map(lambda x: jnp.asarray(np.full(x.shape, 0.5, x.dtype)), shapes)
        params, stats = variables["params"], variables.get("batch_stats", {})
        classes = self.problem.scenario.num_classes
        return ModelState(params, stats, self.problem.method.init_extra(params, classes))

    def train_chunk(
        self, network: Classifier, stage: Stage, teacher_network: Classifier | None = None
    ) -> TrainChunk:
        program: Any = super().train_chunk(network, stage, teacher_network)

        def chunk(state: Any, *rest: Any) -> Any:
            batches: Batches = rest[-1]
            shape = batches.weights.shape
            assert shape[1] <= 20 * len(self.problem.labels)  # the rest would be padding
            if (program, shape) not in self.traced:
                self.traced[program, shape] = program.trace(state, *rest).out_info
            after, metrics = self.traced[program, shape]
            jax.tree.map(lambda a, b: None, after, state)  # of the same structure
            return state, {name: np.zeros(x.shape, x.dtype) for name, x in metrics.items()}

        return chunk


def first_and_last_chunk(
    trainer: Trainer, network: Classifier, work: fit.Work, *more: Any, **callbacks: Any
) -> Iterator[fit.Chunk]:
    """Trains the two ends of a stage."""
    state, teacher, first_step = more
    total = work.stage.epochs * work.steps_per_epoch(trainer.problem.config.train.batch_size)
    for start in (first_step, total - 1):
        if first_step <= start < total:
            yield from fit.fit(trainer, network, work, state, teacher, start, stop=lambda: True)


class NoCheckpoints:
    """Keeps nothing."""

    saved = False

    def __init__(self, *args: Any):
        pass

    def __enter__(self) -> "NoCheckpoints":
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def latest(self) -> None:
        return None

    def save(self, *args: Any) -> None:
        pass


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    dataset = flat_images([5, 4, 3, 5, 4, 3], (4, 4))

    def load(data_dir: pathlib.Path, image_size: int | None) -> Dataset:
        return dataset

    def small(name: str, *, head: str, num_classes: int, dtype: str) -> Classifier:
        make_model(name, head=head, num_classes=num_classes, dtype=dtype)
        return Classifier(
            Pixels(), make_model("small", head=head, num_classes=num_classes, dtype=dtype).head
        )

    DATASETS.register("noise")(load)
    monkeypatch.setattr(problem, "make_model", small)
    monkeypatch.setattr(loop, "Trainer", TracingTrainer)
    monkeypatch.setattr(tasks, "fit", first_and_last_chunk)
    monkeypatch.setattr(loop, "Checkpoints", NoCheckpoints)
    monkeypatch.setattr(results, "environment", dict)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the files are not for long
    monkeypatch.chdir(tmp_path)


# --- values of fields

# a method, a loss, and values of some fields by path
Change = tuple[str, str, dict[str, Any]]

WORDS = ("", " ", "none", "None", "-1", "1e9", "nan", "a,b", "é\udce9", "x" * 300, "..", "\0", "\n")
ORDERS = (
    *("sorted", "1,1", "3,x", "0,1,2,3", "5,4,3,2,1,0", "0,1,", "1,,2", "-1", "4294967295"),
    *("4294967296", "1e3", " 7 ", "٣", "0,6", "0,1.5", ",", "9" * 5000, "1_0"),
)
AUGMENTS = ("crop+crop", "crop+flip", "crop,flip", "+", "crop+", "none+crop", "Crop", "crop flip")
WHOLE = (0, 1, 2, 3, 5, 7, 10**6, 10**9, 2**31, 2**32, 2**63, 10**30, 10**400, -1)
REAL = (0.0, 1.0, 0.3, 2.5, 1e-9, 1e-46, 5e-324, 1e9, 1e38, 1e39, 1e300, math.nan, math.inf, -1.0)
JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    [1, "x"],
    [0.5, 0.25],
    (0.25, 0.5),
    [[]],
    {},
    {"a": 1},
    b"x",
    1j,
)


def near_bounds(field: Field) -> list[Any]:
    """The bounds, and values beside them."""
    if field.item_type is int:
        found: list[Any] = [int(b) + d for b in field.bounds.values() for d in (-1, 0, 1)]
    elif field.item_type is float:
        found = [b + d for b in field.bounds.values() for d in (-1.0, -1e-9, 0.0, 1e-9, 1.0)]
        found += [np.nextafter(b, s).item() for b in field.bounds.values() for s in (-9.0, 9.0)]
    else:
        return [True, False] if field.item_type is bool else []
    return [[value] for value in found] if field.is_tuple else found


def values(path: str, field: Field) -> st.SearchStrategy[Any]:
    """Values of a field, of which some are valid."""
    special: dict[str, tuple[str, ...]] = {
        "scenario.class_order": ORDERS,
        "train.augmentation": (*AUGMENTATIONS, *AUGMENTS),
        "dataset.data_dir": (".", "nowhere"),
    }
    likely = [field.default, *near_bounds(field), *special.get(path, ()), *(field.choices or ())]
    numbers = {int: WHOLE, float: REAL}.get(field.item_type, ())
    likely += [[number] for number in numbers] if field.is_tuple else numbers
    anything = st.sampled_from([*WHOLE, *REAL, *WORDS, *JUNK])
    return st.one_of(*[st.sampled_from(likely)] * 5, anything)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    method, loss = draw(st.sampled_from(list(METHODS))), draw(st.sampled_from(list(CRITERIA)))
    described = config.fields(method, loss)
    paths = draw(st.lists(st.sampled_from(list(described)), max_size=3, unique=True))
    return method, loss, {path: draw(values(path, described[path])) for path in paths}


SMALL = {
    "dataset.name": "noise",
    "scenario.base": 2,
    "scenario.increment": 2,
    "scenario.class_order": "sorted",
    "memory.size": 2,
    "train.batch_size": 4,
    "train.epochs": 2,
}


def outcome(make: Callable[[], ConfigDict], changed: dict[str, Any]) -> str:
    """Run a config; return what was said against it, nothing if it ran."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            loop.run(make(), pathlib.Path(folder) / "run")
    except UserError as error:
        said = str(error)
        assert len(said.splitlines()) == 1 or any("\n" in str(v) for v in changed.values()), said
        assert names_a_field(said, changed), said
        return said
    return ""


def names_a_field(said: str, changed: dict[str, Any]) -> bool:
    """Tell whether a message names a field by its path, or one that was changed by its last part.

    The name of a data set may be refused by its folder or the size of its images.
    """
    parts = {"method", "loss", "memory.size", "train.batch_size"}
    parts |= {path.rpartition(".")[2] for path in changed if not path.endswith(".name")}
    parts |= {path.removesuffix(".name") for path in changed}
    if "dataset.name" in changed:
        parts |= {"data_dir", "image_size", str(changed.get("dataset.data_dir", "data"))}
    return any(part in said for part in parts)


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


# what was not refused once: batches of mostly repeated images, 0 or infinite in float32, two names
REPEATED = ("replay", "cross_entropy", {"train.replay_batch_size": 10**6})
ZERO = ("il_baseline", "cross_entropy", {"method.temperature": 1e-46})
INFINITE = ("lucir", "nca", {"loss.margin": -1e39})
TWO_NAMES = ("finetune", "cross_entropy", {"method.name": "wa,x"})


def try_values(change: Change) -> None:
    method, loss, changed = change

    def make() -> ConfigDict:
        sections: dict[str, Any] = config.default(method, loss).to_dict()
        for path, value in {**SMALL, **changed}.items():
            section, _, name = path.rpartition(".")
            (sections[section] if section else sections)[name] = value
        return config.from_dict(sections)

    said = outcome(make, changed)
    assert said or change not in (REPEATED, ZERO, INFINITE)


def try_texts(change: Change) -> None:
    method, loss, changed = change
    names = {"method.name": method, "loss.name": loss}
    texts = {path: str(value) for path, value in {**SMALL, **names, **changed}.items()}
    said = outcome(lambda: loading.make_config("digits", texts), changed)
    assert said or change != TWO_NAMES


@fuzz(30)
@given(changes())
@example(REPEATED)
@example(ZERO)
@example(INFINITE)
def test_values_in_a_config(stubbed: None, change: Change) -> None:
    try_values(change)


@fuzz(30)
@given(changes())
@example(TWO_NAMES)
def test_texts_on_the_command_line(stubbed: None, change: Change) -> None:
    try_texts(change)


@pytest.mark.slow
@fuzz(400)
@given(changes())
def test_many_values_in_a_config(stubbed: None, change: Change) -> None:
    try_values(change)


@pytest.mark.slow
@fuzz(400)
@given(changes())
def test_many_texts_on_the_command_line(stubbed: None, change: Change) -> None:
    try_texts(change)


def test_a_config_without_changes_runs(stubbed: None) -> None:
    assert not outcome(
        lambda: loading.make_config("digits", {k: str(v) for k, v in SMALL.items()}), {}
    )
