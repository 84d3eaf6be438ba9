"""Results of the benches as tables for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from serveflow_app.output import plain_table

__all__ = [
    "autoscaling_table",
    "engine_table",
    "kills_table",
    "latency_tables",
    "live_table",
    "mutations_table",
    "pauses_table",
    "peers_table",
    "points_table",
    "rate_tables",
    "scale_tables",
    "silence_table",
    "soak_table",
    "start_up_table",
]


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


def start_up_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench start-up``."""
    title = (
        f"first verdict after {result['first_verdict_s']:.1f} s (ready after "
        f"{result['ready_s']:.1f} s); memory in all {result['memory_mib']['all']:,.0f} MiB"
    )
    table = plain_table(title, ("process", "MiB"), _caption(result))
    for part, mib in result["memory_mib"].items():
        table.add_row(part, f"{mib:,.0f}")
    return table


def autoscaling_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench autoscaling``."""
    load = result["load"]
    title = (
        f"load from {result['load_from_s']:.0f} to {result['load_to_s']:.0f} s: {load['flows']:,} "
        f"flows, {load['answered_per_second']:,.0f} verdicts/s, {load['lost_flows']:,} lost"
    )
    deployments = list(result["replicas"][0]["replicas"]) if result["replicas"] else []
    table = plain_table(title, ("seconds", *deployments), _caption(result))
    for one in result["replicas"]:
        table.add_row(f"{one['at_s']:.0f}", *(str(one["replicas"][name]) for name in deployments))
    return table


def kills_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench kills``."""
    killed = (
        ", ".join(f"{part} {times} times" for part, times in result["killed"].items()) or "nobody"
    )
    title = f"{result['flows']:,} flows at {result['flows_per_second']:,.0f}/s; killed: {killed}"
    columns = ("no final verdict", "more than one", "another label", "the same", "sent again")
    table = plain_table(title, columns, _caption(result))
    table.add_row(
        f"{result['missing']:,}", f"{result['twice']:,}", f"{result['other_label']:,}",
        f"{result['same_share']:.3%}", f"{result['collector']['replayed_flows']:,}",
    )  # fmt: skip
    return table


def mutations_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench mutations``."""
    title = f"{result['packets']:,} broken packets, {result['captures']:,} captures"
    table = plain_table(title, ("what became of them", "times"), _caption(result))
    table.add_row("packets skipped as broken", f"{result['malformed']:,}")
    for name, times in result["ended"].items():
        table.add_row(f"captures ended by {name}", f"{times:,}")
    table.add_row("anything else raised", f"{sum(result['uncaught'].values()):,}")
    table.add_row("slowest capture, ms", f"{result['slowest_ms']:.1f}")
    table.add_row("memory grown by, MiB", f"{result['grown_mib']:.1f}")
    return table


def pauses_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench pauses``."""
    columns = (
        "still",
        "flows",
        "lost",
        "refused",
        "drained s",
        "memory MiB, most",
        "sink MiB, most",
    )
    table = plain_table("what stood still, and what became of it", columns, _caption(result))
    for what, one in result["paused"].items():
        table.add_row(
            what, f"{one['flows']:,}", f"{one['flows'] - one['written']:,}",
            f"{one['refused_flows']:,}",
            "never" if one["drained_s"] is None else f"{one['drained_s']:.2f}",
            f"{one['most_memory_bytes'] / 2**20:.1f} of {one['memory_bound_bytes'] / 2**20:.0f}",
            f"{one['most_sink_bytes'] / 2**20:.1f} of {one['sink_bound_bytes'] / 2**20:.0f}",
        )  # fmt: skip
    return table


def silence_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench silence``."""
    columns = ("flows", "that waited", "late ms, median", "at most")
    table = plain_table(
        "final verdicts after deadlines, on a silent wire", columns, _caption(result)
    )
    late = result["late_ms"]
    table.add_row(
        f"{result['flows']:,}", f"{result['timed_out']:,}", f"{late['median']:.0f}",
        f"{late['most']:.0f}",
    )  # fmt: skip
    return table


def soak_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench soak``."""
    load = result["load"]
    title = f"{result['seconds']:.0f} s at {load['answered_per_second']:,.0f} verdicts/s"
    columns = ("process", "MiB", "MiB a minute", "open files")
    table = plain_table(title, columns, _caption(result))
    for name, one in result["processes"].items():
        low, high = one["open_files"]
        table.add_row(
            name, f"{one['memory_mib']:.1f}", f"{one['memory_mib_per_minute']:+.2f}",
            str(low) if low == high else f"{low} to {high}",
        )  # fmt: skip
    return table


