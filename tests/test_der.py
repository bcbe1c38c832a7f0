"""DER and MEMO: frozen branches stay, the head grows, and one program trains all later tasks."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import f32, info, make_step, outputs, terms_of
from tiny_run import make_config, some_digits, weights

from bsce_jax.errors import UserError
from bsce_jax.methods import METHODS, ModelState
from bsce_jax.methods.der import DER
from bsce_jax.models import Classifier, infer, make_model
from bsce_jax.models.growing import GrowingClassifier, freeze_branch
from bsce_jax.training import loop
from bsce_jax.training.first_task import Decorrelated, decorrelation
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

DATA = some_digits(12, 4)
THREE_TASKS = {"scenario.base": 4, "scenario.increment": 3}
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))


def base(name: str = "small") -> Classifier:
    return make_model(name, head="linear", num_classes=6, dtype="float32")


def grown(method: str, tasks: int) -> tuple[GrowingClassifier, ModelState]:
    network = METHODS[method]().network(base(), 0, tasks)
    assert isinstance(network, GrowingClassifier)
    variables = network.init(jax.random.key(0), IMAGES, train=False)
    return network, ModelState(variables["params"], variables["batch_stats"], {})


def test_with_one_branch_it_is_the_single_network() -> None:
    network, model = grown("der", 4)
    head = model.params["head"]
    alone = {
        "params": {
            "backbone": model.params["backbone"],
            "head": {**head, "weight": head["weight"][:, :64]},
        },
        "batch_stats": {"backbone": model.batch_stats["backbone"]},
    }
    wanted, found = infer(base(), alone, IMAGES), infer(network, model.variables, IMAGES)
    np.testing.assert_array_equal(found.features[:, :64], wanted.features)
    np.testing.assert_array_equal(found.features[:, 64:], 0)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found.maps, wanted.maps, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["der", "memo", "foster"])
def test_a_first_task_does_not_depend_on_how_many_follow(method: str) -> None:
    """The size of the initial class vectors, and the decorrelation of the features."""
    network, model = grown(method, 5)
    branches = {"foster": 2}.get(method, 5)
    head = model.params["head"]
    assert head["weight"].shape[1] == 64 * branches
    for values in head.values():  # uniform within the root of 1 / 64
        assert 0.6 / 8 < np.abs(values).max() <= 1 / 8
    labels, features = np.array([0, 0, 1, 1, 1, 0]), np.random.default_rng(0).normal(size=(6, 64))
    joined = np.pad(features, [(0, 0), (0, 64 * (branches - 1))])
    student = outputs(np.zeros((6, 6)), joined)
    step = make_step(student=student, labels=labels, weights=np.ones(6), network=network)
    found = Decorrelated(lambda step: {}, 0.5)(step)["decorrelation"]
    wanted = decorrelation(f32(features), jnp.asarray(labels), jnp.ones(6))
    np.testing.assert_allclose(found, 0.5 * wanted, rtol=1e-6)


@pytest.mark.parametrize("method", ["der", "memo"])
def test_the_features_of_a_frozen_branch_keep_their_place(method: str) -> None:
    network, model = grown(method, 3)
    before = infer(network, model.variables, IMAGES).features
    stats = freeze_branch(model.params, model.batch_stats)
    other = jax.tree.map(lambda leaf: leaf + 0.1, model.params["backbone"])
    now = dataclasses.replace(model, params={**model.params, "backbone": other}, batch_stats=stats)
    after = infer(network, now.variables, IMAGES).features
    np.testing.assert_array_equal(after[:, :64], before[:, :64])
    assert (after[:, 64:128] != before[:, :64]).any()
    np.testing.assert_array_equal(after[:, 128:], 0)


def test_gradients_reach_the_trunk_through_frozen_branches_and_stop_there() -> None:
    network, model = grown("memo", 3)
    stats = freeze_branch(model.params, model.batch_stats)

    def first_branch(params: Any, stats: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": stats}
        return jnp.sum(infer(network, variables, IMAGES).features[:, :64])

    by = jax.grad(first_branch)(model.params, stats)
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(by["trunk"]))
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(by["backbone"]))


def test_the_head_keeps_its_old_block_and_gets_fresh_numbers_around_it() -> None:
    network, model = grown("der", 4)

    class Probed:
        """What the hook looks at."""

    probe: Any = Probed()
    probe.network = network
    first = DER().begin_task(model, info([0, 1], 0, 2, index=0), probe)
    weight = np.asarray(first.params["head"]["weight"])
    assert not weight[:, 64:].any()
    np.testing.assert_array_equal(weight[:, :64], model.params["head"]["weight"][:, :64])
    second = DER().begin_task(first, info([2, 3], 2, 4, index=1), probe)
    now = np.asarray(second.params["head"]["weight"])
    np.testing.assert_array_equal(now[:2, :64], weight[:2, :64])
    assert not now[:, 128:].any()
    # a run that is extended has random numbers in the columns of further tasks
    wider = {**first.params, "head": {**model.params["head"], "weight": jnp.asarray(1 + weight)}}
    extended = dataclasses.replace(first, params=wider)
    now = DER().begin_task(extended, info([2, 3], 2, 4, index=1), probe).params["head"]["weight"]
    assert now[:, :128].all()
    assert not now[:, 128:].any()
    for fresh in (now[2:4, :128], now[:2, 64:128]):  # uniform with variance 1 / 128
        assert 0.9 * np.sqrt(3 / 128) < np.abs(fresh).max() <= np.sqrt(3 / 128)
        np.testing.assert_allclose(fresh.var(), 1 / 128, rtol=0.25)
    bias = second.params["head"]["bias"]
    np.testing.assert_array_equal(bias[:2], first.params["head"]["bias"][:2])
    np.testing.assert_array_equal(bias[2:], 0)
    auxiliary = second.params["auxiliary"]
    assert 0.9 * np.sqrt(3 / 64) < jnp.abs(auxiliary["weight"]).max() <= np.sqrt(3 / 64)
    np.testing.assert_array_equal(auxiliary["bias"], 0)
    again = DER().begin_task(first, info([2, 3], 2, 4, index=1), probe)
    jax.tree.map(np.testing.assert_array_equal, again, second)
    # the branch in training starts as the copy that is frozen
    jax.tree.map(
        lambda slots, leaf: np.testing.assert_array_equal(slots[0], leaf),
        second.batch_stats["frozen"]["params"],
        second.params["backbone"],
    )


def test_all_old_classes_are_one_for_the_auxiliary_head() -> None:
    """Three classes compete here: any old one, and the new classes 3 and 4."""
    logits = np.random.default_rng(0).normal(size=(5, 7))
    student = outputs(np.zeros((5, 6)), np.zeros((5, 2)))
    student = dataclasses.replace(student, auxiliary=jnp.float32(logits))
    found = terms_of(DER(auxiliary_weight=0.5), make_step(student=student))["auxiliary"]
    # labels 0, 2, 3, 4: two exemplars and two new images; the fifth is padding
    columns, expected = logits[:, [0, 4, 5]], []
    for row, label in enumerate((0, 0, 1, 2)):
        z = np.exp(columns[row])
        expected.append(-np.log(z[label] / z.sum()))
    np.testing.assert_allclose(found, 0.5 * np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(("balanced", "aligned"), [(False, True), (True, False)])
def test_it_aligns_unless_the_loss_is_balanced(balanced: bool, aligned: bool) -> None:
    _, model = grown("der", 3)
    probe: Any = None
    weight = model.params["head"]["weight"].at[2:].multiply(3.0)
    model.params["head"] = {**model.params["head"], "weight": weight}
    task = info([2, 3], 2, 4, index=1, balanced=balanced)
    after = DER().end_training(model, task, probe).params["head"]["weight"]
    lengths = np.linalg.norm(after, axis=1)
    assert np.isclose(lengths[:2].mean(), lengths[2:4].mean(), rtol=1e-5) == aligned
    np.testing.assert_array_equal(after[:2], weight[:2])


@pytest.mark.parametrize("method", ["der", "memo"])
def test_a_run_freezes_each_branch_as_it_was_trained(
    method: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Noted(Trainer):
        def __init__(self, problem: Problem):
            super().__init__(problem)
            made.append(self)

    monkeypatch.setattr(loop, "Trainer", Noted)
    name = {"der": "tiny", "memo": "small"}[method]
    fields = {**THREE_TASKS, "model.name": name, "runtime.keep_models": "all"}
    results = run(make_config(method, fields=fields), tmp_path, DATA)
    assert made[0].compiled == 2  # the first task, and all later ones
    first, second, third = (weights(tmp_path, task) for task in range(3))
    for name, slots in third.items():
        for kind in ("params", "batch_stats"):
            prefix = f"batch_stats/frozen/{kind}/"
            if name.startswith(prefix):
                own = f"{kind}/backbone/{name.removeprefix(prefix)}"
                np.testing.assert_array_equal(slots[0], first[own])
                np.testing.assert_array_equal(slots[1], second[own])
                assert (second[own] != first[own]).any()
    assert [int(w["batch_stats/count"]) for w in (first, second, third)] == [0, 1, 2]
    # columns of branches to come are zero, whatever decay and momentum do
    assert not first["params/head/weight"][:, 64:].any()
    branch = sum(v.size for n, v in first.items() if n.startswith("params/backbone/"))
    trunk = sum(v.size for n, v in first.items() if n.startswith("params/trunk/"))
    wanted = [trunk + t * branch + seen * (64 * t + 1) for t, seen in ((1, 4), (2, 7), (3, 10))]
    assert results["model"] == {"parameters": wanted, "extra_bytes": 0}


def test_a_single_task_has_a_single_branch(tmp_path: pathlib.Path) -> None:
    fields = {"scenario.base": 10, "train.epochs": 1, "runtime.checkpoint_epochs": 1}
    results = run(make_config("der", fields=fields), tmp_path, DATA)
    assert len(results["model"]["parameters"]) == 1
    assert run(make_config("der", fields=fields), tmp_path, DATA) == results


def test_the_first_branch_may_come_from_a_run_of_another_method(tmp_path: pathlib.Path) -> None:
    fields = {**THREE_TASKS, "runtime.keep_models": "all"}
    run(make_config("finetune", fields=fields), tmp_path / "base", DATA)
    fields["train.init_from"] = str(tmp_path / "base")
    run(make_config("der", fields=fields), tmp_path / "der", DATA)
    base, der = weights(tmp_path / "base", 0), weights(tmp_path / "der", 0)
    for name, value in base.items():
        if name.startswith(("params/backbone/", "batch_stats/backbone/")):
            np.testing.assert_array_equal(der[name], value)
    np.testing.assert_array_equal(
        der["params/head/weight"][:4, :64], base["params/head/weight"][:4]
    )


def test_memo_needs_a_network_that_can_be_split() -> None:
    with pytest.raises(UserError, match=r"model\.name needs a network with `split`, Tiny has none"):
        METHODS["memo"]().network(base("tiny"), 0, 2)


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet32_podnet", "resnet18_cifar", "resnet50")
        ),
    ],
)
def test_the_parts_of_a_residual_network_are_the_whole(name: str) -> None:
    """In inference mode, with the parameters renumbered."""
    whole: Any = base(name).backbone
    size = 64 if name == "resnet50" else 16
    images = jax.random.normal(jax.random.key(2), (1, size, size, 3))
    trunk, tail = whole.split()
    variables = whole.init(jax.random.key(0), images, train=False)

    def leaves(tree: Any) -> list[Any]:
        # by the order of creation, which is the number behind the name of each layer
        layers = [(name.rpartition("_"), values) for name, values in tree.items()]
        return [
            v for (kind, _, n), v in sorted(layers, key=lambda one: (one[0][0], int(one[0][2])))
        ]

    def parts(kind: str) -> tuple[Any, Any]:
        first = trunk.init(jax.random.key(0), images, train=False)[kind]["network"]
        middle = trunk.apply(trunk.init(jax.random.key(0), images, train=False), images, False)
        second = tail.init(jax.random.key(0), middle, train=False)[kind]
        found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for layer in {name.rpartition("_")[0] for name in variables[kind]}:
            own = leaves({n: v for n, v in variables[kind].items() if n.startswith(f"{layer}_")})
            count = sum(n.startswith(f"{layer}_") for n in first)
            assert len(own) == count + sum(n.startswith(f"{layer}_") for n in second)
            for number, value in enumerate(own):
                part, place = (0, number) if number < count else (1, number - count)
                found[part][f"{layer}_{place}"] = value
        return {"network": found[0]}, found[1]

    (p0, p1), (s0, s1) = parts("params"), parts("batch_stats")
    middle = trunk.apply({"params": p0, "batch_stats": s0}, images, train=False)
    features, _ = tail.apply({"params": p1, "batch_stats": s1}, middle, train=False)
    wanted, _ = whole.apply(variables, images, train=False)
    np.testing.assert_allclose(features, wanted, rtol=2e-4, atol=1e-5)
