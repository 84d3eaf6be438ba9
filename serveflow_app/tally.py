"""Adds final verdicts up into the summary that people and machines read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.collector import Settled
from collectors.replay import CaptureOutcome
from collectors.sender import Part
from flows.verdict import Reason
from models.labels import LabelBook
from models.metrics import WITHIN_MS, f1_scores

__all__ = ["Tally"]

_Columns = dict[str, list[npt.NDArray[Any]]]


class Tally:
    """Sums of the verdicts of one command.

    Args:
        tiers: Names of the tiers.
        labels: True labels, where known.
    """

    def __init__(self, tiers: tuple[str, ...], labels: LabelBook | None = None) -> None:
        self._tiers = tiers
        self._labels = labels
        self.by_tier: Counter[str] = Counter(dict.fromkeys(tiers, 0))
        self.by_reason: Counter[str] = Counter()
        self.final = 0
        self._ms: _Columns = {"wait": [], "queue": [], "infer": []}
        self._true: list[npt.NDArray[np.str_]] = []
        self._said: list[npt.NDArray[np.str_]] = []

    def add(self, capture: Path, settled: Settled, part: Part) -> None:
        """Take flows in that got their final verdict."""
        verdicts = settled.verdicts
        self.final += len(verdicts)
        for tier, n in zip(*np.unique(verdicts["tier"], return_counts=True), strict=True):
            self.by_tier[self._tiers[tier]] += int(n)
        for reason, n in zip(*np.unique(verdicts["reason"], return_counts=True), strict=True):
            self.by_reason[Reason(reason).text] += int(n)
        self._ms["wait"].append(verdicts["wait_ns"] / 1e6)
        self._ms["queue"].append(settled.queue_ns / 1e6)
        self._ms["infer"].append(settled.infer_ns / 1e6)
        if self._labels is not None:
            known, true = self._labels.match(capture.name, settled.flows)
            self._true.append(true[known])
            self._said.append(np.array(part.classes)[verdicts["label"][known]])

    def milliseconds(self, name: str) -> npt.NDArray[np.float64]:
        """Return ``wait``, ``queue``, ``infer`` or ``total`` of every flow, float64 ``[n]``."""
        if name == "total":
            return np.asarray(sum(self.milliseconds(part) for part in self._ms))
        parts = self._ms[name]
        return np.concatenate(parts) if parts else np.empty(0)

    def scores(self) -> dict[str, float]:
        """Return the two F1 over the flows whose label is known; empty when none is."""
        if not self._true or not sum(map(len, self._true)):
            return {}
        return f1_scores(np.concatenate(self._true), np.concatenate(self._said))

    def summary(self, outcomes: list[CaptureOutcome]) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        total = self.milliseconds("total")
        split = {
            name: _percentiles(self.milliseconds(name))
            for name in ("wait", "queue", "infer", "total")
        }
        protocols: dict[str, Counter[str]] = {}
        for outcome in outcomes:
            for protocol, counts in outcome.protocols.items():
                protocols.setdefault(protocol, Counter()).update(counts)
        return {
            "flows": sum(outcome.flows for outcome in outcomes),
            "final": self.final,
            "open": sum(outcome.open for outcome in outcomes),
            "packets": sum(outcome.packets for outcome in outcomes),
            "frames": sum(outcome.frames for outcome in outcomes),
            "malformed": sum(outcome.malformed for outcome in outcomes),
            "duplicates": sum(outcome.duplicates for outcome in outcomes),
            "by_tier": dict(self.by_tier),
            "by_reason": dict(self.by_reason),
            "by_protocol": {name: dict(counts) for name, counts in protocols.items()},
            "answered_within_16ms": _share(total <= WITHIN_MS),
            "median_latency_ms": split["total"]["p50"],
            "p99_latency_ms": split["total"]["p99"],
            "latency_ms": split,
            **self.scores(),
            "captures": len(outcomes),
            "damaged": [
                {"capture": str(outcome.path), "reason": outcome.damage}
                for outcome in outcomes
                if outcome.damage
            ],
        }


def _share(which: npt.NDArray[np.bool_]) -> float | None:
    return round(float(which.mean()), 4) if len(which) else None


def _percentiles(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    if not len(values):
        return {"p50": None, "p90": None, "p99": None}
    found = np.percentile(values, [50, 90, 99])
    return {f"p{p}": round(float(v), 4) for p, v in zip((50, 90, 99), found, strict=True)}
