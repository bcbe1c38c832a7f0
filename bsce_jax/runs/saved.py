"""The saved model of a run, and opening it without the training data.

RUN/model/model.json      what is needed to use the weights: classes, preprocessing, config
RUN/model/task_04.npz     the weights after a task, one array for each parameter
"""

import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.data import Dataset, FittedSource
from bsce_jax.data.augment import normalize
from bsce_jax.data.source import CENTRAL, WHOLE
from bsce_jax.errors import UserError, unknown
from bsce_jax.files import MALFORMED, write_atomically, write_json
from bsce_jax.methods import Method, ModelState
from bsce_jax.models import Classifier, infer, make_model
from bsce_jax.runs import results
from bsce_jax.runs.bucket import Local
from bsce_jax.scenario import Scenario

SCHEMA = 3
BATCH = 256  # images in one forward pass
Kind = Literal["cnn", "nme"]  # of predictions
KINDS: tuple[Kind, ...] = get_args(Kind)


def write_model(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    scenario: Scenario,
    task: int,
    model: ModelState,
    class_means: np.ndarray | None,
) -> None:
    """Write the model of a finished task.

    Args:
      folder: of the run.
      config: of the run.
      dataset: that it was trained on; its preprocessing, class names and identity are saved.
      scenario: the classes, in order of arrival.
      task: number of the task.
      model: after the task.
      class_means: [seen, D] for predictions by nearest class mean, None without exemplars.
    """
    weights = f"task_{task:02d}.npz"
    arrays = _flat({"params": model.params, "batch_stats": model.batch_stats, "extra": model.extra})
    if class_means is not None:
        arrays["class_means"] = class_means
    place = folder / "model"
    write_atomically(place / weights, lambda f: np.savez(f, allow_pickle=False, **arrays))
    description = {
        "schema": SCHEMA,
        "task": task,
        "weights": weights,
        "class_names": list(dataset.class_names),
        "tasks": [list(labels) for labels in scenario.tasks],
        "image_shape": list(dataset.image_shape),
        "fit": dataset.test.fit if isinstance(dataset.test, FittedSource) else WHOLE,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "dataset": dataset.name,
        "data_identity": dataset.identity,
        "config": json.loads(config.to_json()),
    }
    with open(place / weights, "rb") as f:
        description["weights_sha256"] = hashlib.file_digest(f, "sha256").hexdigest()
    write_json(place / "model.json", {**description, "sha256": _sum(description)})
    if config.runtime.keep_models == "last":
        for path in place.glob("task_*.npz"):
            if path.name != weights:
                path.unlink()


def has_model(folder: pathlib.Path) -> bool:
    """Tell whether the folder of a run has a model, with description and weights as written."""
    try:
        description = _describe(folder)
        return _as_written(folder / "model" / description["weights"], description)
    except (OSError, UserError):
        return False


def _as_written(weights: pathlib.Path, description: Mapping[str, Any]) -> bool:
    with open(weights, "rb") as f:
        return bool(hashlib.file_digest(f, "sha256").hexdigest() == description["weights_sha256"])


