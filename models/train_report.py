"""What training found, as an object and as the bundle's card.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["TierReport", "TrainReport", "card_text"]


@dataclass(frozen=True, slots=True)
class TierReport:
    """How a tier does on captures that it was not trained on (cross-validation).

    Attributes:
        name: Its name.
        depth: First packets that it judges.
        weighted_f1: Alone, on all flows.
        macro_f1: Alone, on all flows.
        accuracy: Alone, on all flows.
        calibration_error: Expected calibration error after calibration on other captures.
        threshold: Confidence from which on its answer is final; 2: never.
        bytes: Size of its files.
    """

    name: str
    depth: int
    weighted_f1: float
    macro_f1: float
    accuracy: float
    calibration_error: float
    threshold: float
    bytes: int


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained on what, and what it is worth.

    Attributes:
        model_version: The bundle's version.
        flows: Labelled flows that were learned from.
        groups: Groups (captures) that they come from.
        classes: Names of the classes.
        dropped_classes: Flows of classes too rare to be learned and checked, by class.
        unlabelled: Flows of the captures that have no label.
        damaged: Captures that could not be read to their end, with the reason.
        tiers: The bundle's tiers.
        candidates: Weighted F1 of all that was tried, by name; ``+port``: with the port.
        with_port: Whether the tiers see the responder's port.
        early: Expected share of flows that are answered before the deepest tier.
        loss: Expected loss of weighted F1 against the deepest tier alone.
        loss_bound: Its upper bound (one-sided 90 %, of F1 and accuracy the greater).
        seconds: How long it took, after the captures had been read.
    """

    model_version: str
    flows: int
    groups: int
    classes: tuple[str, ...]
    dropped_classes: dict[str, int]
    unlabelled: int
    damaged: tuple[tuple[str, str], ...]
    tiers: tuple[TierReport, ...]
    candidates: dict[str, float]
    with_port: bool
    early: float
    loss: float
    loss_bound: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain objects, for JSON."""
        return asdict(self)


_CARD = """\
# ServeFlow cascade

Names the class of a network flow from header fields of its first packets. It sees no address and
no payload{port}.

All figures are cross-validated by capture: no tier was trained on the captures that it is judged
on here. Other networks differ: evaluate on your own before you rely on it.

- learned from {flows:,} flows of {groups:,} captures, {n_classes} classes: {classes}
- left out, as too rare to learn and check: {dropped}
- flows without a label, left out: {unlabelled:,}

| tier | packets | weighted F1 | macro F1 | accuracy | calibration error | final from | size |
|---|---|---|---|---|---|---|---|
{tiers}

Expected of the cascade: {early:.1%} of the flows are answered before the deepest tier, at a loss of
weighted F1 against it alone of {loss:.4f}, or {loss_bound:.4f} at most (one-sided 90 % bound, on
resampled captures, of the losses of F1 and accuracy the greater).

Tried, with the weighted F1 of each: {candidates}.
"""


def card_text(report: TrainReport) -> str:
    """Return card.md: for people who wonder what a bundle is and what it is worth."""
    rows = [
        f"| {tier.name} | {tier.depth} | {tier.weighted_f1:.4f} | {tier.macro_f1:.4f} "
        f"| {tier.accuracy:.4f} | {tier.calibration_error:.4f} | {_final_from(tier, report)} "
        f"| {tier.bytes / 1e6:.2f} MB |"
        for tier in report.tiers
    ]
    dropped = ", ".join(f"{name} ({n})" for name, n in report.dropped_classes.items())
    return _CARD.format(
        port=", but the responder's port" if report.with_port else ", nor any port",
        flows=report.flows,
        groups=report.groups,
        n_classes=len(report.classes),
        classes=", ".join(report.classes),
        dropped=dropped or "none",
        unlabelled=report.unlabelled,
        tiers="\n".join(rows),
        early=report.early,
        loss=report.loss,
        loss_bound=report.loss_bound,
        candidates=", ".join(f"{name} {f1:.4f}" for name, f1 in report.candidates.items()),
    )


def _final_from(tier: TierReport, report: TrainReport) -> str:
    if tier is report.tiers[-1]:
        return "always"  # it has the last word
    return "never" if tier.threshold > 1.0 else f"{tier.threshold:.3f}"
