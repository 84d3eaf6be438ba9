"""The conservation laws: nothing is lost without being counted."""

from __future__ import annotations

from typing import Any

__all__ = ["conservation"]


def conservation(router: dict[str, Any], trackers: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up what a Router and the trackers have counted; see docs/architecture.md.

    Returns:
        ``flows`` and ``packets`` with the two conservation laws' terms and ``holds``, and the
        counters behind them.
    """

    def total(name: str) -> int:
        return sum(int(tracker[name]) for tracker in trackers)

    flows = {
        "admitted": router["flows_sure"] + total("flows_admitted"),
        "final": router["flows_sure"] + total("flows_final"),
        "open": total("flows_open"),
        "lost": total("flows_lost"),
    }
    outcomes = ("applied", "duplicate", "malformed", "shed")
    packets = {"in": router["packets_in"]} | {k: router[f"packets_{k}"] for k in outcomes}
    holds = flows["admitted"] == flows["final"] + flows["open"] + flows["lost"] and packets[
        "in"
    ] == sum(packets[k] for k in outcomes)
    return {
        "holds": holds,
        "flows": flows,
        "packets": packets,
        "router": router,
        "trackers": trackers,
    }
