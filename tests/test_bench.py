"""The bench: what it counts by hand, and that its parts say what they are to say."""

import json
import math

import pytest
import versus

from bsce_jax import bench
from bsce_jax.errors import UserError
from bsce_jax.models import make_model


def test_costs_by_hand() -> None:
    # batch 2 at 8x8x3: 3x3 kernels to 8x8x32, then of stride 2 to 4x4x64; float32
    first, second = 2 * 8 * 8 * 32, 2 * 4 * 4 * 64
    forward = 2 * (first * 9 * 3 + second * 9 * 32)
    network = make_model("small", head="linear", num_classes=10, dtype="float32")
    costs = lambda **kind: bench.costs(network, (2, 8, 8, 3), **kind)
    assert costs(trained=True, teacher=False) == (3 * forward, 14 * 4 * (first + second))
    assert costs(trained=True, teacher=True) == (4 * forward, 19 * 4 * (first + second))
    assert costs(trained=False, teacher=True) == (2 * forward, 10 * 4 * (first + second))


def test_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(
        [
            *("--config", "configs/digits.py:base=80,increment=10"),
            *("--parts", "steps", "run", "--methods", "ss_il", "--seconds", "0"),
            *("--config.dataset.image_size=8", "--config.train.epochs=1"),
        ]
    )
    report = json.loads(capsys.readouterr().out)
    assert report["device"]["bytes_per_second"] > 0
    assert [(s["method"], s["later_task"]) for s in report["steps"]] == [
        ("ss_il", False),
        ("ss_il", True),
    ]
    assert [s["batch"] for s in report["steps"]] == [32, 32 + 32]
    for step in report["steps"]:
        per_second = 1000 * step["batch"] / step["milliseconds"]
        assert math.isclose(step["images_per_second"], per_second)
        assert step["of_matrix_rate"] > 0
        assert step["of_bandwidth"] > 0
    for one in report["run"]:
        assert one["steps"] > 0
        assert math.isclose(sum(one["seconds"].values()), one["whole"])
        assert one["seconds"].keys() >= {"train", "evaluate", "save", "compile"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "step"], "unknown part 'step'; did you mean steps"),
        (["--methods", "lucirr"], "unknown method 'lucirr'; did you mean lucir"),
        (["--config.train.epoch=2"], "did you mean epochs"),
        (["--config", "configs/digits.py:method=wa"], "say --methods instead"),
    ],
)
def test_bad_input(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench.main(["--config", "configs/digits.py", *words])


def test_versus_asks_for_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model.name=small", "dataset.image_size=8", "train.batch_size=8"]
    bench.main([*versus.OURS, "--seconds=0", *(f"--config.{field}" for field in small)])
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [(s["method"], s["later_task"]) for s in steps] == [
        ("il_baseline", False),
        ("il_baseline", True),
    ]
    assert all(s["images_per_second"] > 0 for s in steps)
