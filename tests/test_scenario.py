"""Class orders and tasks against the published order, hand-made scenarios and slow loops."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsce_jax.errors import UserError
from bsce_jax.scenario import class_order, explicit_tasks, make_scenario

PUBLISHED = (68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38)

# An order over any number of classes, a base and an increment that fit.
orders = st.integers(1, 40).flatmap(lambda n: st.permutations(range(3, 3 + n)))


@st.composite
def protocols(draw: st.DrawFn) -> tuple[list[int], int, int]:
    order = draw(orders)
    base = draw(st.integers(0, len(order)))
    return order, base, draw(st.integers(1, max(1, len(order) - base)))


@pytest.mark.parametrize("seed", [1993, "1993", " 1993 "])
def test_the_seed_of_the_literature_gives_its_order(seed: int | str) -> None:
    order = class_order(seed, 100)
    assert order[:20] == PUBLISHED
    assert sorted(order) == list(range(100))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sorted", (0, 1, 2, 3, 4)),
        ("3,1,2", (3, 1, 2)),
        (" 4, 0 ", (4, 0)),
        ((3, 1, 2, 0, 4), (3, 1, 2, 0, 4)),
        ([np.int64(2), np.int64(4)], (2, 4)),
    ],
)
def test_an_order_is_taken_as_it_is_given(spec: str | list[int], expected: tuple[int, ...]) -> None:
    order = class_order(spec, 5)
    assert order == expected
    assert all(type(label) is int for label in order)  # JSON takes no numpy integers


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("3,1,3", "lists class 3 2 times"),
        ("3,5", "lists class 5: the classes are 0 to 4"),
        ((0, -1), "lists class -1: the classes are 0 to 4"),
        ("a,b", "is 'a,b': give a seed, 'sorted' or labels"),
        ("", "is '': give a seed"),
        ("1,2,", "is '1,2,': give a seed"),
        ((), "lists 0 classes: list at least 2"),
        ((3,), "lists 1 classes: list at least 2"),
        (-1, "is -1: choose a seed of 0 to 4294967295"),
    ],
)
def test_a_bad_order_is_refused(spec: int | str | tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"scenario.class_order {message}"):
        class_order(spec, 5)


@pytest.mark.parametrize(
    ("count", "base", "increment", "sizes"),
    [
        (100, 50, 10, [50, 10, 10, 10, 10, 10]),
        (100, 0, 10, [10] * 10),
        (100, 50, 1, [50] + [1] * 50),
        (10, 1, 3, [1, 3, 3, 3]),
        (100, 50, 20, [50, 20, 20, 10]),
        (100, 0, 30, [30, 30, 30, 10]),
        (4, 0, 3, [3, 1]),
        (4, 3, 1, [3, 1]),  # the same tasks
        (100, 100, 10, [100]),
        (100, 0, 100, [100]),
    ],
)
def test_tasks_have_the_sizes_that_were_asked_for(
    count: int, base: int, increment: int, sizes: list[int]
) -> None:
    scenario = make_scenario(tuple(range(count)), base, increment)
    assert [len(task) for task in scenario.tasks] == sizes
    assert (scenario.num_tasks, scenario.num_classes) == (len(sizes), count)


@pytest.mark.parametrize(
    ("base", "increment", "message"),
    [
        (
            50,
            60,
            "increment is 60: choose 1 to 50, the classes that scenario.base=50 leaves of 100",
        ),
        (0, 101, "increment is 101: choose 1 to 100"),
        (50, 0, "increment is 0: a task brings at least 1 class"),
        (-1, 10, "base is -1: choose 0 to 100"),
        (101, 10, "base is 101: choose 0 to 100"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(base: int, increment: int, message: str) -> None:
    with pytest.raises(UserError, match=f"scenario.{message}"):
        make_scenario(tuple(range(100)), base, increment)


def test_a_scenario_by_hand() -> None:
    scenario = make_scenario((7, 2, 9, 4, 0), 2, 2)
    assert scenario.tasks == ((7, 2), (9, 4), (0,))
    assert scenario.class_order == (7, 2, 9, 4, 0)
    assert [scenario.classes_before(t) for t in range(3)] == [0, 2, 4]
    assert [scenario.classes_after(t) for t in range(3)] == [2, 4, 5]
    np.testing.assert_array_equal(scenario.task_of_class, [0, 0, 1, 1, 2])
    assert scenario.task_of_class.dtype == np.int32
    positions = scenario.positions(np.array([[9, 7, 1], [0, -1, 100]]))
    np.testing.assert_array_equal(positions, [[2, 0, -1], [4, -1, -1]])
    assert positions.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("cat,dog|horse", ((0, 1), (2,))),
        (" cat , dog | horse ", ((0, 1), (2,))),
        ("2|0", ((2,), (0,))),  # labels
        ("7,cat|dog", ((3, 0), (1,))),  # a name comes before a label
    ],
)
def test_tasks_can_be_listed(text: str, tasks: tuple[tuple[int, ...], ...]) -> None:
    scenario = explicit_tasks(text, ["cat", "dog", "horse", "7"])
    assert scenario.tasks == tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,|dog", "is 'cat,|dog': give classes as in 'cat,dog|horse', none empty"),
        ("cat||dog", "none empty"),
        ("cat|dgo", "unknown class in scenario.tasks 'dgo'; did you mean dog"),
        ("cat|3", "unknown class in scenario.tasks '3'"),
        ("cat|dog,0", "lists class cat 2 times"),
    ],
)
def test_a_bad_list_of_tasks_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        explicit_tasks(text, ["cat", "dog", "horse"])


@settings(deadline=None, max_examples=100)
@given(protocols())
def test_tasks_cut_the_order_without_loss(protocol: tuple[list[int], int, int]) -> None:
    order, base, increment = protocol
    scenario = make_scenario(order, base, increment)
    sizes = [len(task) for task in scenario.tasks]
    assert list(scenario.class_order) == order
    assert sizes[0] == (base or increment)
    assert all(size == increment for size in sizes[1:-1])
    for task, classes in enumerate(scenario.tasks):
        old, seen = scenario.classes_before(task), scenario.classes_after(task)
        assert scenario.class_order[old:seen] == classes
        assert set(scenario.task_of_class[old:seen].tolist()) == {task}


@settings(deadline=None, max_examples=100)
@given(orders, st.lists(st.integers(-5, 50)))
def test_positions_are_those_of_a_slow_search(order: list[int], labels: list[int]) -> None:
    scenario = make_scenario(order, 0, 1)
    expected = [order.index(label) if label in order else -1 for label in labels]
    np.testing.assert_array_equal(scenario.positions(np.array(labels, np.int64)), expected)


def test_the_plain_modules_import_no_framework() -> None:
    code = (
        "import sys, bsce_jax.scenario, bsce_jax.memory, bsce_jax.metrics\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'tensorflow_datasets', 'orbax'}\n"
        "print(*heavy & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert answer.stdout.strip() == ""
