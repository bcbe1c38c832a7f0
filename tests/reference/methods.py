"""Each method's loss terms, and what moves in each of its stages."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from reference import losses
from reference.network import Arrays, Outputs, Params
from reference.problem import Problem
from reference.tape import Var, concatenate, log, var

Terms = dict[str, Var]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a stage trains.

    Attributes:
      head: of the network.
      moves: the parameters that are trained, by the beginnings of their paths.
      old_rows: whether the class vectors of old classes are trained.
      batch_statistics: whether BatchNorm uses the batch's statistics and moves the running ones.
      weight_decay: whether there is any.
      clamp: of each element of a gradient, before weight decay (PODNet).
    """

    head: str = "linear"
    moves: tuple[str, ...] = ("backbone", "head")
    old_rows: bool = True
    batch_statistics: bool = True
    weight_decay: bool = True
    clamp: float = math.inf


def rules(problem: Problem) -> Rules:
    """Say how a stage of a method trains."""
    method, options = problem.method, problem.options
    if method == "lucir":
        if problem.stage == 0:
            return Rules("cosine", old_rows=False)
        # class vectors only, sigma in no optimiser group, BatchNorm in eval mode (fix_bn)
        return Rules("cosine", moves=("head/weight",), batch_statistics=False)
    if method in ("podnet", "afc"):
        head = {"cosine": "lsc", "distance": "lsc_distance"}[options["similarity"]]
        if problem.stage == 0:
            return Rules(head, old_rows=False, clamp=options["clamp"])
        # the classifier's parameters, of which the factor is none; BatchNorm in train mode
        return Rules(head, moves=("head/weight",), clamp=options["clamp"])
    if method == "fetril" and problem.old:
        return Rules(moves=("head",), batch_statistics=False)
    if method in ("der", "memo"):
        trunk = ("trunk",) if method == "memo" else ()
        return Rules(moves=(*trunk, "backbone", "head", *(("auxiliary",) if problem.old else ())))
    if method == "ccil":
        return Rules("cosine")
    if method == "pass":
        return Rules(moves=("backbone", "head", "auxiliary"))
    if method == "foster":
        # the compression: "self._snet.parameters()", SGD without weight_decay
        alone = problem.stage == 1 or not problem.old
        own = ("backbone", "head") if alone else ("backbone", "head", "auxiliary")
        return Rules(moves=own, weight_decay=problem.stage == 0)
    return Rules()


@dataclasses.dataclass(frozen=True)
class View:
    """What terms are made of: the real samples of a batch, padding left out.

    Attributes:
      problem: the stage.
      student, teacher: outputs of the network in training and of the last task's.
      labels: [n] positions.
      params, past: parameters of the network in training and of the last task's.
      past_stats: what else the last task's network has.
      extra, teacher_extra: the method's own arrays, now and as the last task left them.
      draws: random numbers of the step, by name.
      replayed: [n] which samples are exemplars added to the batch.
      classify: the mean of `config.loss`, of any outputs.
      score: the head, applied to features.
    """

    problem: Problem
    student: Outputs
    teacher: Outputs
    labels: np.ndarray
    params: Params
    past: Arrays
    past_stats: Arrays
    extra: dict[str, Any]
    teacher_extra: dict[str, Any]
    draws: dict[str, np.ndarray]
    replayed: np.ndarray
    classify: Callable[[Outputs], Var]
    score: Callable[[Var], Outputs]

    @property
    def old(self) -> int:
        return self.problem.old

    @property
    def seen(self) -> int:
        return self.problem.seen

    @property
    def rho(self) -> float:
        """Old classes / all classes seen."""
        return self.old / self.seen

    def old_logits(self) -> tuple[Var, Var]:
        """The student's and the teacher's logits of the old classes."""
        return self.student.logits[:, : self.old], self.teacher.logits[:, : self.old]


def terms(view: View) -> Terms:
    """Compute the terms that a stage minimises, each with its published weight."""
    if view.old == 0:  # nothing to distil
        return _turned(view) if view.problem.method == "pass" else _classification(view)
    return TERMS[view.problem.method](view)


def _classification(view: View) -> Terms:
    return {"classification": view.classify(view.student)}


def _il_baseline(view: View) -> Terms:
    """LUCIR's code: KLDivLoss() T^2 beta num_old, beta = 0.25: with T = 2 the divergence itself."""
    divergence = losses.kl(*view.old_logits(), temperature=2).mean()
    return {**_classification(view), "distillation": divergence}


def _wa(view: View) -> Terms:
    """(1 - rho) CE + rho KL, no T^2."""
    parts = _il_baseline(view)
    return {
        "classification": (1 - view.rho) * parts["classification"],
        "distillation": view.rho * parts["distillation"],
    }


