"""How a cascade is trained."""

from __future__ import annotations

from dataclasses import dataclass

from models.goals import LossGoal
from models.manifest import MAX_WAIT_S
from models.zoo import Effort

__all__ = ["BALANCED_COST_US", "TrainSettings"]

BALANCED_COST_US = 8.0
"""Model time that a flow may take on average at the operating point ``balanced``."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a cascade is trained.

    Attributes:
        effort: How many candidates are tried: ``quick``, ``standard`` or ``full``.
        operating_point: ``balanced``: at most :data:`BALANCED_COST_US` a flow on average;
            ``accurate``: whatever it takes.
        max_f1_loss: Weighted F1 and accuracy that answering early may cost, as a share: what the
            bound of the loss against the deepest tier may be.
        port: Whether models see the responder's port; None: if it helps.
        host: Whether models see what the flow's host did before; None: if it helps.
        gate: One of :data:`models.gates.GATES`; None: the best.
        time_limit_s: After so long no further candidate is tried (wall clock).
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        seed: Of all that is drawn.
        preset: ``search``: the best cascade that is found; ``paper``: the tiers of the ServeFlow
            paper (arXiv 2402.03694) on the headers' bits, with one threshold of the confidence for
            each tier, to compare with. It goes by neither effort nor sight.
        unknown_from: Novelty from which on a flow is labelled ``unknown``; None: never.
    """

    effort: Effort = "standard"
    operating_point: str = "balanced"
    max_f1_loss: float = 0.005
    port: bool | None = None
    host: bool | None = None
    gate: str | None = None
    time_limit_s: float = 1_200.0
    max_wait_s: float = MAX_WAIT_S
    seed: int = 0
    preset: str = "search"
    unknown_from: float | None = None

    @property
    def with_header(self) -> bool:
        """Whether packets must come with their headers' bytes."""
        return self.preset == "paper"

    @property
    def goal(self) -> LossGoal:
        """What the thresholds are wanted for; no cost limits the paper's tiers."""
        limited = self.operating_point == "balanced" and self.preset == "search"
        return LossGoal(self.max_f1_loss, BALANCED_COST_US if limited else float("inf"))
