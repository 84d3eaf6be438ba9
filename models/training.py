"""Trains a cascade on labelled captures and writes its bundle."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flows.errors import LabelsError
from models.assignment import NEVER, Assignment, Judgements, assign
from models.bundle import BundleContents, TierModel, check_replaceable, write_bundle
from models.calibration import Calibration, calibration_error, fit_calibration
from models.card import bounded_text, operating_point, with_operating_point
from models.dataset import Dataset, Progress, load_dataset
from models.folds import grouped_folds
from models.manifest import MAX_WAIT_S
from models.metrics import accuracy, f1_scores
from models.train_report import TierReport, TrainReport, card_text
from models.uncertainty import calibrated, risk_coverage
from models.validation import Validation
from models.zoo import DEEP, FAST, MIDDLE, Recipe, inputs_of

__all__ = ["train", "train_on"]

_FOLDS = 4
_FEWEST_FLOWS = 10  # of a class
_FEWEST_GROUPS = 2  # that hold a class: one to learn from, one to check with
_PORT_GAIN = 0.002  # weighted F1 that the port must bring: what runs on which port is a habit
_MIDDLE_GAIN = 0.05  # that a tier in between must take off the mean logarithm of the waits
_LOSS_BUDGET = 0.005  # weighted F1 or accuracy that answering early may cost
_WANTED = (
    "Chosen by training: the shortest waits at which the loss of weighted F1 and of accuracy is "
    f"bounded by {100 * _LOSS_BUDGET:g} percentage points. `serveflow tune` chooses anew, without "
    "training."
)
_MADE_BY = ("serveflow", "numpy", "scikit-learn", "torch", "onnx")


@dataclass(frozen=True, slots=True)
class _Task:
    """Flows to learn from, with the classes as numbers."""

    data: Dataset
    classes: tuple[str, ...]
    true: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    seed: int
    max_wait_s: float
    dropped: dict[str, int]


class _Steps:
    """Tells a progress callback of steps."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def begin(self, step: str) -> None:
        if self._progress is not None:
            self._progress(step, self._done, self._total)
        self._done += 1


