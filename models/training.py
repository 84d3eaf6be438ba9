"""Trains a cascade on labelled captures and writes its bundle."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.bundle import BundleContents, TierModel, check_replaceable, write_bundle
from models.calibration import calibration_error
from models.candidates import (
    Candidate,
    Task,
    judge_candidate,
    mean_candidate,
    task_of,
)
from models.card import bounded_text, operating_point, with_operating_point
from models.composition import Plan
from models.composition_book import PlannedTier
from models.dataset import Dataset, Progress, load_dataset
from models.features import Sight
from models.metrics import accuracy, f1_scores
from models.resampling import CONFIDENCE, Resampled
from models.tier_training import composed
from models.train_report import (
    CandidateReport,
    TierReport,
    TrainReport,
    card_text,
    wanted_text,
)
from models.train_settings import BALANCED_COST_US, TrainSettings
from models.uncertainty import risk_coverage
from models.validation import Validation
from models.zoo import DEPTHS, Recipe, Share, extra_trees, paper_zoo, zoo

__all__ = ["BALANCED_COST_US", "TrainSettings", "train", "train_on"]

_FOLDS = 4
_FEW_GROUPS = 10
_SHARES: tuple[Share, ...] = (0.4, None)  # columns that a split of trees chooses from
_MADE_BY = ("serveflow", "numpy", "scikit-learn", "lightgbm", "torch", "onnx")


class _Steps:
    """Tells a progress callback of steps; how many there will be is a guess at first."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self.total = total
        self.done = 0

    def begin(self, step: str) -> None:
        if self._progress is not None:
            self._progress(step, self.done, max(self.total, self.done + 1))
        self.done += 1


def train(
    captures: Path,
    labels: Path,
    out: Path,
    settings: TrainSettings | None = None,
    *,
    label_column: str = "label",
    group_by: str = "pcap",
    progress: Progress | None = None,
) -> TrainReport:
    """Train a cascade and write its bundle.

    Everything that is chosen (what is seen, the tiers, calibration, gates, thresholds) is chosen
    by cross-validation in which a capture is never on both sides. The same input gives the same
    models; costs are measured, and where they decide, another machine may decide otherwise.

    Args:
        captures: Folder of captures.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        out: Folder for the bundle; a bundle that is there is replaced.
        settings: How; the defaults when left out.
        label_column: Name of the label's column.
        group_by: ``pcap``, or the column of ``labels`` whose values stay on one side of a split.
        progress: Told of each step.

    Raises:
        LabelsError: The labels fit too little of the captures to learn and check anything.
        BundleError: ``out`` holds something else than a bundle.
    """
    check_replaceable(out)
    chosen = settings or TrainSettings()
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        group_by=group_by,
        depth=max(DEPTHS),
        max_wait_s=chosen.max_wait_s,
        with_header=chosen.with_header,
        progress=progress,
    )
    return train_on(data, out, chosen, progress=progress)


