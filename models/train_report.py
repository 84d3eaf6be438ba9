"""What training found, as an object and as the first part of the bundle's card.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.goals import Assignment
from models.train_settings import TrainSettings
from models.uncertainty import SCORES

__all__ = ["CandidateReport", "TierReport", "TrainReport", "card_text", "wanted_text"]


@dataclass(frozen=True, slots=True)
class TierReport:
    """How a tier does on captures that it was not trained on (cross-validation).

    Attributes:
        name: Its name.
        depth: First packets that it judges.
        weighted_f1: Alone, on all flows.
        macro_f1: Alone, on all flows.
        accuracy: Alone, on all flows.
        calibration_error: Expected calibration error after calibration on other captures, before it
            is shifted to the flows that reach the tier (:mod:`models.recalibration`).
        risk_coverage: Area under the risk-coverage curve, less is better, by each of
            :data:`models.uncertainty.SCORES`, calibrated on other captures. The runtime goes by
            ``least_confidence``.
        threshold: Assurance from which on its answer is final; 2: never.
        bytes: Size of its files.
        cost_us: What it takes a flow, features included, microseconds, by flows in a call.
    """

    name: str
    depth: int
    weighted_f1: float
    macro_f1: float
    accuracy: float
    calibration_error: float
    risk_coverage: dict[str, float]
    threshold: float
    bytes: int
    cost_us: dict[int, float]


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What was tried, judged on captures that it was not trained on.

    Attributes:
        name: Its name; ``+host`` and ``+port`` say what it sees beyond the flow's headers.
        depth: First packets that it judges.
        weighted_f1: On all flows.
        macro_f1: On all flows.
        cost_us: What it takes a flow, features included, microseconds, by flows in a call.
    """

    name: str
    depth: int
    weighted_f1: float
    macro_f1: float
    cost_us: dict[int, float]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained on what, and what it is worth.

    Attributes:
        model_version: The bundle's version.
        operating_point: ``balanced`` or ``accurate``.
        flows: Labelled flows that were learned from.
        groups: Groups (captures) that they come from.
        classes: Names of the classes.
        dropped_classes: Flows of classes too rare to be learned and checked, by class.
        unlabelled: Flows of the captures that have no label.
        damaged: Captures that could not be read to their end, with the reason.
        tiers: The bundle's tiers.
        candidates: All that was tried.
        skipped: What was left out, as time had run out.
        with_port: Whether the tiers see the responder's port.
        with_host: Whether the tiers see what the flow's host did before.
        by_port: Weighted F1 of the same models ``with`` the responder's port and ``without``, by
            their names, on captures that they were not trained on; none if no port can be seen.
        gate: What their thresholds are compared with, see :mod:`models.gates`.
        by_gate: Share of flows within 16 ms and typical wait (ms), by kind of gate.
        early: Expected share of flows that are answered before the deepest tier.
        loss: Expected loss of weighted F1 against the deepest tier alone.
        loss_bound: Its upper bound (one-sided 90 %, of F1 and accuracy the greater).
        within_16ms: Expected share of flows that wait for packets for 16 ms at most.
        escalated: Expected share of flows that are answered behind packet 1.
        mean_cost_us: Expected model time of a flow, microseconds.
        met: Whether the operating point's limits of loss and cost are both kept to.
        seconds: How long it took, after the captures had been read.
    """

    model_version: str
    operating_point: str
    flows: int
    groups: int
    classes: tuple[str, ...]
    dropped_classes: dict[str, int]
    unlabelled: int
    damaged: tuple[tuple[str, str], ...]
    tiers: tuple[TierReport, ...]
    candidates: tuple[CandidateReport, ...]
    skipped: tuple[str, ...]
    with_port: bool
    with_host: bool
    by_port: dict[str, dict[str, float]]
    gate: str
    by_gate: dict[str, tuple[float, float]]
    early: float
    loss: float
    loss_bound: float
    within_16ms: float
    escalated: float
    mean_cost_us: float
    met: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain objects, for JSON."""
        return asdict(self)


