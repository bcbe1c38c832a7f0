"""The lists of methods and losses are those of the code."""

import dataclasses
import re

import pytest

from bsce_jax import train
from bsce_jax.methods import method_class, method_names
from bsce_jax.methods.classification import loss_class, loss_names


def test_help_methods_names_every_method_loss_and_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--help-methods"])
    train.main()
    shown = capsys.readouterr().out
    for name in (*method_names(), *loss_names()):
        assert f"  {name}" in shown
    assert "weighting: how the two terms are weighted" in shown


@pytest.mark.parametrize(
    "cls", [*map(method_class, method_names()), *map(loss_class, loss_names())]
)
def test_every_field_is_described(cls: type) -> None:
    described = re.findall(r"^ +([a-z_, ]+):", cls.__doc__ or "", re.MULTILINE)
    names = {name for line in described for name in line.split(", ")}
    assert {field.name for field in dataclasses.fields(cls)} <= names  # type: ignore[arg-type]


def test_the_methods_and_losses_that_other_programs_rely_on_are_there() -> None:
    relied_on = "finetune joint replay lwf lwf_mc ewc icarl eeil il_baseline il2m bic wa ss_il"
    assert {*relied_on.split(), "lucir", "podnet"} <= set(method_names())
    relied_on = "cross_entropy balanced_softmax meta_balanced_softmax separated_softmax nca"
    assert set(relied_on.split()) <= set(loss_names())
