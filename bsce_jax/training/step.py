"""The train step: pure, scanned over a chunk, compiled once for each network and kind of stage."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bsce_jax.data.feed import Feed
from bsce_jax.data.mixing import Mixing, mix
from bsce_jax.errors import UserError
from bsce_jax.methods import Method, ModelState, Params, Stage, Step, TaskContext
from bsce_jax.methods.criterion import Criterion, MetaStep
from bsce_jax.methods.stage import join
from bsce_jax.models import Classifier, Outputs, infer
from bsce_jax.training import compiler
from bsce_jax.training.sharpness import flat_gradient
from bsce_jax.training.state import Batches, TrainState, averaged

Tree = TypeVar("Tree")
# (key, uint8 images) -> float32 images in [0, 1]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
# uint8 images, or float32 in [0, 1] -> normalised float32 images
Normalize = Callable[[jax.Array], jax.Array]
Metrics = dict[str, jax.Array]
# (state, teacher, task, key, constants of the feed, batches) -> state, [K] arrays by name
TrainChunk = Callable[
    [TrainState, ModelState | None, TaskContext, jax.Array, Any, Batches],
    tuple[TrainState, Metrics],
]

# names of the log, which no loss term may have
RESERVED = ("loss", "accuracy", "scale")


class Recipe(NamedTuple):
    """The parts that all train steps of a run share.

    Attributes:
      method: whose terms are minimised.
      criterion: the classification loss.
      optimizer: makes it, with `weight_decay` or without; the learning rate is in `Batches`.
      augment: of training images.
      mixing: of pairs of training images, None without.
      normalize: of all images.
      feed: where the images come from.
      mesh: the devices.
      average: decay of the running average of the weights, 0 for none.
      sharpness: radius of SAM, 0 for the plain gradient.
      flatness: weight of C-Flat's term, 0 for SAM.
    """

    method: Method
    criterion: Criterion
    optimizer: Callable[..., optax.GradientTransformationExtraArgs]
    augment: Augment
    mixing: Mixing | None
    normalize: Normalize
    feed: Feed
    mesh: Mesh
    average: float
    sharpness: float
    flatness: float


def make_train_chunk(
    recipe: Recipe, network: Classifier, stage: Stage, teacher_network: Classifier | None = None
) -> TrainChunk:
    """Make the compiled function that trains on a chunk of batches.

    Everything that changes from task to task is an argument. Static are the networks, and of the
    stage its terms, its trainable parameters, BatchNorm's mode, replayed exemplars,
    turns and weight decay.

    Args:
      recipe: the parts that all stages share.
      network: the network in training.
      stage: the stage.
      teacher_network: the teacher's network, None without a teacher.

    Returns:
      A function (state, teacher, task, key, constants, batches) -> (state, metrics): `state` is
      donated; `metrics` holds, one value a step, the loss terms by name, `loss` (their sum),
      `accuracy` (top-1 in % of the batch, by raw logits over the classes seen) and the learned
      `scale` of a head that has one.
    """
    criterion = recipe.criterion
    optimizer = recipe.optimizer(weight_decay=stage.weight_decay)

    def forward(params: Params, batch_stats: Params, images: jax.Array) -> tuple[Outputs, Params]:
        variables = {"params": params, "batch_stats": batch_stats}
        if stage.batch_norm == "frozen":
            return infer(network, variables, images), batch_stats
        parts, outputs = [images], list[Outputs]()
        if stage.batch_norm == "parts" and stage.replay_batch_size:
            parts = jnp.split(images, [len(images) - stage.replay_batch_size])
        for part in parts:
            one, updated = network.apply(variables, part, train=True, mutable=["batch_stats"])
            outputs.append(one)
            variables = {**variables, **updated}
        # the scale is not of a sample
        whole = lambda *ones: jnp.concatenate(ones) if ones[0].ndim else ones[0]
        return jax.tree.map(whole, *outputs), variables["batch_stats"]

    def step(
        state: TrainState,
        teacher: ModelState | None,
        task: TaskContext,
        key: jax.Array,
        constants: Any,
        batch: Batches,
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, batch.step)
        augment_key, method_key, mixing_key, update_key = jax.random.split(step_key, 4)
        read = lambda row: recipe.feed.images(constants, row)
        images = recipe.normalize(recipe.augment(augment_key, read(batch.images)))
        model = state.model
        learned = state.criterion
        if batch.balanced is not None:
            row, labels = batch.balanced
            balanced = infer(network, model.variables, recipe.normalize(read(row)))
            now, _ = forward(model.params, model.batch_stats, images)
            meta = MetaStep(
                network=network,
                params=model.params,
                task=task,
                batch=(now.features, batch.labels, batch.weights),
                balanced=(balanced.features, labels),
                learning_rate=batch.learning_rate,
            )
            learned = criterion.learn(learned, meta)
            prior = criterion.learned_prior(task.log_prior, task.old, learned)
            task = dataclasses.replace(task, log_prior=prior)

        labels, weights = batch.labels, batch.weights
        replayed = jnp.arange(len(labels)) >= len(labels) - stage.replay_batch_size
        partners = share = turns = None
        if recipe.mixing is not None:
            images, labels, partners, share = mix(
                recipe.mixing, mixing_key, images, labels, stage.replay_batch_size
            )
        if stage.turns:
            images, turns = _turned(images)
            labels, weights, replayed = (jnp.repeat(x, 4) for x in (labels, weights, replayed))
            partners = None if partners is None else jnp.repeat(partners, 4)
        past = None
        if teacher is not None and teacher_network is not None:
            past = infer(teacher_network, teacher.variables, images)

        trained, frozen = stage.split(model.params)

        def objective(trained: Params) -> tuple[jax.Array, tuple[Metrics, Params]]:
            params = join(trained, frozen)
            student, batch_stats = forward(params, model.batch_stats, images)
            view = Step(
                student=student,
                teacher_outputs=past,
                labels=labels,
                weights=weights,
                task=task,
                params=params,
                extra=model.extra,
                teacher_state=teacher,
                key=method_key,
                criterion=criterion,
                network=network,
                replayed=replayed,
                partners=partners,
                share=share,
                turns=turns,
            )
            terms = stage.terms(view)
            _refuse_reserved(terms)
            loss = sum(terms.values(), jnp.zeros(()))
            best = jnp.argmax(jnp.where(task.seen[None], student.logits, -jnp.inf), axis=-1)
            right = (best == labels).astype(jnp.float32)
            upright = None if turns is None else turns == 0
            metrics = {"loss": loss, **terms, "accuracy": 100 * view.mean(right, upright)}
            if "scale" in params["head"]:
                metrics["scale"] = params["head"]["scale"]
            return loss, (metrics, batch_stats)

        slope = jax.grad(objective, has_aux=True)
        gradients, (metrics, batch_stats) = slope(trained)
        if recipe.sharpness:
            gradients = flat_gradient(
                lambda params: slope(params)[0],
                trained,
                gradients,
                task,
                radius=recipe.sharpness,
                flatness=recipe.flatness,
            )
        updates, opt_state = optimizer.update(
            gradients,
            state.opt_state,
            trained,
            key=update_key,
            epoch=batch.epoch,
            images=jnp.sum(batch.weights),
        )
        if "head" in updates:
            # weight decay and momentum would move frozen rows even without a gradient
            updates = {**updates, "head": task.only_trained_rows(updates["head"])}
        trained = jax.tree.map(lambda p, u: p - batch.learning_rate * u, trained, updates)
        model = dataclasses.replace(model, params=join(trained, frozen), batch_stats=batch_stats)
        average = state.average
        if average is not None:
            average = averaged(average, model, recipe.average, batch.step)
        stepped = TrainState(model, opt_state, learned, average)
        return _choose(jnp.sum(batch.weights) > 0, stepped, state), metrics

    def chunk(
        state: TrainState,
        teacher: ModelState | None,
        task: TaskContext,
        key: jax.Array,
        constants: Any,
        batches: Batches,
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(
            lambda carry, batch: step(carry, teacher, task, key, constants, batch), state, batches
        )

    # explicit, so that the returned state has the same sharding as the argument
    everywhere = NamedSharding(recipe.mesh, PartitionSpec())
    return jax.jit(
        chunk,
        donate_argnames="state",
        out_shardings=everywhere,
        compiler_options=compiler.options(recipe.mesh.devices.flat[0].platform),
    )


def _turned(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Put each image's four quarter turns side by side; return how many turns each has got too."""
    every = jnp.stack([jnp.rot90(images, k, axes=(1, 2)) for k in range(4)], axis=1)
    return every.reshape(-1, *images.shape[1:]), jnp.tile(jnp.arange(4), len(images))


def _refuse_reserved(terms: dict[str, jax.Array]) -> None:
    for name in RESERVED:
        if name in terms:
            raise UserError(
                f"a loss term is called {name!r}, a name of the log: call it something else"
            )


def _choose(condition: jax.Array, this: Tree, that: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, that)
