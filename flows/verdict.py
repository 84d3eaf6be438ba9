"""Answers of the cascade and verdicts on flows, as columns."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["ANSWER_DTYPE", "VERDICT_DTYPE", "Reason"]


class Reason(IntEnum):
    """Why a verdict is what it is; the name in lower case is its text form."""

    UNCERTAIN = 0  # provisional: a deeper tier is to judge
    CONFIDENT = 1  # a tier was sure enough
    EXHAUSTED = 2  # the deepest tier has judged on all the packets it may have
    ENDED = 3  # the flow ended before the depth
    TIMEOUT = 4  # the flow's packets did not come in time
    DEGRADED = 5  # the service was overloaded
    STATE_LOST = 6  # its state was lost and could not be replayed
    EVICTED = 7  # memory ran out at the collector

    @property
    def text(self) -> str:
        """The reason as it stands in JSON."""
        return self.name.lower()


ANSWER_DTYPE = np.dtype(
    [
        ("infer_ns", "<i8"),  # model time that this flow waited for, of all tiers asked in the call
        ("confidence", "<f4"),  # calibrated probability that the label is right, in [0, 1]
        ("novelty", "<f4"),  # final: share of known flows that are less strange, in [0, 1]
        ("label", "<u2"),  # index into the bundle's classes
        ("tier", "u1"),  # the tier that gave label and confidence
        ("next_tier", "u1"),  # not final: the tier that is to judge next
        ("packets_used", "u1"),  # first packets that the label rests on
        ("final", "u1"),  # 1: no further tier is to be asked
        ("sure", "u1"),  # 1: final because the tier's confidence reached its threshold
        ("reserved", "u1"),
    ]
)
"""What a model says of one flow; see :meth:`models.cascade.Cascade.answer`."""

VERDICT_DTYPE = np.dtype(
    [
        ("flow_id", "<u8"),
        ("wait_ns", "<i8"),  # capture time from packet 1 to what the verdict had to wait for
        ("infer_ns", "<i8"),  # model time, all tiers asked so far
        ("confidence", "<f4"),
        ("novelty", "<f4"),
        ("label", "<u2"),
        ("tier", "u1"),
        ("packets_used", "u1"),
        ("final", "u1"),
        ("reason", "u1"),  # Reason
    ]
)
"""What the service says of one flow; provisional (``final`` 0) or final."""
