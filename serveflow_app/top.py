"""What ``serveflow top`` shows: a running collector's status, and how fast it changes."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from collectors.connections import Connections
from flows.errors import ServiceRefusedError, ServiceUnavailableError
from serveflow_app.output import plain_table

__all__ = ["Sample", "ask_status", "rates", "sample_to_dict", "samples", "screen"]

_ASK_S = 5.0
_MOST_BYTES = 16 << 20
_RATED = {
    "frames": ("seen", "frames"),
    "packets": ("table", "packets"),
    "flows": ("table", "flows"),
    "batches": ("delivery", "batches"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A status, and what changed since the one before.

    Attributes:
        status: As ``/status`` tells it.
        rates: Per second: frames, packets, flows, batches, verdicts, and each loss by
            ``HOP/REASON`` or ``HOP/REASON/SINK``. Of a first sample, since the collector began.
    """

    status: dict[str, Any]
    rates: dict[str, float]


def ask_status(connections: Connections, url: str) -> dict[str, Any]:
    """Ask a collector for its status.

    Raises:
        ServiceUnavailableError: Nobody answers there.
        ServiceRefusedError: Somebody else does.
    """
    try:
        with connections.request("GET", "/status") as response:
            body = response.read(_MOST_BYTES)
        if response.status != http.client.OK:
            raise ServiceRefusedError(
                f"{url}/status answered {response.status}: is it a collector?"
            )
        found = json.loads(body)
        if not isinstance(found, dict) or not {"seen", "table", "lost"} <= found.keys():
            raise ServiceRefusedError(f"{url} is no collector of serveflow")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServiceUnavailableError(
            f"{url}: no collector answers ({reason}). Is one running (serveflow collect), and does "
            "it serve metrics there (its setting metrics)?"
        ) from None
    except ValueError:
        raise ServiceRefusedError(f"{url} is no collector of serveflow") from None
    return found


def rates(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, float]:
    """Return what changed per second between two statuses; None: since the collector began."""
    restarted = before is not None and now["uptime_s"] < before["uptime_s"]
    base = {} if before is None or restarted else before
    seconds = max(now["uptime_s"] - base.get("uptime_s", 0.0), 1e-3)
    was, counts = _counts(base), _counts(now)
    return {name: (count - was.get(name, 0)) / seconds for name, count in counts.items()}


def samples(
    url: str, interval_s: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Sample]:
    """Yield a sample at once, and then one per interval, without end."""
    connections = Connections(url, timeout_s=_ASK_S, idle=1)
    before: dict[str, Any] | None = None
    while True:
        now = ask_status(connections, url)
        yield Sample(now, rates(before, now))
        before = now
        sleep(interval_s)


