"""How a way of training does on captures that it never saw: trained anew for each fold.

Everything that training chooses, thresholds and gates included, is chosen without the fold that is
judged. So the figures are of the way of training, not of one bundle.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flows.errors import SettingsError
from models.cascade import NO_TIER, Tier, load_cascade
from models.dataset import Dataset, Progress, load_dataset
from models.evaluation import Evaluation, assess
from models.evaluation_answers import Answers, Study, Way, study
from models.evaluation_classes import read_families
from models.evaluation_without import in_brief, ports
from models.folds import grouped_folds
from models.report import check_report_folder, write_report
from models.train_report import TrainReport
from models.training import TrainSettings, train_on
from models.zoo import DEPTHS

__all__ = ["cross_validate", "evaluate_training", "fold_progress", "pooled"]


def evaluate_training(
    captures: Path,
    labels: Path,
    settings: TrainSettings,
    *,
    folds: int,
    label_column: str = "label",
    family_column: str | None = None,
    report: Path | None = None,
    both_ports: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a way of training by :func:`cross_validate`.

    Args:
        captures: Folder of captures.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        settings: How to train.
        folds: Into which captures are dealt out.
        label_column: Name of the label's column.
        family_column: Name of a column that gives each label's family.
        report: Folder for figures and a model card, see :func:`models.report.write_report`.
        both_ports: Train for each fold without the responder's port, which is what all figures
            are of, and once more with it, for :attr:`models.evaluation.Evaluation.ports`.
        progress: Told of each step.

    Raises:
        LabelsError: The labels cannot be read, fit too little of the captures, or a label has no
            family or two.
        SettingsError: ``report`` holds something, or what draws figures is not installed, or
            ``both_ports`` are asked for by settings that leave no choice.
    """
    if both_ports and (settings.port is not None or settings.preset != "search"):
        raise SettingsError("--both-ports trains with and without: leave out --port and --preset")
    if report is not None:
        check_report_folder(report)
    family_of = None
    if family_column is not None:
        family_of = read_families(labels, label_column, family_column)
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        depth=max(DEPTHS),
        max_wait_s=settings.max_wait_s,
        with_header=settings.with_header,
        progress=progress,
    )
    other = None
    if both_ports:
        seeing = replace(settings, port=True)
        other = in_brief(cross_validate(data, seeing, folds=folds, progress=progress)[0])
        settings = replace(settings, port=False)
    found, trained = cross_validate(data, settings, folds=folds, progress=progress)
    seen = round(float(np.mean([one.with_port for one in trained])), 4)
    by_port = ports(seen, in_brief(found), other, "trained")
    if report is not None:
        lasting = found.without_inference()
        result = assess(lasting, data, family_of, by_port=by_port).to_dict()
        write_report(report, result, lasting, found)
    return assess(found, data, family_of, by_port=by_port)


def cross_validate(
    data: Dataset,
    settings: TrainSettings,
    *,
    folds: int = 5,
    progress: Progress | None = None,
) -> tuple[Study, tuple[TrainReport, ...]]:
    """Train on all folds but one, judge that one, and so on; return all judgements together.

    Args:
        data: Labelled flows, cut off at the settings' ``max_wait_s``.
        settings: How to train.
        folds: Into which captures are dealt out.
        progress: Told of each step.

    Raises:
        LabelsError: A fold leaves too few flows to learn and check anything.
        ValueError: There are fewer captures than two.
    """
    _, codes = np.unique(data.labels, return_inverse=True)
    fold = grouped_folds(codes.astype(np.int64), data.groups, folds, settings.seed)
    names = np.unique(fold).tolist()
    studies, reports, rows = [], [], []
    for number, one in enumerate(names):
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            told = fold_progress(progress, number, len(names))
            reports.append(train_on(data.select(fold != one), bundle, settings, progress=told))
            cascade = load_cascade(bundle)
        rows.append(np.flatnonzero(fold == one))
        studies.append(study(cascade, data.select(rows[-1])))
    return pooled(studies, rows, data.group_names), tuple(reports)


