"""Imprinting: initial class vectors from the features of new classes."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from bsce_jax.methods import ModelState, Probe, TaskInfo
from bsce_jax.streams import Purpose, generator


def imprint(
    model: ModelState, task: TaskInfo, probe: Probe, proxies: int | None = None
) -> ModelState:
    """Set the new rows of a cosine or LSC head (Hou et al. 2019, section 3.4; Qi et al. 2018).

    The vector of a class is the direction of the mean of its normalised features, times the mean
    norm of the old vectors. Several proxies of a class are the k-means centres of its normalised
    features, times that mean norm. As in PODNet's code, the centres are not normalised: their norm
    is below 1 if their images differ.

    Args:
      model: as the previous task left it.
      task: the task about to begin; the model is unchanged in the first one.
      probe: computes the features of the new images.
      proxies: number of proxies a class of an LSC head, None for a cosine head.
    """
    if task.old == 0:
        return model
    from scipy.cluster.vq import kmeans2  # slow to import

    head = model.params["head"]
    old = np.asarray(head["weight"][: task.old]).reshape(-1, head["weight"].shape[-1])
    length = np.linalg.norm(old, axis=1).mean()
    records = [task.records(c) for c in task.new]
    features = _unit(probe.features(model, np.concatenate(records)))
    rows = []
    parts = np.split(features, np.cumsum([len(r) for r in records])[:-1])
    for position, part in zip(task.new, parts, strict=True):
        if proxies is None:
            centres = _unit(part.mean(axis=0))
        elif len(part) < proxies:  # too few to cluster
            centres = np.resize(part, (proxies, part.shape[1]))
        else:
            rng = generator(task.seed, Purpose.KMEANS, task.index, position)
            centres, _ = kmeans2(part, proxies, minit="++", seed=rng)
        rows.append(length * centres)
    weight = head["weight"].at[task.old : task.seen].set(jnp.asarray(np.stack(rows)))
    return dataclasses.replace(model, params={**model.params, "head": {**head, "weight": weight}})


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
