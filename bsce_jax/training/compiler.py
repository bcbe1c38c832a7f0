"""Options of the compiler, the cache of compiled programs, and the time spent compiling."""

import functools
import os
import warnings
from collections.abc import Callable

import jax

# jax records the time as a scalar when a program is started, and as a duration when it is ready
_COMPILE = "/jax/core/compile/backend_compile_duration"


@functools.cache
def options(platform: str) -> dict[str, str]:
    """Choose compiler options for the training step and the probe's forward pass.

    On CPUs, XLA computes convolutions of 32 channels and more with a library (YNNPACK). A step of a
    ResNet-32 then takes a quarter longer than with XLA's own code. The options limit the library
    to sums.

    Args:
      platform: of the devices that the program is for, such as "cpu".

    Returns:
      Options for `jax.jit`; none on other platforms, or if this jax lacks the option.
    """
    chosen = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=chosen)()
    except jax.errors.JaxRuntimeError:  # the option is experimental: another jax may lack it
        return {}
    return chosen


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, for later processes.

    Call it before anything is compiled. jax's own environment variables take precedence. The folder
    is `$XDG_CACHE_HOME/bsce_jax/xla`, or `~/.cache/bsce_jax/xla`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    settings = {
        "jax_compilation_cache_dir": os.path.join(cache, "bsce_jax", "xla"),
        # by default jax keeps only programs that took a second to compile: too few of a run's
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # A process that is killed while it writes an entry leaves a part of it. jax notices that and
    # compiles the program again, but warns of it in every later process.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")


class Clock:
    """Adds up the seconds that XLA spends compiling in this process.

    jax cannot remove a listener: make only one of these in a process.

    Attributes:
      seconds: so far.
      compiling: name of the program that is compiled, or loaded from the cache, at this moment;
        None while none is.
      watch: called with that name when it starts; None for nothing.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compiling: str | None = None
        self.watch: Callable[[str], None] | None = None
        jax.monitoring.register_scalar_listener(self._start)
        jax.monitoring.register_event_duration_secs_listener(self._end)

    def _start(self, event: str, value: float, **kwargs: str | int) -> None:
        if event == _COMPILE:
            self.compiling = str(kwargs.get("fun_name", ""))
            if self.watch is not None:
                self.watch(self.compiling)

    def _end(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILE:
            self.seconds += duration_secs
            self.compiling = None


clock = Clock()
