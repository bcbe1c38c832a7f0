"""The problem of a run: all that follows from the config, checked before training."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bsce_jax import config as config_lib
from bsce_jax import data, memory
from bsce_jax.data import Dataset, validation
from bsce_jax.data.plan import holdout, steps_per_epoch
from bsce_jax.errors import UserError
from bsce_jax.memory import Memory
from bsce_jax.methods import Stage, TaskInfo
from bsce_jax.models import Classifier, make_model
from bsce_jax.models.pretrained import load_backbone
from bsce_jax.runs.extension import Extension
from bsce_jax.runs.start import FirstTask, Pretrained, Start
from bsce_jax.scenario import Scenario, class_order, explicit_tasks, make_scenario
from bsce_jax.streams import Purpose, generator
from bsce_jax.training.first_task import boosted
from bsce_jax.training.mesh import count_devices

CHUNK_BYTES = 2**26  # sent to the devices for a chunk, at most, unless one step needs more

Exemplars = tuple[tuple[int, ...], ...]


class Problem:
    """A data set, a scenario, a network, a method and a loss, made from a config.

    Making one checks the whole config and writes nothing. It loads the data set, but images in
    folders are only listed.

    Args:
      config: from a config file.
      dataset: images of your own; None for the data set that the config names.

    Attributes:
      config: as given.
      method: the method.
      criterion: the classification loss.
      found: the data set as it was loaded.
      extension: the finished run that this one extends, None for a run of its own.
      dataset: the data set of the run: `found`, or what the extension or the validation split
        makes of it.
      scenario: the tasks.
      start: the weights that the run starts from, None for random ones.
      network: with the config's backbone and the method's head; see `network_of`.
      labels: [n] int32, position in the class order of every training record, -1 outside it.
      test_labels: the same for every test record.
      records: the training records of each class of the scenario.

    Raises:
      UserError: an invalid field of the config; the message says what would be right.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset | None = None):
        config_lib.check(config)
        self.config = config
        self.method = config_lib.make_method(config)
        self.criterion = config_lib.make_criterion(config)
        self._check_fields()
        named = config.dataset
        self.found = dataset or data.load(
            named.name,
            named.data_dir,
            named.image_size or None,
            named.train_split,
            named.test_split,
        )
        extends = config.scenario.extends
        with _naming("scenario.extends"):
            self.extension = Extension(extends) if extends else None
        self.dataset = self._make_dataset()
        self.scenario = self._make_scenario()
        classes = self.scenario.num_classes
        memory.check_budget(config.memory.policy, config.memory.size, classes)
        self.network = make_model(
            config.model.name,
            head=self.method.head,
            num_classes=classes,
            dtype=config.runtime.dtype,
        )
        self.network_of(0)  # a method may refuse the network
        self.start = self._make_start()
        self.labels = self.scenario.positions(self.dataset.train.labels)
        self.test_labels = self.scenario.positions(self.dataset.test.labels)
        self.records = [np.flatnonzero(self.labels == c) for c in range(classes)]
        self._check_images()

    def _check_fields(self) -> None:
        """Check what can be checked without the data."""
        config = self.config
        check_batches(config, count_devices())
        if self.crops_sources and config.runtime.feed not in ("auto", "streamed"):
            raise UserError(
                f"runtime.feed is {config.runtime.feed}: train.augmentation "
                f"{config.train.augmentation} needs streamed"
            )
        if self.criterion.cosines and self.method.head == "linear":
            raise UserError(
                f"loss {config.loss.name} is defined on cosines, and {config.method.name} has a "
                "linear head: use cross_entropy or balanced_softmax"
            )
        if config.train.flatness and not config.train.sharpness:
            raise UserError(
                f"train.flatness is {config.train.flatness} and train.sharpness 0: C-Flat needs "
                "its radius"
            )
        if not (config.train.epochs or config.model.init or config.scenario.extends):
            raise UserError("train.epochs is 0: only a backbone of model.init needs no training")
        for task in (0, 1):
            for stage in self.all_stages(task):
                if stage.warmup > stage.epochs > 0:  # the rate would not reach its value
                    raise UserError(
                        f"train.warmup is {stage.warmup}, and a stage of task {task + 1} has "
                        f"{stage.epochs} epochs: choose at most that"
                    )
        replay = config.train.replay_batch_size
        if replay and not config.memory.size and self.all_stages(1)[0].records != "all":
            raise UserError(
                f"train.replay_batch_size is {replay} and memory.size 0: keep exemplars, or set "
                "train.replay_batch_size=0"
            )

    def _make_dataset(self) -> Dataset:
        """Make the data set of the run from the one that was found."""
        dataset, fraction = self.found, self.config.dataset.validation
        if self.extension and fraction:
            raise UserError(
                f"dataset.validation is {fraction}, and a run that extends another is "
                "evaluated on test images: set dataset.validation=0"
            )
        if self.extension:
            dataset = self.extension.dataset(dataset)
        elif fraction:
            dataset = validation.hold_out(dataset, fraction, self.config.seed)
        if self.crops_sources and not isinstance(dataset.train, data.CroppingSource):
            raise UserError(
                f"train.augmentation is {self.config.train.augmentation}: {dataset.name} has no "
                "image files to crop, use resized_crop"
            )
        height, width, _ = dataset.image_shape
        if height != width and any(stage.turns for stage in self.all_stages(0)):
            raise UserError(
                f"method {self.config.method.name} turns the images: {height}x{width} ones are not "
                "square, set dataset.image_size"
            )
        return dataset

    def _make_scenario(self) -> Scenario:
        fields = self.config.scenario
        if self.extension:
            return self.extension.scenario(self.dataset, fields.tasks)
        if fields.tasks:
            listed = explicit_tasks(fields.tasks, self.dataset.class_names)
            if listed.num_classes < 2:
                raise UserError("scenario.tasks lists 1 class: list at least 2")
            return listed
        order = class_order(fields.class_order, self.dataset.num_classes)
        return make_scenario(order, fields.base, fields.increment)

    def _check_images(self) -> None:
        first = self.first_task
        old = self.scenario.classes_before(first)
        new = zip(self.scenario.class_order[old:], self.records[old:], strict=True)
        empty = [self.dataset.class_names[label] for label, records in new if not len(records)]
        if empty:
            raise UserError(
                f"no training images of class {', '.join(empty)}: add some, or leave the class out "
                "of the tasks (scenario.class_order or scenario.tasks)"
            )
        if first and self.all_stages(first)[0].records == "all":
            raise UserError(
                f"scenario.extends is {self.config.scenario.extends}, and method "
                f"{self.config.method.name} trains on all old images: train it anew instead"
            )
        replays = self.config.train.replay_batch_size and self.all_stages(first)[0].replay == "old"
        if self.extension and replays and not self.extension.remembers:
            raise UserError(
                f"scenario.extends is {self.config.scenario.extends}, which has no exemplars for "
                f"train.replay_batch_size {self.config.train.replay_batch_size}: set it to 0"
            )
        images = len(self.train_records())
        for field in ("batch_size", "replay_batch_size"):
            size = self.config.train[field]
            if size > 10 * images:  # nearly all of it would be padding or repeated
                raise UserError(
                    f"train.{field} is {size}, and {self.dataset.name} has {images} training "
                    "images of these classes: choose at most that"
                )
        if not len(self.test_records(self.scenario.classes_after(first))):
            raise UserError(
                f"{self.dataset.name} has no test images of the classes of task {first + 1}: add "
                "some, or choose other tasks"
            )

    def _make_start(self) -> Start | None:
        named = {
            "scenario.extends": self.config.scenario.extends,
            "train.init_from": self.config.train.init_from,
            "model.init": self.config.model.init,
        }
        given = [path for path, value in named.items() if value]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} are given: a run starts from one of them")
        if self.config.train.init_from:
            with _naming("train.init_from"):
                first = FirstTask(self.config.train.init_from)
            first.check(self.config, self.dataset, self.scenario)
            trained = {path for stage in self.stages(0) for path in stage.trainable}
            if "auxiliary" in trained and not first.has_auxiliary:
                raise UserError(
                    f"train.init_from={self.config.train.init_from} has another first task: in "
                    f"that of {self.config.method.name} an auxiliary head is trained too"
                )
            if first.lacks_self_distillation(self.config) and len(self.stages(0)) > 2:
                raise UserError(
                    f"train.init_from={self.config.train.init_from} has another first task: the "
                    f"self-distillation comes before other stages of {self.config.method.name}"
                )
            return first
        if self.config.model.init:
            images = jnp.zeros((1, *self.dataset.image_shape))
            init = partial(self.network_of(0).init, train=False)
            load_backbone(self.config.model.init, jax.eval_shape(init, jax.random.key(0), images))
            return Pretrained(self.config.model.init)
        if self.extension:
            self.extension.check(self.config)
        return self.extension

    @property
    def crops_sources(self) -> bool:
        """Whether images are cropped before they are resized, by the feed."""
        return "source_crop" in self.config.train.augmentation.split("+")

    @property
    def first_task(self) -> int:
        """Number of the first task that this run trains: 0 unless it extends another."""
        return self.extension.tasks if self.extension else 0

    def train_records(self) -> np.ndarray:
        """List the training records of all classes of the scenario."""
        return np.flatnonzero(self.labels >= 0)

    def test_records(self, seen: int) -> np.ndarray:
        """List the test records of the first `seen` classes."""
        return np.flatnonzero((self.test_labels >= 0) & (self.test_labels < seen))

    def memory(self, exemplars: Exemplars = ()) -> Memory:
        """Make the memory with the config's budget and these exemplars."""
        return Memory(self.config.memory.policy, self.config.memory.size, exemplars)

    def random_exemplars(self, task: int) -> list[np.ndarray]:
        """List the exemplars of each of a task's classes if they are chosen at random."""
        old, seen = self.scenario.classes_before(task), self.scenario.classes_after(task)
        quota = self.memory().quota([len(records) for records in self.records[:seen]])
        chosen = []
        for c in range(old, seen):
            rng = generator(self.config.seed, Purpose.SELECTION, task, c)
            alike = np.zeros((len(self.records[c]), 1))
            chosen.append(self.records[c][memory.select(alike, quota[c], "random", rng=rng)])
        return chosen

    def network_of(self, task: int) -> Classifier:
        """Choose the network of a task."""
        return self.method.network(self.network, task, self.scenario.num_tasks)

    def teacher_network(self, stage: Stage, task: int) -> Classifier | None:
        """Choose the network of the teacher in a stage of a task, None without one."""
        if stage.teacher == "none":
            return None
        return self.network_of(task - 1 if stage.teacher == "previous" else task)

    def sizes(self, tasks: int) -> dict[str, Any]:
        """Count what the model keeps of the past, for `results.json`.

        Args:
          tasks: how many are finished.

        Returns:
          `parameters`: of the network that are in use after each task; `extra_bytes`: of the
          method's own arrays.
        """
        counts = []
        images = jnp.zeros((1, *self.dataset.image_shape))
        shapes = cache(
            lambda network: jax.eval_shape(
                partial(network.init, train=False), jax.random.key(0), images
            )["params"]
        )
        for task in range(tasks):
            network, seen = self.network_of(task), self.scenario.classes_after(task)
            counts.append(network.parameters_in_use(shapes(network), task, seen))
        params = shapes(self.network_of(0))
        extra = jax.eval_shape(
            partial(self.method.init_extra, num_classes=self.scenario.num_classes), params
        )
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(extra))
        return {"parameters": counts, "extra_bytes": held}

    def stages(self, task: int) -> tuple[Stage, ...]:
        """List the stages of a task, without those that a balanced loss leaves out."""
        return tuple(stage for stage in self.all_stages(task) if not self.saves(stage))

    def finished_stages(self, task: int) -> int:
        """Count the stages of a task that the model was trained with in the run it comes from."""
        if task or not isinstance(self.start, FirstTask):
            return 0
        return 1 if self.start.lacks_self_distillation(self.config) else len(self.stages(0))

    def saves(self, stage: Stage) -> bool:
        """Tell whether a stage is left out because the loss is balanced."""
        return stage.balances and self.balanced

    @property
    def balanced(self) -> bool:
        """Whether the loss corrects the imbalance of old and new classes, and it alone."""
        return self.criterion.balanced and self.config.train.finetuning == "auto"

    def all_stages(self, task: int) -> tuple[Stage, ...]:
        """List all stages that the method has for a task; none on a memory that is empty.

        Raises:
          UserError: there is none.
        """
        train = self.config.train
        later = task > 0 and not self.method.restarts
        teacher = self.method.teacher and task > 0
        # the first task has no teacher: a method with one trains by the classification loss alone
        classify = self.method.teacher and task == 0
        main = Stage(
            name="training",
            terms=self.method.classification if classify else self.method.terms,
            epochs=(later and train.later_epochs) or train.epochs,
            learning_rate=(later and train.later_learning_rate) or train.learning_rate,
            schedule=train.schedule,
            milestones=tuple(train.milestones),
            decay=train.decay,
            replay_batch_size=train.replay_batch_size if task > 0 else 0,
            warmup=train.warmup,
            teacher="previous" if teacher else "none",
        )
        stages = self.method.stages(main, task)
        if not self.config.memory.size:
            stages = tuple(stage for stage in stages if stage.records != "memory")
        if not stages:
            raise UserError(
                f"method {self.config.method.name} has no training in task {task + 1} with "
                f"memory.size {self.config.memory.size}"
            )
        return stages if later else boosted(stages, train)

    def task_info(self, task: int, exemplars: Exemplars) -> TaskInfo:
        """Describe a task, with the records of its first stage.

        Args:
          task: number of the task.
          exemplars: of the classes of earlier tasks.
        """
        first, *_ = self.all_stages(task)
        old, seen = self.scenario.classes_before(task), self.scenario.classes_after(task)
        past: Iterable[Iterable[int]] = exemplars[:old]
        if first.records == "all":
            past = self.records[:old]
        train, validation = holdout(
            [np.asarray(records, np.int64) for records in past],
            self.records[old:seen],
            first.holdout,
            seed=self.config.seed,
            task=task,
        )
        return TaskInfo(
            index=task,
            old=old,
            seen=seen,
            seed=self.config.seed,
            labels=self.labels,
            train=train,
            validation=validation,
            balanced=self.balanced,
        )

    def chunk_steps(self, task: int, record_bytes: int = 0) -> int:
        """Choose the steps of a chunk: one number for the first task, one for all later ones.

        A chunk is so long that the cost of a call is negligible, and so short that stopping and the
        progress bar are prompt, and that what is sent for it fits into `CHUNK_BYTES`. It divides
        the longest task with the least padding.

        Args:
          task: number of the task.
          record_bytes: that are sent for each image.
        """
        limit = 20 if jax.default_backend() == "cpu" else 200
        train = self.config.train
        step_bytes = max(1, record_bytes * (train.batch_size + train.replay_batch_size))
        limit = max(1, min(limit, CHUNK_BYTES // step_bytes))
        tasks = range(1, self.scenario.num_tasks) if task > 0 else range(1)
        first_stages = (self.planned_steps(t, self.all_stages(t)[0]) for t in tasks)
        longest = max(1, *first_stages)  # 1 if a first stage has no steps
        return math.ceil(longest / math.ceil(longest / limit))

    def planned_steps(self, task: int, stage: Stage) -> int:
        """Count the optimiser steps of a stage of a task, as if nothing was held out."""
        old, seen = self.scenario.classes_before(task), self.scenario.classes_after(task)
        available = [len(r) for r in self.records]
        if stage.records == "memory":
            images = sum(self.memory().quota(available[:seen]))
        elif stage.records == "all":
            images = sum(available[:seen])
        else:
            images = sum(available[old:seen])
            if not stage.replay_batch_size:
                images += sum(self.memory().quota(available[:old]))
        return stage.epochs * steps_per_epoch(images, self.config.train.batch_size)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put the path of a field before the message of an error that does not have it."""
    try:
        yield
    except UserError as error:
        if path in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


def check_batches(config: ConfigDict, devices: int) -> None:
    """Check that a number of devices divides the batch sizes.

    Raises:
      UserError: it does not.
    """
    train = config.train
    for name in ("batch_size", "replay_batch_size"):
        if train[name] % devices:
            raise UserError(
                f"train.{name} is {train[name]}: {devices} devices need a multiple of {devices}"
            )
