"""What is to be the same on any number of devices; as a script, on two."""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import make_config, some_digits

from bsce_jax.data.plan import epoch_plan
from bsce_jax.models.ops.conv import Conv
from bsce_jax.training import fit, mesh
from bsce_jax.training.loop import run
from bsce_jax.training.problem import Problem
from bsce_jax.training.trainer import Trainer

METHODS: dict[str, dict[str, Any]] = {
    "podnet": {"method.similarity": "cosine", "method.finetune_epochs": 0},
    "ccil": {"train.replay_batch_size": 8},
}


def whole_run(method: str, folder: pathlib.Path) -> dict[str, Any]:
    """Run a method; return the plans that it followed, its exemplars and its log."""
    plans: list[list[Any]] = []

    def noted(*args: Any, **named: Any) -> Any:
        plan = epoch_plan(*args, **named)
        plans.append([named["task"], named["epoch"], plan.indices.tolist()])
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "epoch_plan", noted)
        results = run(make_config(method, None, METHODS[method]), folder, some_digits(12, 2))
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with np.load(folder / "model" / "task_01.npz") as arrays:
        weight = arrays["params/head/weight"].tolist()
    return {
        "plans": plans,
        "exemplars": results["memory"]["indices"],
        "log": [line for line in log if line["kind"] == "epoch"],
        "weight": weight,
    }


def odd_images() -> list[Any]:
    """Read five images, which two devices cannot share equally."""
    problem = Problem(make_config("il_baseline"), some_digits(12, 2))
    images = Trainer(problem).probe(problem.network_of(0)).images(np.arange(5))
    listed: list[Any] = np.asarray(images).tolist()
    return listed


def kernel_gradient(platform: str) -> float:
    """Sum 256 of one image and 1 of another in a kernel's gradient, computed in bfloat16."""
    convolution = Conv(1, size=1, dtype=jnp.dtype(jnp.bfloat16), platform=platform)
    devices = mesh.make_mesh()
    images = mesh.split(devices, np.array([256, 1], np.float32).reshape(2, 1, 1, 1), axis=0)
    params = {"params": {"kernel": mesh.replicate(devices, jnp.ones((1, 1, 1, 1)))}}

    def total(params: Any) -> jax.Array:
        output: Any = convolution.apply(params, images)
        return jnp.sum(output.astype(jnp.float32))

    # without the option XLA on CPUs may leave out the rounding to bfloat16 before the sum
    exactly = {"xla_allow_excess_precision": False}
    gradient = jax.jit(jax.grad(total), compiler_options=exactly)(params)
    return float(gradient["params"]["kernel"].item())


PLATFORMS = ("cpu", "tpu", "gpus")  # those whose gradients are float32 before they are summed


if __name__ == "__main__":
    assert jax.device_count() == 2
    folder = pathlib.Path(sys.argv[1])
    found: dict[str, Any] = {m: whole_run(m, folder / m) for m in METHODS}
    found["kernel gradient"] = {platform: kernel_gradient(platform) for platform in PLATFORMS}
    found["images"] = odd_images()
    (folder / "found.json").write_text(json.dumps(found))