class SavedRun:
    """A run's model, opened from its folder alone.

    Attributes:
      folder: of the run; of one in a bucket, a local copy of its model and its results.
      task: number of the task after which the model was saved.
      tasks: labels of each task's classes, of later tasks too.
      label_names: the name of each label of the data set.
      class_names: the names of the classes seen, in order of arrival: the columns of predictions.
      image_shape: height, width and channels of its input images.
      fit: how the test images were fitted to it, by its name in `decode.FITS`.
      weights: all arrays of the model by their path, and `class_means` [seen, D] if the run kept
        exemplars.
      mean: per channel, of images scaled to [0, 1]; it is subtracted from them.
      std: likewise; they are divided by it.
      config: of the run.
      data_identity: of the data set that it was trained on.

    >>> run = SavedRun.open("runs/digits")                     # doctest: +SKIP
    >>> scores = run.predict(images)                           # doctest: +SKIP
    >>> names = [run.class_names[i] for i in scores.argmax(1)] # doctest: +SKIP
    """

    def __init__(
        self,
        folder: pathlib.Path,
        description: Mapping[str, Any],
        config: ConfigDict,
        method: Method,
        network: Classifier,
        weights: Mapping[str, jax.Array],
    ):
        labels = [label for task in description["tasks"] for label in task]
        seen = sum(map(len, description["tasks"][: description["task"] + 1]))
        height, width, channels = description["image_shape"]
        self.folder = folder
        self._files: Local | None = None
        self.task: int = description["task"]
        self.tasks = tuple(map(tuple, description["tasks"]))
        self.label_names: tuple[str, ...] = tuple(description["class_names"])
        self.class_names = tuple(self.label_names[label] for label in labels[:seen])
        self.image_shape: tuple[int, int, int] = (height, width, channels)
        self.fit: str = description["fit"]
        self.weights = dict(weights)
        self.mean: tuple[float, ...] = tuple(description["mean"])
        self.std: tuple[float, ...] = tuple(description["std"])
        self.config = config
        self.data_identity: str = description["data_identity"]
        self._method, self._network = method, network
        self._normalize = functools.partial(normalize, mean=self.mean, std=self.std)
        self._score: Callable[..., jax.Array] = jax.jit(self.score, static_argnames="by")

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        task: int | None = None,
        platform: str | None = None,
    ) -> "SavedRun":
        """Open the model of a run.

        Args:
          folder: of the run, local or gs://BUCKET/RUN.
          task: number of the task after which the model was saved; None for the newest finished
            one. Earlier models exist only if `config.runtime.keep_models` is `all`.
          platform: see `make_model`.

        Raises:
          UserError: there is no such model, it is damaged, or it needs a method that is not
            registered.
        """
        files = Local(folder, lambda name: name.startswith(("model/", "results.json")))
        path = files.folder
        place = path / "model"
        description = _describe(path)
        newest = description.get("weights")
        if task is not None:
            description = {**description, "task": task, "weights": f"task_{task:02d}.npz"}
        try:
            _check_description(description)
            config_lib.check_model(description["config"])
        except UserError as error:
            raise UserError(f"{place / 'model.json'}: {error}") from error
        weights = place / description["weights"]
        if not weights.exists():
            there = ", ".join(sorted(p.stem for p in place.glob("task_*.npz"))) or "none"
            raise UserError(f"no {weights}: there is {there}; see config.runtime.keep_models")
        try:
            with open(weights, "rb") as f, np.load(f) as archive:
                flat = {name: archive[name] for name in archive.files}
        except MALFORMED as error:
            raise UserError(f"{weights} is damaged") from error
        config = ConfigDict(description["config"])
        method = config_lib.make_method(config)
        classes = sum(map(len, description["tasks"]))
        base = make_model(
            config.model.name,
            head=method.head,
            num_classes=classes,
            dtype=config.runtime.dtype,
            platform=platform,
        )
        network = method.network(base, description["task"], len(description["tasks"]))
        seen = sum(map(len, description["tasks"][: description["task"] + 1]))
        shapes = _shapes(network, method, description["image_shape"], classes, seen)
        if "class_means" not in flat:  # the run kept no exemplars
            del shapes["class_means"]
        for name in sorted(shapes.keys() | flat.keys()):
            there, right = (_shape(named.get(name)) for named in (flat, shapes))
            if there != right:
                raise UserError(f"{weights} is damaged: {name} is {there}, {right} is right")
        if weights.name == newest and not _as_written(weights, description):
            raise UserError(f"{weights} is not the file that {place / 'model.json'} describes")
        arrays = {name: jnp.asarray(array) for name, array in flat.items()}
        run = cls(path, description, config, method, network, arrays)
        run._files = files  # a copy is there as long as the run is open
        return run

    @property
    def results(self) -> dict[str, Any]:
        """The contents of `results.json`.

        Raises:
          UserError: it is missing or damaged.
        """
        value = results.read(self.folder)
        if value is None:
            raise UserError(f"{self.folder / 'results.json'} is missing or damaged")
        return value

    def predict(self, images: np.ndarray, by: Kind = "cnn") -> np.ndarray:
        """Score images against the classes seen.

        Args:
          images: uint8 [n, height, width, channels], of `image_shape`.
          by: `cnn`, the network's logits as the method corrects them, or `nme`, the cosine to the
            mean feature of each class.

        Returns:
          float32 [n, seen]; the column of the highest score is the prediction, and `class_names`
          has the names of the columns.

        Raises:
          UserError: images of another type or shape, another `by`, or no class means since the
            run kept no exemplars.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}: give uint8 "
                f"[n, {', '.join(map(str, self.image_shape))}]"
            )
        self.check(by)
        parts = [np.zeros((0, len(self.class_names)), np.float32)]
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            # a short batch is filled up to a power of two by repeating it: there are few shapes
            size = 1 << (len(part) - 1).bit_length()
            batch = jnp.asarray(np.resize(part, (size, *self.image_shape)))
            parts.append(np.asarray(self._score(self.weights, batch, by=by))[: len(part)])
        return np.concatenate(parts)

    def check(self, by: str) -> None:
        """Check that the model can predict in a way.

        Raises:
          UserError: another `by` than `cnn` and `nme`, or no class means since the run kept no
            exemplars.
        """
        if by not in KINDS:
            raise unknown("by", by, KINDS)
        if by == "nme" and "class_means" not in self.weights:
            raise UserError(f"{self.folder} has no class means: the run kept no exemplars")

    def score(self, weights: Mapping[str, jax.Array], images: jax.Array, by: Kind) -> jax.Array:
        """Compute what `predict` returns, as a pure function that can be traced.

        Args:
          weights: as the attribute.
          images: uint8 [n, height, width, channels].
          by: as `predict`.
        """
        tree = traverse_util.unflatten_dict(weights, sep="/")
        empty: dict[str, Any] = {}
        model = ModelState(*(tree.get(part, empty) for part in ("params", "batch_stats", "extra")))
        look = lambda view: infer(self._network, model.variables, self._normalize(view))
        outputs = look(images)
        features, logits = outputs.features, outputs.logits
        if self.config.model.get("flip", False):
            mirrored = look(images[:, :, ::-1])
            features, logits = (features + mirrored.features) / 2, (logits + mirrored.logits) / 2
        if by == "nme":
            lengths = jnp.linalg.norm(features, axis=1, keepdims=True)
            unit = features / jnp.maximum(lengths, np.finfo(np.float32).tiny)
            return jnp.dot(unit, weights["class_means"].T, precision=jax.lax.Precision.HIGHEST)
        seen = len(self.class_names)
        logits = jnp.where(jnp.arange(logits.shape[1])[None] < seen, logits, -jnp.inf)
        return self._method.predict(logits, features, model.extra)[:, :seen]


def _describe(folder: pathlib.Path) -> dict[str, Any]:
    """Read `model.json`.

    Raises:
      UserError: it is missing or damaged.
    """
    path = folder / "model" / "model.json"
    try:
        description = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no model in {folder}: has the run finished a task?") from None
    except (OSError, RecursionError, ValueError) as error:  # of JSON and of UTF-8
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise UserError(
            f"{path} does not describe a model of schema {SCHEMA}: the run's training command "
            "writes it anew"
        )
    if description.pop("sha256", None) != _sum(description):
        raise UserError(f"{path} is not as it was written")
    return description


def _sum(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _check_description(description: Mapping[str, Any]) -> None:
    """Check the contents of `model.json`, apart from the config's fields.

    Raises:
      UserError: a key that is missing or has another kind of value.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "class_names": lambda names: _all(names, str),
        "tasks": lambda tasks: (
            _all(tasks, list)
            and _all(labels := [label for task in tasks for label in task], int)
            and len(set(labels)) == len(labels) > 1
            and all(0 <= label < len(description["class_names"]) for label in labels)
        ),
        "task": lambda task: type(task) is int and 0 <= task < len(description["tasks"]),
        "weights": lambda name: isinstance(name, str) and pathlib.Path(name).name == name,
        "image_shape": lambda shape: (
            _all(shape, int) and len(shape) == 3 and all(0 < n <= 2**16 for n in shape)
        ),
        "mean": lambda mean: _all(mean, float) and len(mean) == description["image_shape"][2],
        "std": lambda std: (
            _all(std, float) and len(std) == description["image_shape"][2] and min(std) > 0
        ),
        "fit": lambda name: name in (WHOLE, CENTRAL),
        "data_identity": lambda identity: isinstance(identity, str),
        "config": lambda config: isinstance(config, dict),
    }
    for key, is_right in checks.items():  # in this order: some look at the keys before
        if not is_right(description.get(key)):
            raise UserError(f"{key} is missing or not what a run writes")


def _all(values: Any, kind: type) -> bool:
    """Tell whether a JSON value is a list of things of a kind, numbers being finite."""
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        return False
    return kind is not float or all(map(math.isfinite, values))


def _shapes(
    network: Classifier, method: Method, image_shape: Sequence[int], classes: int, seen: int
) -> dict[str, Any]:
    """List the shapes of the arrays of a model's file by path, those of the class means too."""

    def make() -> dict[str, Any]:
        images = jnp.zeros((1, *image_shape))
        variables = network.init(jax.random.key(0), images, train=False)
        width = infer(network, variables, images).features.shape[1]
        return {
            "params": variables["params"],
            "batch_stats": variables.get("batch_stats", {}),
            "extra": method.init_extra(variables["params"], classes),
            "class_means": jnp.zeros((seen, width)),
        }

    shapes: dict[str, Any] = traverse_util.flatten_dict(jax.eval_shape(make), sep="/")
    return shapes


def _shape(array: Any) -> str:
    return "missing" if array is None else f"{array.dtype} {list(array.shape)}"


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(value) for path, value in flat.items()}
