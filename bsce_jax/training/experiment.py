"""What a run is made of: everything that the config decides and that no task changes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bsce_jax import data, memory
from bsce_jax.config import make_loss, make_method
from bsce_jax.data.augment import make_augment, normalize
from bsce_jax.errors import UserError, unknown
from bsce_jax.memory import Memory
from bsce_jax.methods.base import ModelState
from bsce_jax.models import make_model
from bsce_jax.scenario import class_order, make_scenario
from bsce_jax.training import mesh as mesh_lib
from bsce_jax.training.inference import Eye, make_forward
from bsce_jax.training.meta import initial_weight
from bsce_jax.training.schedule import SCHEDULES
from bsce_jax.training.step import Images, TrainState, make_optimizer, make_train_chunk

FEEDS = ("resident",)
# least value and limit of numbers that would otherwise break a run in its middle, or spoil it
RANGES = {
    "train.learning_rate": (0, math.inf),
    "train.momentum": (0, 1),
    "train.weight_decay": (0, math.inf),
    "train.decay": (0, math.inf),
    "loss.tau": (0, math.inf),
    "method.temperature": (1e-3, math.inf),
    "method.validation": (0, 1),
    "method.samples": (1, math.inf),
    "method.rivals": (1, math.inf),
    "method.finetune_epochs": (0, math.inf),
    "method.finetune_learning_rate": (0, math.inf),
    "runtime.checkpoint_epochs": (1, math.inf),
}


class Experiment:
    """The data, the scenario, the network and the compiled functions of a run.

    Making one checks the whole config and writes nothing.

    Args:
      config: from a config file.
      dataset: images of your own; None for the data set that the config names.

    Raises:
      UserError: a field of the config that cannot be; the message says what would be right.
    """

    def __init__(self, config: ConfigDict, dataset: data.Dataset | None = None):
        self.config = config
        self.method = make_method(config)
        self.loss = make_loss(config)
        self.mesh = mesh_lib.make_mesh()
        _check(config, self.mesh.size)
        if config.train.replay_batch_size and not (config.memory.size or self.method.all_data):
            raise UserError(
                f"train.replay_batch_size is {config.train.replay_batch_size} and memory.size 0: "
                "keep exemplars, or set train.replay_batch_size=0"
            )
        if self.loss.cosines and self.method.head == "linear":
            raise UserError(
                f"loss {config.loss.name} is defined on cosines, and {config.method.name} has a "
                "linear head: use cross_entropy or balanced_softmax"
            )

        named = config.dataset
        self.dataset = dataset or data.load(named.name, named.data_dir, named.image_size or None)
        order = class_order(config.scenario.class_order, self.dataset.num_classes)
        self.scenario = make_scenario(order, config.scenario.base, config.scenario.increment)
        classes = self.scenario.num_classes
        memory.check_budget(config.memory.policy, config.memory.size, classes)
        if config.memory.selection not in memory.SELECTIONS:
            raise unknown("memory.selection", config.memory.selection, memory.SELECTIONS)
        self.empty_memory = Memory(config.memory.policy, config.memory.size)

        self.labels = self.scenario.positions(self.dataset.train.labels)
        self.test_labels = self.scenario.positions(self.dataset.test.labels)
        self.records = [np.flatnonzero(self.labels == c) for c in range(classes)]

        self.network = make_model(
            config.model.name,
            head=self.method.head,
            num_classes=classes,
            dtype=config.runtime.dtype,
        )
        augment = make_augment(config.train.augmentation)
        scale = functools.partial(normalize, mean=self.dataset.mean, std=self.dataset.std)
        self.optimizer = make_optimizer(
            self.method,
            momentum=config.train.momentum,
            weight_decay=config.train.weight_decay,
        )
        self.train_chunk = make_train_chunk(
            self.network,
            self.method,
            self.loss,
            self.optimizer,
            augment,
            scale,
            self.mesh,
        )
        train, test = self.dataset.train, self.dataset.test
        put = lambda array: mesh_lib.replicate(self.mesh, jnp.asarray(array))
        self.resident = Images(put(train.images), put(self.labels))
        forward = make_forward(self.network, scale)
        self.train_eye, self.test_eye = (
            Eye(self.network, scale, forward, images, self.mesh, self.initial_model)
            for images in (self.resident.images, put(test.images))
        )

    @functools.cached_property
    def initial_model(self) -> ModelState:
        """The state that the run begins with, from the config's seed."""
        shape = (1, *self.dataset.image_shape)
        key = jax.random.key(self.config.seed)
        # jitted: one compilation instead of one for each layer; run once: not worth optimising
        init = jax.jit(
            lambda k: self.network.init(k, jnp.zeros(shape), train=False),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        variables = init(key)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        extra = self.method.init_extra(params, self.scenario.num_classes)
        model = ModelState(params=params, batch_stats=batch_stats, extra=extra)
        return mesh_lib.replicate(self.mesh, model)

    def train_state(self, model: ModelState) -> TrainState:
        """Starts the optimiser on a copy of a model: the step is going to consume its state."""
        model = jax.tree.map(jnp.copy, model)
        state = TrainState(
            model=model,
            opt_state=self.optimizer.init(model.params),
            old_weight=initial_weight(self.loss, self.scenario.num_classes),
        )
        return mesh_lib.replicate(self.mesh, state)

    def steps(self, task: int) -> int:
        """Counts the optimiser steps of a task's main stage, held-out exemplars left out."""
        old = self.scenario.classes_before(task)
        available = [len(r) for r in self.records]
        new = sum(available[old : self.scenario.classes_after(task)])
        if self.method.all_data:
            past = sum(available[:old])
        elif self.config.train.replay_batch_size:
            past = 0
        else:
            past = sum(self.empty_memory.quota(available[:old]))
        return self.config.train.epochs * memory.steps_per_epoch(
            new + past, self.config.train.batch_size
        )

    def chunk_steps(self, task: int) -> int:
        """Chooses how many steps one call runs: the same for all tasks that share a program.

        Long enough that starting a call costs nothing, short enough to stop and show progress in
        time, and such that the longest task wastes the least padding.
        """
        limit = 20 if jax.default_backend() == "cpu" else 200
        tasks = range(1, self.scenario.num_tasks) if task > 0 else range(1)
        longest = max(self.steps(t) for t in tasks)
        return math.ceil(longest / math.ceil(longest / limit))


def _check(config: ConfigDict, devices: int) -> None:
    train = config.train
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}: it must not be negative")
    if train.epochs < 1:
        raise UserError(f"train.epochs is {train.epochs}: train at least 1")
    for name in ("batch_size", "replay_batch_size"):
        size = train[name]
        if size < (name == "batch_size") or size % devices:
            raise UserError(
                f"train.{name} is {size}: {devices} devices need a multiple of {devices}"
                if size % devices
                else f"train.{name} is {size}: it must be positive"
            )
    if train.schedule not in SCHEDULES:
        raise unknown("train.schedule", train.schedule, SCHEDULES)
    for milestone in train.milestones:
        if not 0 < milestone < 1:
            raise UserError(
                f"train.milestones has {milestone}: give fractions of the epochs, such as 0.5,0.75"
            )
    for path, (least, most) in RANGES.items():
        section, name = path.split(".")
        value = config[section].get(name)
        if value is not None and not least <= value < most:  # which no NaN is
            raise UserError(f"{path} is {value}: it must be at least {least:g} and below {most:g}")
    if config.runtime.feed not in FEEDS:
        raise unknown("runtime.feed", config.runtime.feed, FEEDS)
