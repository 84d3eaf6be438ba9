"""What thresholds are wanted for, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

__all__ = [
    "NEVER",
    "Assignment",
    "EscalationGoal",
    "Goal",
    "LossGoal",
    "Threshold",
    "WithinGoal",
]

Threshold: TypeAlias = float | tuple[float, ...]
"""Assurance from which on an answer is final: for all classes alike, or by the class named."""

NEVER = 2.0
"""A threshold that no confidence reaches."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Thresholds, and what they are expected to cost and bring.

    Attributes:
        thresholds: Of all tiers but the deepest, each one for all classes or one for each class.
        loss: Loss of weighted F1 against the deepest tier alone; less than 0: a gain.
        loss_bound: Upper bound (one-sided 90 %, by resampling groups) of the loss of weighted F1
            and of that of accuracy, whichever is greater.
        early: Share of the flows that are answered before the deepest tier.
        within_16ms: Share of the flows that wait for packets for 16 ms at most; what the models
            take is not counted.
        escalated: Share of the flows that are answered behind packet 1.
        wait: Mean logarithm of 1 + milliseconds that flows wait: what is made small. A factor
            counts the same at 10 ms and at 1 s, and no wait at all counts most. Models count too:
            a flow waits for all of its call in each tier, see
            :data:`models.costs.CALL_FLOWS`.
        mean_wait_ms: Mean of what flows wait; the few that wait until a timeout make most of it.
        cost_us: Mean of what the tiers that are asked take, microseconds.
    """

    thresholds: tuple[Threshold, ...]
    loss: float
    loss_bound: float
    early: float
    within_16ms: float
    escalated: float
    wait: float
    mean_wait_ms: float
    cost_us: float

    @property
    def typical_wait_ms(self) -> float:
        """``wait`` as milliseconds."""
        return float(np.expm1(self.wait))


class Goal(Protocol):
    """What thresholds are wanted for."""

    @property
    def name(self) -> str:
        """Of the goal, as an option without its dashes."""

    @property
    def value(self) -> float:
        """What it asks for, from 0 to 1."""

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """Return how good thresholds are, less is better; must not fall as ``loss_bound`` grows."""

    def met(self, found: Assignment) -> bool:
        """Tell whether thresholds do what is asked for, at whatever price."""

    def price(self, found: Assignment) -> float:
        """Return what is traded against the bound of the loss; less is better."""


@dataclass(frozen=True, slots=True)
class LossGoal:
    """The shortest waits whose loss is bounded.

    Attributes:
        value: Most that ``loss_bound`` may be, from 0 to 1.
        max_cost_us: Most that ``cost_us`` may be.
    """

    value: float
    max_cost_us: float = float("inf")
    name: str = "max_f1_loss"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`. Of equally long waits, the one with the cheaper tiers."""
        excess_us = max(0.0, found.cost_us - self.max_cost_us)
        return excess_us, max(0.0, found.loss_bound - self.value), found.wait, found.cost_us

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.loss_bound <= self.value and found.cost_us <= self.max_cost_us

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.wait


@dataclass(frozen=True, slots=True)
class WithinGoal:
    """The least bound of the loss with which enough flows wait for 16 ms at most.

    Attributes:
        value: Least share of the flows, from 0 to 1.
    """

    value: float
    name: str = "within_16ms"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return max(0.0, self.value - found.within_16ms), found.loss_bound, found.wait

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.within_16ms >= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return -found.within_16ms


@dataclass(frozen=True, slots=True)
class EscalationGoal:
    """The least bound of the loss with which few enough flows go beyond packet 1.

    Attributes:
        value: Greatest share of the flows, from 0 to 1.
    """

    value: float
    name: str = "max_escalation"

    def rank(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return max(0.0, found.escalated - self.value), found.loss_bound, found.wait

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.escalated <= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.escalated
