"""The capacity model: what a load costs, and how long its first answers take.

A part of the service (Router, FastModel, …) uses as many cores as::

    idle × replicas + flows × new flows/s + batches × batches/s + calls × calls/s

where the factors are fitted on measured points (:mod:`benchmarks.points`), none below 0. Calls are
the Router's to trackers: each Router calls each tracker at most once in ``gather_s``. A first
answer takes what :func:`benchmarks.queueing.answer_quantile_ms` says, on a queue that is served by
all cores of the machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.queueing import Queue, answer_quantile_ms, least
from flows.errors import SettingsError

__all__ = ["TERMS", "Load", "Model", "Point", "fit", "left_out", "points_of"]

TERMS: dict[str, tuple[str, ...]] = {
    "ingress": ("idle", "flows", "batches", "calls"),
    "fast": ("idle", "flows", "batches"),
    "trackers": ("flows", "calls"),
    "slow": ("flows", "rounds"),
    "proxy": ("idle", "flows", "batches"),
    "ray": ("idle", "flows", "batches", "calls"),
    "generator": ("idle", "flows", "batches"),
}
"""What each part's CPU may depend on."""

_FEWEST = 6  # points for a fit
_QUANTILES = (0.5, 0.99)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a service.

    Attributes:
        rate: New flows per second.
        batches_per_s: Of all collectors.
        trackers: How many trackers there are.
        gather_s: Least time between two calls of a Router to a tracker.
        routers: How many Routers there are.
        models: How many replicas of a model.
    """

    rate: float
    batches_per_s: float
    trackers: int
    gather_s: float
    routers: int = 1
    models: int = 1

    @property
    def rounds_per_s(self) -> float:
        """Rounds of calls to trackers, of all Routers."""
        most = self.routers / self.gather_s if self.gather_s else math.inf
        return min(self.batches_per_s, most)

    @property
    def calls_per_s(self) -> float:
        """Calls to trackers: each round of a Router calls each tracker."""
        return self.rounds_per_s * self.trackers

    def term(self, part: str, name: str) -> float:
        """Return what a fitted factor is multiplied with."""
        if name == "idle":
            return {"ingress": self.routers, "fast": self.models}.get(part, 1)
        return {
            "flows": self.rate / 1000.0,
            "batches": self.batches_per_s,
            "rounds": self.rounds_per_s,
            "calls": self.calls_per_s,
        }[name]


@dataclass(frozen=True, slots=True)
class Point:
    """A measured load.

    Attributes:
        load: The load.
        collectors: How many sent it.
        machine_cores: Cores that the service, Ray and the generator shared.
        cores_used: By part.
        first_ms: p50 and p99 of the time to the first answer.
        bytes_per_flow: Sent to the service, and received.
    """

    load: Load
    collectors: int
    machine_cores: int
    cores_used: dict[str, float]
    first_ms: tuple[float, float]
    bytes_per_flow: tuple[float, float]

    @property
    def name(self) -> str:
        """``RATE@COLLECTORS``, with the number of trackers."""
        return f"{self.load.rate:.0f}@{self.collectors}, {self.load.trackers} trackers"


def points_of(result: dict[str, Any]) -> list[Point]:
    """Return the points of a result of ``bench capacity-points`` that held, replicas and all."""
    taken = result["environment"]
    settings = taken["settings"]
    return [
        Point(
            Load(one["rate"], one["batches_per_second"], settings["trackers"],
                 settings["gather_s"], one["replicas"]["ingress"], one["replicas"]["fast"]),
            one["collectors"],
            taken["cores"],
            one["cores_used"],
            (one["first_answer_ms"]["p50"], one["first_answer_ms"]["p99"]),
            (one["sent_bytes_per_flow"], one["received_bytes_per_flow"]),
        )
        for one in result["points"] if one["held"] and one["steady"]
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model.

    Attributes:
        factors: CPU milliseconds by part and term: a second, 1,000 flows, a batch, a round of
            calls, a call.
        period_ms: From one batch of a collector to its next.
        batch_ms: Time until a batch's first answers, without waiting: whatever is in it.
        flow_ms: The same for each flow in it.
        variability: (Ca² + Cs²) / 2 of the queue.
    """

    factors: dict[str, dict[str, float]]
    period_ms: float
    batch_ms: float
    flow_ms: float
    variability: float

    def cores(self, part: str, load: Load) -> float:
        """Return how many cores a part uses."""
        terms = self.factors[part].items()
        return sum(factor * load.term(part, name) for name, factor in terms) / 1000.0

    def all_cores(self, load: Load) -> float:
        """Return how many cores all parts use, the load generator among them."""
        return sum(self.cores(part, load) for part in self.factors)

    def first_ms(self, load: Load, machine_cores: int, quantile: float) -> float:
        """Return a quantile of the time to the first answer where all parts share a machine."""
        used = self.all_cores(load) / machine_cores
        service_ms = self.batch_ms + self.flow_ms * load.rate / load.batches_per_s
        queue = Queue(machine_cores, used, service_ms, self.variability)
        return answer_quantile_ms(queue, self.period_ms, quantile)

    def predicted(self, point: Point) -> dict[str, float]:
        """Return what the model says of a point from its rate, its collectors and its replicas."""
        load = Load(point.load.rate, point.collectors * 1000.0 / self.period_ms,
                    point.load.trackers, point.load.gather_s, point.load.routers,
                    point.load.models)  # fmt: skip
        return {
            **{part: self.cores(part, load) for part in self.factors},
            "all": self.all_cores(load),
            "first_p50_ms": self.first_ms(load, point.machine_cores, 0.5),
            "first_p99_ms": self.first_ms(load, point.machine_cores, 0.99),
        }


