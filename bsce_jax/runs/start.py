"""What a run starts from other than random weights: a file, or another run's first task.

`runs/extension.py` has the third possibility, a finished run that goes on.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax.data import Dataset
from bsce_jax.errors import UserError
from bsce_jax.methods import ModelState
from bsce_jax.models.growing import AUXILIARY, LATER_VARIABLES
from bsce_jax.models.pretrained import load_backbone
from bsce_jax.runs.saved import SavedRun
from bsce_jax.scenario import Scenario

# fields of the training that do not concern the first task
LATER = (
    "model.flip",
    "train.later_epochs",
    "train.later_learning_rate",
    "train.replay_batch_size",
    "train.finetuning",
)
# the field of the first task that may be set where the other run has 0: its stage follows the rest
SELF_DISTILLATION = "train.self_distillation_epochs"
# losses that are the plain cross-entropy in a first task whose classes have equal numbers of images
PLAIN = ("cross_entropy", "balanced_softmax", "meta_balanced_softmax", "separated_softmax")


class Start(Protocol):
    """The weights that a run starts from."""

    @property
    def identity(self) -> str:
        """A digest of the weights."""

    def model(self, initial: ModelState) -> ModelState:
        """Put the weights into the initial model, which is on devices."""


class Pretrained:
    """The weights of a file, for the backbone; see `load_backbone`.

    Args:
      file: .safetensors or .npz.

    Raises:
      UserError: it cannot be read.
    """

    def __init__(self, file: str):
        self._file = file
        try:
            with open(file, "rb") as f:
                self.identity = hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read model.init={file}: {error.strerror}") from error

    def model(self, initial: ModelState) -> ModelState:
        """Replace the backbone by that of the file.

        Raises:
          UserError: it is of another network.
        """
        loaded = load_backbone(self._file, initial.variables)
        return ModelState(
            params=as_placed(loaded["params"], initial.params),
            batch_stats=as_placed(loaded.get("batch_stats", {}), initial.batch_stats),
            extra=initial.extra,
        )


class FirstTask:
    """The model of another run after its first task, which then need not be trained again.

    What the method does after the training, and the choice of exemplars, are done anew.

    Args:
      folder: of the other run.

    Raises:
      UserError: it has no model of its first task, or a damaged one.
    """

    def __init__(self, folder: str):
        self._run = SavedRun.open(folder, task=0)
        self.identity = digest_of(self._run)

    def check(self, config: ConfigDict, dataset: Dataset, scenario: Scenario) -> None:
        """Check that a run has the same first task.

        Raises:
          UserError: other data, classes, network or training.
        """
        there, here = (config_lib.flat(of.to_dict()) for of in (self._run.config, config))
        folder = self._run.folder
        names = {path: here[path] for path in ("method.name", "loss.name")}
        dtypes = [of["runtime.dtype"] for of in (there, here)]
        if self.lacks_self_distillation(config):
            there[SELF_DISTILLATION] = here[SELF_DISTILLATION]
        both = ({**of_first_task(of), **names} for of in (there, here))
        differences = config_lib.differences(*both)
        if dtypes[0] != dtypes[1]:
            differences.append(f"runtime.dtype is {dtypes[0]} there and {dtypes[1]} here")
        heads = [config_lib.make_method(of).head for of in (self._run.config, config)]
        if heads[0] != heads[1]:
            differences.append(f"the head is {heads[0]} there and {heads[1]} here")
        losses = (there["loss.name"], here["loss.name"])
        counts = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
        equal = len(set(counts[list(scenario.tasks[0])])) == 1
        if not (set(losses) <= set(PLAIN) and equal):
            if losses[0] != losses[1]:
                differences.append(f"loss.name is {losses[0]} there, {losses[1]} here")
            else:
                both = ({**_under(of, "loss."), **names} for of in (there, here))
                differences += config_lib.differences(*both)
        if self._run.data_identity != dataset.identity:
            differences.append("the data is not the same")
        if self._run.tasks[0] != scenario.tasks[0]:
            differences.append("the first task has other classes")
        if differences:
            raise UserError(f"train.init_from={folder} has another first task: {differences[0]}")

    def lacks_self_distillation(self, config: ConfigDict) -> bool:
        """Tell whether a run has the self-distillation of its first task still to do."""
        there = self._run.config.train.get("self_distillation_epochs", 0)
        return not there and config.train.self_distillation_epochs > 0

    @property
    def has_auxiliary(self) -> bool:
        """Whether its model has an auxiliary head."""
        return any(name.startswith(AUXILIARY) for name in self._run.weights)

    def model(self, initial: ModelState) -> ModelState:
        """Take the parameters and the statistics; the head's rows of later classes stay initial.

        A growing network takes them for its first branch. An auxiliary head that this network does
        not have is left out.

        Raises:
          UserError: they are of another network.
        """
        variables = {"params": initial.params, "batch_stats": initial.batch_stats}
        flat = traverse_util.flatten_dict(variables, sep="/")
        taken = {
            name: array
            for name, array in self._run.weights.items()
            if name.startswith(tuple(variables)) and not name.startswith(LATER_VARIABLES)
        }
        wanted = {name for name in flat if not name.startswith(LATER_VARIABLES)}
        auxiliary = {name for name in wanted ^ taken.keys() if name.startswith(AUXILIARY)}
        seen, grows = len(self._run.class_names), "batch_stats/count" in self._run.weights
        for name in sorted((wanted | taken.keys()) - auxiliary):
            there, array = taken.get(name), flat.get(name)
            block = (
                None if there is None or array is None else _block(name, there, array, seen, grows)
            )
            if block is None:
                raise UserError(
                    f"train.init_from={self._run.folder} is of another network: {name} does not fit"
                )
            whole = np.array(array)
            whole[block] = np.asarray(there)[block]
            flat[name] = jax.device_put(whole, array.sharding)
        loaded = traverse_util.unflatten_dict(flat, sep="/")
        return ModelState(loaded["params"], loaded.get("batch_stats", {}), initial.extra)


def _block(
    name: str, there: jax.Array, here: jax.Array, seen: int, grows: bool
) -> tuple[slice, ...] | None:
    """Find the part of an array that another one fills, None if it does not fit.

    A head's array has the rows of the classes seen, and as many columns as the other has features;
    those of a network that grows are in use for its first branch alone.
    """
    if there.ndim != here.ndim:
        return None
    if not there.ndim or not name.startswith(("params/head/", AUXILIARY)):
        return () if there.shape == here.shape else None
    rows, *others = there.shape
    if grows:
        others = [min(a, b) for a, b in zip(others, here.shape[1:], strict=True)]
    rows = min(rows, here.shape[0], seen if name.startswith("params/head/") else rows)
    fits = all(a <= b for a, b in zip(others, here.shape[1:], strict=True))
    return tuple(map(slice, (rows, *others))) if fits else None


def digest_of(run: SavedRun) -> str:
    """Compute a digest of a run's arrays."""
    state = hashlib.sha256()
    for name, array in sorted(run.weights.items()):
        state.update(name.encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def as_placed(values: Any, like: Any) -> Any:
    """Put a tree of arrays on the devices where another tree is."""
    return jax.tree.map(lambda value, array: jax.device_put(value, array.sharding), values, like)


def _under(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {path: value for path, value in values.items() if path.startswith(section)}


def of_first_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the fields that a first task's network and training depend on."""
    both = {**_under(values, "model."), **_under(values, "train.")}
    return {path: value for path, value in both.items() if path not in LATER}