_GATES = {
    "benefit": "what a gate has learned of the benefit of asking the deepest tier",
    "confidence": "least confidence, the calibrated score of the top class",
    "margin": "the margin",
    "entropy": "the entropy",
}

_CARD = """\
# ServeFlow cascade

Names the class of a network flow from header fields of its first packets. It sees no address and
no payload{port}.{host}

All figures are cross-validated by capture: no tier was trained on the captures that it is judged
on here. Other networks differ: evaluate on your own before you rely on it.

- learned from {flows:,} flows of {groups:,} captures, {n_classes} classes: {classes}
- left out, as too rare to learn and check: {dropped}
- flows without a label, left out: {unlabelled:,}

| tier | packets | weighted F1 | macro F1 | accuracy | calibration error | size |
|---|---|---|---|---|---|---|
{tiers}

Tried, with the weighted F1 of each: {candidates}.
{ports}
## Ways to tell how sure a tier is

Area under the risk-coverage curve (less is better): the share of wrong answers among the surest
flows, in the mean over all shares of flows that are answered. Each way is calibrated on other
captures. The thresholds of this cascade are compared with {gate}.

| tier | least confidence | margin | entropy |
|---|---|---|---|
{uncertainty}
"""


def card_text(report: TrainReport) -> str:
    """Return card.md up to the section of :mod:`models.card`: what was trained and its worth."""
    rows = [
        f"| {tier.name} | {tier.depth} | {tier.weighted_f1:.4f} | {tier.macro_f1:.4f} "
        f"| {tier.accuracy:.4f} | {tier.calibration_error:.4f} "
        f"| {tier.bytes / 1e6:.2f} MB |"
        for tier in report.tiers
    ]
    uncertainty = [
        f"| {tier.name} | "
        + " | ".join(f"{tier.risk_coverage[name]:.4f}" for name in SCORES)
        + " |"
        for tier in report.tiers
    ]
    dropped = ", ".join(f"{name} ({n})" for name, n in report.dropped_classes.items())
    return _CARD.format(
        port=", but the responder's port" if report.with_port else ", nor any port",
        host=" It sees what the flow's host did before." if report.with_host else "",
        gate=_GATES[report.gate],
        flows=report.flows,
        groups=report.groups,
        n_classes=len(report.classes),
        classes=", ".join(report.classes),
        dropped=dropped or "none",
        unlabelled=report.unlabelled,
        tiers="\n".join(rows),
        uncertainty="\n".join(uncertainty),
        candidates=", ".join(f"{one.name} {one.weighted_f1:.4f}" for one in report.candidates),
        ports=_ports_text(report.by_port),
    )


def _ports_text(by_port: dict[str, dict[str, float]]) -> str:
    if not by_port:
        return ""
    told = [
        f"{name} the responder's port: "
        + ", ".join(f"{model} {f1:.4f}" for model, f1 in own.items())
        for name, own in by_port.items()
    ]
    return f"\nWeighted F1 {'; '.join(told)}.\n"


def wanted_text(settings: TrainSettings, found: Assignment) -> str:
    """Return what a cascade's thresholds were chosen for, and whether that was had."""
    limit = ""
    if np.isfinite(settings.goal.max_cost_us):
        limit = f" and the models take at most {settings.goal.max_cost_us:g} µs a flow on average"
    text = (
        f"`{settings.operating_point}`, chosen by training: the shortest waits at which the loss "
        f"of weighted F1 and of accuracy is bounded by {100 * settings.max_f1_loss:g} percentage "
        f"points{limit}. `serveflow tune` chooses anew, without training."
    )
    if settings.goal.met(found):
        return text
    return (
        f"{text} No cascade of these models does both: this one takes {found.cost_us:.1f} µs, at a "
        f"bound of {100 * found.loss_bound:.2f} points; cost comes before loss then."
    )
