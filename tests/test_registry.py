"""A registry: names are found, taken once, and put right."""

import os
import pathlib
import runpy

import pytest

from bsce_jax.errors import UserError, nearest
from bsce_jax.registry import Registry


def test_things_are_found_by_name_in_order() -> None:
    shapes: Registry[type] = Registry("shape")

    @shapes.register("square")
    class Square:
        pass

    @shapes.register("circle")
    class Circle:
        pass

    assert shapes["square"] is Square
    assert shapes["circle"] is Circle
    assert list(shapes) == ["circle", "square"]
    assert len(shapes) == 2
    assert "square" in shapes
    with pytest.raises(UserError, match=r"unknown shape 'sqare'; did you mean square\?"):
        shapes["sqare"]


def test_a_name_is_one_things_and_a_definition_may_run_again() -> None:
    shapes: Registry[type] = Registry("shape")

    def define() -> type:
        @shapes.register("square")
        class Square:
            pass

        return Square

    first, again = define(), define()
    assert first is not again
    assert shapes["square"] is again
    with pytest.raises(UserError, match=r"shape 'square' of .* is registered already, by .*py"):
        shapes.register("square")(int)


def test_a_file_may_run_under_another_spelling_of_its_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: Registry[type] = Registry("shape")
    file = tmp_path / "square.py"
    file.write_text("@shapes.register('square')\nclass Square:\n    pass\n")
    os.symlink(file, tmp_path / "link.py")
    monkeypatch.chdir(tmp_path)
    for path in (str(file), "square.py", "./square.py", "link.py"):
        again = runpy.run_path(path, {"shapes": shapes})
        assert shapes["square"] is again["Square"]


def test_a_name_twice_in_one_execution_of_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    shapes: Registry[type] = Registry("shape")
    file = tmp_path / "square.py"
    definition = "@shapes.register('square')\nclass Square:\n    pass\n"
    file.write_text(definition)
    runpy.run_path(str(file), {"shapes": shapes})
    file.write_text(f"# edited\n{definition}")
    again = runpy.run_path(str(file), {"shapes": shapes})
    assert shapes["square"] is again["Square"]
    file.write_text(definition + definition)
    with pytest.raises(UserError, match=r"square.py:4 is registered already, by .*square.py:1:"):
        runpy.run_path(str(file), {"shapes": shapes})


def test_a_name_is_guessed_by_its_initials_or_its_spelling() -> None:
    names = ["learning_rate", "lrs", "weight_decay", "batch_size"]
    assert nearest("lr", names) == ["learning_rate"]
    assert nearest("weigth_decay", names) == ["weight_decay"]
    assert nearest("zzz", names) == []