def fit(points: Sequence[Point]) -> Model:
    """Fit the model.

    Raises:
        SettingsError: There are too few points.
    """
    if len(points) < _FEWEST:
        raise SettingsError(f"{len(points)} measured points: {_FEWEST} at least are needed")
    factors = {part: _factors(part, points) for part in TERMS}
    period_ms = median(p.collectors * 1000.0 / p.load.batches_per_s for p in points)

    def error(numbers: Sequence[float]) -> float:
        model = Model(factors, period_ms, *numbers)
        return sum(
            math.log(model.first_ms(p.load, p.machine_cores, q) / measured) ** 2
            for p in points for q, measured in zip(_QUANTILES, p.first_ms, strict=True)
        )  # fmt: skip

    batch_ms, flow_ms, variability = least(error, (10.0, 0.005, 0.5), (5.0, 0.005, 0.5))
    return Model(factors, period_ms, batch_ms, flow_ms, variability)


def left_out(points: Sequence[Point]) -> list[tuple[Point, dict[str, float]]]:
    """Return each point with what a model says that was fitted on all others."""
    return [
        (point, fit([*points[:i], *points[i + 1 :]]).predicted(point))
        for i, point in enumerate(points)
    ]


def _factors(part: str, points: Sequence[Point]) -> dict[str, float]:
    """Return the factors of those terms with which points are told best that were left out."""
    names = TERMS[part]
    used = np.array([1000.0 * p.cores_used[part] for p in points])
    columns = {name: np.array([p.load.term(part, name) for p in points]) for name in names}
    best: tuple[float, dict[str, float]] = (math.inf, dict.fromkeys(names, 0.0))
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, size):
            found = _least_squares(np.stack([columns[name] for name in chosen], axis=1), used)
            if found is not None and found[0] < best[0]:
                given = dict(zip(chosen, found[1].tolist(), strict=True))
                best = (found[0], {name: given.get(name, 0.0) for name in names})
    return best[1]


def _least_squares(
    terms: npt.NDArray[np.float64], used: npt.NDArray[np.float64]
) -> tuple[float, npt.NDArray[np.float64]] | None:
    """Return the error of points left out, and the factors; None if one cannot be told or is < 0.

    Args:
        terms: float64 ``[n, k]``.
        used: float64 ``[n]``.
    """
    weights = 1.0 / np.maximum(used, 1.0)  # relative errors count
    scaled, wanted = terms * weights[:, None], used * weights
    size = np.linalg.norm(scaled, axis=0)
    if not size.all() or np.linalg.cond(scaled / size) > 1e4 or len(used) <= terms.shape[1]:
        return None
    inverse = np.linalg.pinv(scaled)
    factors = inverse @ wanted
    if (factors < 0).any():
        return None
    leverage = np.minimum(np.einsum("ij,ji->i", scaled, inverse), 1 - 1e-9)
    error = (scaled @ factors - wanted) / (1.0 - leverage)
    return float((error**2).sum()), factors
