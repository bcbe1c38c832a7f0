"""The config: its fields and defaults, and the arguments that config files take."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from bsce_jax.errors import UserError, unknown
from bsce_jax.methods import Method, method_class
from bsce_jax.methods.classification import ClassificationLoss, loss_class


def arguments(text: str, **defaults: Any) -> ConfigDict:
    """Reads the arguments of a config file, `FILE.py:method=wa,base=50`.

    Args:
      text: what stands behind the colon, comma-separated `name=value`.
      **defaults: every argument that the file takes, with its default; the value given is read
        as the default's type (as a string where the default is None).

    Raises:
      UserError: an argument that the file does not take, or a value of the wrong type.
    """
    values = dict(defaults)
    for item in filter(None, text.split(",")):
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"config argument {item!r} should read name=value")
        if name not in defaults:
            raise unknown("config argument", name, defaults)
        default = defaults[name]
        try:
            values[name] = value if default is None else type(default)(value)
        except ValueError:
            kind = type(default).__name__
            raise UserError(f"config argument {name}={value!r} is not of type {kind}") from None
    return ConfigDict(values)


def default(method: str, loss: str | None) -> ConfigDict:
    """Makes a whole config for a method; a config file then sets what its data set asks for.

    Args:
      method: name of a method; its hyper-parameters become `config.method`.
      loss: name of a loss; its hyper-parameters become `config.loss`. None: the loss that the
        method was published with. A balanced loss switches the method's balanced fine-tuning off.
    """
    method_type = method_class(method)
    loss_name = method_type.loss if loss is None else loss
    loss_type = loss_class(loss_name)
    hyper_parameters = dataclasses.asdict(method_type())
    if loss_type.balanced and "finetune_epochs" in hyper_parameters:
        hyper_parameters["finetune_epochs"] = 0
    return ConfigDict(
        {
            "seed": 0,
            # an image_size of 0: as the data set has it
            "dataset": {"name": "digits", "data_dir": "data", "image_size": 0},
            "scenario": {"base": 0, "increment": 2, "class_order": "1993"},
            "memory": {
                "policy": "per_class",
                "size": 20 if method_type.memory else 0,
                "selection": "herding",
            },
            "method": {"name": method, **hyper_parameters},
            "loss": {"name": loss_name, **dataclasses.asdict(loss_type())},
            "model": {"name": "small"},
            "train": {
                "epochs": 30,
                "batch_size": 128,
                "replay_batch_size": method_type.replay_batch_size,
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "step",
                "milestones": (0.5, 0.75),  # fractions of the epochs
                "decay": 0.1,
                "augmentation": "none",
            },
            "runtime": {
                "dtype": "float32",
                "feed": "resident",
                "checkpoint_epochs": 10,
            },
        }
    )


def make_method(config: ConfigDict) -> Method:
    """Builds the method of `config.method`."""
    fields = config.method.to_dict()
    return method_class(fields.pop("name"))(**fields)


def make_loss(config: ConfigDict) -> ClassificationLoss:
    """Builds the classification loss of `config.loss`."""
    fields = config.loss.to_dict()
    return loss_class(fields.pop("name"))(**fields)