def _bic(view: View) -> Terms:
    """As WA, on logits alpha z + beta."""

    def corrected(out: Outputs, extra: dict[str, Any]) -> Outputs:
        return out._replace(scores=extra["alpha"] * out.scores + extra["beta"])

    student = corrected(view.student, view.extra)
    teacher = corrected(view.teacher, view.teacher_extra)
    return _wa(dataclasses.replace(view, student=student, teacher=teacher))


def _icarl(view: View) -> Terms:
    """Algorithm 3: labels for the new classes, the teacher's sigmoids for the old ones."""
    if view.problem.loss != "binary_cross_entropy":
        return _il_baseline(view)
    new = view.student.logits[:, view.old : view.seen]
    is_label = view.labels[:, None] == np.arange(view.old, view.seen)
    student, teacher = view.old_logits()
    return {
        "classification": losses.binary(new, var(is_label)).mean(),
        "distillation": losses.binary(student, losses.sigmoid(teacher)).mean(),
    }


def _lwf(view: View) -> Terms:
    """Equations 2 to 4, lambda 1, T = 2; with T^2, as in SS-IL's code."""
    divergence = 4 * losses.kl(*view.old_logits(), temperature=2).mean()
    return {**_classification(view), "distillation": divergence}


def _taskwise(view: View) -> Terms:
    """SS-IL and EEIL: T^2 KL of each old task, summed; T = 2. EEIL's fine-tuning: of all tasks."""
    student, teacher, tasks = *view.old_logits(), view.problem.tasks[:-1]
    if view.problem.stage == 1:
        student, teacher, tasks = view.student.logits, view.teacher.logits, view.problem.tasks
    divergence = losses.taskwise(student, teacher, tasks, temperature=2).mean()
    return {**_classification(view), "distillation": divergence}


def _lucir(view: View) -> Terms:
    """Equation 9, lambda 5 sqrt(old / new); the fine-tuning has no less-forget constraint."""
    cosines = view.student.scores
    ranked = losses.ranking(cosines, view.labels, view.old, view.seen, k=2, margin=0.5)
    both = {**_classification(view), "ranking": ranked}
    if view.problem.stage == 1:
        return both
    weight = 5 * math.sqrt(view.old / (view.seen - view.old))
    apart = losses.less_forget(view.student.features, view.teacher.features).mean()
    return {**both, "less_forget": weight * apart}


def _podnet(view: View) -> Terms:
    """POD-spatial x 3 and POD-flat x 1, both x sqrt(seen / new); not in the fine-tuning."""
    if view.problem.stage == 1:
        return _classification(view)
    growth = math.sqrt(view.seen / (view.seen - view.old))
    spatial = losses.pod_spatial(view.student.maps, view.teacher.maps).mean()
    flat = losses.less_forget(view.student.features, view.teacher.features).mean()
    return {
        **_classification(view),
        "pod_spatial": 3 * growth * spatial,
        "pod_flat": 1 * growth * flat,
    }


def _afc(view: View) -> Terms:
    """Published code: 4 sqrt(seen / new) POD "pixel"; not in the fine-tuning."""
    if view.problem.stage == 1:
        return _classification(view)
    growth = math.sqrt(view.seen / (view.seen - view.old))
    importance = [view.past_stats[f"importance_{number}"] for number in range(2)]
    apart = losses.pod_pixel(view.student.maps, view.teacher.maps, importance).mean()
    return {**_classification(view), "pod_pixel": 4 * growth * apart}


def _ewc(view: View) -> Terms:
    """lambda / 2 sum F (theta - theta*)^2, no F above `fisher_max`."""
    options, penalty = view.problem.options, var(0.0)
    for name, fisher in view.extra["fisher"].items():
        held = np.minimum(fisher, options["fisher_max"])
        penalty = penalty + (held * (view.params[name] - view.past[name]) ** 2).sum()
    return {**_classification(view), "consolidation": options["weight"] / 2 * penalty}


def _interleaved(outputs: Outputs, seen: int) -> Var:
    """Put the logits in the order of PASS's code: class c, turned k times, is 4 c + k."""
    assert outputs.auxiliary is not None
    columns = []
    for c in range(seen):
        columns.append(outputs.logits[:, c : c + 1])
        columns.append(outputs.auxiliary[:, 3 * c : 3 * c + 3])
    return concatenate(columns, 1)


def _turned(view: View) -> Terms:
    """PASS's code: torch.stack([target * 4 + k for k in range(4)], 1); all turns weigh alike."""
    problem, turns = view.problem, np.arange(len(view.labels)) % 4
    counts = np.ones(view.seen)
    if problem.loss == "balanced_softmax":
        counts = losses.balanced(problem.counts, problem.loss_options, view.old)
    z = _interleaved(view.student, view.seen)
    loss = losses.cross_entropy(z, 4 * view.labels + turns, np.repeat(counts, 4))
    return {"classification": loss.mean()}


