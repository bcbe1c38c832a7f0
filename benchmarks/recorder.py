"""The training step of a stage, compiled for devices that this machine need not have."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import throughput
from jax.sharding import AxisType, Mesh, NamedSharding

from bsce_jax.methods import Stage
from bsce_jax.models import Classifier, make_model
from bsce_jax.training.fit import Work, fit
from bsce_jax.training.step import TrainChunk, make_train_chunk
from bsce_jax.training.trainer import Trainer


class Recorder(Trainer):
    """A trainer that records the arguments of training programs instead of running them.

    Attributes:
      given: the arguments of the last program.
    """

    given: tuple[Any, ...] = ()

    def train_chunk(
        self, network: Classifier, stage: Stage, teacher_network: Classifier | None = None
    ) -> TrainChunk:
        def record(*arguments: Any) -> tuple[Any, dict[str, Any]]:
            self.given = arguments
            return arguments[0], {}

        return record


def compile_step(
    trainer: Recorder,
    begun: throughput.Begun,
    work: Work,
    devices: Sequence[Any],
    platform: str,
    options: Mapping[str, str] | None = None,
) -> Any:
    """Compile a chunk of steps; its arguments are split over the devices as those of a run.

    Args:
      trainer: of the problem.
      begun: the task.
      work: a stage of the task.
      devices: of a topology, or of this machine.
      platform: of the devices, such as "tpu".
      options: of the compiler.

    Returns:
      A `jax.stages.Compiled`, not declared so because its figures are declared optional.
    """
    state = trainer.start(begun.model, work.stage)
    next(fit(trainer, begun.network, work, state, begun.teacher(work), 0))
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=NamedSharding(mesh, array.sharding.spec)
        ),
        trainer.given,
    )
    problem = trainer.problem
    base = make_model(
        problem.config.model.name,
        head=problem.method.head,
        num_classes=problem.scenario.num_classes,
        dtype=problem.config.runtime.dtype,
        platform="gpus" if platform == "cuda" and len(devices) > 1 else platform,
    )
    network = problem.method.network(base, work.task, problem.scenario.num_tasks)
    # of type Any: it comes from jax.jit, which the declared type does not state
    chunk: Any = make_train_chunk(
        trainer.recipe._replace(mesh=mesh),
        network,
        work.stage,
        network if work.stage.teacher != "none" else None,
    )
    lowered = chunk.trace(*shapes).lower(lowering_platforms=(platform,))
    return lowered.compile(None if options is None else dict(options))