def train_on(
    data: Dataset,
    out: Path,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a cascade on flows that have been read already; see :func:`train`.

    Args:
        data: Labelled flows, cut off at the settings' ``max_wait_s``, and with their headers'
            bytes if the settings need them.
        out: Folder for the bundle; a bundle that is there is replaced.
        settings: How; the defaults when left out.
        progress: Told of each step.

    Raises:
        LabelsError: There are too few flows to learn and check anything.
        BundleError: ``out`` holds something else than a bundle.
    """
    check_replaceable(out)
    begin_s = time.monotonic()
    chosen = settings or TrainSettings()
    # With few captures each one left out is missed: then every capture is a fold of its own.
    groups = len(np.unique(data.groups))
    folds = groups if groups <= _FEW_GROUPS else _FOLDS
    task = task_of(data, folds, chosen.seed, chosen.max_wait_s)
    steps = _Steps(progress, 20)
    candidates: list[Candidate] = []
    if chosen.preset == "paper":
        sight, recipes = Sight(), paper_zoo()
    else:
        candidates, sight, share = _choose_sight(task, chosen, steps)
        recipes = zoo(chosen.effort, share, costly=not np.isfinite(chosen.goal.max_cost_us))
    steps.total = steps.done + len(recipes) + 6
    judged = {one.name: one for one in candidates}
    skipped = _judge_all(task, recipes, sight, judged, begin_s + chosen.time_limit_s, steps)
    usable = [one for one in judged.values() if one.sight == sight]
    plan, models = composed(task, usable, chosen, steps.begin)
    return _write(task, chosen, models, list(judged.values()), skipped, plan, out, begin_s)


def _choose_sight(
    task: Task, settings: TrainSettings, steps: _Steps
) -> tuple[list[Candidate], Sight, Share]:
    """Find what to look at with extremely randomised trees on the first and on all packets.

    Seeing more is more that may be different elsewhere: its gain must be beyond doubt.
    """

    def judged(share: Share, sight: Sight) -> list[Candidate]:
        found = []
        for depth in (DEPTHS[0], DEPTHS[-1]):
            recipe = extra_trees(depth, 20, share)
            steps.begin(f"validating {recipe.name}{'+host' * sight.host}{'+port' * sight.port}")
            found.append(judge_candidate(task, recipe, sight))
        return found

    scored = Resampled(task.true, task.data.groups, len(task.classes), task.seed)

    def weighted_f1(found: list[Candidate]) -> npt.NDArray[np.float64]:
        by_depth = [scored.scores(one.scores.argmax(axis=1))[:, 0] for one in found]
        return np.asarray(np.mean(by_depth, axis=0))

    sight = Sight(port=settings.port or False, host=settings.host or False)
    by_share = {share: judged(share, sight) for share in _SHARES}
    share = max(by_share, key=lambda one: weighted_f1(by_share[one])[0])
    best, every = by_share[share], [*by_share[share]]
    open_to = [name for name in ("port", "host") if getattr(settings, name) is None]
    while open_to:
        trials = {name: judged(share, replace(sight, **{name: True})) for name in open_to}
        every += [one for found in trials.values() for one in found]
        gains = {name: weighted_f1(found) - weighted_f1(best) for name, found in trials.items()}
        most = max(gains, key=lambda name: float(gains[name][0]))
        if np.quantile(gains[most][1:], 1.0 - CONFIDENCE) <= 0.0:
            break
        sight, best = replace(sight, **{most: True}), trials[most]
        open_to.remove(most)
    other = replace(sight, port=not sight.port)
    if all(one.sight != other for one in every):  # for the report alone
        every += judged(share, other)
    return every, sight, share


def _by_port(candidates: list[Candidate], sight: Sight) -> dict[str, dict[str, float]]:
    """Return weighted F1 with the responder's port and without, where both were tried."""
    found = {}
    for name, port in (("with", True), ("without", False)):
        seen = [one for one in candidates if one.sight == replace(sight, port=port)]
        found[name] = {one.recipe.name: round(one.weighted_f1, 4) for one in seen}
    both = set(found["with"]) & set(found["without"])
    return {
        name: {recipe: own[recipe] for recipe in own if recipe in both}
        for name, own in found.items()
        if both
    }


def _judge_all(
    task: Task,
    recipes: tuple[Recipe, ...],
    sight: Sight,
    judged: dict[str, Candidate],
    until_s: float,
    steps: _Steps,
) -> tuple[str, ...]:
    """Judge what has not been judged, while there is time; return what was left out."""
    by_recipe = {one.recipe.name: one for one in judged.values() if one.sight == sight}
    skipped = []
    for recipe in recipes:
        steps.begin(f"validating {recipe.name}")
        if recipe.name in by_recipe:
            continue
        if recipe.parts and all(part.name in by_recipe for part in recipe.parts):
            parts = [by_recipe[part.name] for part in recipe.parts]
            found = mean_candidate(task, recipe, parts)
        elif recipe.parts or time.monotonic() > until_s:
            skipped.append(recipe.name)
            continue
        else:
            found = judge_candidate(task, recipe, sight)
        by_recipe[recipe.name] = judged[found.name] = found
    return tuple(skipped)


def _tier_report(task: Task, model: TierModel, tier: PlannedTier) -> TierReport:
    scores = tier.candidate.scores
    said = scores.argmax(axis=1)
    right = said == task.true
    found = f1_scores(task.true, said)
    files = model.engine.files() if model.engine is not None else {}
    areas = risk_coverage(scores, task.true, task.fold)
    return TierReport(
        name=model.name,
        depth=model.depth,
        weighted_f1=round(found["weighted_f1"], 4),
        macro_f1=round(found["macro_f1"], 4),
        accuracy=round(accuracy(task.true, said), 4),
        calibration_error=round(calibration_error(tier.confidence, right), 4),
        risk_coverage={name: round(area, 4) for name, area in areas.items()},
        threshold=model.threshold,
        bytes=sum(len(data) for data in files.values()),
        cost_us=model.cost_us,
    )


def _write(
    task: Task,
    settings: TrainSettings,
    models: list[TierModel],
    judged: list[Candidate],
    skipped: tuple[str, ...],
    plan: Plan,
    out: Path,
    begin_s: float,
) -> TrainReport:
    assignment = plan.assignment
    report = TrainReport(
        model_version="",
        operating_point=settings.operating_point,
        flows=len(task.data),
        groups=len(np.unique(task.data.groups)),
        classes=task.classes,
        dropped_classes=task.dropped,
        unlabelled=task.data.unlabelled,
        damaged=task.data.damaged,
        tiers=tuple(
            _tier_report(task, model, tier) for model, tier in zip(models, plan.tiers, strict=True)
        ),
        candidates=tuple(
            CandidateReport(
                one.name,
                one.recipe.depth,
                round(one.weighted_f1, 4),
                round(one.macro_f1, 4),
                one.cost_us,
            )
            for one in judged
        ),
        skipped=skipped,
        with_port=models[0].sight.port,
        with_host=models[0].sight.host,
        by_port=_by_port(judged, models[0].sight),
        gate=models[0].gate.kind,
        by_gate={
            kind: (round(found.within_16ms, 4), round(found.typical_wait_ms, 2))
            for kind, found in plan.gates.items()
        },
        early=round(assignment.early, 4),
        loss=round(assignment.loss, 4),
        loss_bound=round(assignment.loss_bound, 4),
        within_16ms=round(assignment.within_16ms, 4),
        escalated=round(assignment.escalated, 4),
        mean_cost_us=round(assignment.cost_us, 2),
        met=settings.goal.met(assignment),
        seconds=0.0,
    )
    section = operating_point(
        assignment,
        [(model.name, model.depth) for model in models],
        wanted=wanted_text(settings, assignment),
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
        unknown_from=settings.unknown_from,
    )
    data = task.data
    kept = tuple(tier.judged for tier in plan.tiers)
    validation = Validation(task.true, data.groups, data.sizes, kept)
    model_version = write_bundle(contents, out, validation)
    seconds = round(time.monotonic() - begin_s, 1)
    return replace(report, model_version=model_version, seconds=seconds)


def _made_with() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _MADE_BY:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a checkout that was not installed has no version
    return found
