"""AFC: the importance of the channels, against differences of the loss, and where it is kept."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import log_softmax
from tiny_run import make_config, some_digits, weights

from bsce_jax import losses
from bsce_jax.models import infer, make_model
from bsce_jax.models.channels import ChannelClassifier, squared_gradients
from bsce_jax.models.names import NETWORKS
from bsce_jax.training.loop import run

DATA = some_digits(12, 4)
SEEN = 3


@NETWORKS.register("without_offsets")
class WithoutOffsets(nn.Module):
    """A backbone of one's own, which knows nothing of AFC."""

    final_relu: bool = True
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x = nn.Conv(3, (3, 3))(images)
        return nn.relu(x).mean((1, 2)), (x,)


def test_one_channel_is_weighed() -> None:
    rng = np.random.default_rng(0)
    student, teacher = ([jnp.asarray(rng.normal(size=(2, 3, 3, 4)))] for _ in range(2))
    alone = [losses.pod_pixel(student, teacher, [4.0 * np.eye(4)[channel]]) for channel in range(4)]
    np.testing.assert_allclose(
        np.mean(alone, axis=0), losses.pod_pixel(student, teacher), rtol=1e-5
    )
    assert len({float(one[0]) for one in alone}) == 4


def test_the_squared_gradients_are_those_of_differences() -> None:
    made = make_model("small", head="linear", num_classes=4, dtype="float32")
    network: Any = ChannelClassifier(made.backbone, made.head)
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    labels, sample_weights = np.array([0, 2, 1]), np.array([1.0, 1.0, 0.0], np.float32)
    variables = network.init(jax.random.key(0), images, train=False)
    found = squared_gradients(network, variables, images, labels, sample_weights, np.int32(SEEN))
    outputs = infer(network, variables, images)
    assert [one.shape for one in found] == [one.shape[-1:] for one in outputs.maps]

    def loss(offsets: dict[str, np.ndarray]) -> float:
        given = {**variables, "offsets": {"backbone": offsets}}
        logits = np.asarray(network.apply(given, images, train=False).logits, np.float64)
        among = np.arange(4) < SEEN
        return float(-log_softmax(logits, among)[np.arange(2), labels[:2]].sum())

    for number, channel in ((0, 5), (1, 9)):
        shape, total = outputs.maps[number].shape, 0.0
        for sample, y, x in np.ndindex(2, *shape[1:3]):
            by = []
            for sign in (1, -1):
                offset = np.zeros(shape, np.float32)
                offset[sample, y, x, channel] = sign * 0.005
                by.append(loss({f"map_{number}": offset}))
            total += ((by[0] - by[1]) / 0.01) ** 2
        np.testing.assert_allclose(found[number][channel], total, rtol=0.05, atol=1e-7)


def test_the_importance_of_a_task_weighs_the_distillation_of_the_next(
    tmp_path: pathlib.Path,
) -> None:
    fields = {"runtime.keep_models": "all", "train.epochs": 1, "model.name": "small"}
    run(make_config("afc", fields=fields), tmp_path / "run", DATA)
    first, second = (weights(tmp_path / "run", task) for task in range(2))
    for name in ("batch_stats/importance_0", "batch_stats/importance_1"):
        for one in (first[name], second[name]):
            assert (one >= 0).all()
            np.testing.assert_allclose(one.mean(), 1, rtol=1e-5)
            assert one.std() > 0.1
        assert (first[name] != second[name]).any()


@pytest.mark.slow
def test_a_first_task_of_podnet_is_one_of_afc(tmp_path: pathlib.Path) -> None:
    """The importance is computed anew."""
    fields = {"runtime.keep_models": "all", "train.epochs": 1, "model.name": "small"}
    run(make_config("afc", fields=fields), tmp_path / "run", DATA)
    second = weights(tmp_path / "run", 1)
    run(make_config("podnet", fields=fields), tmp_path / "base", DATA)
    fields["train.init_from"] = str(tmp_path / "base")
    run(make_config("afc", fields=fields), tmp_path / "shared", DATA)
    shared = weights(tmp_path / "shared", 1)
    np.testing.assert_array_equal(
        shared["batch_stats/importance_0"], second["batch_stats/importance_0"]
    )


def test_without_offsets_all_channels_count_alike(tmp_path: pathlib.Path) -> None:
    fields = {"train.epochs": 1, "model.name": "without_offsets"}
    run(make_config("afc", fields=fields), tmp_path, DATA)
    np.testing.assert_array_equal(weights(tmp_path, 1)["batch_stats/importance_0"], 1)
