"""The cascade against its tiers alone, on labelled captures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.cascade import load_cascade
from models.dataset import Dataset, Progress, load_dataset
from models.evaluation_answers import Study, Way, study
from models.evaluation_calibration import calibration
from models.evaluation_classes import confusion, families, per_class, read_families
from models.evaluation_escalation import escalation
from models.evaluation_intervals import intervals
from models.evaluation_timeouts import LONG_FLOW_PACKETS, by_idle_timeout
from models.evaluation_unknown import unknown
from models.evaluation_without import in_brief, ports, without_host, without_port
from models.metrics import WITHIN_MS, f1_scores
from models.novelty import UNKNOWN
from models.report import check_report_folder, write_report

__all__ = ["Evaluation", "Figures", "assess", "evaluate"]


@dataclass(frozen=True, slots=True)
class Figures:
    """One way of answering all labelled flows; latency is as :class:`Way` says.

    Attributes:
        weighted_f1: F1 by class, weighted by the class's flows.
        macro_f1: F1 by class, all weighing the same.
        answered_within_16ms: Share of the flows.
        median_latency_ms: Of all flows.
        p90_latency_ms: Of all flows.
        escalated: Share of the flows that a tier behind packet 1 answered.
        mean_wait_ms: Of the latency, what flows wait for packets.
        median_wait_ms: Of all flows.
        p90_wait_ms: Of all flows.
        mean_infer_us: Of the latency, what the models take.
    """

    weighted_f1: float
    macro_f1: float
    answered_within_16ms: float
    median_latency_ms: float
    p90_latency_ms: float
    escalated: float
    mean_wait_ms: float
    median_wait_ms: float
    p90_wait_ms: float
    mean_infer_us: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` finds.

    Attributes:
        model_version: Of the bundle.
        tiers: Names of its tiers, shallowest first.
        flows: Labelled flows; those of classes that the bundle does not know count as missed, or,
            if it gives that label, are to be labelled ``unknown``.
        classes: Classes among their labels.
        cascade: The cascade.
        fast_only: Its last tier on packet 1, whatever its confidence; None: it has none.
        slow_only: Its deepest tier, at its depth or when no more packets come.
        per_class: See :func:`models.evaluation_classes.per_class`.
        families: See :func:`models.evaluation_classes.families`; None: not asked for.
        confusion: See :func:`models.evaluation_classes.confusion`.
        calibration: See :func:`models.evaluation_calibration.calibration`.
        intervals: See :func:`models.evaluation_intervals.intervals`.
        escalation: See :func:`models.evaluation_escalation.escalation`.
        by_idle_timeout: See :func:`models.evaluation_timeouts.by_idle_timeout`.
        without_host: See :func:`models.evaluation_without.without_host`; None: no tier sees hosts.
        ports: With the responder's port and without, see :func:`models.evaluation_without.ports`.
        unknown: See :func:`models.evaluation_unknown.unknown`; None: all labels are known.
        captures: Captures read.
        unlabelled: Flows without a label, left out.
        damaged: Captures that could not be read to their end, with the reason.
    """

    model_version: str
    tiers: tuple[str, ...]
    flows: int
    classes: int
    cascade: Figures
    fast_only: Figures | None
    slow_only: Figures
    per_class: list[dict[str, Any]]
    families: dict[str, Any] | None
    confusion: dict[str, Any]
    calibration: list[dict[str, Any]]
    intervals: dict[str, Any] | None
    escalation: dict[str, Any] | None
    by_idle_timeout: list[dict[str, Any]]
    without_host: dict[str, Any] | None
    ports: dict[str, Any] | None
    unknown: dict[str, Any] | None
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
    family_column: str | None = None,
    report: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare a bundle's cascade with its tiers alone.

    Args:
        bundle: The bundle's folder.
        captures: Folder of captures, none of which it was trained on.
        labels: Their labels.csv, see :meth:`models.labels.LabelBook.read`.
        label_column: Name of the label's column.
        family_column: Name of a column that gives each label's family.
        report: Folder for figures and a model card, see :func:`models.report.write_report`.
        progress: Told of each step.

    Raises:
        BundleError: The bundle is damaged, incomplete or of another version.
        LabelsError: The labels cannot be read, or fit no flow of the captures, or a label has no
            family or two.
        SettingsError: ``report`` holds something, or what draws figures is not installed.
    """
    if report is not None:
        check_report_folder(report)
    family_of = None
    if family_column is not None:
        family_of = read_families(labels, label_column, family_column)
    cascade = load_cascade(bundle)
    data = load_dataset(
        captures,
        labels,
        label_column=label_column,
        # Deeper than the cascade looks, if need be, to tell long flows.
        depth=max(cascade.depth, LONG_FLOW_PACKETS),
        max_wait_s=cascade.max_wait_s,
        with_header=cascade.needs_header,
        progress=progress,
    )
    found = study(cascade, data, progress)
    bare = without_host(cascade, data)
    masked = without_port(cascade, data)
    by_port = ports(float(cascade.sees_port), in_brief(found), masked)
    if report is not None:
        if progress is not None:
            progress("writing the report", 0, 1)
        # Measured times differ from run to run: they stand in a file of their own.
        lasting = found.without_inference()
        result = assess(lasting, data, family_of, bare, by_port).to_dict()
        write_report(report, result, lasting, found)
    return assess(found, data, family_of, bare, by_port)


def assess(
    found: Study,
    data: Dataset,
    family_of: dict[str, str] | None = None,
    bare: dict[str, Any] | None = None,
    by_port: dict[str, Any] | None = None,
) -> Evaluation:
    """Sum a study up.

    Args:
        found: What was said of the flows.
        data: The flows.
        family_of: Family by label; None: families are left out.
        bare: What :func:`models.evaluation_without.without_host` found.
        by_port: What :func:`models.evaluation_without.ports` says.

    Raises:
        LabelsError: A label has no family.
    """
    fast = found.fast_only
    return Evaluation(
        model_version=found.model_version,
        tiers=tuple(tier.name for tier in found.tiers),
        flows=len(data),
        classes=len(np.unique(found.true)),
        cascade=_figures(found, found.cascade),
        fast_only=None if fast is None else _figures(found, fast),
        slow_only=_figures(found, found.slow_only),
        per_class=per_class(found),
        families=None if family_of is None else families(found, {UNKNOWN: UNKNOWN, **family_of}),
        confusion=confusion(found),
        calibration=calibration(found),
        intervals=intervals(found),
        escalation=escalation(found),
        by_idle_timeout=by_idle_timeout(found),
        without_host=bare,
        ports=by_port,
        unknown=unknown(found),
        captures=data.captures,
        unlabelled=data.unlabelled,
        damaged=data.damaged,
    )


def _figures(found: Study, way: Way) -> Figures:
    scores = f1_scores(found.true, way.said)
    latency_ms, wait_ms = way.latency_ms, way.wait_ms
    return Figures(
        weighted_f1=round(scores["weighted_f1"], 4),
        macro_f1=round(scores["macro_f1"], 4),
        answered_within_16ms=round(float((latency_ms <= WITHIN_MS).mean()), 4),
        median_latency_ms=round(float(np.median(latency_ms)), 4),
        p90_latency_ms=round(float(np.percentile(latency_ms, 90)), 4),
        escalated=round(float(found.escalated(way).mean()), 4),
        mean_wait_ms=round(float(wait_ms.mean()), 4),
        median_wait_ms=round(float(np.median(wait_ms)), 4),
        p90_wait_ms=round(float(np.percentile(wait_ms, 90)), 4),
        mean_infer_us=round(float(way.infer_ns.mean() / 1e3), 2),
    )
