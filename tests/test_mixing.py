"""Images mixed in pairs: what is mixed, how much of each, and the loss of both labels."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import (
    HEAD,
    LABELS,
    LINEAR,
    NEW,
    REAL,
    SEEN,
    STUDENT,
    C,
    D,
    cross_entropy,
    f32,
    make_step,
    terms_of,
)
from tiny_run import make_config, some_digits, without_timing

from bsce_jax.data.mixing import MIXINGS, cutmix, mix, mixup
from bsce_jax.methods import METHODS
from bsce_jax.methods.ccil import CCIL
from bsce_jax.models.heads import LinearHead
from bsce_jax.training.loop import run

KEYS = st.integers(0, 2**31 - 1).map(jax.random.key)
SHAPE = (4, 6, 9, 1)
ZEROS, ONES = jnp.zeros(SHAPE), jnp.ones(SHAPE)
DATA = some_digits(6, 4)


@settings(max_examples=25, deadline=None)
@given(KEYS)
def test_mixup_is_a_weighted_mean(key: jax.Array) -> None:
    mixed, share = mixup(key, ONES, ZEROS)
    np.testing.assert_allclose(mixed, np.full(SHAPE, share), rtol=1e-6)
    assert 0 <= share <= 1


@settings(max_examples=50, deadline=None)
@given(KEYS)
def test_cutmix_pastes_a_box_and_counts_its_pixels(key: jax.Array) -> None:
    mixed, share = cutmix(key, ONES, ZEROS)
    pasted = np.asarray(mixed[0, :, :, 0]) == 0
    for one in np.asarray(mixed)[..., 0]:
        np.testing.assert_array_equal(one == 0, pasted)  # the same box in each image
    rows, columns = pasted.any(axis=1), pasted.any(axis=0)
    np.testing.assert_array_equal(pasted, rows[:, None] & columns)
    for line in (rows, columns):  # without gaps
        inside = np.flatnonzero(line)
        assert len(inside) == 0 or inside[-1] - inside[0] == len(inside) - 1
    np.testing.assert_allclose(share, 1 - pasted.mean(), atol=1e-6)


def test_the_boxes_have_every_size_and_place() -> None:
    mixed = jax.vmap(lambda key: cutmix(key, ONES, ZEROS)[0])(
        jax.random.split(jax.random.key(0), 4000)
    )
    pasted = 1 - np.asarray(mixed)[:, 0, :, :, 0]
    sizes = pasted.mean(axis=(1, 2))
    assert sizes.min() == 0
    assert sizes.max() > 0.7
    # half of the area is lost over the border where the centre is near it: less than one half
    assert 0.2 < sizes.mean() < 0.45
    everywhere = pasted.mean(axis=0)
    assert everywhere.min() > 0.1  # no corner is left out
    assert everywhere.max() < 0.5


@pytest.mark.parametrize("name", MIXINGS)
def test_the_larger_share_has_the_label(name: str) -> None:
    """An image of value v has the label v: a mixture tells what it is made of."""
    labels = jnp.arange(8)
    images = jnp.broadcast_to(labels[:, None, None, None], (8, 10, 10, 1)).astype(jnp.float32)
    swapped = False
    for seed in range(20):
        found = mix(MIXINGS[name], jax.random.key(seed), images, labels)
        mixed, first, second, share = map(np.asarray, found)
        assert 0.5 <= share <= 1
        assert sorted(first) == sorted(second) == list(range(8))
        swapped |= bool((first != np.arange(8)).any())
        for image, mine, other in zip(mixed[..., 0], first, second, strict=True):
            mean = share * mine + (1 - share) * other
            np.testing.assert_allclose(image.mean(), mean, rtol=1e-4)
    assert swapped


def test_exemplars_are_mixed_with_exemplars() -> None:
    labels = jnp.arange(8)
    for seed in range(10):
        images = jnp.zeros((8, 2, 2, 1))
        found = mix(mixup, jax.random.key(seed), images, labels, replayed=3)
        for part in map(np.asarray, found[1:3]):
            assert set(part[5:]) == {5, 6, 7}


def test_the_classification_loss_has_both_labels_and_their_shares() -> None:
    partners = np.array([3, 3, 0, 4, 2])
    step = dataclasses.replace(make_step(), partners=jnp.asarray(partners), share=jnp.asarray(0.7))
    found = jax.jit(lambda step: step.classification())(step)
    wanted = 0.7 * cross_entropy(STUDENT, LABELS) + 0.3 * cross_entropy(STUDENT, partners)
    np.testing.assert_allclose(found, wanted[REAL].mean(), rtol=1e-5)


def test_an_image_mixed_with_an_exemplar_is_none_of_new_classes_alone() -> None:
    """Samples 0 and 1 are exemplars, 2 and 3 are new; 3 is mixed with a sample of class 2."""
    partners = np.array([3, 3, 4, 2, 2])
    step = dataclasses.replace(
        make_step(replayed=np.zeros(5, bool)),
        partners=jnp.asarray(partners),
        share=jnp.asarray(0.7),
    )

    def mixed(row: int, among: np.ndarray) -> float:
        first, second = (cross_entropy(STUDENT, of, among)[row] for of in (LABELS, partners))
        return float(0.7 * first + 0.3 * second)

    new = mixed(2, NEW)
    others = np.mean([mixed(row, SEEN) for row in (0, 1, 3)])
    found = terms_of(CCIL(), step)["classification"]
    np.testing.assert_allclose(found, new + others, rtol=1e-5)


@pytest.mark.parametrize("method", ["pass", "fetril"])
def test_methods_with_a_classification_of_their_own_mix_the_labels_too(method: str) -> None:
    """The loss of a half of each is the mean of the losses of both."""
    made = METHODS[method]()
    extra = made.init_extra(HEAD, C)
    turned = {"weight": f32(np.ones((3 * C, D))), "bias": f32(np.zeros(3 * C))}
    student = dataclasses.replace(make_step().student, auxiliary=f32(np.ones((5, 3 * C))))
    partners = jnp.asarray([3, 3, 0, 4, 2])

    def loss(**changes: Any) -> jax.Array:
        step = dataclasses.replace(
            make_step(
                student=student,
                extra=extra,
                network=LINEAR.clone(auxiliary=LinearHead(3 * C)),
                params={**HEAD, "auxiliary": turned},
            ),
            turns=jnp.array([0, 1, 2, 3, 0]),
            **changes,
        )
        return terms_of(made, step)["classification"]

    first, second = loss(), loss(labels=partners)
    assert abs(first - second) > 0.01
    both = loss(partners=partners, share=jnp.asarray(0.6))
    np.testing.assert_allclose(both, 0.6 * first + 0.4 * second, rtol=1e-5)


def test_a_run_mixes_and_repeats_itself(tmp_path: pathlib.Path) -> None:
    fields = {"train.epochs": 1}
    run(make_config("il_baseline", fields=fields), tmp_path / "plain", DATA)
    made = make_config("il_baseline", fields={**fields, "train.mixing": "cutmix"})
    mixed = run(made, tmp_path / "mixed", DATA)
    again = run(made, tmp_path / "again", DATA)
    assert without_timing(mixed) == without_timing(again)
    log = lambda name: (tmp_path / name / "metrics.jsonl").read_text()
    assert log("mixed") == log("again") != log("plain")
