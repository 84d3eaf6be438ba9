"""How much a Router takes on, and what it sheds beyond that."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a dispatcher takes on before it sheds load, the least needed first.

    Attributes:
        slow_flows: Flows that the deeper tiers have before them. Beyond it new flows keep the
            answer of packet 1, as final; some are always taken.
        waiting_flows: Flows whose first answer has not left. Beyond it batches with new flows are
            refused; one batch is always taken, and so is one that only concludes flows.
        retry_after_s: When to submit a refused batch again.
    """

    slow_flows: int = 16_384
    waiting_flows: int = 8_192
    retry_after_s: float = 0.2
