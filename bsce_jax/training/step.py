"""The train step: pure, compiled once without and once with a teacher, many steps a call."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bsce_jax.methods.base import Method, ModelState, Params, Step, TaskContext
from bsce_jax.methods.classification import ClassificationLoss, MetaBalancedSoftmax
from bsce_jax.models import Classifier, Outputs, evaluate
from bsce_jax.training import compiler
from bsce_jax.training.meta import OldWeight, learn_weight, weighted


@struct.dataclass
class TrainState:
    """What a step changes.

    Attributes:
      model: the network and the method's arrays.
      opt_state: optax's state, float32.
      old_weight: the learned weight of the old classes, None unless the loss learns one.
    """

    model: ModelState
    opt_state: optax.OptState
    old_weight: OldWeight | None


class Batches(NamedTuple):
    """A chunk of `K` batches, as indices into the resident training set.

    Attributes:
      indices: [K, batch] int32.
      weights: [K, batch] float32, 1 for a sample, 0 for padding. A batch of padding alone does
        nothing: it fills up the last chunk of a stage.
      learning_rate: [K] float32.
      step: [K] int32, number of the step within its stage.
      balanced: [K, batch] int32, class-balanced batches for a loss that learns from them.
    """

    indices: jax.Array
    weights: jax.Array
    learning_rate: jax.Array
    step: jax.Array
    balanced: jax.Array | None


class Images(NamedTuple):
    """A split in device memory: `images` [n, h, w, c] uint8 and `labels` [n] int32 positions."""

    images: jax.Array
    labels: jax.Array


Tree = TypeVar("Tree")
# (key, uint8 images) -> float32 images in [0, 1]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
# either of them -> normalised float32 images
Normalize = Callable[[jax.Array], jax.Array]
# (state, teacher, task, key, data, batches) -> state, [K] arrays by name
TrainChunk = Callable[
    [TrainState, ModelState | None, TaskContext, jax.Array, Images, Batches],
    tuple[TrainState, dict[str, jax.Array]],
]


def make_optimizer(
    method: Method, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Makes SGD as PyTorch defines it, but for the learning rate, which each step brings along."""
    return optax.chain(
        method.gradient_transform(),
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum),
    )


def make_train_chunk(
    network: Classifier,
    method: Method,
    loss: ClassificationLoss,
    optimizer: optax.GradientTransformation,
    augment: Augment,
    normalize: Normalize,
    mesh: Mesh,
) -> TrainChunk:
    """Compiles the training of a chunk of batches.

    Everything that changes from task to task or stage to stage is an argument, so a run of any
    number of tasks compiles this at most twice: without a teacher and with one.

    Returns:
      A function (state, teacher, task, key, data, batches) -> (state, metrics): `state` is
      donated; `metrics` holds, one value a step, the loss terms, `loss` (their sum),
      `accuracy` (top-1 in % of the batch, by raw logits over the classes seen) and the learned
      `scale` of a head that has one.
    """

    def step(
        state: TrainState,
        teacher: ModelState | None,
        task: TaskContext,
        key: jax.Array,
        data: Images,
        batch: Batches,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, method_key = jax.random.split(jax.random.fold_in(key, batch.step))
        images = normalize(augment(augment_key, data.images[batch.indices]))
        labels = data.labels[batch.indices]
        past = None if teacher is None else evaluate(network, teacher.variables, images)

        def train(params: Params) -> tuple[Outputs, Params]:
            variables = {"params": params, "batch_stats": state.model.batch_stats}
            student, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
            return student, updated["batch_stats"]

        old_weight = state.old_weight
        if isinstance(loss, MetaBalancedSoftmax) and old_weight is not None:
            balanced = normalize(data.images[batch.balanced])
            old_weight = learn_weight(
                loss,
                network,
                state.model.params,
                old_weight,
                task,
                (train(state.model.params)[0].features, labels, batch.weights),
                (
                    evaluate(network, state.model.variables, balanced).features,
                    data.labels[batch.balanced],
                ),
                batch.learning_rate,
            )
            task = weighted(task, old_weight.value)

        def objective(params: Params) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
            student, batch_stats = train(params)
            view = Step(
                student=student,
                teacher_outputs=past,
                labels=labels,
                weights=batch.weights,
                task=task,
                params=params,
                extra=state.model.extra,
                teacher_state=teacher,
                key=method_key,
                loss=loss,
                model=network,
            )
            if method.teacher and teacher is None:  # the first task has nothing to distil
                terms = {"classification": view.classification()}
            else:
                terms = method.terms(view)
            best = jnp.argmax(jnp.where(task.seen, student.logits, -jnp.inf), axis=-1)
            metrics = {
                "loss": sum(terms.values(), jnp.zeros(())),
                **terms,
                "accuracy": 100 * view.mean((best == labels).astype(jnp.float32)),
            }
            if "scale" in params["head"]:
                metrics["scale"] = params["head"]["scale"]
            return metrics["loss"], (metrics, batch_stats)

        gradients, (metrics, batch_stats) = jax.grad(objective, has_aux=True)(state.model.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.model.params)
        # weight decay and momentum would move what stays as it is even without a gradient
        updates = {
            "backbone": jax.tree.map(lambda u: u * task.train_backbone, updates["backbone"]),
            "head": task.only_trained_rows(updates["head"]),
        }
        params = jax.tree.map(lambda p, u: p - batch.learning_rate * u, state.model.params, updates)
        batch_stats = _choose(task.train_backbone > 0, batch_stats, state.model.batch_stats)
        stepped = TrainState(
            model=dataclasses.replace(state.model, params=params, batch_stats=batch_stats),
            opt_state=opt_state,
            old_weight=old_weight,
        )
        return _choose(jnp.sum(batch.weights) > 0, stepped, state), metrics

    def chunk(
        state: TrainState,
        teacher: ModelState | None,
        task: TaskContext,
        key: jax.Array,
        data: Images,
        batches: Batches,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        return jax.lax.scan(
            lambda carry, batch: step(carry, teacher, task, key, data, batch), state, batches
        )

    # said aloud, so that a state that a chunk returns is laid out as the one it was given
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        chunk,
        donate_argnames="state",
        out_shardings=everywhere,
        compiler_options=compiler.options(mesh.devices.flat[0].platform),
    )


def _choose(condition: jax.Array, this: Tree, that: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
