"""What the compiler is told, where its programs are kept, and how long it takes."""

import functools
import os

import jax


@functools.cache
def options(platform: str) -> dict[str, str]:
    """Chooses compiler options for the training step and for looking at images.

    On CPUs, XLA hands convolutions of 32 channels and more to a library (YNNPACK) with which the
    step of a ResNet-32 takes a quarter longer than with XLA's own code. Sums stay with the library.

    Args:
      platform: of the devices that the program is for, such as "cpu".

    Returns:
      Options for `jax.jit`; none where the platform is not a CPU or knows no such option.
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
    """Keeps compiled programs in the user's cache folder, from which later processes take them.

    For programs to call before anything is compiled; what jax was told by its own environment
    variables holds. That folder is `$XDG_CACHE_HOME/bsce_jax/xla`, or `~/.cache/bsce_jax/xla`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    settings = {
        "jax_compilation_cache_dir": os.path.join(cache, "bsce_jax", "xla"),
        # by default jax keeps what took a second to compile, of a run's programs a few
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


class Clock:
    """Adds up the seconds that XLA spends compiling in this process.

    jax keeps a listener for good: make one of these for a process.

    Attributes:
      seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


clock = Clock()
