"""Kept results as tables in Markdown, one function for each kind of block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results import Kept

__all__ = ["BLOCKS", "markdown", "newest", "rate_columns", "source"]

_LATENCIES = {"cascade": "cascade", "slow_only": "slow only", "fast_only": "fast only"}
_PARTS = {"all": "all", "ingress": "… ingress (Router)", "fast": "… FastModel",
          "slow": "… SlowModel", "trackers": "… FlowTrackers", "proxy": "… HAProxy",
          "ray": "… Ray's own", "generator": "… load generator"}  # fmt: skip
_STAGES = {"read_decode": "read and decode", "table": "flow table",
           "first_packets": "first packets kept", "features": "features",
           "packet_side": "**packet side alone**",
           "file_to_verdicts": "**file to verdicts**"}  # fmt: skip


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all columns but the first are flush right."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def newest(
    results: Kept, kind: str, key: Callable[[dict[str, Any]], Any] = lambda _: None
) -> dict[Any, tuple[str, dict[str, Any]]]:
    """Return the newest result of a kind for each key, the first to come first.

    Args:
        results: As :func:`benchmarks.results.kept` returns them.
        kind: Such as ``service-rate``.
        key: Which settings are told apart; None for a result that is left aside.
    """
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    for name, result in results:
        if name.rpartition("-")[0] == kind:
            found[key(result)] = (name, result)
    return found


def source(name: str, result: dict[str, Any]) -> str:
    """Return where a table comes from: the file, the commit, the machine."""
    taken = result["environment"]
    return (
        f"`docs/results/{name}.json`: commit {taken['commit']}, {taken['cores']} cores of "
        f"{taken['cpu']}, load {taken['load_1min']:g} before, Python {taken['python']}, "
        + ", ".join(f"{package} {version}" for package, version in taken["versions"].items())
        + "."
    )


def _absent(kind: str) -> str:
    return f"No result is kept yet: `serveflow bench {kind} --save`."


def engine_block(results: Kept) -> str:
    """Return the stages of ``bench engine``."""
    found = newest(results, "engine")
    if not found:
        return _absent("engine")
    name, result = found[None]
    rows = []
    for stage, us in result["stages_us_per_flow"].items():
        answers = result["answered_share"].get(stage)
        spread = result["spread_us_per_flow"][stage]
        rows.append((
            _STAGES.get(stage, stage), f"{us:.2f}",
            f"{spread['lowest']:.2f} to {spread['highest']:.2f}",
            "" if answers is None else f"{answers:.1%}",
        ))  # fmt: skip
    told = (
        f"{result['new_flows_per_second_per_core']:,.0f} new flows/s and "
        f"{result['packets_per_second_per_core']:,.0f} packets/s a core, file to verdicts; the "
        f"packet side alone {result['packet_side_flows_per_second']:,.0f} and "
        f"{result['packet_side_packets_per_second']:,.0f}. {result['flows']:,} flows of "
        f"{result['packets_per_flow']:.1f} packets, median of "
        f"{result['environment']['settings']['rounds']} rounds; a tier's time is for a flow that "
        "it is asked about."
    )
    table = markdown(("stage", "µs a new flow", "rounds", "answers"), rows)
    return f"{table}\n\n{told}\n{source(name, result)}"


def rate_columns(results: Kept) -> list[tuple[str, str, dict[str, Any]]]:
    """Return heading, name and result of the newest ``bench service-rate`` of each kind."""

    def key(result: dict[str, Any]) -> tuple[str, str, bool]:
        settings = result["environment"]["settings"]
        placement = settings["placement"] or "separate"
        return result["transport"], placement, settings["rate"] is None

    columns = []
    found = newest([one for one in results if not _goes_on(one[1])], "service-rate", key)

    def place(of: tuple[str, str, bool]) -> tuple[bool, bool, bool]:
        return of[0] != "http", of[1] != "separate", not of[2]

    for transport, placement, searched in sorted(found, key=place):
        name, result = found[transport, placement, searched]
        how = "highest found" if searched else "rate given"
        columns.append((f"{transport.replace('http', 'HTTP').replace('grpc', 'gRPC')}, "
                        f"{placement}, {how}", name, result))  # fmt: skip
    return columns


def rate_block(results: Kept) -> str:
    """Return the figures of ``bench service-rate``, side by side."""
    columns = rate_columns(results)
    if not columns:
        return _absent("service-rate")
    several = [result for _, _, result in columns]

    def row(name: str, of: Callable[[dict[str, Any]], str]) -> tuple[str, ...]:
        return (name, *(of(one) for one in several))

    def settings(one: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = one["environment"]["settings"]
        return found

    def percentiles(key: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one[key]['p50']:,.0f} / {one[key]['p99']:,.0f}"

    def cpu(part: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: f"{one['cpu_ms_per_1000_flows'].get(part, 0.0):.1f}"

    rows = [
        row("**new flows/s**" , lambda one: f"**{one['new_flows_per_second']:,.0f}**"),
        row("held", lambda one: "yes" if one["held"] else "**no**"),
        row("packets/s submitted", lambda one: f"{one['packets_per_second']:,.0f}"),
        row("lost / open at the end", lambda one: f"{one['lost_flows']:,} / "
            f"{'not known' if one['open_flows'] is None else format(one['open_flows'], ',')}"),
        row("first answer p50 / p99 ms", percentiles("first_answer_ms")),
        row("queueing until the final verdict p50 / p99 ms", percentiles("queue_ms")),
        *(
            row("CPU-ms per 1,000 flows, all" if part == "all" else name, cpu(part))
            for part, name in _PARTS.items()
        ),
        row("cores used", lambda one: f"{sum(one['cores_used'].values()):.2f} of {one['cores']}"),
        row("rounds, seconds each", lambda one: f"{settings(one)['rounds']}, "
            f"{settings(one)['seconds']:g}"),
        row("collectors, batch every ms", lambda one: f"{settings(one)['collectors']}, "
            f"{1000 * settings(one)['batch_delay_s']:g}"),
        row("commit", lambda one: str(one["environment"]["commit"])),
    ]  # fmt: skip
    table = markdown(("", *(heading for heading, _, _ in columns)), rows)
    files = ", ".join(f"`{name}.json`" for _, name, _ in columns)
    return f"{table}\n\nFrom left to right: {files} in `docs/results/`."


def _goes_on(result: dict[str, Any]) -> bool:
    """Tell whether a load went on when the service refused batches: what overload does."""
    return bool(result["environment"]["settings"].get("keep_going"))


def overload_block(results: Kept) -> str:
    """Return the figures of ``bench service-rate --keep-going``, by the rate offered."""
    found = newest(
        [one for one in results if _goes_on(one[1])],
        "service-rate",
        lambda result: result["environment"]["settings"]["rate"],
    )
    if not found:
        return _absent("service-rate --rate R --keep-going")
    rows = [
        (f"{rate:,.0f}", f"{one['answered_per_second']:,.0f}",
         *(f"{one['first_answer_ms'][p]:,.0f}" for p in ("p50", "p99")),
         f"{one['queue_ms']['p99']:,.0f}", f"{one['refused_flows']:,}",
         f"{one['lost_flows']:,}", f"{sum(one['cores_used'].values()):.2f}")
        for rate, (_, one) in sorted(found.items())
    ]  # fmt: skip
    columns = ("new flows/s offered", "final verdicts/s", "first answer p50 ms", "p99 ms",
               "queueing p99 ms", "new flows refused", "lost", "cores used")  # fmt: skip
    told = [source(name, one) for _, (name, one) in sorted(found.items())]
    return f"{markdown(columns, rows)}\n\n" + "\n".join(told)


def start_up_block(results: Kept) -> str:
    """Return the figures of ``bench start-up``."""
    found = newest(results, "start-up")
    if not found:
        return _absent("start-up")
    name, result = found[None]
    cells = [(part, f"{mib:,.0f}") for part, mib in result["memory_mib"].items()]
    spread = result["spread_of_rounds"]["first_verdict_s"]
    return (
        f"First verdict after {result['first_verdict_s']:.1f} s ({spread['lowest']:.1f} to "
        f"{spread['highest']:.1f} in {spread['rounds']} starts). Memory (proportional set size):"
        f"\n\n{markdown(('processes', 'MiB'), cells)}\n\n{source(name, result)}"
    )


def autoscaling_block(results: Kept) -> str:
    """Return the figures of ``bench autoscaling``, for each load the newest."""

    def key(result: dict[str, Any]) -> tuple[Any, ...]:
        settings = result["environment"]["settings"]
        names = ("rate", "fast_times", "slow_times")
        return *(settings[name] for name in names), settings.get("placement") or "separate"

    found = newest(results, "autoscaling", key)
    if not found:
        return _absent("autoscaling")
    parts = []
    for (rate, fast_times, slow_times, placement), (name, result) in sorted(found.items()):
        load, names = result["load"], list(result["replicas"][0]["replicas"])
        rows = [
            (f"{one['at_s']:.0f}", *(str(one["replicas"][name]) for name in names))
            for one in result["replicas"]
        ]
        parts.append(
            f"{placement}: {rate:,.0f} new flows/s from {result['load_from_s']:.0f} to "
            f"{result['load_to_s']:.0f} s, models on packet 1 asked {fast_times} times, "
            f"deeper ones {slow_times} times: {load['flows']:,} flows measured, "
            f"{load['lost_flows']:,} lost, {load['refused_flows']:,} refused.\n\n"
            f"{markdown(('seconds', *names), rows)}\n\n"
            f"{source(name, result)}"
        )
    return "\n\n".join(parts)


def latency_block(results: Kept) -> str:
    """Return the figures of ``bench latency``, for each load and placement the newest."""

    def key(result: dict[str, Any]) -> tuple[str, float, str]:
        settings = result["environment"]["settings"]
        names = settings["captures"]
        embedded = all(name.startswith("run-") for name in names)
        played = "the lab's test runs" if embedded else f"{len(names)} other captures"
        return played, result["rate"], settings.get("placement") or "separate"

    found = newest(results, "latency", key)
    if not found:
        return _absent("latency")
    parts = []
    for (played, rate, placement), (name, result) in sorted(found.items(), reverse=True):
        split = list(result["cascade"]["split"])
        rows = []
        for kind, told in _LATENCIES.items():
            one = result[kind]
            rows.append((
                told, *(f"{one[f'{p}_ms']:,.1f}" for p in ("p50", "p90", "p99")),
                f"{one['within_16ms']:.1%}",
                _pair(one["sure_service_ms"]),
                *(_pair(one["split"].get(part, {})) for part in split),
            ))  # fmt: skip
        columns = ("", "p50 ms", "p90 ms", "p99 ms", "≤ 16 ms", "sure flows: service p50 / p99",
                   *split)  # fmt: skip
        parts.append(
            f"{played[0].upper()}{played[1:]} at {rate:,.0f} new flows/s, {placement}; median "
            f"speed-up over slow only {result['median_speedup']:.1f}x:\n\n"
            f"{markdown(columns, rows)}\n\n"
            f"The split is p50 / p99, ms. {source(name, result)}"
        )
    return "\n\n".join(parts)


def scale_block(results: Kept) -> str:
    """Return the figures of ``bench scale``."""
    found = newest(results, "scale")
    if not found:
        return _absent("scale")
    name, result = found[None]
    parts = []
    for key in ("by_open_flows", "by_depth"):
        rows = [
            (f"{one['open_flows']:,}", str(one["depth"]), f"{one['table_ns_per_packet']:,.0f}",
             f"{one['collector_bytes_per_flow']:,.0f}", f"{one['tracker_us_per_batch']:,.0f}",
             f"{one['tracker_us_per_1000_flows']:,.0f}",
             f"{one['tracker_bytes_per_flow']:,.0f}")
            for one in result[key]
        ]  # fmt: skip
        columns = ("open flows", "depth", "flow table, ns a packet", "collector, bytes a flow",
                   "tracker, µs a batch of 4,096 packets", "one of 1,000 flows",
                   "tracker, bytes a flow")  # fmt: skip
        parts.append(markdown(columns, rows))
    for key, what in (("by_batch_flows", "batch_flows"), ("by_trackers", "trackers")):
        cells = [(f"{one[what]:,}", f"{one['us_per_flow']:.2f}") for one in result[key]]
        name_of = what.replace("_", " ").replace("batch flows", "flows in a batch")
        parts.append(markdown((name_of, "dispatch with its models, µs a flow"), cells))
    return "\n\n".join(parts) + f"\n\n{source(name, result)}"


def peers_block(results: Kept) -> str:
    """Return the figures of ``bench peers``."""
    found = newest(results, "peers")
    if not found:
        return _absent("peers")
    name, result = found[None]
    ours = next(one for one in result["peers"] if one["name"] == "ours: engine and cascade")
    rows = [
        (_named(one), one["does"], f"{one['flows']:,}",
         f"{one['flows_per_second_per_core']:,.0f}", f"{one['packets_per_second_per_core']:,.0f}",
         f"{one['flows_per_second_wall']:,.0f}",
         _times(ours["flows_per_second_per_core"] / one["flows_per_second_per_core"]))
        for one in result["peers"]
    ]  # fmt: skip
    columns = ("", "does", "flows", "flows/s a core", "packets/s a core", "flows/s, wall",
               "ours with models to it")  # fmt: skip
    table = markdown(columns, rows).replace("|---|--:|", "|---|---|", 1)
    absent = "".join(
        f" Not installed: {one['name']} ({one['install']})." for one in result["not_installed"]
    )
    return (
        f"{table}\n\n{result['flows']:,} flows, {result['packets']:,} packets as we count them; "
        f"median of {result['environment']['settings']['rounds']} rounds that took turns."
        f"{absent}\n{source(name, result)}"
    )


def _pair(one: dict[str, Any]) -> str:
    told = [one.get("p50"), one.get("p99")]
    return " / ".join("-" if value is None else f"{value:,.1f}" for value in told)


def _named(peer: dict[str, Any]) -> str:
    return f"{peer['name']} ({peer['version']})" if peer["version"] else str(peer["name"])


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10.0 else f"{factor:.2g}"


BLOCKS: dict[str, Callable[[Kept], str]] = {
    "engine": engine_block,
    "service-rate": rate_block,
    "latency": latency_block,
    "overload": overload_block,
    "start-up": start_up_block,
    "autoscaling": autoscaling_block,
    "scale": scale_block,
    "peers": peers_block,
}
"""What makes each block, by name."""