def sample_to_dict(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON has it: the status, and ``rates_per_s``."""
    found = {name: round(rate, 3) for name, rate in sample.rates.items()}
    return {**sample.status, "rates_per_s": found}


def screen(sample: Sample) -> RenderableType:
    """Return what is shown of a sample."""
    status = sample.status
    parts: list[RenderableType] = [_head(status), Text(), _flow(sample)]
    if status["tiers"]:
        parts += [Text(), _verdicts(status)]
    if any(values.get("p50") is not None for values in status["latency_ms"].values()):
        parts += [Text(), _latency(status)]
    if status["sinks"]:
        parts += [Text(), _sinks(status)]
    parts += [Text(), _lost(sample)]
    return Group(*parts)


def _counts(status: dict[str, Any]) -> dict[str, int]:
    found = {name: status.get(part, {}).get(field, 0) for name, (part, field) in _RATED.items()}
    found["verdicts"] = sum(status.get("verdicts", {}).values())
    for loss in status.get("lost", ()):
        found[_loss_name(loss)] = loss["count"]
    return found


def _loss_name(loss: dict[str, Any]) -> str:
    return "/".join(part for part in (loss["hop"], loss["reason"], loss["sink"]) if part)


def _plain(text: object) -> Text:
    """Return what somebody else said, without what would move a terminal's cursor."""
    return Text("".join(c if c.isprintable() else "?" for c in str(text)))


def _head(status: dict[str, Any]) -> Text:
    delivery = status["delivery"]
    model = status["model_version"] or "no verdict yet"
    head = Text.assemble(
        (_plain(status["name"]).plain, "bold"), ": ", _plain(status["source"]), " → ",
        _plain(status["to"]), f"  (bundle {_plain(model)}, up {_duration(status['uptime_s'])})",
    )  # fmt: skip
    if not status.get("connected", True):
        head.append("\nwaiting for the service", "bold yellow")
    elif delivery["away_s"]:
        head.append(f"\nservice away for {_duration(delivery['away_s'])}: ", "bold red")
        head.append(_plain(delivery["last_error"]))
    return head


def _flow(sample: Sample) -> Table:
    status, found = sample.status, sample.rates
    table = plain_table("", ("", "now", "per second"))
    seen, edge, delivery = status["seen"], status["table"], status["delivery"]
    for name, count in (
        ("frames", seen["frames"]), ("packets", edge["packets"]), ("flows", edge["flows"]),
        ("verdicts", sum(status["verdicts"].values())), ("batches", delivery["batches"]),
    ):  # fmt: skip
        table.add_row(name, f"{count:,}", f"{found[name]:,.1f}")
    table.add_row("open / unsettled", f"{edge['open_flows']:,} / {edge['unsettled_flows']:,}", "")
    limit = f" of {_mib(edge['limit_bytes'])}" if edge["limit_bytes"] else ""
    table.add_row("memory", f"{_mib(edge['memory_bytes'])}{limit}", "")
    table.add_row(
        "in flight / put off", f"{delivery['in_flight']} / {delivery['overloaded']:,}", ""
    )
    table.add_row("failed / sent again", f"{delivery['failures']:,} / "
                  f"{delivery['replayed_flows']:,} flows", "")  # fmt: skip
    spool = status["spool"]
    if spool is not None:
        held = f"{_mib(spool['bytes'])} of {_mib(spool['limit_bytes'])}"
        table.add_row("spool", f"{held}, {spool['waiting_flows']:,} flows wait", "")
    return table


def _verdicts(status: dict[str, Any]) -> Table:
    table = plain_table("", ("final verdicts", "count", "share"))
    for kind in ("tiers", "verdicts"):
        total = sum(status[kind].values())
        for name, count in status[kind].items():
            word = "tier" if kind == "tiers" else "reason"
            table.add_row(_plain(f"{word} {name}"), f"{count:,}", f"{count / max(total, 1):.1%}")
    final = sum(status["verdicts"].values())
    within = status["within_16ms"]
    table.add_row("within 16 ms", f"{within:,}", f"{within / max(final, 1):.1%}")
    return table


def _latency(status: dict[str, Any]) -> Table:
    table = plain_table("", ("latency, ms", "p50", "p90", "p99"))
    for part, values in status["latency_ms"].items():
        told = [values.get(name) for name in ("p50", "p90", "p99")]
        table.add_row(_plain(part), *("-" if v is None else f"{v:,.2f}" for v in told))
    return table


def _sinks(status: dict[str, Any]) -> Table:
    table = plain_table("", ("sink", "written", "waiting", "last error"))
    for sink in status["sinks"]:
        table.add_row(
            _plain(sink["name"]), f"{sink['written']:,}", f"{sink['waiting']:,}",
            _plain(sink["last_error"] or "-"),
        )  # fmt: skip
    return table


def _lost(sample: Sample) -> RenderableType:
    some = [loss for loss in sample.status["lost"] if loss["count"]]
    if not some:
        return Text("nothing was lost at any hop", "green")
    table = plain_table("", ("lost at", "reason", "count", "per second"))
    for loss in some:
        rate = sample.rates[_loss_name(loss)]
        where = " ".join(part for part in (loss["hop"], loss["sink"]) if part)
        reason = loss["reason"].replace("_", " ")
        style = "red" if rate else ""
        table.add_row(
            _plain(where), _plain(reason), f"{loss['count']:,}", f"{rate:,.1f}", style=style
        )
    return table


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    for count, unit, less, smaller in (
        (days, "d", hours, "h"), (hours, "h", minutes, "min"), (minutes, "min", rest, "s")
    ):  # fmt: skip
        if count:
            return f"{count} {unit} {less} {smaller}"
    return f"{rest} s"
