"""Results of the benches as tables for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from serveflow_app.output import plain_table

__all__ = ["engine_table", "latency_tables", "rate_tables", "scale_tables"]


def _caption(result: dict[str, Any]) -> str:
    """Say what the figures were taken with."""
    taken = result["environment"]
    versions = " ".join(f"{name} {version}" for name, version in taken["versions"].items())
    settings = " ".join(
        f"{name}={', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in taken["settings"].items()
        if value is not None
    )
    return (
        f"{taken['cpu']}, {taken['cores']} cores, load {taken['load_1min']} before · commit "
        f"{taken['commit']} · python {taken['python']} {versions} · {settings}"
    )


def engine_table(result: dict[str, Any]) -> Table:
    """Return the stages of ``bench engine``."""
    title = (
        f"one process, one core: {result['new_flows_per_second_per_core']:,.0f} new flows/s, "
        f"{result['packets_per_second_per_core']:,.0f} packets/s; packet side alone "
        f"{result['packet_side_flows_per_second']:,.0f} new flows/s"
    )
    table = plain_table(
        title, ("stage", "µs a flow", "lowest", "highest", "answers"), _caption(result)
    )
    for name, value in result["stages_us_per_flow"].items():
        spread = result["spread_us_per_flow"][name]
        answers = result["answered_share"].get(name)
        table.add_row(
            name, f"{value:.3f}", f"{spread['lowest']:.3f}", f"{spread['highest']:.3f}",
            "" if answers is None else f"{answers:.1%}",
        )  # fmt: skip
    return table


def rate_tables(result: dict[str, Any]) -> list[Table]:
    """Return the figures of ``bench service-rate``."""
    held = "held" if result["held"] else "did NOT hold"
    title = (
        f"{result['new_flows_per_second']:,.0f} new flows/s over {result['transport']} {held}, "
        f"{result['packets_per_second']:,.0f} packets/s, {result['cores']} cores"
    )
    figures = plain_table(title, ("", "p50", "p90", "p99"))
    for key, name in (("queue_ms", "queueing, ms"), ("first_answer_ms", "first answer, ms")):
        figures.add_row(name, *(f"{result[key][p]:,.1f}" for p in ("p50", "p90", "p99")))
    open_flows = "unknown" if result["open_flows"] is None else f"{result['open_flows']:,}"
    figures.caption = (
        f"flows measured {result['flows']:,}, lost {result['lost_flows']:,}, open {open_flows}; "
        f"batches refused {result['refused_batches']:,} with {result['refused_flows']:,} new "
        f"flows, not sent behind a backlog {result['unsent_flows']:,}; final verdicts within the "
        f"time {result['answered_per_second']:,.0f}/s{_conservation(result['status'])}"
    )
    figures.caption_justify = "left"
    cpu = plain_table("CPU", ("process", "ms per 1,000 flows", "cores used"), _caption(result))
    for part, spent in result["cpu_ms_per_1000_flows"].items():
        cores = result["cores_used"].get(part, sum(result["cores_used"].values()))
        cpu.add_row(part, f"{spent:.2f}", f"{cores:.2f}")
    return [figures, cpu]


def _conservation(status: dict[str, Any] | None) -> str:
    if status is None:
        return ""
    flows = status["flows"]
    return (
        f"; the service admitted {flows['admitted']:,} = final {flows['final']:,} + open "
        f"{flows['open']:,} + lost {flows['lost']:,}: "
        f"{'holds' if status['holds'] else 'DOES NOT HOLD'}"
    )


def latency_tables(result: dict[str, Any]) -> list[Table]:
    """Return the figures of ``bench latency``."""
    kinds = {"cascade": "cascade", "slow_only": "slow only", "fast_only": "fast only"}
    title = (
        f"at {result['rate']:,.0f} new flows/s: median {result['median_speedup']:.1f}x below slow "
        "only"
    )
    columns = ("", "p50 ms", "p90 ms", "p99 ms", "≤ 16 ms", "sure: p50", "p99")
    table = plain_table(title, columns)
    for key, name in kinds.items():
        one = result[key]
        sure = one["sure_service_ms"]
        cells = [f"{one[f'{p}_ms']:,.1f}" for p in ("p50", "p90", "p99")]
        cells.append(f"{one['within_16ms']:.1%}")
        cells += [_number(sure["p50"]), _number(sure["p99"])]
        table.add_row(name, *cells)
    parts = list(result["cascade"]["split"])
    split = plain_table("where it goes: p50 / p99, ms", ("", *parts), _caption(result))
    for key, name in kinds.items():
        cells = [
            f"{_number(one['p50'])} / {_number(one['p99'])}"
            for one in result[key]["split"].values()
        ]
        split.add_row(name, *cells)
    return [table, split]


def scale_tables(result: dict[str, Any]) -> list[Table]:
    """Return the figures of ``bench scale``."""
    columns = (
        "open flows", "depth", "table ns/packet", "collector B/flow", "tracker µs/batch",
        "tracker B/flow",
    )  # fmt: skip
    tables = []
    for key, title in (("by_open_flows", "by open flows"), ("by_depth", "by depth")):
        table = plain_table(title, columns)
        for one in result[key]:
            table.add_row(
                f"{one['open_flows']:,}", str(one["depth"]), f"{one['table_ns_per_packet']:,.0f}",
                f"{one['collector_bytes_per_flow']:,.0f}", f"{one['tracker_us_per_batch']:,.0f}",
                f"{one['tracker_bytes_per_flow']:,.0f}",
            )  # fmt: skip
        tables.append(table)
    for key, name in (("by_batch_flows", "batch_flows"), ("by_trackers", "trackers")):
        title = f"the dispatch with its models, by {name.replace('_', ' ')}"
        last = _caption(result) if name == "trackers" else None
        table = plain_table(title, (name.replace("_", " "), "µs a flow"), last)
        for one in result[key]:
            table.add_row(f"{one[name]:,}", f"{one['us_per_flow']:.2f}")
        tables.append(table)
    return tables


def _number(value: float | None) -> str:
    # NaN, too, stands for nothing to take a percentile of.
    return "-" if value is None or value != value else f"{value:,.1f}"
