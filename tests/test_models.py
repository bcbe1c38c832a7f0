"""Networks: parameter counts of the references, shapes, precision, heads by slow formulas."""

import functools
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsce_jax.errors import UserError
from bsce_jax.models import HEADS, NETWORKS, Classifier, classify, infer, make_model
from bsce_jax.models.heads import LSC_PROXIES
from bsce_jax.models.ops.conv import conv, conv_on_cpu, conv_over_devices
from bsce_jax.models.ops.norm import BatchNorm

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@functools.cache
def build(name: str, head: str = "linear", num_classes: int = 10, dtype: str = "float32") -> Any:
    network = make_model(name, head=head, num_classes=num_classes, dtype=dtype)
    variables = jax.jit(lambda key: network.init(key, jnp.zeros((1, 8, 8, 3)), train=False))(
        jax.random.key(0)
    )
    return network, variables


def count_parameters(name: str, num_classes: int) -> int:
    network = make_model(name, head="linear", num_classes=num_classes, dtype="float32")
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        # option-A shortcuts add nothing to the 463,504 of the 31 convolutions and their BatchNorms
        ("resnet32_podnet", 100, 470_004),
        # two 1x1 convolutions with BatchNorm more: (16 * 32 + 64) + (32 * 64 + 128)
        ("resnet32", 100, 472_756),
        ("resnet32_option_a", 100, 470_004),
        ("resnet18", 1000, 11_689_512),
        # a 3x3 stem instead of 7x7: 3 * 64 * (49 - 9) fewer
        ("resnet50", 1000, 25_557_032),
        ("resnet18_cifar", 1000, 11_689_512 - 7_680),
        ("resnet18_podnet", 1000, 11_689_512 - 7_680),
    ],
)
def test_parameter_counts(name: str, num_classes: int, expected: int) -> None:
    assert count_parameters(name, num_classes) == expected


@pytest.mark.parametrize(
    ("name", "head"),
    [("small", "linear"), ("small", "cosine"), ("small", "lsc"), ("resnet8", "lsc")],
)
def test_outputs(name: str, head: str) -> None:
    network, variables = build(name, head)
    outputs = jax.jit(lambda v, x: infer(network, v, x))(variables, IMAGES)
    assert outputs.features.shape == (4, 64)
    assert outputs.scores.shape == outputs.logits.shape == (4, 10)
    np.testing.assert_allclose(outputs.logits, outputs.scale * outputs.scores, rtol=1e-6)
    assert all((np.asarray(m) < 0).any() for m in outputs.maps), "maps come before the ReLU"
    assert (np.asarray(outputs.features) >= 0).all() == (head == "linear")
    if head != "linear":
        assert (np.abs(outputs.scores) <= 1 + 1e-6).all()
        assert variables["params"]["head"]["scale"] == 1
    again = jax.jit(lambda v, f: classify(network, v, f))(variables, outputs.features)
    np.testing.assert_allclose(again.logits, outputs.logits, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("small", 8, [(8, 8, 32), (4, 4, 64)]),
        ("resnet32", 32, [(32, 32, 16), (16, 16, 32), (8, 8, 64)]),
        ("resnet32_podnet", 32, [(32, 32, 16), (16, 16, 32), (8, 8, 64), (8, 8, 64)]),
        ("resnet18_cifar", 32, [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]),
        ("resnet18_podnet", 224, [(112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512)]),
        ("resnet18", 224, [(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)]),
    ],
)
def test_maps(name: str, size: int, shapes: list[tuple[int, ...]]) -> None:
    network = make_model(name, head="cosine", num_classes=3, dtype="float32")
    outputs = jax.eval_shape(
        lambda: network.init_with_output(
            jax.random.key(0), jnp.zeros((2, size, size, 3)), train=False
        )[0]
    )
    assert [m.shape[1:] for m in outputs.maps] == shapes


@pytest.mark.parametrize("head", ["cosine", "lsc", "lsc_distance"])
def test_scores_by_loops(head: str) -> None:
    features = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    unit = lambda v: v / np.linalg.norm(v)
    cosine = lambda f, w: float(unit(f) @ unit(w))
    minus_distance = lambda f, w: -float(np.sum((unit(f) - unit(w)) ** 2))
    similarity = minus_distance if head == "lsc_distance" else cosine
    network, variables = build("small", head, num_classes=3)
    head_params = {**variables["params"]["head"], "scale": jnp.asarray(4.0)}
    params = {**variables["params"], "head": head_params}
    weight = np.asarray(head_params["weight"])
    outputs = jax.jit(lambda v, f: classify(network, v, f))({"params": params}, features)
    assert weight.shape == ((3, 64) if head == "cosine" else (3, LSC_PROXIES, 64))
    for i, c in itertools.product(range(2), range(3)):
        similarities = [similarity(features[i], w) for w in weight[c].reshape(-1, 64)]
        odds = [math.exp(s) for s in similarities]
        score = sum(o / sum(odds) * s for o, s in zip(odds, similarities, strict=True))
        assert outputs.scores[i, c] == pytest.approx(score, abs=2e-6)
        assert outputs.logits[i, c] == pytest.approx(4 * score, abs=1e-5)


