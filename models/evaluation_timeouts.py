"""Latency in percentiles, at idle timeouts that a network tap may use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation_answers import Answers, Study, Way
from models.metrics import WITHIN_MS, f1_scores

__all__ = ["LONG_FLOW_PACKETS", "by_idle_timeout", "percentiles"]

LONG_FLOW_PACKETS = 10
"""From this number of packets on a flow is looked at by itself, too."""


def by_idle_timeout(study: Study) -> list[dict[str, Any]]:
    """Return what flows wait when they are given up after a silence.

    A flow still waits no longer than the bundle lets it: an idle timeout above that changes
    nothing.

    Returns:
        By idle timeout: ``idle_timeout_s``, ``flows``, for ``cascade`` and ``slow_only`` their
        ``weighted_f1``, ``wait_ms`` and ``latency_ms`` (with inference), see :func:`percentiles`,
        and ``mean_infer_us``; ``slow_over_cascade``: the ratio of their ``mean`` and ``median``
        latencies (None: the cascade's is 0); ``long_flows``: the same for flows that have
        :data:`LONG_FLOW_PACKETS` or more when nobody gives them up, None if there are none.
    """
    everything = np.ones(len(study.true), np.bool_)
    # By what came, not by what a timeout left: the same flows at each of them.
    long = study.sizes >= LONG_FLOW_PACKETS
    return [
        {
            "idle_timeout_s": answers.idle_timeout_s,
            **_compared(study, answers, everything),
            "long_flows": _compared(study, answers, long) if long.any() else None,
        }
        for answers in study.by_idle_timeout
    ]


def percentiles(ms: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return ``p50``, ``p90``, ``p99``, ``mean`` and the share ``within_16ms``.

    Args:
        ms: Milliseconds, float64 ``[n]``, at least one.
    """
    p50, p90, p99 = np.percentile(ms, (50, 90, 99))
    return {
        "p50": round(float(p50), 4),
        "p90": round(float(p90), 4),
        "p99": round(float(p99), 4),
        "mean": round(float(ms.mean()), 4),
        "within_16ms": round(float((ms <= WITHIN_MS).mean()), 4),
    }


def _compared(study: Study, answers: Answers, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    cascade_ms, slow_ms = answers.cascade.latency_ms[rows], answers.slow_only.latency_ms[rows]
    return {
        "flows": int(rows.sum()),
        "cascade": _figures(study, answers.cascade, rows),
        "slow_only": _figures(study, answers.slow_only, rows),
        "slow_over_cascade": {
            "mean": _ratio(float(slow_ms.mean()), float(cascade_ms.mean())),
            "median": _ratio(float(np.median(slow_ms)), float(np.median(cascade_ms))),
        },
    }


def _figures(study: Study, way: Way, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    found = f1_scores(study.true[rows], way.said[rows])
    return {
        "weighted_f1": round(found["weighted_f1"], 4),
        "wait_ms": percentiles(way.wait_ms[rows]),
        "latency_ms": percentiles(way.latency_ms[rows]),
        "mean_infer_us": round(float(way.infer_ns[rows].mean() / 1e3), 2),
    }


def _ratio(slow: float, cascade: float) -> float | None:
    return round(slow / cascade, 2) if cascade else None
