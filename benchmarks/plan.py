"""How many cores and replicas a rate needs, by the fitted model.

Every Router calls every tracker, so the calls of one application grow with the product of both,
and one application cannot grow without end. A plan is therefore made of cells: applications side by
side, each with its own Routers, models and trackers; a flow belongs to one cell for life. The
cells are as large as costs least, and no larger than a node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.capacity import Load, Model
from benchmarks.queueing import Queue, answer_quantile_ms
from flows.errors import SettingsError
from flows.ids import SLOTS

__all__ = ["Cell", "Wanted", "plan"]

_MOST_ROUTERS = 16
_MOST_TRACKERS = 48
_SERVICE = ("ingress", "fast", "slow", "trackers", "proxy", "ray")
_REPLICAS = ("ingress", "fast", "slow", "trackers")
_P99 = 0.99


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to plan for.

    Attributes:
        rate: New flows per second.
        utilisation: Share of a replica's core, and of a node's cores, that may be used.
        batch_flows: New flows in a batch.
        gather_s: Least time between two calls of a Router to a tracker.
        node_cores: Cores of a node.
        unsure_share: Share of flows that go to trackers; None: not known, as below.
        open_s: How long such a flow is open there, mean.
        tracker_flow_bytes: Memory of one at a tracker.
        flow_bytes: Bytes of a flow on the wire: sent to the service, and received.
        collector_us_per_flow: CPU of a collector, microseconds a flow.
    """

    rate: float
    utilisation: float = 0.7
    batch_flows: float = 1_000.0
    gather_s: float = 0.05
    node_cores: int = 64
    unsure_share: float | None = None
    open_s: float = 10.0
    tracker_flow_bytes: float | None = None
    flow_bytes: tuple[float, float] | None = None
    collector_us_per_flow: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One application.

    Attributes:
        load: What it is asked.
        replicas: By part.
        cores: Cores used, by part.
    """

    load: Load
    replicas: dict[str, int]
    cores: dict[str, float]

    @property
    def used(self) -> float:
        """Cores that all of it uses."""
        return sum(self.cores.values())

    def queue(self, part: str, variability: float) -> Queue:
        """Return the queue before a part's replicas; before one tracker, as flows are pinned."""
        several = self.replicas[part]
        calls = {
            "trackers": self.load.calls_per_s,
            "slow": self.load.rounds_per_s,
        }.get(part, self.load.batches_per_s)
        return Queue(
            1 if part == "trackers" else several,
            self.cores[part] / several,
            1000.0 * self.cores[part] / calls,
            variability,
        )


def plan(model: Model, wanted: Wanted) -> dict[str, Any]:
    """Return what ``bench capacity --json`` prints as ``plan``.

    Raises:
        SettingsError: No cell, however small, can be as little used as is wanted.
    """
    best: tuple[float, int, Cell] | None = None
    for routers in range(1, _MOST_ROUTERS + 1):
        for trackers in range(1, min(_MOST_TRACKERS, SLOTS) + 1):
            most = _most_rate(model, wanted, routers, trackers)
            if most <= 0:
                continue
            cells = math.ceil(wanted.rate / most)
            cell = _cell(model, wanted, wanted.rate / cells, routers, trackers)
            if cell is not None and (best is None or cells * cell.used < best[0]):
                best = (cells * cell.used, cells, cell)
    if best is None:
        raise SettingsError(
            f"--utilisation {wanted.utilisation:g}: a replica's calls alone take more than that"
        )
    return _told(model, wanted, best[1], best[2])


def _cell(model: Model, wanted: Wanted, rate: float, routers: int, trackers: int) -> Cell | None:
    """Return the cell for a rate; None if one of its parts would be used too much."""
    models = 1
    while True:
        load = Load(rate, rate / wanted.batch_flows, trackers, wanted.gather_s, routers, models)
        cores = {part: model.cores(part, load) for part in _SERVICE}
        needed = math.ceil(max(cores["fast"], 1e-9) / wanted.utilisation)
        if needed <= models:
            break
        if needed > wanted.node_cores:
            return None
        models = needed
    replicas = {
        "ingress": routers,
        "fast": models,
        "slow": math.ceil(max(cores["slow"], 1e-9) / wanted.utilisation),
        "trackers": trackers,
    }
    cell = Cell(load, replicas, cores)
    pinned = ("ingress", "trackers")
    if any(cores[part] > wanted.utilisation * replicas[part] for part in pinned):
        return None
    return cell if cell.used <= wanted.utilisation * wanted.node_cores else None


def _most_rate(model: Model, wanted: Wanted, routers: int, trackers: int) -> float:
    """Return the highest rate of a cell with so many Routers and trackers."""
    low, high = 0.0, 1_000.0
    while high < 2 * wanted.rate and _cell(model, wanted, high, routers, trackers):
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2.0
        if _cell(model, wanted, middle, routers, trackers):
            low = middle
        else:
            high = middle
    return low


def _told(model: Model, wanted: Wanted, cells: int, cell: Cell) -> dict[str, Any]:
    used = cells * cell.used
    a_node = math.floor(wanted.utilisation * wanted.node_cores / cell.used)
    service_ms = model.batch_ms + model.flow_ms * wanted.batch_flows
    path = cell.replicas["ingress"] + cell.replicas["fast"]
    busy = (cell.cores["ingress"] + cell.cores["fast"]) / path
    first = Queue(path, busy, service_ms, model.variability)
    told: dict[str, Any] = {
        "rate": wanted.rate,
        "utilisation": wanted.utilisation,
        "batch_flows": wanted.batch_flows,
        "cells": cells,
        "rate_of_a_cell": cell.load.rate,
        "cores_used": used,
        "cores": math.ceil(used / wanted.utilisation),
        "node_cores": wanted.node_cores,
        "cells_a_node": a_node,
        "nodes": math.ceil(cells / a_node),
        "cpu_ms_per_1000_flows": 1e6 * used / wanted.rate,
        "collectors_at_once": wanted.rate / wanted.batch_flows * model.period_ms / 1000.0,
        "parts": {
            part: {
                "replicas_of_a_cell": cell.replicas[part],
                "replicas": cells * cell.replicas[part],
                "cores_used": cells * cell.cores[part],
                "utilisation": cell.cores[part] / cell.replicas[part],
                "wait_p99_ms": cell.queue(part, model.variability).wait_ms(_P99),
            }
            for part in _REPLICAS
        },
        "other_cores_used": {
            part: cells * cell.cores[part] for part in _SERVICE if part not in _REPLICAS
        },
        "first_answer_ms": {
            f"p{100 * q:.0f}": answer_quantile_ms(first, model.period_ms, q) for q in (0.5, _P99)
        },
        "tracker_calls_per_s": cells * cell.load.calls_per_s,
    }
    if wanted.flow_bytes is not None:
        sent, received = wanted.flow_bytes
        told["gbit_per_s"] = {"in": 8e-9 * sent * wanted.rate, "out": 8e-9 * received * wanted.rate}
        # What a Router gathers for all trackers; Ray Serve limits what a replica takes at once.
        told["round_mb"] = 1e-6 * sent * cell.load.rate / cell.load.rounds_per_s
    if wanted.unsure_share is not None:
        told["open_at_trackers"] = wanted.rate * wanted.unsure_share * wanted.open_s
        if wanted.tracker_flow_bytes is not None:
            told["tracker_gb"] = told["open_at_trackers"] * wanted.tracker_flow_bytes / 1e9
    if wanted.collector_us_per_flow is not None:
        told["collector_cores_used"] = wanted.rate * wanted.collector_us_per_flow / 1e6
    return told
