"""The name by which implementations for the devices are chosen."""

import jax


def default_platform() -> str:
    """Name the platform of this process: that of `jax.default_backend`, or `gpus` for several.

    XLA computes a gradient in bfloat16 on each GPU before it sums over them, so several GPUs need
    another implementation than one.
    """
    backend = jax.default_backend()
    return "gpus" if backend == "gpu" and jax.device_count() > 1 else backend