def points_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench capacity-points``."""
    columns = ("load", "held", "batches/s", "cores", "first answer p50", "p99", "queueing p99 ms")
    table = plain_table("what the service takes", columns, _caption(result))
    for one in result["points"]:
        table.add_row(
            f"{one['rate']:,.0f}@{one['collectors']}", "yes" if one["held"] else "NO",
            f"{one['batches_per_second']:,.1f}", f"{sum(one['cores_used'].values()):.2f}",
            f"{one['first_answer_ms']['p50']:,.1f}", f"{one['first_answer_ms']['p99']:,.1f}",
            f"{one['queue_ms']['p99']:,.1f}",
        )  # fmt: skip
    return table


def capacity_tables(result: dict[str, Any]) -> list[Table]:
    """Return the plan of ``bench capacity``, and how far its model is off."""
    told = result["plan"]
    title = (
        f"{told['rate']:,.0f} new flows/s: {told['cores']:,} cores at "
        f"{told['utilisation']:.0%}, {told['cells']:,} cells on {told['nodes']:,} nodes of "
        f"{told['node_cores']}"
    )
    parts = plain_table(title, ("", "replicas", "in a cell", "utilisation", "p99 of waiting, ms"))
    for name, one in told["parts"].items():
        parts.add_row(
            name, f"{one['replicas']:,}", str(one["replicas_of_a_cell"]),
            f"{one['utilisation']:.0%}", f"{one['wait_p99_ms']:.1f}",
        )  # fmt: skip
    check = plain_table(
        "checked against points it was not fitted on: predicted (error)",
        ("", "cores", "first answer p50, ms", "p99"),
        f"fitted on {len(result['fitted_on'])} points of {', '.join(result['files'])}",
    )
    for one in result["check"]:
        cells = [
            f"{one['predicted'][key]:,.2f} ({one['error'][key]:+.1%})"
            for key in ("all", "first_p50_ms", "first_p99_ms")
        ]
        check.add_row(one["point"], *cells)
    return [parts, check]


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


def live_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench live``."""
    columns = ("asked for", "offered/s", "in the ring", "kernel drops", "decode, µs", "and table",
               "cores")  # fmt: skip
    title = f"a live interface, frames of {result['frame_bytes']:,.0f} bytes; CPU a packet"
    table = plain_table(title, columns, _caption(result))
    for one in result["rates"]:
        asked = one["asked_per_second"]
        table.add_row(
            f"{asked:,.0f}/s" if asked else "top speed", f"{one['offered_per_second']:,.0f}",
            f"{one['ring_packets']:,}", f"{one['kernel_drops']:,}", f"{one['decode_us']:.3f}",
            f"{one['decode_and_table_us']:.3f}", f"{one['cores_used']:.2f}",
        )  # fmt: skip
    return table


def peers_table(result: dict[str, Any]) -> Table:
    """Return the figures of ``bench peers``."""
    columns = ("", "flows", "flows/s a core", "packets/s a core", "flows/s, wall")
    absent = "; ".join(f"{one['name']}: {one['install']}" for one in result["not_installed"])
    does = "\n".join(f"{one['name']}: {one['does']}" for one in result["peers"])
    missing = f"not installed: {absent}\n" if absent else ""
    caption = f"{does}\n{missing}{_caption(result)}"
    title = f"{result['flows']:,} flows, {result['packets']:,} packets"
    table = plain_table(title, columns, caption)
    for one in result["peers"]:
        table.add_row(
            _named(one), f"{one['flows']:,}",
            f"{one['flows_per_second_per_core']:,.0f}",
            f"{one['packets_per_second_per_core']:,.0f}",
            f"{one['flows_per_second_wall']:,.0f}",
        )  # fmt: skip
    return table


def scale_tables(result: dict[str, Any]) -> list[Table]:
    """Return the figures of ``bench scale``."""
    columns = (
        "open flows", "depth", "table ns/packet", "collector B/flow", "tracker µs/batch",
        "µs/1,000 flows", "tracker B/flow",
    )  # fmt: skip
    tables = []
    for key, title in (("by_open_flows", "by open flows"), ("by_depth", "by depth")):
        table = plain_table(title, columns)
        for one in result[key]:
            table.add_row(
                f"{one['open_flows']:,}", str(one["depth"]), f"{one['table_ns_per_packet']:,.0f}",
                f"{one['collector_bytes_per_flow']:,.0f}", f"{one['tracker_us_per_batch']:,.0f}",
                f"{one['tracker_us_per_1000_flows']:,.0f}",
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


def _named(peer: dict[str, Any]) -> str:
    return f"{peer['name']} ({peer['version']})" if peer["version"] else str(peer["name"])