@pytest.mark.parametrize("head", ["cosine", "lsc", "lsc_distance"])
@pytest.mark.parametrize("length", [0.0, 1e-14])
def test_vectors_of_no_length_have_a_small_gradient(head: str, length: float) -> None:
    network, variables = build("small", head)

    def total(features: jax.Array, weight: jax.Array) -> jax.Array:
        params = {"head": {**variables["params"]["head"], "weight": weight}}
        return classify(network, {"params": params}, features).scores.sum()

    weight = variables["params"]["head"]["weight"]
    features = jnp.full((1, 64), length)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))
    by_features, _ = gradients(features, weight)
    _, by_weight = gradients(jnp.ones((1, 64)), length * weight)
    # at most one unit vector for each of the ten classes, none of the 1e12 of a division by 1e-12
    assert 0 < jnp.abs(by_features).max() <= 10
    assert 0 < jnp.abs(by_weight).max() <= 1


def trained(network: Classifier, variables: Any, train: bool = True) -> Any:
    apply = lambda v: network.apply(v, IMAGES, train=train, mutable=["batch_stats"])
    return jax.jit(apply)(variables)


def test_bfloat16_is_for_the_backbone_s_computation_alone() -> None:
    network, variables = build("small", dtype="bfloat16")
    outputs, updated = trained(network, variables)
    assert outputs.maps[0].dtype == jnp.bfloat16
    assert outputs.features.dtype == outputs.logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    full, _ = trained(*build("small"))
    np.testing.assert_allclose(outputs.features, full.features, atol=0.05)


def test_statistics_move_in_training_only() -> None:
    network, variables = build("small")
    for train in (True, False):
        after = trained(network, variables, train)[1]["batch_stats"]
        before = jax.tree.leaves(variables["batch_stats"])
        same = map(np.array_equal, before, jax.tree.leaves(after))
        assert list(same) == [not train] * len(before)


def test_initialisation_is_he_fan_out_and_that_of_torch_for_the_head() -> None:
    _, variables = build("resnet8")
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]["backbone"])
        if "kernel" in jax.tree_util.keystr(path) and leaf.size > 10_000
    ]
    assert kernels
    for kernel in kernels:
        fan_out = kernel.shape[0] * kernel.shape[1] * kernel.shape[3]
        assert np.std(kernel) == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
    weight = np.asarray(variables["params"]["head"]["weight"])
    assert np.abs(weight).max() == pytest.approx(1 / math.sqrt(64), rel=0.02)


@pytest.mark.parametrize(
    # the deviation of a uniform number within 1 / 8, and the 1 / 8 of PODNet's code itself
    ("head", "deviation"),
    [("cosine", 1 / 8 / math.sqrt(3)), ("lsc", 1 / 8), ("lsc_distance", 1 / 8)],
)
def test_class_vectors_start_at_the_references_length(head: str, deviation: float) -> None:
    _, variables = build("small", head, num_classes=100)
    weight = np.asarray(variables["params"]["head"]["weight"])
    assert np.linalg.norm(weight, axis=-1).mean() == pytest.approx(8 * deviation, rel=0.02)
    assert weight.std() == pytest.approx(deviation, rel=0.02)
    normal = head != "cosine"
    assert (np.abs(weight).max() > 3 * deviation) == normal


