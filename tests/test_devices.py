"""Two devices train as one does, but for the rounding of sums."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
import two_devices


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    script = pathlib.Path(two_devices.__file__)
    paths = [str(script.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    done = subprocess.run([sys.executable, script, folder], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("method", two_devices.METHODS)
def test_two_devices_train_as_one(
    method: str, on_two: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    assert jax.device_count() == 1
    one, two = two_devices.whole_run(method, tmp_path), on_two[method]
    assert two["plans"] == one["plans"]
    assert two["exemplars"] == one["exemplars"]
    assert [line.keys() for line in two["log"]] == [line.keys() for line in one["log"]]
    # the rounding grows with training: the first task's losses agree to 1e-4, the end to 1e-2
    for a, b in zip(one["log"], two["log"], strict=True):
        first = a["task"] == 0
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-4 if first else 1e-2)
    np.testing.assert_allclose(two["weight"], one["weight"], atol=1e-2)


def test_a_method_may_look_at_any_number_of_images(on_two: dict[str, Any]) -> None:
    np.testing.assert_allclose(on_two["images"], two_devices.odd_images(), rtol=1e-6)


@pytest.mark.parametrize("platform", two_devices.PLATFORMS)
def test_kernel_gradients_are_summed_over_devices_in_float32(
    platform: str, on_two: dict[str, Any]
) -> None:
    # bfloat16 has no 257
    assert on_two["kernel gradient"][platform] == two_devices.kernel_gradient(platform) == 257
