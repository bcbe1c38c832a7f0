"""A run's model, opened without the training data; `runs/model.py` has its files."""

import functools
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
from bsce_jax.data.augment import normalize
from bsce_jax.errors import UserError, unknown
from bsce_jax.methods import Method, ModelState
from bsce_jax.models import Classifier, infer, make_model
from bsce_jax.runs import results
from bsce_jax.runs.bucket import Local
from bsce_jax.runs.model import check_description, read_description, read_weights

BATCH = 256  # images in one forward pass
Kind = Literal["cnn", "nme"]  # of predictions
KINDS: tuple[Kind, ...] = get_args(Kind)


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
        newest = wanted = read_description(path)
        if task is not None:
            wanted = {**newest, "task": task, "weights": f"task_{task:02d}.npz"}
        try:
            check_description(wanted)
            config_lib.check_model(wanted["config"])
        except UserError as error:
            raise UserError(f"{path / 'model' / 'model.json'}: {error}") from error
        try:
            config = ConfigDict(wanted["config"])
        except ValueError as error:  # a name with a dot
            raise UserError(f"{path / 'model' / 'model.json'}: {error}") from error
        method = config_lib.make_method(config)
        classes = sum(map(len, wanted["tasks"]))
        base = make_model(
            config.model.name,
            head=method.head,
            num_classes=classes,
            dtype=config.runtime.dtype,
            platform=platform,
        )
        network = method.network(base, wanted["task"], len(wanted["tasks"]))
        seen = sum(map(len, wanted["tasks"][: wanted["task"] + 1]))
        shapes = _shapes(network, method, wanted["image_shape"], classes, seen)
        flat = read_weights(path, newest, wanted["weights"], shapes)
        arrays = {name: jnp.asarray(array) for name, array in flat.items()}
        run = cls(path, wanted, config, method, network, arrays)
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
