"""Stand-ins for the model tiers, for tests: deterministic, and a function of the packets alone."""

from __future__ import annotations

import numpy as np

from deployments.protocols import CascadeSpec
from flows.join import Due
from flows.packet import Records
from flows.verdict import ANSWER_DTYPE

__all__ = ["FAKE_SPEC", "FakeFastTiers", "FakeSlowTiers"]

FAKE_SPEC = CascadeSpec(
    depths=(1, 1, 3, 5),
    tiers=("fastest", "fast", "middle", "slow"),
    fast_tiers=2,
    max_wait_s=10.0,
    classes=("a", "b", "c", "d", "e", "f", "g"),
    model_version="fake",
)


def _digest(packets: Records) -> int:
    """Return a number that depends on each packet that was used."""
    return int(packets["ip_bytes"].astype(np.int64) @ (np.arange(len(packets)) + 1))


def _answer(packets: Records, next_tier: int, over: bool, stop: int) -> np.void:
    spec = FAKE_SPEC
    answer: np.void = np.zeros(1, ANSWER_DTYPE)[0]
    answer["tier"], answer["next_tier"] = 255, next_tier
    deepest = len(spec.depths) - 1
    tier = next_tier
    while tier < stop:
        enough = len(packets) >= spec.depths[tier]
        if not enough and not over:
            break
        tier = tier if enough else deepest
        used = packets[: spec.depths[tier]]
        digest = _digest(used)
        answer["tier"], answer["packets_used"] = tier, len(used)
        answer["label"] = digest % len(spec.classes)
        answer["confidence"] = (digest % 10) / 10
        answer["infer_ns"] += 1000
        answer["sure"] = enough and tier < deepest and answer["confidence"] >= 0.6
        answer["final"] = answer["sure"] or tier == deepest
        if answer["final"]:
            break
        tier += 1
        answer["next_tier"] = tier
    return answer


class FakeFastTiers:
    """Answers on packet 1 by arithmetic."""

    async def answer(self, packets: Records) -> Records:
        """See :class:`deployments.protocols.FastTiers`."""
        answers = [_answer(packets[i : i + 1], 0, False, 2) for i in range(len(packets))]
        return np.array(answers, ANSWER_DTYPE)


class FakeSlowTiers:
    """Answers on more packets by arithmetic."""

    async def answer(self, due: Due) -> Records:
        """See :class:`deployments.dispatch.SlowTiers`."""
        answers = [
            _answer(
                due.packets[due.offsets[i] : due.offsets[i + 1]],
                int(flow["next_tier"]),
                bool(flow["over"]),
                len(FAKE_SPEC.depths),
            )
            for i, flow in enumerate(due.flows)
        ]
        return np.array(answers, ANSWER_DTYPE)