def train(
    captures: Path,
    labels: Path,
    out: Path,
    *,
    label_column: str = "label",
    group_by: str = "pcap",
    max_wait_s: float = MAX_WAIT_S,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a cascade and write its bundle; the same input gives the same bundle.

    Everything that is chosen (port or not, the deepest model, calibration, thresholds) is chosen
    by cross-validation in which a capture is never on both sides.

    Args:
        captures: Folder of captures.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        out: Folder for the bundle; a bundle that is there is replaced.
        label_column: Name of the label's column.
        group_by: ``pcap``, or the column of ``labels`` whose values stay on one side of a split.
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        seed: Of all that is drawn.
        progress: Told of each step.

    Raises:
        LabelsError: The labels fit too little of the captures to learn and check anything.
        BundleError: ``out`` holds something else than a bundle.
    """
    check_replaceable(out)
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        group_by=group_by,
        depth=max(recipe.depth for recipe in DEEP),
        max_wait_s=max_wait_s,
        progress=progress,
    )
    return train_on(data, out, seed=seed, max_wait_s=max_wait_s, progress=progress)


def train_on(
    data: Dataset,
    out: Path,
    *,
    max_wait_s: float = MAX_WAIT_S,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a cascade on flows that have been read already; see :func:`train`.

    Args:
        data: Labelled flows, cut off at ``max_wait_s``.
        out: Folder for the bundle; a bundle that is there is replaced.
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        seed: Of all that is drawn.
        progress: Told of each step.

    Raises:
        LabelsError: There are too few flows to learn and check anything.
        BundleError: ``out`` holds something else than a bundle.
    """
    check_replaceable(out)
    begin_s = time.monotonic()
    task = _task(data, seed, max_wait_s)
    steps = _Steps(progress, 3 * len(FAST) + 2 * len(MIDDLE) + len(DEEP) + 2)
    scores: dict[tuple[str, bool], npt.NDArray[np.float32]] = {}
    for with_port in (False, True):
        for recipe in (*FAST, DEEP[0]):
            steps.begin(f"validating {recipe.name}{'+port' if with_port else ''}")
            scores[recipe.name, with_port] = _out_of_fold(task, recipe, with_port)
    with_port = _port_pays(task, scores)
    for recipe in (*MIDDLE, *DEEP[1:]):
        steps.begin(f"validating {recipe.name}{'+port' if with_port else ''}")
        scores[recipe.name, with_port] = _out_of_fold(task, recipe, with_port)
    own = {recipe.name: scores[recipe.name, with_port] for recipe in (*FAST, *MIDDLE, *DEEP)}
    deepest = max(DEEP, key=lambda recipe: _weighted_f1(task, own[recipe.name]))
    plan = _plan(task, (*FAST, deepest), own)
    for n in range(1, len(MIDDLE) + 1):
        for middle in combinations(MIDDLE, n):
            longer = _plan(task, (*FAST, *middle, deepest), own)
            if longer.assignment.wait <= plan.assignment.wait - _MIDDLE_GAIN:
                plan = longer
    models = []
    reports = []
    for recipe, calibration, threshold in zip(
        plan.recipes, plan.calibrations, (*plan.assignment.thresholds, NEVER), strict=True
    ):
        steps.begin(f"training {recipe.name}")
        model = _final(task, recipe, with_port, calibration, threshold)
        models.append(model)
        reports.append(_tier_report(task, model, own[recipe.name]))
    candidates = {
        f"{name}{'+port' if port else ''}": round(_weighted_f1(task, s), 4)
        for (name, port), s in scores.items()
    }
    return _write(task, models, reports, candidates, plan, out, begin_s)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A choice of tiers, with all that is found on flows that they were not trained on."""

    recipes: tuple[Recipe, ...]
    calibrations: tuple[Calibration, ...]
    judged: tuple[Judgements, ...]
    assignment: Assignment


def _plan(
    task: _Task, recipes: tuple[Recipe, ...], own: dict[str, npt.NDArray[np.float32]]
) -> _Plan:
    calibrations = []
    judged = []
    for recipe in recipes:
        scores = own[recipe.name]
        said, top = scores.argmax(axis=1), _top(scores)
        calibration = fit_calibration(top, said == task.true)
        calibrations.append(calibration)
        judged.append(
            Judgements(said, calibration(top), recipe.depth, task.data.wait_ns(recipe.depth))
        )
    data = task.data
    assignment = assign(
        task.true, data.groups, judged, data.sizes, budget=_LOSS_BUDGET, seed=task.seed
    )
    return _Plan(recipes, tuple(calibrations), tuple(judged), assignment)


def _task(data: Dataset, seed: int, max_wait_s: float) -> _Task:
    """Leave out classes too rare to learn and to check; number the others."""
    names, at, counts = np.unique(data.labels, return_inverse=True, return_counts=True)
    groups = np.array([len(np.unique(data.groups[at == c])) for c in range(len(names))])
    kept = (counts >= _FEWEST_FLOWS) & (groups >= _FEWEST_GROUPS)
    dropped = {str(names[c]): int(counts[c]) for c in np.flatnonzero(~kept)}
    if kept.sum() < 2:
        raise LabelsError(
            f"{int(kept.sum())} of the {len(names)} classes have {_FEWEST_FLOWS} flows in "
            f"{_FEWEST_GROUPS} captures or more; at least 2 such classes are needed"
        )
    chosen = data.select(kept[at])
    classes, true = np.unique(chosen.labels, return_inverse=True)
    true = true.astype(np.int64)
    fold = grouped_folds(true, chosen.groups, _FOLDS, seed)
    return _Task(chosen, tuple(map(str, classes)), true, fold, seed, max_wait_s, dropped)


def _out_of_fold(task: _Task, recipe: Recipe, with_port: bool) -> npt.NDArray[np.float32]:
    """Return what a tier scores flows that it was not trained on, float32 ``[n, classes]``."""
    inputs = inputs_of(recipe, task.data, with_port)
    scores = np.zeros((len(inputs), len(task.classes)), np.float32)
    for fold in np.unique(task.fold):
        rest = task.fold != fold
        engine = recipe.fit(
            inputs[rest], task.true[rest], task.data.groups[rest], len(task.classes), task.seed
        )
        scores[~rest] = engine.scores(inputs[~rest])
    return scores


def _port_pays(task: _Task, scores: dict[tuple[str, bool], npt.NDArray[np.float32]]) -> bool:
    gains = [
        _weighted_f1(task, scores[recipe.name, True])
        - _weighted_f1(task, scores[recipe.name, False])
        for recipe in (FAST[-1], DEEP[0])
    ]
    return bool(np.mean(gains) >= _PORT_GAIN)


def _final(
    task: _Task, recipe: Recipe, with_port: bool, calibration: Calibration, threshold: float
) -> TierModel:
    engine = recipe.fit(
        inputs_of(recipe, task.data, with_port),
        task.true,
        task.data.groups,
        len(task.classes),
        task.seed,
    )
    return TierModel(
        recipe.name, recipe.depth, threshold, recipe.inputs, with_port, calibration, engine
    )


def _tier_report(task: _Task, model: TierModel, scores: npt.NDArray[np.float32]) -> TierReport:
    said, top = scores.argmax(axis=1), _top(scores)
    right = said == task.true
    confidence = calibrated(top, right, task.fold)
    areas = risk_coverage(scores, task.true, task.fold)
    found = f1_scores(task.true, said)
    files = model.engine.files() if model.engine is not None else {}
    return TierReport(
        name=model.name,
        depth=model.depth,
        weighted_f1=round(found["weighted_f1"], 4),
        macro_f1=round(found["macro_f1"], 4),
        accuracy=round(accuracy(task.true, said), 4),
        calibration_error=round(calibration_error(confidence, right), 4),
        risk_coverage={name: round(area, 4) for name, area in areas.items()},
        threshold=model.threshold,
        bytes=sum(len(data) for data in files.values()),
    )


def _write(
    task: _Task,
    models: list[TierModel],
    reports: list[TierReport],
    candidates: dict[str, float],
    plan: _Plan,
    out: Path,
    begin_s: float,
) -> TrainReport:
    assignment = plan.assignment
    report = TrainReport(
        model_version="",
        flows=len(task.data),
        groups=len(np.unique(task.data.groups)),
        classes=task.classes,
        dropped_classes=task.dropped,
        unlabelled=task.data.unlabelled,
        damaged=task.data.damaged,
        tiers=tuple(reports),
        candidates=candidates,
        with_port=models[0].with_port,
        early=round(assignment.early, 4),
        loss=round(assignment.loss, 4),
        loss_bound=round(assignment.loss_bound, 4),
        within_16ms=round(assignment.within_16ms, 4),
        escalated=round(assignment.escalated, 4),
        seconds=0.0,
    )
    section = operating_point(
        assignment,
        [(model.name, model.depth) for model in models],
        wanted=_WANTED,
        guaranteed=bounded_text(report.groups),
        flows=report.flows,
        groups=report.groups,
    )
    contents = BundleContents(
        classes=task.classes,
        tiers=tuple(models),
        card=with_operating_point(card_text(report), section),
        training_data=task.data.digest,
        made_with=_made_with(),
        max_wait_s=task.max_wait_s,
    )
    validation = Validation(task.true, task.data.groups, task.data.sizes, plan.judged)
    model_version = write_bundle(contents, out, validation)
    return replace(
        report, model_version=model_version, seconds=round(time.monotonic() - begin_s, 1)
    )


def _weighted_f1(task: _Task, scores: npt.NDArray[np.float32]) -> float:
    return f1_scores(task.true, scores.argmax(axis=1))["weighted_f1"]


def _top(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(scores.max(axis=1))


def _made_with() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _MADE_BY:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a checkout that was not installed has no version
    return found
