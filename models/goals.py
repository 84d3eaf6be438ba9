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

_HALF_A_POINT = 0.005


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
        delay: What waits cost in the mean, the deepest tier alone 1, see
            :class:`models.delay.Delay`: what is made small. Models count too: a flow waits for
            all of its call in each tier, see :data:`models.costs.CALL_FLOWS`.
        wait: Mean logarithm of 1 + milliseconds that flows wait, models included.
        mean_wait_ms: Mean of what flows wait; the few that wait until a timeout make most of it.
        cost_us: Mean of what the tiers that are asked take, microseconds.
    """

    thresholds: tuple[Threshold, ...]
    loss: float
    loss_bound: float
    early: float
    within_16ms: float
    escalated: float
    delay: float
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

    def nearness(self, found: Assignment) -> tuple[float, ...]:
        """Return what a search goes by that is still far off, less is better.

        It may give way in one thing for another there, as it may not in :meth:`rank`: ways that
        keep to every limit at each step end in poor corners. Must not fall as ``loss_bound``
        grows.
        """

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
        return excess_us, max(0.0, found.loss_bound - self.value), found.delay, found.cost_us

    def distance(self, found: Assignment) -> float:
        """Return the delay and what is too much of cost and loss, added up.

        The deepest tier's whole delay, the whole cost again and half a point of loss weigh the
        same.
        """
        excess_us, excess, *_ = self.rank(found)
        return found.delay + excess_us / self.max_cost_us + excess / _HALF_A_POINT

    def nearness(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return (self.distance(found),)

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.loss_bound <= self.value and found.cost_us <= self.max_cost_us

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.delay


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
        return max(0.0, self.value - found.within_16ms), found.loss_bound, found.delay

    def nearness(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return self.rank(found)

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
        return max(0.0, found.escalated - self.value), found.loss_bound, found.delay

    def nearness(self, found: Assignment) -> tuple[float, ...]:
        """See :class:`Goal`."""
        return self.rank(found)

    def met(self, found: Assignment) -> bool:
        """See :class:`Goal`."""
        return found.escalated <= self.value

    def price(self, found: Assignment) -> float:
        """See :class:`Goal`."""
        return found.escalated
