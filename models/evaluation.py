"""The cascade against its tiers alone, on labelled captures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.packet import Array, Records
from flows.verdict import ANSWER_DTYPE
from models.cascade import Cascade, load_cascade
from models.dataset import Dataset, Progress, load_dataset
from models.metrics import WITHIN_MS, f1_scores

__all__ = ["Evaluation", "Figures", "evaluate"]

_BATCH = 64  # flows judged in one call: each one waits for all of them


@dataclass(frozen=True, slots=True)
class Figures:
    """One way of answering all labelled flows.

    Latency is the capture's time from the first packet to what the answer had to wait for, plus
    the measured time of the models; what lies between them in a deployment is not in it.

    Attributes:
        weighted_f1: F1 by class, weighted by the class's flows.
        macro_f1: F1 by class, all weighing the same.
        answered_within_16ms: Share of the flows.
        median_latency_ms: Of all flows.
        p90_latency_ms: Of all flows.
        escalated: Share of the flows that a tier behind packet 1 answered.
    """

    weighted_f1: float
    macro_f1: float
    answered_within_16ms: float
    median_latency_ms: float
    p90_latency_ms: float
    escalated: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` finds.

    Attributes:
        flows: Labelled flows; those of classes that the bundle does not know count as missed.
        classes: Classes among their labels.
        cascade: The cascade.
        fast_only: Its last tier on packet 1, whatever its confidence; None: it has none.
        slow_only: Its deepest tier, at its depth or when no more packets come.
        captures: Captures read.
        unlabelled: Flows without a label, left out.
        damaged: Captures that could not be read to their end, with the reason.
    """

    flows: int
    classes: int
    cascade: Figures
    fast_only: Figures | None
    slow_only: Figures
    captures: int
    unlabelled: int
    damaged: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain objects, for JSON."""
        return asdict(self)


def evaluate(
    bundle: Path,
    captures: Path,
    labels: Path,
    *,
    label_column: str = "label",
    progress: Progress | None = None,
) -> Evaluation:
    """Compare a bundle's cascade with its tiers alone.

    Args:
        bundle: The bundle's folder.
        captures: Folder of captures, none of which it was trained on.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        label_column: Name of the label's column.
        progress: Told of each step.

    Raises:
        BundleError: The bundle is damaged, incomplete or of another version.
        LabelsError: The labels cannot be read, or fit no flow of the captures.
    """
    cascade = load_cascade(bundle)
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        depth=cascade.depth,
        max_wait_s=cascade.max_wait_s,
        progress=progress,
    )
    last, fast = len(cascade.tiers) - 1, cascade.fast_tiers
    return Evaluation(
        flows=len(data),
        classes=len(np.unique(data.labels)),
        cascade=_figures(cascade, data, _answer(cascade, data, 0, None)),
        fast_only=_figures(cascade, data, _answer(cascade, data, fast - 1, fast)) if fast else None,
        slow_only=_figures(cascade, data, _answer(cascade, data, last, None)),
        captures=data.captures,
        unlabelled=data.unlabelled,
        damaged=data.damaged,
    )


def _answer(cascade: Cascade, data: Dataset, first: int, stop: int | None) -> Records:
    """Judge all flows from tier ``first`` on, in calls of the size that a service makes."""
    answers = np.empty(len(data), ANSWER_DTYPE)
    parts = [slice(at, min(at + _BATCH, len(data))) for at in range(0, len(data), _BATCH)]
    # The first call compiles and touches memory; what it took is not the models' time.
    for part in (parts[0], *parts):
        offsets = data.offsets[part.start : part.stop + 1]
        n = part.stop - part.start
        # No packet comes after those of the dataset, as deep as the deepest tier looks.
        answers[part] = cascade.answer(
            data.packets[offsets[0] : offsets[-1]],
            offsets - offsets[0],
            np.full(n, first, np.uint8),
            np.ones(n, np.uint8),
            stop_tier=stop,
        )
    return answers


def _figures(cascade: Cascade, data: Dataset, answers: Records) -> Figures:
    said = np.array(cascade.classes)[answers["label"]]
    latency_ms = (_wait_ns(cascade, data, answers["tier"]) + answers["infer_ns"]) / 1e6
    found = f1_scores(data.labels, said)
    return Figures(
        weighted_f1=round(found["weighted_f1"], 4),
        macro_f1=round(found["macro_f1"], 4),
        answered_within_16ms=round(float((latency_ms <= WITHIN_MS).mean()), 4),
        median_latency_ms=round(float(np.median(latency_ms)), 4),
        p90_latency_ms=round(float(np.percentile(latency_ms, 90)), 4),
        escalated=round(float((answers["tier"] >= cascade.fast_tiers).mean()), 4),
    )


def _wait_ns(cascade: Cascade, data: Dataset, tier: Array) -> npt.NDArray[np.int64]:
    """Return how long each flow waited for the packets of the tier that answered it."""
    wait_ns = np.zeros(len(data), np.int64)
    for t, own in enumerate(cascade.tiers):
        wait_ns = np.where(tier == t, data.wait_ns(own.depth), wait_ns)
    return wait_ns
