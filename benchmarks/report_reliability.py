"""Kept results of what breaks things, or goes on for long, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.report_text import markdown, newest, source
from benchmarks.results import Kept

__all__ = ["RELIABILITY_BLOCKS"]

_OTHERS = {"service": "the whole service, for 20 s", "collector": "the collector, on its spool"}
_MIB = 2.0**20


def _absent(command: str) -> str:
    return f"No result is kept yet: `serveflow bench {command} --save`."


def kills_block(results: Kept) -> str:
    """Return the figures of ``bench kills``, for each kind of parts the newest."""

    def key(result: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
        settings = result["environment"]["settings"]
        return tuple(sorted(settings["parts"])), bool(settings.get("fake"))

    found = newest(results, "kills", key)
    if not found:
        return _absent("kills")
    rows = [
        (_killed(one), f"{one['flows']:,}", f"{one['flows_per_second']:,.0f}",
         *(f"{one[name]:,}" for name in ("missing", "twice", "other_label")))
        for _, one in found.values()
    ]  # fmt: skip
    columns = ("killed", "flows", "new flows/s", "no final verdict", "more than one",
               "another label")  # fmt: skip
    told = [line for _, one in found.values() for line in _more_on_kills(one)]
    files = [source(name, one) for name, one in found.values()]
    return "\n\n".join([markdown(columns, rows), *told, "\n".join(files)])


def _killed(result: dict[str, Any]) -> str:
    settings = result["environment"]["settings"]
    times = result["killed"]
    if not times:
        return "nobody"
    each = ", ".join(_OTHERS.get(part, part) for part in times)
    counts = sorted(set(times.values()))
    often = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    made_up = ", service made up" if settings.get("fake") else ""
    return f"{each}: {often} times, every {settings['every_s']:g} s{made_up}"


def _more_on_kills(result: dict[str, Any]) -> list[str]:
    told = []
    if by := result.get("missing_by"):
        spooled, unread = by["spooled"], by["unread"]
        each_ms = 1e3 * unread / result["flows_per_second"] / sum(result["killed"].values())
        told.append(
            f"{_killed(result)}: of the flows without a verdict {spooled:,} had been spooled, "
            f"{unread:,} had not been read ({each_ms:.0f} ms of flows a time: what was in the "
            f"pipe, and {result['packets_while_nobody_read']:,} packets that came while nobody "
            "read). "
            f"{result['continued']:,} flows went on across a restart and are two, "
            f"{result['again']:,} verdicts were written twice."
        )
    if trackers := result.get("trackers"):
        lost = trackers["others_that_lost_their_state"]
        told.append(
            f"{_killed(result)}: trackers that were not killed lost the state of "
            f"{len(lost)} trackers and were silent for {trackers['others_s']:.2f} s at most "
            f"({trackers['usual_s']:.2f} s before the first death), the killed one for "
            f"{trackers['owner_s']:.2f} s."
        )
    return told


def soak_block(results: Kept) -> str:
    """Return the figures of the newest ``bench soak``."""
    found = newest(results, "soak")
    if not found:
        return _absent("soak")
    name, result = found[None]
    rows = [
        (process.rsplit(" ", 1)[0], f"{one['memory_mib']:,.0f}",
         f"{one['memory_mib_per_minute']:+.2f}", _range(one["open_files"]))
        for process, one in result["processes"].items()
    ]  # fmt: skip
    load, collector = result["load"], result["collector"]
    return (
        f"{markdown(('process', 'MiB', 'MiB a minute', 'open files'), rows)}\n\n"
        f"{result['seconds']:,.0f} s; load generator: {load['answered_per_second']:,.0f} final "
        f"verdicts/s, {load['lost_flows']:,} flows lost; collector: {collector['flows']:,} flows, "
        f"{collector['open']:,} open, {collector['refused_flows']:,} refused. Slopes by least "
        "squares, over what follows the first 40 % of the time; files are connections too.\n"
        f"{source(name, result)}"
    )


def _range(ends: list[int]) -> str:
    low, high = ends
    return str(low) if low == high else f"{low} to {high}"


def live_block(results: Kept) -> str:
    """Return the figures of the newest ``bench live``."""
    found = newest(results, "live")
    if not found:
        return _absent("live")
    name, result = found[None]
    rows = [
        (f"{one['asked_per_second']:,.0f}/s" if one["asked_per_second"] else "top speed",
         f"{one['offered_per_second']:,.0f}", f"{one['ring_packets']:,}",
         f"{one['kernel_drops']:,}", f"{one['decode_us']:.2f} µs",
         f"{one['decode_and_table_us']:.2f} µs", f"{one['cores_used']:.2f}")
        for one in result["rates"]
    ]  # fmt: skip
    columns = ("asked for", "offered/s", "packets in the ring", "kernel drops",
               "CPU a packet: decode", "decode and table", "of a core")  # fmt: skip
    return (
        f"{markdown(columns, rows)}\n\nFrames of {result['frame_bytes']:,.0f} bytes on average. "
        f"{source(name, result)}"
    )


def pauses_block(results: Kept) -> str:
    """Return the figures of ``bench pauses``, with a spool and without."""
    found = newest(results, "pauses", lambda one: bool(one["environment"]["settings"]["spool"]))
    if not found:
        return _absent("pauses")
    rows = [
        (f"{what}, {result['environment']['settings']['seconds']:g} s"
         + (", with a spool" if spool else ""),
         f"{one['flows']:,}", f"{one['flows'] - one['written']:,}", f"{one['refused_flows']:,}",
         "never" if one["drained_s"] is None else f"{one['drained_s']:.1f}",
         f"{one['most_memory_bytes'] / _MIB:,.0f} of {one['memory_bound_bytes'] / _MIB:,.0f}",
         f"{one['most_sink_bytes'] / _MIB:,.1f} of {one['sink_bound_bytes'] / _MIB:,.0f}")
        for spool, (_, result) in sorted(found.items())
        for what, one in result["paused"].items()
    ]  # fmt: skip
    columns = ("stood still", "flows", "without a verdict", "refused", "drained after s",
               "MiB of flows, at most", "MiB at the sink, at most")  # fmt: skip
    files = [source(name, one) for name, one in found.values()]
    return f"{markdown(columns, rows)}\n\n" + "\n".join(files)


def silence_block(results: Kept) -> str:
    """Return the figures of the newest ``bench silence``."""
    found = newest(results, "silence")
    if not found:
        return _absent("silence")
    name, result = found[None]
    late = result["late_ms"]
    return (
        f"{result['flows']:,} flows of one packet each on a virtual cable, then silence: final "
        f"{late['median']:.0f} ms after the deadline at the median, {late['most']:.0f} ms at most "
        f"({result['timed_out']:,} flows that had to wait).\n{source(name, result)}"
    )


RELIABILITY_BLOCKS: dict[str, Callable[[Kept], str]] = {
    "kills": kills_block,
    "live": live_block,
    "pauses": pauses_block,
    "silence": silence_block,
    "soak": soak_block,
}
"""What makes each block, by name."""
