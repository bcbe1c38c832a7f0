"""Compiling for a TPU slice: the arguments, what is read of a program, and what is refused."""

import importlib.util
import json
from typing import Any

import aot
import jax
import pytest
import throughput
from recorder import Recorder, compile_step

from bsce_jax.errors import UserError
from bsce_jax.loading import make_config
from bsce_jax.training.problem import Problem

PROGRAM = """\
  %all-reduce.1 = (f32[64]{0:T(128)}, /*index=1*/f32[3,3,8]{2,1,0:T(8)S(1)}) all-reduce(%a, %b)
  %all-reduce-start.2 = bf16[7,2]{1,0} all-reduce-start(%c), channel_id=2, to_apply=%add
  %all-reduce-done.2 = bf16[7,2]{1,0} all-reduce-done(%all-reduce-start.2)
  ROOT %gathered = pred[16]{0} all-gather(pred[4]{0} %d), dimensions={0}
  %tuple = (f32[64]{0}) tuple(%all-reduce.1)
"""
SOUND = {
    "peak_bytes": 10**9,
    "output_bytes": 1000,
    "aliased_bytes": 995,
    "collectives": {"all-reduce": {"count": 2, "bytes": {"f32": 8, "s32": 4}}},
}


def test_collectives_of_a_program() -> None:
    found = aot.read_collectives(PROGRAM)
    assert json.loads(json.dumps(found)) == {
        # 64 + 3 * 3 * 8 numbers of 4 bytes, 7 * 2 of 2 bytes
        "all-reduce": {"count": 2, "bytes": {"f32": 544, "bf16": 28}},
        "all-gather": {"count": 1, "bytes": {"pred": 16}},
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        (
            {"collectives": {"all-gather": {"count": 3, "bytes": {"f32": 5000}}}},
            "3 all-gather of 5,000 bytes",
        ),
        (
            {"collectives": {"all-to-all": {"count": 1, "bytes": {"f32": 4, "u8": 1}}}},
            "1 all-to-all of 5 bytes",
        ),
        (
            {"collectives": {"all-reduce": {"count": 1, "bytes": {"bf16": 2, "f32": 4}}}},
            "sums over chips are in bf16",
        ),
        ({"aliased_bytes": 980}, "980 of 1,000 bytes of output are donated"),
        ({"peak_bytes": 16 * 10**9}, "a chip has 16,000,000,000"),
    ],
)
def test_what_is_wrong_with_a_step(changed: dict[str, Any], said: str | None) -> None:
    found = list(aot.check({**SOUND, **changed}, aot.MEMORY["v5e"]))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--topology", "v5litepod-16"], "give VERSION:SHAPE such as v5e:4x4"),
        (["--topology", "v5e:0x4"], "give VERSION:SHAPE"),
        (["--topology", "v4:2x2x1"], "of v5e, v6e"),
        (["--config.train.batch_size=100"], "16 devices need a multiple of 16"),
        (["--config", "imagenett"], "did you mean imagenet"),
        ([], "no libtpu: pip install"),
    ],
)
def test_arguments(argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=said):
        aot.main(argv)


@pytest.mark.parametrize(("name", "chips"), [("v5e:4x4", 16), ("v6e:2x4", 8), ("v5e:16x16", 256)])
def test_chips_of_a_topology(name: str, chips: int) -> None:
    assert aot.read_topology(name) == (name.partition(":")[0], chips)


def test_a_step_of_the_package_on_this_machine_s_device() -> None:
    fields = {"model.name": "small", "dataset.image_size": "8", "train.batch_size": "16"}
    config = make_config("imagenet_subset", {**fields, "runtime.feed": "streamed"})
    trainer = Recorder(Problem(config, aot.blank_images(config)))
    begun = throughput.begin(trainer, 1)
    (work,) = begun.works
    compiled = compile_step(trainer, begun, work, jax.devices(), "cpu")
    figures = aot.measure(compiled)
    assert figures["collectives"] == {}
    assert figures["flops"] > 0
    state = trainer.given[0]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size <= figures["aliased_bytes"] <= figures["output_bytes"] <= 1.05 * size
    # the teacher and the images at least
    assert figures["argument_bytes"] > size + 16 * 8 * 8 * 3
    assert figures["peak_bytes"] >= figures["argument_bytes"]
    (said,) = aot.check(figures, memory=1)
    assert said == f"{figures['peak_bytes']:,} bytes of memory, and a chip has 1"