def slow_resnet(
    variables: Any, blocks: list[int], pool: bool, option_a: bool, relu: Callable[[int, int], bool]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Compute a ResNet's maps and features in float64; ReLU follows the sums that `relu` names."""
    params, stats = (variables[kind]["backbone"] for kind in ("params", "batch_stats"))
    kernels = (np.asarray(params[f"Conv_{i}"]["kernel"], np.float64) for i in itertools.count())
    norms = ((params[f"BatchNorm_{i}"], stats[f"BatchNorm_{i}"]) for i in itertools.count())

    def windows(x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
        half = size // 2
        x = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)], constant_values=fill)
        found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        return found[:, ::stride, ::stride]  # [n, h, w, c, size, size]

    def conv_and_norm(x: np.ndarray, stride: int = 1) -> np.ndarray:
        kernel, (learned, running) = next(kernels), next(norms)
        y = np.einsum("nhwckl,klco->nhwo", windows(x, len(kernel), stride, 0), kernel)
        y = (y - running["mean"]) / np.sqrt(np.float64(running["var"]) + 1e-5)
        return y * learned["scale"] + learned["bias"]

    rectified = lambda x: np.maximum(x, 0)
    x = rectified(conv_and_norm(IMAGES[:2].astype(np.float64)))
    if pool:
        x = windows(x, 3, 2, -np.inf).max((-2, -1))
    maps = []
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            y = conv_and_norm(rectified(conv_and_norm(x, stride)))
            if stride == 2:
                halved = x[:, ::2, ::2]
                x = np.concatenate([halved, 0 * halved], -1) if option_a else conv_and_norm(x, 2)
            x = x + y
            if block == count - 1:
                maps.append(x)
            if relu(stage, block):
                x = rectified(x)
    return maps, x.mean((1, 2))


@pytest.mark.parametrize(
    ("name", "head", "slow"),
    [
        # PyCIL's convs/cifar_resnet.py: ReLU after every sum
        (
            "resnet32_option_a",
            "linear",
            partial(
                slow_resnet, blocks=[5, 5, 5], pool=False, option_a=True, relu=lambda s, b: True
            ),
        ),
        # inclearn's convnet/resnet.py: ReLU after the first of a stage's two sums alone
        (
            "resnet18_podnet",
            "lsc_distance",
            partial(
                slow_resnet, blocks=[2] * 4, pool=True, option_a=False, relu=lambda s, b: b == 0
            ),
        ),
    ],
)
def test_networks_of_the_references_by_loops(name: str, head: str, slow: Any) -> None:
    network, variables = build(name, head)
    # blocks that count, though some start at zero, and statistics as after training
    rng = np.random.default_rng(0)
    norms = {
        norm: {leaf: rng.uniform(0.5, 1.0, array.shape) for leaf, array in leaves.items()}
        for norm, leaves in variables["params"]["backbone"].items()
        if norm.startswith("BatchNorm")
    }
    statistics = jax.tree.map(lambda a: rng.uniform(0.5, 1.5, a.shape), variables["batch_stats"])
    params = {**variables["params"], "backbone": {**variables["params"]["backbone"], **norms}}
    changed = jax.tree.map(np.float32, {"params": params, "batch_stats": statistics})
    outputs = jax.jit(lambda v: infer(network, v, jnp.asarray(IMAGES[:2])))(changed)
    maps, features = slow(changed)
    for ours, theirs in zip((*outputs.maps, outputs.features), (*maps, features), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("name", "head", "platform"),
    [
        # without those of other tests
        *((name, "linear", "cpu") for name in NETWORKS if not name.startswith("tiny")),
        *(("small", head, "cpu") for head in HEADS),
        *(("resnet8", "linear", platform) for platform in ("cuda", "tpu", "gpus")),
    ],
)
def test_no_rank_is_promoted(name: str, head: str, platform: str) -> None:
    network = make_model(name, head=head, num_classes=7, dtype="float32", platform=platform)

    def everything(images: jax.Array) -> Any:
        variables = network.init(jax.random.key(0), images, train=False)
        inferred = infer(network, variables, images)

        def total(params: Any) -> tuple[jax.Array, Any]:
            changed = {**variables, "params": params}
            outputs, updated = network.apply(changed, images, train=True, mutable=["batch_stats"])
            return jnp.sum(outputs.logits), updated

        return inferred, jax.grad(total, has_aux=True)(variables["params"])

    with jax.numpy_rank_promotion("raise"):
        shapes, _ = jax.eval_shape(everything, jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32))
    assert shapes.logits.shape == (8, 7)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (7, 7), (3, 1), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_agrees_with_jax_forward_and_backward(
    shape: tuple[int, int], stride: int
) -> None:
    for height, width in ((8, 9), (7, 8)):
        check_the_convolution((2, height, width, 3), (*shape, 3, 4), stride)


@pytest.mark.parametrize(("height", "width"), [(5, 6), (6, 5), (1, 2)])
def test_the_convolution_of_many_channels_agrees_with_jax(height: int, width: int) -> None:
    # sums of twenty times as many products as above
    check_the_convolution((3, height, width, 64), (3, 3, 64, 80), 1, rounding=5)


