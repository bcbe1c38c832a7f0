"""The figures of a report: charts with their captions, the same for the page and for a paper."""

import dataclasses
from typing import Literal

import altair as alt

from bsce_jax.report import charts, published, tables
from bsce_jax.report.runs import Scenario
from bsce_jax.report.style import Style
from bsce_jax.report.tables import Rows

MANY = 150  # classes above which the confusion is between tasks


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """A chart and what belongs to it.

    Attributes:
      name: for files and anchors.
      title: a few words.
      caption: what a reader sees, and how the numbers are defined.
      part: figures of one part are set side by side.
      rows: the table behind the chart.
      chart: in Vega-Lite.
      shape: `wide`, `square`, or `tall` with a height of its own.
      group: the number of the group that it is about; None for all.
    """

    name: str
    title: str
    caption: str
    part: str
    rows: Rows
    chart: alt.LayerChart | alt.Chart
    shape: Literal["wide", "square", "tall"] = "wide"
    group: int | None = None


def make(scenario: Scenario, style: Style) -> list[Figure]:
    """Make the figures of a scenario; one without data is left out."""
    made = [
        *_accuracy(scenario, style),
        *_old_and_new(scenario, style),
        *_task_by_task(scenario, style),
        *_bias(scenario, style),
        *_confusion(scenario, style),
        *_training(scenario, style),
    ]
    return [figure for figure in made if figure.rows]


def _accuracy(scenario: Scenario, style: Style) -> list[Figure]:
    groups, names, band = scenario.groups, scenario.names, _band(scenario)
    part = "Accuracy"
    cnn, nme = tables.accuracy(groups), tables.accuracy(groups, "nme")
    beside = published.beside(groups)
    return [
        Figure(
            "accuracy",
            "By the network",
            f"Accuracy on the test images of all classes seen so far, after each task.{band}",
            part,
            cnn,
            charts.curves(cnn, names, style, "accuracy in %"),
        ),
        Figure(
            "accuracy_nme",
            "By nearest class mean",
            "The same, but each image gets the class whose exemplars have the nearest mean feature "
            f"(NME).{band}",
            part,
            nme,
            charts.curves(nme, names, style, "accuracy in %"),
        ),
        Figure(
            "published",
            "Beside published figures",
            "Average incremental accuracy, the mean over all tasks. Published figures are of the "
            "same data, tasks, memory and backbone, as their sources print them. Augmentation and "
            "training can differ: the table has the augmentation and the source of each.",
            part,
            beside,
            charts.published(beside, style),
            "tall",
        ),
    ]


def _old_and_new(scenario: Scenario, style: Style) -> list[Figure]:
    groups, names, band = scenario.groups, scenario.names, _band(scenario)
    part = "Old and new classes"
    old, new = tables.old_classes(groups), tables.new_classes(groups)
    forgotten = tables.forgetting(groups)
    return [
        Figure(
            "old_classes",
            "Old classes",
            f"Accuracy on the classes of earlier tasks, predicted among all classes seen.{band}",
            part,
            old,
            charts.curves(old, names, style, "accuracy in %"),
        ),
        Figure(
            "new_classes",
            "New classes",
            f"Accuracy on the classes of the newest task, predicted among all classes seen.{band}",
            part,
            new,
            charts.curves(new, names, style, "accuracy in %"),
        ),
        Figure(
            "forgetting",
            "Forgetting",
            "For each earlier task, its best accuracy so far less its present one, and of these "
            f"the mean.{band}",
            part,
            forgotten,
            charts.curves(forgotten, names, style, "forgetting in points"),
        ),
    ]


def _task_by_task(scenario: Scenario, style: Style) -> list[Figure]:
    figures = []
    for number, group in enumerate(scenario.groups):
        rows = tables.task_matrix(group)
        figures.append(
            Figure(
                f"tasks_{number + 1}",
                group.name,
                "Accuracy in % on the classes of each task, after each task. Down a column one "
                "sees a task being forgotten.",
                "Task by task",
                rows,
                charts.task_matrix(rows, group.first.finished, style),
                "square",
                number,
            )
        )
    return figures


def _bias(scenario: Scenario, style: Style) -> list[Figure]:
    groups, names, band = scenario.groups, scenario.names, _band(scenario)
    part = "Bias towards new classes"
    gaps, norms, scales = tables.logit_gap(groups), tables.norms(groups), tables.scale(groups)
    return [
        Figure(
            "logit_gap",
            "Logits",
            "The mean logit of the new classes less that of the old ones, over the test images of "
            "all classes seen. Above 0 the network prefers new classes, whatever the image."
            f"{band}",
            part,
            gaps,
            charts.curves(gaps, names, style, "logit, new less old", zero=True),
        ),
        Figure(
            "norms",
            "Vectors of the head",
            "The length of each class's vector in the last layer, in order of arrival, after the "
            f"newest task; the mean if a class has several. Heads of cosines ignore it.{band}",
            part,
            norms,
            charts.curves(
                norms, names, style, "length", x=("arrival", "class, in order of arrival")
            ),
        ),
        Figure(
            "scale",
            "Learned scale",
            "The factor that a head of cosines learns for its logits: the mean over the last epoch "
            f"of each task.{band}",
            part,
            scales,
            charts.curves(scales, names, style, "scale"),
        ),
    ]


def _confusion(scenario: Scenario, style: Style) -> list[Figure]:
    figures = []
    for number, group in enumerate(scenario.groups):
        run = next((run for run in group.runs if run.outcome is not None), None)
        if run is None:
            continue
        by_task = run.seen[-1] > MANY
        one, several = ("task", "tasks") if by_task else ("class", "classes")
        rows = tables.confusion(run, by_task)
        sizes = [1] * run.finished if by_task else run.sizes[: run.finished]
        figures.append(
            Figure(
                f"confusion_{number + 1}",
                group.name,
                f"How the test images of each row's {one} are distributed over the predicted "
                f"{several}, after the newest task, in order of arrival. Lines separate the tasks. "
                "Of a group it is the first run.",
                "Confusion",
                rows,
                charts.confusion(rows, sizes, None if by_task else run.class_names, style),
                "square",
                number,
            )
        )
    return figures


def _training(scenario: Scenario, style: Style) -> list[Figure]:
    groups, names = scenario.groups, scenario.names
    part = "Training"
    classes, curves, time = tables.classes(groups), tables.training(groups), tables.time(groups)
    return [
        Figure(
            "classes",
            "Accuracy of a class, and its training images",
            "Each point is a class of a run after the newest task. New classes have the training "
            "images of the data set, old ones have their exemplars.",
            part,
            classes,
            charts.classes(classes, names, style),
        ),
        Figure(
            "training",
            "Training loss",
            "The sum of all loss terms, the mean over each epoch, task after task. Different "
            "losses do not compare in height.",
            part,
            curves,
            charts.training(curves, names, style),
        ),
        Figure(
            "time",
            "Time of a run",
            "Seconds by kind of work, the mean over the runs. Each second counts once.",
            part,
            time,
            charts.time(time, style),
            "tall",
        ),
    ]


def _band(scenario: Scenario) -> str:
    several = any(len(group.runs) > 1 for group in scenario.groups)
    return " The band is one standard deviation over the runs." if several else ""