def fold_progress(progress: Progress | None, fold: int, folds: int) -> Progress | None:
    """Return what tells ``progress`` of the steps of one fold, counted from 0."""
    if progress is None:
        return None

    def on_progress(step: str, done: int, total: int) -> None:
        progress(f"fold {fold + 1} of {folds}: {step}", fold * total + done, folds * total)

    return on_progress


def pooled(
    studies: Sequence[Study], rows: Sequence[npt.NDArray[np.int64]], captures: tuple[str, ...]
) -> Study:
    """Return the studies of several cascades, each one of other flows, as one.

    The cascades may have different tiers. Those of a depth are matched from the last one on, and
    the deepest with the deepest; where a cascade has no such tier, none was asked.

    Args:
        studies: One for each cascade.
        rows: Which flows it judged, int64 ``[k]``.
        captures: Names of all captures.
    """
    places = [_places(one) for one in studies]
    order = sorted({place for found in places for place in found})
    names = sorted({name for one in studies for name in one.names})
    number = {name: i for i, name in enumerate(names)}
    back = np.argsort(np.concatenate(rows))

    def joined(parts: list[Way]) -> Way:
        fields = [
            np.concatenate([getattr(part, name) for part in parts])[back]
            for name in ("said", "confidence", "tier", "wait_ns", "infer_ns")
        ]
        return Way(*fields)

    def moved(i: int, way: Way) -> Way:
        tiers = np.full(256, NO_TIER, np.uint8)
        tiers[: len(places[i])] = [order.index(place) for place in places[i]]
        labels = np.array([number[name] for name in studies[i].names])
        return Way(labels[way.said], way.confidence, tiers[way.tier], way.wait_ns, way.infer_ns)

    def alone(place: tuple[int, int]) -> Way:
        parts = []
        for i, one in enumerate(studies):
            at = places[i].index(place) if place in places[i] else None
            parts.append(_nobody(len(one.true)) if at is None else moved(i, one.alone[at]))
        return joined(parts)

    def together(t: int) -> Answers:
        found = [one.by_idle_timeout[t] for one in studies]
        return Answers(
            found[0].idle_timeout_s,
            joined([moved(i, one.cascade) for i, one in enumerate(found)]),
            joined([moved(i, one.slow_only) for i, one in enumerate(found)]),
        )

    true = [np.array([number[name] for name in one.names])[one.true] for one in studies]
    return Study(
        model_version="cross-validation",
        tiers=tuple(_tier(place, studies, places) for place in order),
        fast_tiers=sum(depth == 1 for depth, _ in order[:-1]),
        names=tuple(names),
        true=np.concatenate(true)[back],
        groups=np.concatenate([one.groups for one in studies])[back],
        captures=captures,
        sizes=np.concatenate([one.sizes for one in studies])[back],
        cascade=joined([moved(i, one.cascade) for i, one in enumerate(studies)]),
        alone=tuple(alone(place) for place in order),
        by_idle_timeout=tuple(together(t) for t in range(len(studies[0].by_idle_timeout))),
    )


_DEEPEST = (1 << 30, 0)


def _places(one: Study) -> list[tuple[int, int]]:
    """Return for each tier its depth and, below 0, how many of that depth stand behind it."""
    depths = [tier.depth for tier in one.tiers[:-1]]
    behind = [(depth, -depths[t + 1 :].count(depth)) for t, depth in enumerate(depths)]
    return [*behind, _DEEPEST]


def _tier(
    place: tuple[int, int], studies: Sequence[Study], places: list[list[tuple[int, int]]]
) -> Tier:
    found = [
        one.tiers[own.index(place)]
        for one, own in zip(studies, places, strict=True)
        if place in own
    ]
    ((common, _),) = Counter(found).most_common(1)
    return common


def _nobody(n: int) -> Way:
    return Way(
        np.zeros(n, np.int64),
        np.zeros(n, np.float32),
        np.full(n, NO_TIER, np.uint8),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
