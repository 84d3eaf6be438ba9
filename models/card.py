"""The part of card.md that tells of the thresholds: what they bring, what is guaranteed."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from models.goals import Assignment, Threshold
from models.resampling import CONFIDENCE

__all__ = ["NOT_GUARANTEED", "bounded_text", "operating_point", "with_operating_point"]

_WIDTH = 100
_HEADING = "## Operating point\n"

NOT_GUARANTEED = (
    "what becomes of any one capture or any one class: all bounds are of means",
    "other networks: captures made elsewhere, or later, are not draws of the same kind",
    "that the deepest tier is right: losses are counted against it, not against the truth",
    "the choice of tiers and gates: it was made on the same captures before thresholds were, so "
    "that chance which favoured them favours these figures",
    "the bundle's own engines and calibration: cross-validation judged captures by tiers trained "
    "on the others, while the bundle's tiers were trained on all, and the calibration was fitted "
    "to the very flows that thresholds are chosen on",
)
"""What no way of choosing thresholds on a bundle's own judgements can promise."""

_SECTION = """\
{wanted}

| tier | packets | final from |
|---|---|---|
{tiers}

Expected, from {flows:,} flows of {groups:,} captures, judged by tiers not trained on them:

- answered before the deepest tier: {early:.1%} of the flows
- beyond packet 1 (escalated): {escalated:.1%}
- within 16 ms of their first packet, what the models take not counted: {within:.1%}
- wait for packets: {mean:,.1f} ms in the mean, {typical:,.1f} ms typically (geometric)
- the models take, where they were trained: {cost}
- loss of weighted F1 against the deepest tier alone: {loss:.2f} percentage points
- upper bound of that and of the loss of accuracy, the greater: {bound:.2f} percentage points
  (one-sided, {confidence:.0%}, on resampled captures)

### Guaranteed

{guaranteed}

### Not guaranteed

{not_guaranteed}
"""


def operating_point(
    found: Assignment,
    tiers: Sequence[tuple[str, int]],
    *,
    wanted: str,
    guaranteed: str,
    not_guaranteed: Sequence[str] = NOT_GUARANTEED,
    flows: int,
    groups: int,
) -> str:
    """Return the section on the thresholds, without its heading.

    Args:
        found: The thresholds, and what they cost and bring.
        tiers: Name and depth of each tier, the deepest one last.
        wanted: A sentence on what they were chosen for.
        guaranteed: What is guaranteed, in sentences.
        not_guaranteed: What is not.
        flows: Flows that they were chosen on.
        groups: Captures of those.
    """
    finals = [_final_from(threshold) for threshold in found.thresholds]
    rows = [
        f"| {name} | {depth} | {final} |"
        for (name, depth), final in zip(tiers, [*finals, "always"], strict=True)
    ]
    return _SECTION.format(
        wanted=fill(wanted, _WIDTH),
        tiers="\n".join(rows),
        flows=flows,
        groups=groups,
        early=found.early,
        escalated=found.escalated,
        within=found.within_16ms,
        mean=found.mean_wait_ms,
        typical=found.typical_wait_ms,
        cost=f"{found.cost_us:,.1f} µs of a flow in the mean" if found.cost_us else "not measured",
        loss=100.0 * found.loss + 0.0,
        bound=100.0 * found.loss_bound + 0.0,
        confidence=CONFIDENCE,
        guaranteed=fill(guaranteed, _WIDTH),
        not_guaranteed="\n".join(
            fill(f"- {text}", _WIDTH, subsequent_indent="  ") for text in not_guaranteed
        ),
    )


def bounded_text(groups: int, *, per_class: bool = False) -> str:
    """Return what holds of thresholds that were chosen by the bound on resampled captures.

    Args:
        groups: Captures that were resampled.
        per_class: Whether classes may have thresholds of their own.
    """
    text = (
        f"Nothing. The bound above comes from resampling {groups:,} captures (cluster bootstrap). "
        "It tells how much those differ, is sound for many captures only, and knows nothing of "
        "kinds that are not among them. And the thresholds were chosen on the same flows, which "
        "makes it look better than it is."
    )
    if not per_class:
        return text
    return (
        f"{text} Classes have thresholds of their own, and each of those was chosen on the few "
        "flows of its class: there were many more ways to fit chance, so the bound promises less "
        "than with one threshold for all classes."
    )


def with_operating_point(card: str, section: str) -> str:
    """Return a card with its section on the thresholds replaced, or added if it has none."""
    kept = card.partition(_HEADING)[0].rstrip("\n")
    return f"{kept}\n\n{_HEADING}\n{section}"


def _final_from(threshold: Threshold) -> str:
    if not isinstance(threshold, float):
        return f"{_final_from(min(threshold))} to {_final_from(max(threshold))}, by class"
    return "never" if threshold > 1.0 else f"{threshold:.3f}"
