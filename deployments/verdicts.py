"""Answers of the tiers as verdicts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.join import Due
from flows.packet import FlowEndReason, Records
from flows.verdict import VERDICT_DTYPE, Reason

__all__ = ["deep_verdicts", "fast_verdicts", "packets_of"]

_NO_END = int(FlowEndReason.NONE)  # looking a member up costs as much as the comparison
_FAST_REASONS = np.array(  # by whether it is final, and whether the tier was sure
    [
        [Reason.UNCERTAIN, Reason.UNCERTAIN],
        [Reason.EXHAUSTED, Reason.CONFIDENT],  # exhausted: the bundle has no deeper tier
    ],
    np.uint8,
)


def packets_of(rows: Records) -> int:
    """Return how many of ``rows``, ``PACKET_DTYPE [n]``, are packets and not end marks."""
    return int(np.count_nonzero(rows["flow_end_reason"] == _NO_END))


def fast_verdicts(firsts: Records, answers: Records) -> Records:
    """Return what the fast tiers' answers mean, ``VERDICT_DTYPE [n]``.

    Args:
        firsts: First packets, ``PACKET_DTYPE [n]``.
        answers: ``ANSWER_DTYPE [n]``.
    """
    verdicts = _verdicts(firsts["flow_id"], answers)
    verdicts["reason"] = _FAST_REASONS[answers["final"], answers["sure"]]
    return verdicts


def deep_verdicts(due: Due, answers: Records, depth: int) -> Records:
    """Return what the deeper tiers' answers mean, ``VERDICT_DTYPE [n]``.

    Args:
        due: What they were asked about.
        answers: ``ANSWER_DTYPE [n]``.
        depth: First packets that the deepest tier wants.
    """
    verdicts = _verdicts(due.flows["flow_id"], answers)
    times = due.packets["time_ns"]
    start_ns = times[due.offsets[:-1]]
    decided_ns = times[due.offsets[:-1] + np.maximum(answers["packets_used"], 1) - 1]
    full = np.diff(due.offsets) >= depth
    # Judged on less than the depth, because nothing more comes.
    by_end = (answers["sure"] == 0) & ~full
    verdicts["wait_ns"] = np.where(by_end, due.flows["over_ns"], decided_ns) - start_ns
    verdicts["reason"] = np.select(
        [answers["final"] == 0, answers["sure"] == 1, full],
        [Reason.UNCERTAIN, Reason.CONFIDENT, Reason.EXHAUSTED],
        default=due.flows["reason"],
    )
    return verdicts


def _verdicts(flow_id: npt.NDArray[np.uint64], answers: Records) -> Records:
    verdicts = np.zeros(len(answers), VERDICT_DTYPE)
    verdicts["flow_id"] = flow_id
    for name in ("label", "confidence", "novelty", "tier", "packets_used", "final", "infer_ns"):
        verdicts[name] = answers[name]
    return verdicts
