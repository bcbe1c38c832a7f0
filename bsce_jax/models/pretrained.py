"""Initial weights from files: those of a run, and torchvision's.

`config.model.init` names a .safetensors or .npz file. Its arrays have the names of this package
(`params/backbone/Conv_0/kernel`, as in RUN/model/ and in an export), or those of torchvision's
ResNets (`layer1.0.conv1.weight`). The head is not read: the classes are others.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from bsce_jax.errors import UserError
from bsce_jax.files import MALFORMED

# of torchvision's BatchNorm2d
_NORM = {
    "params/{}/scale": "{}.weight",
    "params/{}/bias": "{}.bias",
    "batch_stats/{}/mean": "{}.running_mean",
    "batch_stats/{}/var": "{}.running_var",
}


def load_backbone(file: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the backbone of a network by the one of a file.

    Args:
      file: .safetensors or .npz.
      variables: of the network, `{"params": ..., "batch_stats": ...}`; its head is kept.

    Returns:
      The variables with the arrays of the file.

    Raises:
      UserError: the file cannot be read, or is of another network; the message says which array.
    """
    arrays = _read(pathlib.Path(file))
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    backbone = {name: array for name, array in flat.items() if name.split("/")[1] == "backbone"}
    named = {name: name for name in backbone}
    if "conv1.weight" in arrays:
        try:
            named = torchvision_names(backbone)
        except KeyError as error:
            raise UserError(
                f"model.init={file} is of torchvision, and model.name none of its ResNets"
            ) from error
        used = {name for name in arrays if not name.startswith("fc.")}
        used = {name for name in used if not name.endswith("num_batches_tracked")}
    else:
        used = {name for name in arrays if re.match("(params|batch_stats)/backbone/", name)}
    if missing := sorted(set(named.values()) - arrays.keys()):
        raise UserError(f"model.init={file} is of another network: it has no {missing[0]}")
    if more := sorted(used - set(named.values())):
        raise UserError(f"model.init={file} is of another network: it has {more[0]} too")
    for ours, theirs in named.items():
        array = arrays[theirs]
        if theirs != ours and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # outputs and inputs first, as torch has kernels
        if array.shape != backbone[ours].shape:
            raise UserError(
                f"model.init={file} is of another network: {theirs} is {list(arrays[theirs].shape)}"
                f", and {ours} {list(backbone[ours].shape)}"
            )
        flat[ours] = array.astype(np.float32)
    loaded: dict[str, Any] = traverse_util.unflatten_dict(flat, sep="/")
    return loaded


def torchvision_names(backbone: Mapping[str, Any]) -> dict[str, str]:
    """Map the arrays of a ResNet with projections to their names in torchvision.

    Both number the convolutions in the order of computation: those of a block, then its shortcut.

    Args:
      backbone: arrays by path, such as `params/backbone/Conv_0/kernel`.

    Raises:
      KeyError: it has no such blocks.
    """
    kernels = {
        int(match[1]): array.shape
        for name, array in backbone.items()
        if (match := re.fullmatch(r"params/backbone/Conv_(\d+)/kernel", name))
    }
    # a bottleneck starts with a 1x1 convolution
    in_block = 3 if kernels[1][0] == 1 else 2
    modules = [("conv1", "bn1")]
    width, stage, block, inputs = kernels[0][3], 1, 0, kernels[0][3]
    while len(modules) < len(kernels):
        first = len(modules)
        if kernels[first][3] != width:  # of the block's first convolution: a new stage
            width, stage, block = kernels[first][3], stage + 1, 0
        place = f"layer{stage}.{block}"
        modules += [(f"{place}.conv{i + 1}", f"{place}.bn{i + 1}") for i in range(in_block)]
        outputs = kernels[first + in_block - 1][3]
        if outputs != inputs:
            modules.append((f"{place}.downsample.0", f"{place}.downsample.1"))
        inputs, block = outputs, block + 1
    names = {}
    for number, (conv, norm) in enumerate(modules):
        names[f"params/backbone/Conv_{number}/kernel"] = f"{conv}.weight"
        for ours, theirs in _NORM.items():
            names[ours.format(f"backbone/BatchNorm_{number}")] = theirs.format(norm)
    return names


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    readers: dict[str, Callable[[pathlib.Path], dict[str, np.ndarray]]] = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
    }
    if path.suffix not in readers:
        raise UserError(f"model.init={path}: give a .safetensors or an .npz file")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise UserError(f"cannot read model.init={path}: {error.strerror or error}") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as f, np.load(f) as archive:
            return {name: archive[name] for name in archive.files}
    except MALFORMED as error:
        if isinstance(error, OSError):
            raise
        raise UserError(f"model.init={path} is damaged") from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that numpy lacks
        raise UserError(f"model.init={path} is damaged: {error}") from error
