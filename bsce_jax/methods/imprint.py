"""Imprinting: the vectors of new classes from their features, before any training on them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2

from bsce_jax.memory import generator
from bsce_jax.methods.base import ModelState, Probe, TaskInfo


def imprint(
    model: ModelState, task: TaskInfo, probe: Probe, proxies: int | None = None
) -> ModelState:
    """Sets the new rows of a cosine or LSC head (Hou et al. 2019, section 3.4; Qi et al. 2018).

    The vector of a class is the mean of its normalised features, of the mean norm of the old
    vectors. With several proxies a class they are the centres that k-means finds (PODNet).

    Args:
      model: as the previous task left it.
      task: the task about to begin; in the first one nothing is changed.
      probe: looks at the new images.
      proxies: vectors a class of an LSC head, None for a cosine head.
    """
    if task.old == 0:
        return model
    head = model.params["head"]
    old = np.asarray(head["weight"][: task.old]).reshape(-1, head["weight"].shape[-1])
    length = np.linalg.norm(old, axis=1).mean()
    records = [task.records(c) for c in task.new]
    features = _unit(probe.features(model, np.concatenate(records)))
    rows = []
    parts = np.split(features, np.cumsum([len(r) for r in records])[:-1])
    for position, part in zip(task.new, parts, strict=True):
        if proxies is None:
            centres = part.mean(axis=0)
        elif len(part) < proxies:  # too few to cluster
            centres = np.resize(part, (proxies, part.shape[1]))
        else:
            rng = generator(task.seed, task.index, position, 0, 0)
            centres, _ = kmeans2(part, proxies, minit="++", seed=rng)
        rows.append(length * _unit(centres))
    weight = head["weight"].at[task.old : task.seen].set(jnp.asarray(np.stack(rows)))
    return dataclasses.replace(model, params={**model.params, "head": {**head, "weight": weight}})


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
