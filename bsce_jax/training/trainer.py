"""The compiled side of a run: the feeds, the training programs and the probes."""

import functools

from jax.sharding import Mesh

from bsce_jax.data.augment import make_augment, normalize
from bsce_jax.data.feed import FEEDS, Feed
from bsce_jax.data.mixing import MIXINGS
from bsce_jax.data.stream import StreamedFeed
from bsce_jax.methods import ModelState, Stage
from bsce_jax.models import Classifier
from bsce_jax.optim import make_optimizer
from bsce_jax.runs.start import Pretrained
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.probe import FeedProbe, initialize
from bsce_jax.training.problem import Problem
from bsce_jax.training.state import TrainState, start_stage
from bsce_jax.training.step import Recipe, TrainChunk, make_train_chunk


class Trainer:
    """Makes the feeds and the programs of a problem, each of them once.

    Args:
      problem: of the run.

    Attributes:
      problem: as given.
      mesh: the devices.
      feed: of the training images.
      recipe: the parts that all training programs share.

    Raises:
      UserError: an image that cannot be read.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.mesh: Mesh = mesh_lib.make_mesh()
        dataset, config = problem.dataset, problem.config
        classes = problem.scenario.num_classes
        make_feed = FEEDS[config.runtime.feed]
        records = problem.train_records()
        self.feed: Feed = (StreamedFeed if problem.crops_sources else make_feed)(
            dataset.train, records, self.mesh
        )
        self._test_feed: Feed = make_feed(dataset.test, problem.test_records(classes), self.mesh)
        self.recipe = Recipe(
            method=problem.method,
            criterion=problem.criterion,
            optimizer=functools.partial(make_optimizer, problem.method, config.train),
            augment=make_augment(config.train.augmentation),
            mixing=None if config.train.mixing == "none" else MIXINGS[config.train.mixing],
            normalize=functools.partial(normalize, mean=dataset.mean, std=dataset.std),
            feed=self.feed,
            mesh=self.mesh,
            average=config.train.average,
            sharpness=config.train.sharpness,
            flatness=config.train.flatness,
        )
        self._chunks: dict[tuple[object, ...], TrainChunk] = {}
        self._probes: dict[tuple[Classifier, bool], FeedProbe] = {}

    def start(self, model: ModelState, stage: Stage) -> TrainState:
        """Start a stage on a copy of a model, with a fresh optimiser."""
        state = start_stage(
            model,
            stage,
            self.recipe.optimizer(weight_decay=stage.weight_decay),
            self.recipe.criterion,
            self.problem.scenario.num_classes,
            averages=self.recipe.average > 0,
        )
        return mesh_lib.replicate(self.mesh, state)

    def train_chunk(
        self, network: Classifier, stage: Stage, teacher_network: Classifier | None = None
    ) -> TrainChunk:
        """Return the program that trains a stage; stages that differ only in numbers share one.

        Args:
          network: the network in training.
          stage: the stage.
          teacher_network: the teacher's network, None without a teacher.
        """
        static = (
            *(stage.terms, stage.trainable, stage.batch_norm),
            *(stage.replay_batch_size, stage.turns, stage.weight_decay),
        )
        key = (network, teacher_network, *static)
        if key not in self._chunks:
            self._chunks[key] = make_train_chunk(self.recipe, network, stage, teacher_network)
        return self._chunks[key]

    def probe(self, network: Classifier, *, test: bool = False) -> FeedProbe:
        """Return the probe of the training images, or of the test images."""
        key = (network, test)
        if key not in self._probes:
            feed = self._test_feed if test else self.feed
            initial = functools.cache(functools.partial(_initial, self.problem, network, self.mesh))
            self._probes[key] = FeedProbe(network, feed, self.recipe.normalize, self.mesh, initial)
        return self._probes[key]

    @property
    def compiled(self) -> int:
        """Number of training programs compiled so far."""
        return sum(jitted._cache_size() for jitted in self._chunks.values())  # type: ignore[attr-defined]  # of jax.jit


def _initial(problem: Problem, network: Classifier, mesh: Mesh) -> ModelState:
    initial = initialize(
        network,
        problem.method,
        image_shape=problem.dataset.image_shape,
        num_classes=problem.scenario.num_classes,
        seed=problem.config.seed,
        mesh=mesh,
    )
    # in every task, for methods that start from it again
    return problem.start.model(initial) if isinstance(problem.start, Pretrained) else initial