def _pass(view: View) -> Terms:
    """Prototypes with noise of one radius, and the L2 distance of the features; each x 10."""
    of, noise = view.draws["prototypes"], view.draws["noise"]
    replayed = view.score(var(view.extra["prototypes"][of] + view.extra["radius"] * noise))
    moved = view.student.features - view.teacher.features
    return {
        **_turned(view),
        "prototype": 10 * losses.cross_entropy(_interleaved(replayed, view.seen), 4 * of).mean(),
        "distillation": 10 * ((moved**2).sum(-1) ** 0.5).mean(),
    }


def _fetril(view: View) -> Terms:
    """Equation 1: f - mean of its class + mean of an old class. All classes weigh alike."""
    pseudo, means = view.draws["pseudo"], view.extra["means"]
    translated = view.score(view.student.features - means[view.labels] + means[pseudo])
    counts = view.problem.counts
    each = losses.cross_entropy(view.student.logits[:, : view.seen], view.labels)
    real = (each * (counts[view.old :].mean() / counts[view.labels])).mean()
    moved = losses.cross_entropy(translated.logits[:, : view.seen], pseudo).mean()
    return {"classification": (1 - view.rho) * real, "translated": view.rho * moved}


def _der(view: View) -> Terms:
    """PyCIL: loss_clf + loss_aux; the auxiliary target 0 is any old class."""
    assert view.student.auxiliary is not None
    new = view.student.auxiliary[:, [0, *range(1 + view.old, 1 + view.seen)]]
    labels = np.maximum(view.labels - view.old + 1, 0)
    return {**_classification(view), "auxiliary": losses.cross_entropy(new, labels).mean()}


def _ccil(view: View) -> Terms:
    """The code: cls_loss_new + cls_loss_old, and KLDivLoss, the mean over all elements, T = 2."""
    new = view.labels >= view.old
    parts = {}
    for name, rows in (("new", ~view.replayed), ("old", view.replayed)):
        student, teacher = view.student.rows(rows), view.teacher.rows(rows)
        first = view.old if name == "new" else 0
        classified = losses.cross_entropy(
            student.logits[:, first : view.seen], view.labels[rows] - first
        ).mean()
        apart = losses.kl(student.logits[:, : view.old], teacher.logits[:, : view.old], 2)
        parts[name] = (classified, 4 * apart.mean() / view.old)
    assert new[~view.replayed].all()
    factor = 5 * (view.seen / (view.seen - view.old)) ** 0.66
    classification = parts["new"][0] + parts["old"][0]
    if view.problem.loss == "balanced_softmax":
        classification = view.classify(view.student)
    return {
        "classification": classification,
        "distillation": factor * (parts["new"][1] + parts["old"][1]),
    }


def _foster(view: View) -> Terms:
    """PyCIL: loss_clf + loss_fe + loss_kd, then BKD; soft cross-entropies less the entropy."""
    seen, weights = view.seen, view.extra["weights"]
    if view.problem.stage == 1:
        soft = losses.softmax(view.teacher.logits[:, :seen] / 2, weights["compression"][:seen])
        own = losses.softmax(view.student.logits[:, :seen] / 2)
        return {"compression": (soft * (log(soft) - log(own))).sum(-1).mean()}
    student, logits = view.student, view.student.logits[:, :seen]
    if view.problem.loss != "balanced_softmax":
        student = student._replace(scores=student.scores / weights["logits"])
    head, width = view.extra["head"], view.extra["head"]["weight"].shape[1]
    frozen = view.student.features.value[:, :width]
    old = (frozen @ head["weight"].T + head["bias"])[:, : view.old]
    divergence = losses.kl(logits[:, : view.old], var(old), temperature=2).mean()
    assert view.student.auxiliary is not None
    auxiliary = losses.cross_entropy(view.student.auxiliary[:, :seen], view.labels).mean()
    return {
        "classification": view.classify(student),
        "auxiliary": auxiliary,
        "distillation": divergence,
    }


TERMS: dict[str, Callable[[View], Terms]] = {
    "bic": _bic,
    "ccil": _ccil,
    "der": _der,
    "memo": _der,
    "eeil": _taskwise,
    "ewc": _ewc,
    "foster": _foster,
    "fetril": _fetril,
    "afc": _afc,
    "acil": _classification,
    "ds_al": _classification,
    "finetune": _classification,
    "icarl": _icarl,
    "il2m": _classification,
    "il_baseline": _il_baseline,
    "joint": _classification,
    "lucir": _lucir,
    "lwf": _lwf,
    "lwf_mc": _icarl,
    "pass": _pass,
    "podnet": _podnet,
    "replay": _classification,
    "ss_il": _taskwise,
    "wa": _wa,
}
