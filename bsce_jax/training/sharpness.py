"""Gradients that lead to flat minima: SAM and C-Flat."""

from collections.abc import Callable

import jax
import optax

from bsce_jax.methods import Params, TaskContext

EPS = 1e-12


def flat_gradient(
    slope: Callable[[Params], Params],
    params: Params,
    gradient: Params,
    task: TaskContext,
    *,
    radius: float,
    flatness: float,
) -> Params:
    """Compute the gradient of SAM, or that of C-Flat.

    SAM (Foret et al. 2021, equation 2) takes the gradient at the point that is `radius` away along
    the gradient. C-Flat (Bian et al. 2024), as in its code, adds the difference of two gradients,
    times `flatness`: at a point `radius` away from the parameters along SAM's gradient minus the
    plain one, and at a point `radius` further along the gradient there.

    Args:
      slope: parameters to gradients; called once, or three times if `flatness` is not 0.
      params: the parameters.
      gradient: at the parameters.
      task: says which class vectors are trained; the others stay in place.
      radius: of all steps.
      flatness: weight of C-Flat's term, 0 for SAM.
    """

    def along(start: Params, direction: Params) -> Params:
        if "head" in direction:
            direction = {**direction, "head": task.only_trained_rows(direction["head"])}
        scale = radius / (optax.tree.norm(direction) + EPS)
        return jax.tree.map(lambda p, d: p + scale * d, start, direction)

    sharp = slope(along(params, gradient))
    if not flatness:
        return sharp
    aside = along(params, optax.tree.sub(sharp, gradient))
    there = slope(aside)
    beyond = slope(along(aside, there))
    return jax.tree.map(lambda s, b, t: s + flatness * (b - t), sharp, beyond, there)