def test_the_convolution_of_many_channels_is_no_coarser_in_bfloat16() -> None:
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((3, 5, 6, 64), (3, 3, 64, 80))
    )
    exact = conv_on_cpu(x.astype(jnp.float32), kernel.astype(jnp.float32), 1)
    # one rounding of the output, to 8 bits; of numbers about zero, by what the sums are made of
    np.testing.assert_allclose(
        conv_on_cpu(x, kernel, 1).astype(jnp.float32), exact, rtol=2**-8, atol=0.1
    )


def check_the_convolution(
    images: tuple[int, ...],
    kernels: tuple[int, int, int, int],
    stride: int,
    rounding: float = 1,
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=images).astype(np.float32)
    kernel = rng.normal(size=kernels).astype(np.float32)
    expected, expected_back = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
    gradient = rng.normal(size=expected.shape).astype(np.float32)
    for convolved in (conv_on_cpu, conv_over_devices):
        output, back = jax.vjp(jax.jit(partial(convolved, stride=stride)), x, kernel)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5 * rounding)
        for ours, theirs in zip(back(gradient), expected_back(gradient), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * rounding)


def test_several_processes_have_no_sums_in_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = jnp.ones((16, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

    def program() -> str:
        gradient = jax.grad(lambda x, kernel: conv_on_cpu(x, kernel, 1).sum(), argnums=1)
        return str(jax.make_jaxpr(gradient)(x, kernel))

    assert "cond[" in program()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "cond[" not in program()


@pytest.mark.parametrize("convolved", [conv_on_cpu, conv_over_devices])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernels_gradient_is_not_rounded_to_bfloat16(convolved: Any, stride: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 8, 8, 16)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 16, 8)), jnp.float32)
    output, back = jax.vjp(jax.jit(partial(convolved, stride=stride)), x, kernel)
    assert output.dtype == jnp.bfloat16
    gradient = jnp.asarray(rng.normal(size=output.shape), jnp.bfloat16)
    of_x, of_kernel = back(gradient)
    assert (of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    # the same numbers in float32, which is exact for products of two bfloat16
    _, exact = jax.vjp(partial(conv, stride=stride), x.astype(jnp.float32), kernel)
    np.testing.assert_allclose(
        of_kernel, exact(gradient.astype(jnp.float32))[1], rtol=1e-5, atol=1e-4
    )


def test_a_larger_batch_is_not_more_to_compile() -> None:
    def convolutions(batch: int) -> int:
        x = jnp.zeros((batch, 8, 8, 3))
        kernel = jnp.zeros((3, 3, 3, 32))
        both = jax.grad(lambda x, kernel: conv_on_cpu(x, kernel, 1).sum(), argnums=(0, 1))
        return str(jax.make_jaxpr(both)(x, kernel)).count("conv_general_dilated[")

    assert convolutions(16) < convolutions(128) == convolutions(4096) == convolutions(99_968)


def test_podnets_blocks_start_as_their_shortcuts() -> None:
    network, variables = build("resnet32_podnet", "lsc")
    maps = jax.jit(lambda v: infer(network, v, jnp.asarray(IMAGES)).maps)(variables)
    first, *later = map(np.asarray, maps)
    scales = [
        np.asarray(norm["scale"])
        for name, norm in variables["params"]["backbone"].items()
        if name.startswith("BatchNorm")
    ]
    assert [bool(scale.any()) for scale in scales].count(False) == 15  # one a block
    # the first stage hands on what the stem made, which is rectified; shortcuts halve and pad
    assert first.min() == 0
    assert first.max() > 0
    np.testing.assert_array_equal(later[0][..., :16], first[:, ::2, ::2])
    assert not later[0][..., 16:].any()
    np.testing.assert_array_equal(later[1], later[2])


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_batch_norm_agrees_with_flax_forward_and_backward(platform: str) -> None:
    rng = np.random.default_rng(0)
    x, direction = rng.normal(3, 2, size=(2, 4, 5, 6, 3)).astype(np.float32)
    params = {
        "scale": rng.normal(size=3).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    statistics = {"mean": np.full(3, 2.0, np.float32), "var": np.full(3, 5.0, np.float32)}
    ours = lambda train: partial(BatchNorm(platform=platform).apply, train=train)
    theirs = lambda train: nn.BatchNorm(not train, momentum=0.9).apply

    def objective(apply: Any, params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": statistics}
        y, updated = apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(y * direction), (y, updated)

    for train in (True, False):
        got, expected = (
            jax.grad(objective, argnums=(1, 2), has_aux=True)(make(train), params, x)
            for make in (ours, theirs)
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("ratio", [0, 10, 100, 1000])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_batch_norm_far_from_zero(platform: str, ratio: float) -> None:
    rng = np.random.default_rng(0)
    x = (ratio + rng.normal(size=(32, 8, 8, 4))).astype(np.float32)
    direction = rng.normal(size=x.shape)
    wide = x.astype(np.float64)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    y = (wide - mean) / np.sqrt(variance + 1e-5)
    along_scale = np.sum(direction * y, (0, 1, 2))
    along_x = direction - direction.mean((0, 1, 2)) - y * along_scale / (32 * 8 * 8)
    exact = [y, mean, variance, along_scale, along_x / np.sqrt(variance + 1e-5)]

    def errors(network: nn.Module, **given: Any) -> np.ndarray:
        variables = network.init(jax.random.key(0), x, **given)

        def total(scale: jax.Array, x: jax.Array) -> Any:
            changed = {**variables, "params": {**variables["params"], "scale": scale}}
            y, updated = network.apply(changed, x, **given, mutable=["batch_stats"])
            return jnp.sum(y * direction), (y, updated["batch_stats"])

        along, (y, moved) = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(jnp.ones(4), x)
        # a step of momentum 0.9 from mean 0 and variance 1
        found = [y, moved["mean"] / 0.1, (moved["var"] - 0.9) / 0.1, *along]
        return np.array([np.abs(f - e).max() for f, e in zip(found, exact, strict=True)])

    ours = errors(BatchNorm(platform=platform), train=True)
    # the mean is rounded by its own size, and with it y and what is made of y: along x a pixel,
    # along scale a sum over 2048; the variance is not
    rounded = np.array([1, 1, 0, 100, 1])
    assert (ours <= 2e-7 * (1 + ratio) * rounded + 2e-6).all(), ours
    if ratio >= 10:
        assert (ours <= errors(nn.BatchNorm(False, momentum=0.9)) + 1e-7).all()


def test_both_forms_of_a_network_agree_and_the_plain_one_has_a_forward_mode() -> None:
    _, variables = build("resnet8")
    cpu, plain = (
        make_model("resnet8", head="linear", num_classes=10, dtype="float32", platform=platform)
        for platform in ("cpu", "cuda")
    )

    def total(network: Classifier, params: Any) -> jax.Array:
        changed = {**variables, "params": params}
        outputs, _ = network.apply(changed, IMAGES, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.square(outputs.logits))

    params = variables["params"]
    (a, along_cpu), (b, along) = (
        jax.jit(jax.value_and_grad(partial(total, network)))(params) for network in (cpu, plain)
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(along_cpu), jax.tree.leaves(along), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3 * np.abs(y).max())

    _, slope = jax.jit(lambda v: jax.jvp(partial(total, plain), (params,), (v,)))(along)
    square = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(along))
    np.testing.assert_allclose(slope, square, rtol=1e-4)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(partial(total, cpu), (params,), (params,))


def test_a_network_is_made_for_this_process_s_platform() -> None:
    network = make_model("small", head="linear", num_classes=10, dtype="float32")
    assert network.backbone.platform == jax.default_backend()


def test_per_class_parameters_have_the_class_first() -> None:
    for head in HEADS:
        network, variables = build("small", head)
        assert isinstance(network, Classifier)
        leading = {leaf.shape[:1] for leaf in jax.tree.leaves(variables["params"]["head"])}
        assert leading <= {(10,), ()}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"name": "resnet23"}, "did you mean resnet32"),
        ({"head": "cosin"}, "did you mean cosine"),
        ({"dtype": "float16"}, "did you mean float32 or bfloat16|valid|did you mean bfloat16"),
    ],
)
def test_unknown_names(field: dict[str, str], message: str) -> None:
    right = {"name": next(iter(NETWORKS)), "head": "linear", "dtype": "float32"}
    with pytest.raises(UserError, match=message):
        make_model(num_classes=2, **{**right, **field})


def test_a_network_of_one_s_own_is_found_by_its_name() -> None:
    @NETWORKS.register("mean_colour")
    class MeanColour(nn.Module):
        final_relu: bool
        dtype: jnp.dtype

        def __call__(self, images: jax.Array, train: bool) -> Any:
            return images.mean((1, 2)), ()

    network, variables = build("mean_colour", "cosine")
    outputs = infer(network, variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(outputs.features, IMAGES.mean((1, 2)), rtol=1e-5)
    assert outputs.logits.shape == (4, 10)
