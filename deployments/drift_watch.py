"""Watches whether answers drift away from those in validation. It alarms, it never acts. No Ray."""

from __future__ import annotations

import numpy as np

from flows.packet import Records
from flows.verdict import Reason
from models.drift import DriftReference, psi

__all__ = ["WINDOW_FLOWS", "DriftWatch"]

WINDOW_FLOWS = 2_000
"""Flows of one window. On flows that are as in validation, and independent, chance alone makes the
index of B bins about B / WINDOW_FLOWS."""

# What the models said. Under overload, or where state was lost, others than they have decided.
_OF_MODELS = np.zeros(len(Reason), np.bool_)
_OF_MODELS[[Reason.CONFIDENT, Reason.EXHAUSTED, Reason.ENDED, Reason.TIMEOUT]] = True


class DriftWatch:
    """Compares windows of final verdicts with what a bundle's cascade says in validation.

    Args:
        reference: What it says there.
        window_flows: Flows of one window.

    Attributes:
        scores: Index of the latest window that is full, of the distribution over ``labels`` and
            over ``tiers``; empty before the first one is.
    """

    def __init__(self, reference: DriftReference, window_flows: int = WINDOW_FLOWS) -> None:
        self._reference = reference
        self._window_flows = window_flows
        self._labels = np.zeros_like(reference.labels)
        self._tiers = np.zeros_like(reference.tiers)
        self.scores: dict[str, float] = {}

    def add(self, finals: Records) -> None:
        """Take final verdicts in, ``VERDICT_DTYPE [n]``.

        A label that validation does not know, ``unknown``, counts for ``tiers`` alone.
        """
        finals = finals[_OF_MODELS[finals["reason"]]]
        labels = finals["label"]
        known = labels[labels < len(self._labels)]
        self._labels += np.bincount(known, minlength=len(self._labels))
        self._tiers += np.bincount(finals["tier"], minlength=len(self._tiers))
        if int(self._tiers.sum()) >= self._window_flows:
            pairs = {
                "labels": (self._reference.labels, self._labels),
                "tiers": (self._reference.tiers, self._tiers),
            }
            self.scores = {name: psi(*pair) for name, pair in pairs.items()}
            self._labels[:] = 0
            self._tiers[:] = 0
