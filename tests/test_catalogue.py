"""The lists of methods and losses are those of the code."""

import pytest

from bsce_jax import train
from bsce_jax.fields import fields_of
from bsce_jax.methods import METHODS
from bsce_jax.methods.criterion import CRITERIA


def test_help_methods_names_every_method_loss_and_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--help-methods"])
    train.main()
    shown = capsys.readouterr().out
    for name in (*METHODS, *CRITERIA):
        assert f"  {name}" in shown
    words = " ".join(shown.split())
    assert "weighting=sum how the two terms are weighted: one of sum, convex distillation" in words
    assert "  podnet: loss nca, head lsc_distance\n" in shown


@pytest.mark.parametrize(
    "cls", [*(METHODS[name] for name in METHODS), *(CRITERIA[name] for name in CRITERIA)]
)
def test_every_field_is_described_and_its_default_is_right(cls: type) -> None:
    for name, field in fields_of(cls).items():
        assert field.meaning
        assert field.check(field.default, name) == field.default


def test_the_methods_and_losses_that_other_programs_rely_on_are_there() -> None:
    relied_on = "finetune joint replay lwf lwf_mc ewc icarl eeil il_baseline il2m bic wa ss_il"
    assert {*relied_on.split(), "lucir", "podnet"} <= set(METHODS)
    relied_on = "cross_entropy balanced_softmax meta_balanced_softmax separated_softmax nca"
    assert set(relied_on.split()) <= set(CRITERIA)
