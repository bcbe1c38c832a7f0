"""The config: the type, default, meaning and range of each field, defined in one place.

A config is a `ConfigDict` of sections, locked and typed: a field that does not exist cannot be set.
The sections below are the same for all runs. `config.method` and `config.loss` have the fields of
the method and the loss that they name.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from bsce_jax import memory
from bsce_jax.callbacks import CALLBACKS
from bsce_jax.data import NAMES
from bsce_jax.data.augment import make_augment
from bsce_jax.data.mixing import MIXINGS
from bsce_jax.data.stream import FEEDS
from bsce_jax.errors import UserError, unknown
from bsce_jax.fields import Field, field, fields_of
from bsce_jax.methods import METHODS, Method
from bsce_jax.methods.criterion import CRITERIA, Criterion
from bsce_jax.models import DTYPES, NETWORKS
from bsce_jax.optim import OPTIMIZERS, SCHEDULES

FINETUNING = ("auto", "always")
KEEP_MODELS = ("last", "all")


def _check_augmentation(policy: str) -> None:
    if "," in policy:
        joined = policy.replace(",", "+")
        raise UserError(f"train.augmentation is {policy!r}: join its parts with +, as in {joined}")
    make_augment(policy)


def _check_milestones(milestones: tuple[float, ...]) -> None:
    if any(a >= b for a, b in itertools.pairwise(milestones)):
        raise UserError(f"train.milestones is {milestones}: each must be above the one before it")


@dataclasses.dataclass(frozen=True)
class Run:
    """The fields outside all sections."""

    seed: int = field(0, "of everything random", least=0, most=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`config.dataset`: what is learned."""

    name: str = field("digits", "name of the data set", choices=NAMES)
    data_dir: str = field("data", "folder that data sets live in", alters_results=False)
    image_size: int = field(
        0, "height and width in pixels, 0 for that of the data set", least=0, most=10_000
    )
    train_split: str = field("", "training images of a tfds set, such as train[:80%], empty: train")
    test_split: str = field("", "its test images, empty: validation, or test if there is none")
    validation: float = field(
        0.0,
        "fraction of the training images that is evaluated on instead of the test images",
        least=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`config.scenario`: the order of the classes and their split into tasks."""

    base: int = field(0, "classes of the first task, 0 for as many as of the others", least=0)
    increment: int = field(2, "classes of every further task", least=1)
    class_order: str = field(
        "1993", "order of the classes, as the seed of a shuffle, sorted, or labels such as 3,1,2"
    )
    tasks: str = field(
        "", "classes of each task, as cat,dog|horse, instead of base, increment and class_order"
    )
    extends: str = field(
        "",
        "folder of a finished run whose tasks come first; the classes that are new follow",
        alters_results=False,  # what it has is part of the run's identity
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """`config.memory`: what is kept of earlier tasks."""

    policy: str = field("per_class", "what the size counts", choices=memory.POLICIES)
    size: int = field(20, "exemplars a class or in total, 0 to keep none", least=0)
    selection: str = field("herding", "how exemplars are chosen", choices=memory.SELECTIONS)


@dataclasses.dataclass(frozen=True)
class MethodName:
    """`config.method`, apart from the method's own fields."""

    name: str = field("il_baseline", "name of the method, whose fields follow", choices=METHODS)


@dataclasses.dataclass(frozen=True)
class LossName:
    """`config.loss`, apart from the loss's own fields."""

    name: str = field("balanced_softmax", "name of the loss, whose fields follow", choices=CRITERIA)


@dataclasses.dataclass(frozen=True)
class Model:
    """`config.model`: the network; the method says which head it has."""

    name: str = field("small", "name of the backbone", choices=NETWORKS)
    init: str = field(
        "",
        "file of the backbone's first weights, .safetensors or .npz, empty for random ones",
        alters_results=False,  # what it has is part of the run's identity
    )
    flip: bool = field(
        False, "whether to predict by the mean of the outputs for an image and its mirror image"
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """`config.train`: how each task is trained."""

    epochs: int = field(
        30, "epochs of each task, 0 to keep the backbone of model.init", least=0, most=100_000
    )
    later_epochs: int = field(
        0,
        "the same for all tasks but the first, 0 for that of the first",
        least=0,
        most=100_000,
    )
    batch_size: int = field(128, "images a batch", least=1, most=1_000_000)
    replay_batch_size: int = field(
        0,
        "exemplars added to each batch, 0 to draw them together with the new images",
        least=0,
        most=1_000_000,
    )
    optimizer: str = field("sgd", "name of the optimiser", choices=OPTIMIZERS)
    learning_rate: float = field(0.1, "learning rate at the start of each task", above=0.0)
    later_learning_rate: float = field(
        0.0, "the same for all tasks but the first, 0 for that of the first", least=0.0
    )
    momentum: float = field(0.9, "momentum of SGD", least=0.0, below=1.0)
    weight_decay: float = field(5e-4, "weight decay", least=0.0)
    schedule: str = field("step", "how the learning rate falls", choices=SCHEDULES)
    milestones: tuple[float, ...] = field(
        (0.5, 0.75),
        "fractions of the epochs where the step schedule falls",
        above=0.0,
        below=1.0,
        check=_check_milestones,
    )
    decay: float = field(0.1, "factor of the rate at each milestone", least=0.0, most=1.0)
    warmup: int = field(
        0,
        "epochs at the start of each task in which the learning rate rises",
        least=0,
        most=100_000,
    )
    average: float = field(
        0.0,
        "decay of the running average of the weights that a task ends with, 0 for the last weights",
        least=0.0,
        below=1.0,
    )
    sharpness: float = field(
        0.0, "radius of sharpness-aware minimisation (SAM), 0 for the plain gradient", least=0.0
    )
    flatness: float = field(
        0.0, "weight of what C-Flat adds to SAM, with its radius, 0 for SAM alone", least=0.0
    )
    decorrelation: float = field(
        0.0, "weight of the class-wise decorrelation (CwD) in the first task", least=0.0
    )
    self_distillation_epochs: int = field(
        0, "epochs of the first task's self-distillation, after its training", least=0, most=100_000
    )
    augmentation: str = field(
        "none",
        "none, or crop, resized_crop, source_crop, flip, brightness, autoaugment, trivial, cutout "
        "joined by +",
        check=_check_augmentation,
    )
    mixing: str = field(
        "none", "how pairs of images of a batch are mixed into one", choices=("none", *MIXINGS)
    )
    finetuning: str = field(
        "auto",
        "when to run a method's balanced fine-tuning, or align its class vectors (der, memo): auto "
        "skips both if the loss is balanced",
        choices=FINETUNING,
    )
    init_from: str = field(
        "",
        "folder of a run whose model after the first task is taken instead of training it",
        alters_results=False,  # what it has is part of the run's identity
    )


@dataclasses.dataclass(frozen=True)
class Runtime:
    """`config.runtime`: how the run is computed and what is kept of it."""

    dtype: str = field("float32", "type of the backbone's numbers", choices=DTYPES)
    feed: str = field(
        "auto", "where the images are kept, auto for what fits", choices=FEEDS, alters_results=False
    )
    checkpoint_epochs: int = field(10, "epochs between checkpoints", least=1, alters_results=False)
    keep_models: str = field(
        "last", "which tasks' models are kept", choices=KEEP_MODELS, alters_results=False
    )
    callback: str = field(
        "none", "what gets each logged record", choices=CALLBACKS, alters_results=False
    )


def fields(method: str, loss: str) -> dict[str, Field]:
    """List the fields of a config by path, such as "train.epochs".

    Args:
      method: name of the method.
      loss: name of the loss.

    Raises:
      UserError: no such method or loss.
    """
    sections: list[tuple[str, type]] = [
        ("", Run),
        ("dataset.", Dataset),
        ("scenario.", Scenario),
        ("memory.", Memory),
        ("method.", MethodName),
        ("method.", METHODS[method]),
        ("loss.", LossName),
        ("loss.", CRITERIA[loss]),
        ("model.", Model),
        ("train.", Train),
        ("runtime.", Runtime),
    ]
    return {
        section + name: described
        for section, cls in sections
        for name, described in fields_of(cls).items()
    }


def default(method: str, loss: str | None) -> ConfigDict:
    """Make the default config of a method; a config file then sets the fields of its data set.

    Args:
      method: name of a method; its hyper-parameters become `config.method`.
      loss: name of a loss; its hyper-parameters become `config.loss`. None: the loss that the
        method was published with.

    Returns:
      A locked config.

    Raises:
      UserError: no such method or loss.
    """
    method_type = METHODS[method]
    loss = method_type.loss if loss is None else loss
    values = {path: described.default for path, described in fields(method, loss).items()}
    values |= {"method.name": method, "loss.name": loss}
    values["train.replay_batch_size"] = method_type.replay_batch_size
    if not method_type.memory:
        values["memory.size"] = 0
    return _locked(values)


def check(config: ConfigDict | FrozenConfigDict) -> None:
    """Check that a config has every field, of the right type and in its range.

    Raises:
      UserError: a field that is invalid, missing or unknown.
    """
    _checked(config.to_dict())


def check_model(sections: Mapping[str, Any]) -> None:
    """Check the fields of a stored config that the model is made from: the method and the network.

    Other fields may have names that are not registered here. A field of the method that is missing
    has its default.

    Raises:
      UserError: a field that is invalid, or missing, or that the method does not have.
    """
    values = flat(sections)
    described = {
        "method.name": fields_of(MethodName)["name"],
        "model.name": fields_of(Model)["name"],
        "runtime.dtype": fields_of(Runtime)["dtype"],
    }
    for path, one in described.items():
        if path not in values:
            raise UserError(f"the config has no {path}")
        one.check(values[path], path)
    method: type = METHODS[values["method.name"]]
    own = fields_of(method)
    described |= {f"method.{name}": one for name, one in own.items()}
    for path, value in values.items():
        if path in described:
            described[path].check(value, path)
        elif path.startswith("method."):
            raise no_such_field(path, described)


def from_dict(sections: Mapping[str, Any]) -> ConfigDict:
    """Make a locked config from the contents of a `config.json`; see `check`."""
    return _locked(_checked(sections))


def add_missing(sections: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Add the fields that the contents of a `config.json` of an earlier version lack.

    Returns:
      The sections with the defaults of the missing fields, and the paths of these fields.

    Raises:
      UserError: no method or no loss, or an unknown field.
    """
    values = flat(sections)
    described = _described(values)
    defaults = flat(default(values["method.name"], values["loss.name"]).to_dict())
    missing = [path for path in described if path not in values]
    return _sections({**values, **{path: defaults[path] for path in missing}}), missing


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """List the values of a config by path, such as "train.epochs"."""
    values: dict[str, Any] = {}
    for name, value in sections.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            values[name] = value
    return values


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """List the differences between two configs that alter results.

    A field that is missing in the stored config counts as its default.

    Args:
      there: values of the stored config by path; tuples may have become lists.
      here: values of the present config by path.
    """
    described = fields(here["method.name"], here["loss.name"])
    defaults = {path: one.default for path, one in described.items()}
    found = []
    for path in sorted(there.keys() | here.keys()):
        then, now = (values.get(path, defaults.get(path)) for values in (there, here))
        then, now = (tuple(v) if isinstance(v, list) else v for v in (then, now))
        counts = path not in described or described[path].alters_results
        if counts and then != now:
            found.append(f"{path} is {then!r} there and {now!r} here")
    return found


# the arguments of the config file that ran last, with their defaults, for its help
taken: dict[str, Any] = {}


def arguments(text: str, **defaults: Any) -> ConfigDict:
    """Read the arguments of a config file, `FILE.py:method=wa,base=50`.

    Args:
      text: what follows the colon, comma-separated `name=value`.
      **defaults: every argument of the file with its default. A value is converted to the type of
        the default, and stays a string where the default is None.

    Raises:
      UserError: an unknown argument, or a value of the wrong type.
    """
    taken.clear()
    taken.update(defaults)
    values = dict(defaults)
    for item in filter(None, text.split(",")):
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"config argument {item!r} should read name=value")
        if name not in defaults:
            raise unknown("config argument", name, defaults)
        default = defaults[name]
        kind = str if default is None else type(default)
        described = Field(name, kind, default, "", {}, None, None)
        values[name] = described.read(value, f"config argument {name}")
    return ConfigDict(values)


def make_method(config: ConfigDict) -> Method:
    """Build the method of `config.method`."""
    values = config.method.to_dict()
    return METHODS[values.pop("name")](**values)


def make_criterion(config: ConfigDict) -> Criterion:
    """Build the classification loss of `config.loss`."""
    values = config.loss.to_dict()
    return CRITERIA[values.pop("name")](**values)


def no_such_field(path: str, valid: Mapping[str, Any]) -> UserError:
    """Make the error for a path that is not a field's.

    Args:
      path: such as "train.epoch".
      valid: the paths of all fields.
    """
    section, _, name = path.rpartition(".")
    tops = {known.partition(".")[0] for known in valid}
    first = next((known for known in valid if known.startswith(f"{path}.")), None)
    if first is not None:
        return UserError(f"config.{path} is a section: set one of its fields, such as {first}")
    if section and section not in tops:
        return unknown("field of config", section, tops)
    elsewhere = [known for known in valid if known.rpartition(".")[2] == name]
    if elsewhere:
        return UserError(f"unknown field of config {path!r}; did you mean {elsewhere[0]}?")
    if not section:
        return unknown("field of config", name, tops)
    siblings = [known.rpartition(".")[2] for known in valid if known.startswith(f"{section}.")]
    return unknown(f"field of config.{section}", name, siblings)


def _checked(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of a config and return them by path, in the types of their fields."""
    values = flat(sections)
    described = _described(values)
    for path in described:
        if path not in values:
            raise UserError(f"the config has no {path}")
    return {path: one.check(values[path], path) for path, one in described.items()}


def _described(values: Mapping[str, Any]) -> dict[str, Field]:
    """List the fields that a config should have; it may have no others."""
    for part in ("method.name", "loss.name"):
        if not isinstance(values.get(part), str):
            raise UserError(f"the config has no {part}")
    described = fields(values["method.name"], values["loss.name"])
    for path in values:
        if path not in described:
            raise no_such_field(path, described)
    return described


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (sections.setdefault(section, {}) if section else sections)[name] = value
    return sections


def _locked(values: Mapping[str, Any]) -> ConfigDict:
    return ConfigDict(_sections(values), type_safe=True).lock()
