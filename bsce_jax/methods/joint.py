"""Joint training from scratch on all images of the classes seen (upper bound)."""

import dataclasses
from typing import ClassVar

from bsce_jax.methods import METHODS, Method, ModelState, Probe, Stage, TaskInfo


@METHODS.register("joint")
@dataclasses.dataclass(frozen=True)
class Joint(Method):
    """Trains from scratch in every task on all images of the classes seen: the upper bound.

    Every task is trained as the first one. A backbone of `model.init` is where each begins.
    """

    memory: ClassVar[bool] = False
    restarts: ClassVar[bool] = True

    def stages(self, main: Stage, task: int) -> tuple[Stage, ...]:
        return (dataclasses.replace(main, records="all"),)

    def begin_task(self, model: ModelState, task: TaskInfo, probe: Probe) -> ModelState:
        return model if task.index == 0 else probe.initial
