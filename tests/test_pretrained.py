"""Initial weights: torchvision's names and layouts, our own, and files of another network."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file
from tiny_run import make_config, some_digits, weights

from bsce_jax.errors import UserError
from bsce_jax.models import Classifier, infer, make_model
from bsce_jax.models.heads import LinearHead
from bsce_jax.models.pretrained import load_backbone, torchvision_names
from bsce_jax.models.resnet import ResNet
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem

WIDTHS, BLOCKS = (4, 6), (2, 1)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
Arrays = dict[str, Any]  # of numpy, by name


def made_up(bottleneck: bool) -> Arrays:
    """Weights of a small ResNet under torchvision's names; torch has kernels [out, in, h, w]."""
    arrays: Arrays = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        arrays[f"{name}.weight"] = RNG.normal(0, 0.3, (outputs, inputs, size, size))
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{norm}.{leaf}"] = RNG.uniform(0.5, 1.5, outputs)
        arrays[f"{norm}.num_batches_tracked"] = np.array(7)

    conv("conv1", "bn1", WIDTHS[0], 3, 7)
    inputs = WIDTHS[0]
    for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True), 1):
        outputs = 4 * width if bottleneck else width
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            plan = [(width, inputs, 3), (outputs, width, 3)]
            if bottleneck:
                plan = [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
            for i, (out, into, size) in enumerate(plan, 1):
                conv(f"{place}.conv{i}", f"{place}.bn{i}", out, into, size)
            if inputs != outputs:
                conv(f"{place}.downsample.0", f"{place}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    arrays["fc.weight"], arrays["fc.bias"] = np.zeros((1000, inputs)), np.zeros(1000)
    return {name: np.asarray(a, np.float32 if a.ndim else np.int64) for name, a in arrays.items()}


def features(arrays: Arrays, bottleneck: bool) -> np.ndarray:
    """What torchvision's ResNet computes before its last layer, by loops, in float64."""

    def windows(x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
        half = size // 2
        x = np.pad(x, [(0, 0), (0, 0), (half, half), (half, half)], constant_values=fill)
        found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        return found[:, :, ::stride, ::stride]  # [n, c, h, w, size, size]

    def conv(x: np.ndarray, name: str, norm: str, stride: int = 1) -> np.ndarray:
        kernel = arrays[f"{name}.weight"].astype(np.float64)
        y = np.einsum("nchwkl,ockl->nohw", windows(x, kernel.shape[2], stride, 0), kernel)
        scale, bias, mean, var = (
            arrays[f"{norm}.{leaf}"].astype(np.float64)[:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * scale + bias

    relu = lambda x: np.maximum(x, 0)
    x = relu(conv(IMAGES.transpose(0, 3, 1, 2).astype(np.float64), "conv1", "bn1", 2))
    x = windows(x, 3, 2, -np.inf).max((-2, -1))
    for stage, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            place = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            y = x
            for i, own in enumerate(strides, 1):
                y = conv(y, f"{place}.conv{i}", f"{place}.bn{i}", own)
                y = relu(y) if i < len(strides) else y
            if f"{place}.downsample.0.weight" in arrays:
                x = conv(x, f"{place}.downsample.0", f"{place}.downsample.1", stride)
            x = relu(x + y)
    return x.mean((2, 3))


def network(bottleneck: bool) -> Classifier:
    stages = tuple(zip(BLOCKS, WIDTHS, strict=True))
    return Classifier(
        ResNet(stages, "imagenet", "projection", bottleneck=bottleneck), LinearHead(3)
    )


def variables(of: Classifier) -> Any:
    return of.init(jax.random.key(0), jnp.asarray(IMAGES), train=False)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_torchvisions_weights_give_its_features(
    tmp_path: pathlib.Path, bottleneck: bool, suffix: str
) -> None:
    arrays, file = made_up(bottleneck), tmp_path / f"weights{suffix}"
    save_file(arrays, file) if suffix == ".safetensors" else np.savez(file, **arrays)
    ours = network(bottleneck)
    start = variables(ours)
    loaded = load_backbone(str(file), start)
    found = infer(ours, loaded, jnp.asarray(IMAGES)).features
    wanted = features(arrays, bottleneck)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["head"], start["params"]["head"])


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "some"),
    [
        ("resnet18", 20, 11_176_512, "layer4.0.downsample.1.running_var"),
        ("resnet50", 53, 23_508_032, "layer3.5.conv3.weight"),
    ],
)
def test_the_names_of_torchvisions_networks(
    name: str, layers: int, parameters: int, some: str
) -> None:
    ours = make_model(name, head="linear", num_classes=2, dtype="float32")
    shapes = jax.eval_shape(
        lambda: ours.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    flat = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()
        if "/backbone/" in path
    }
    assert sum(leaf.size for path, leaf in flat.items() if path[0] == "p") == parameters
    names = torchvision_names(flat)
    assert names.keys() == flat.keys()
    assert len(set(names.values())) == 5 * layers
    assert some in names.values()


def test_a_run_starts_from_another_runs_backbone(tmp_path: pathlib.Path) -> None:
    data = some_digits()
    first, second = tmp_path / "first", tmp_path / "second"
    run(make_config("finetune", fields={"train.epochs": 1}), first, data)
    file = first / "model" / "task_01.npz"
    made = make_config("acil", fields={"model.init": str(file), "train.epochs": 0})
    report = run(made, second, data)
    assert report is not None
    assert report["cnn"]["accuracy"][-1] > 50  # of ten classes, by the head that is solved
    found, wanted = weights(second, 1), dict[str, Any](weights(first, 1))
    backbone = {name for name in wanted if "/backbone/" in name}
    assert backbone
    for name in backbone:
        np.testing.assert_array_equal(found[name], wanted[name])
    # a method that begins every task anew begins with that backbone
    made_joint = make_config("joint", fields={"model.init": str(file), "train.epochs": 0})
    run(made_joint, tmp_path / "joint", data)
    joint = weights(tmp_path / "joint", 1)
    for name in backbone:
        np.testing.assert_array_equal(joint[name], wanted[name])
    # the weights are part of the run's identity, and their place is not
    made.model.init = str(file.rename(tmp_path / "moved.npz"))
    run(made, second, data)
    np.savez(tmp_path / "moved.npz", **{**wanted, "class_means": np.zeros(3)})
    with pytest.raises(UserError, match="the initial weights changed"):
        run(made, second, data)


def test_a_random_backbone_needs_training() -> None:
    with pytest.raises(UserError, match=r"train.epochs is 0: only a backbone of model.init"):
        Problem(make_config("acil", fields={"train.epochs": 0}), some_digits())


def test_files_of_another_network_are_refused(tmp_path: pathlib.Path) -> None:
    def refused(message: str, arrays: Arrays, of: str = "resnet8") -> None:
        file = tmp_path / "weights.npz"
        np.savez(file, **arrays)
        made = make_config("finetune", fields={"model.name": of, "model.init": str(file)})
        with pytest.raises(UserError, match=message):
            Problem(made, some_digits())

    refused("is of another network: it has no .*backbone", {"something": np.zeros(3)})
    refused("model.name none of its ResNets", made_up(False), of="tiny")
    refused("is of another network: it has no layer2.1.bn1", made_up(True), of="resnet18_cifar")
    own = {
        f"params/backbone/{name}": np.zeros(3)
        for name in ("BatchNorm_0/bias", "BatchNorm_0/scale", "Conv_0/kernel")
    }
    own |= {f"batch_stats/backbone/BatchNorm_0/{name}": np.zeros(4) for name in ("mean", "var")}
    refused(r"params/backbone/\S+ is \[3\], and \S+ \[", own, of="tiny")
    refused(
        "it has params/backbone/Conv_1/kernel too",
        {**own, "params/backbone/Conv_1/kernel": np.zeros(1)},
        of="tiny",
    )


def test_files_that_cannot_be_read_are_refused(tmp_path: pathlib.Path) -> None:
    start = variables(network(False))
    for name in ("a.npz", "a.safetensors"):
        file = tmp_path / name
        with pytest.raises(UserError, match=f"cannot read model.init=.*{name}"):
            load_backbone(str(file), start)
        file.write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=f"model.init=.*{name} is damaged"):
            load_backbone(str(file), start)
    with pytest.raises(UserError, match=r"give a \.safetensors or an .npz file"):
        load_backbone("weights.pth", start)
