"""How well a way of training tells classes that it never saw: each is left out once."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import LabelsError
from models.cascade import Cascade, load_cascade
from models.crossvalidation import fold_progress
from models.dataset import Dataset, Progress, load_dataset
from models.evaluation_answers import answer_all
from models.evaluation_unknown import told_apart
from models.folds import grouped_folds
from models.train_settings import TrainSettings
from models.training import train_on
from models.zoo import DEPTHS

__all__ = ["LeftOut", "UnknownEvaluation", "evaluate_unknown", "leave_classes_out"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One fold.

    Attributes:
        classes: That were left out of training, and so were all captures that hold any of them.
        trained_on: Flows that were trained on.
        known: Flows judged, of classes trained on and of captures not trained on.
        unknown: Flows judged, of the classes left out and of those too rare to be trained on.
    """

    classes: tuple[str, ...]
    trained_on: int
    known: int
    unknown: int


@dataclass(frozen=True, slots=True)
class UnknownEvaluation:
    """What :func:`evaluate_unknown` finds.

    Attributes:
        flows: Labelled flows.
        classes: Among their labels.
        folds: What was left out in turn.
        unknown: Of all folds' flows together, see :func:`models.evaluation_unknown.unknown`.
        captures: Captures read.
        unlabelled: Flows without a label, left out.
        damaged: Captures that could not be read to their end, with the reason.
    """

    flows: int
    classes: int
    folds: tuple[LeftOut, ...]
    unknown: dict[str, Any]
    captures: int
    unlabelled: int
    damaged: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain objects, for JSON."""
        return asdict(self)


def evaluate_unknown(
    captures: Path,
    labels: Path,
    settings: TrainSettings,
    *,
    folds: int,
    label_column: str = "label",
    progress: Progress | None = None,
) -> UnknownEvaluation:
    """Evaluate a way of training by :func:`leave_classes_out`.

    Args:
        captures: Folder of captures.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        settings: How to train.
        folds: Into which classes and captures are dealt out.
        label_column: Name of the label's column.
        progress: Told of each step.

    Raises:
        LabelsError: The labels cannot be read, or leave too little to train on.
    """
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        depth=max(DEPTHS),
        max_wait_s=settings.max_wait_s,
        with_header=settings.with_header,
        progress=progress,
    )
    return leave_classes_out(data, settings, folds=folds, progress=progress)


def leave_classes_out(
    data: Dataset,
    settings: TrainSettings,
    *,
    folds: int = 5,
    progress: Progress | None = None,
) -> UnknownEvaluation:
    """Leave classes out of training, let the cascade judge them and known flows; and so on.

    Both classes and captures are dealt out to folds. For each, neither its classes nor its
    captures are trained on, nor any capture that holds a flow of one of its classes. All flows of
    its classes are judged, and those of its captures that are of others. So each class is unknown
    once, and known flows are as new as the unknown ones in all but their class.

    Args:
        data: Labelled flows, cut off at the settings' ``max_wait_s``.
        settings: How to train.
        folds: How many; at most as many as there are classes or captures.
        progress: Told of each step.

    Raises:
        LabelsError: A fold leaves too few flows to learn and check anything, as where all
            captures hold all classes.
        ValueError: There are fewer than two captures.
    """
    names, codes = np.unique(data.labels, return_inverse=True)
    folds = min(folds, len(names))
    order = np.random.default_rng(settings.seed).permutation(len(names))
    turn = np.empty(len(names), np.int64)
    turn[order] = np.arange(len(names)) % folds
    class_fold = turn[codes]
    capture_fold = grouped_folds(codes.astype(np.int64), data.groups, folds, settings.seed)
    novelty, deepest, new, rows, found = [], [], [], [], []
    for fold in range(folds):
        out = class_fold == fold
        kept = ~np.isin(data.groups, data.groups[out]) & (capture_fold != fold)
        left_out = tuple(map(str, names[turn == fold]))
        if not kept.any():
            raise LabelsError(
                f"every capture holds flows of {', '.join(left_out)}: leaving these classes out "
                "leaves nothing to train on; this takes captures of few classes each"
            )
        judged = np.flatnonzero(out | (capture_fold == fold))
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            report = train_on(
                data.select(kept), bundle, settings, progress=fold_progress(progress, fold, folds)
            )
            cascade = load_cascade(bundle)
        own = data.select(judged)
        novelty.append(_novelty(cascade, own, 0))
        deepest.append(_novelty(cascade, own, len(cascade.tiers) - 1))
        new.append(~np.isin(own.labels, report.classes))
        rows.append(judged)
        found.append(LeftOut(left_out, report.flows, int((~new[-1]).sum()), int(new[-1].sum())))
    at = np.concatenate(rows)
    return UnknownEvaluation(
        flows=len(data),
        classes=len(names),
        folds=tuple(found),
        unknown=told_apart(
            np.concatenate(novelty),
            np.concatenate(deepest),
            np.concatenate(new),
            data.labels[at],
            data.groups[at],
        ),
        captures=data.captures,
        unlabelled=data.unlabelled,
        damaged=data.damaged,
    )


def _novelty(cascade: Cascade, data: Dataset, first: int) -> npt.NDArray[np.float32]:
    found = answer_all(cascade, data, first).novelty
    return np.zeros(len(data), np.float32) if found is None else found
