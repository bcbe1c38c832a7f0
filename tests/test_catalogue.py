"""The lists of methods and losses are those of the code."""

import pytest

from bsce_jax import train
from bsce_jax.methods import method_names
from bsce_jax.methods.classification import loss_names


def test_help_methods_names_every_method_loss_and_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--help-methods"])
    train.main()
    shown = capsys.readouterr().out
    for name in (*method_names(), *loss_names()):
        assert f"  {name}" in shown
    assert "weighting: how the two terms are weighted" in shown


def test_the_methods_and_losses_that_other_programs_rely_on_are_there() -> None:
    relied_on = "finetune joint replay lwf lwf_mc ewc icarl eeil il_baseline il2m bic wa ss_il"
    assert {*relied_on.split(), "lucir", "podnet"} <= set(method_names())
    relied_on = "cross_entropy balanced_softmax meta_balanced_softmax separated_softmax nca"
    assert set(relied_on.split()) <= set(loss_names())
