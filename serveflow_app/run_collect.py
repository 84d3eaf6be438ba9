"""What ``serveflow collect`` runs: a source, an agent, sinks, and what an operator sees of them."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from collectors.agent import Agent, AgentOptions, VerdictHandler
from collectors.agent_log import set_up_logging
from collectors.agent_settings import AgentSettings
from collectors.disk_spool import DiskSpool
from collectors.endpoints import service_endpoints
from collectors.exchange import Settled
from collectors.memory import edge_limits
from collectors.open_source import SourceSettings, open_source
from collectors.queued_sink import QueuedSink, close_all
from collectors.sender import Sender, open_sender
from collectors.sink_specs import open_sinks
from collectors.sinks import Verdicts
from collectors.sources import Source
from collectors.status import AgentStatus
from collectors.warm_up import warm_up
from flows.errors import ServiceError, WireError
from flows.service_schema import ServiceSchema
from serveflow_app.output import emit_json, messages

__all__ = [
    "Collecting",
    "collect",
    "remember_schema",
    "remembered_schema",
    "schema_of",
    "signals",
    "source_in_words",
    "status_line",
    "summary_of",
]

_log = logging.getLogger(__name__)
_SINKS_S = 30.0  # that sinks may take at the end
_LOOK_S = 0.05
_SCHEMA = "schema.json"  # in the spool's folder
_ASK_S = (0.5, 10.0)  # from the first to the longest pause before the service is asked again


def schema_of(
    sender: Sender, stop: threading.Event, known: ServiceSchema | None = None
) -> ServiceSchema | None:
    """Ask the service what it wants until it answers.

    Args:
        sender: The way to it.
        stop: Ends the asking; None is returned then.
        known: What it wanted last time: good enough to begin with while it is away.
    """
    pause_s, longest_s = _ASK_S
    while not stop.is_set():
        try:
            return sender.schema()
        except ServiceError as error:
            if known is not None:
                _log.warning("%s Beginning with what it wanted last time.", error)
                return known
            _log.warning("%s Trying again in %.1f s.", error, pause_s)
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, longest_s)
    return None


def remembered_schema(folder: Path | None) -> ServiceSchema | None:
    """Return what the service wanted last time, if a spool's folder tells."""
    if folder is None:
        return None
    try:
        return ServiceSchema.from_dict(json.loads((folder / _SCHEMA).read_text()))
    except (OSError, ValueError, WireError):
        return None


def remember_schema(folder: Path, schema: ServiceSchema) -> None:
    """Write what the service wants into a spool's folder; without that it is asked for anew."""
    try:
        (folder / _SCHEMA).write_text(json.dumps(schema.to_dict()))
    except OSError as error:
        _log.warning("spool %s: %s", folder, error.strerror)


class Collecting:
    """A collector with all that is around it.

    Args:
        settings: What to do.
        stop: Set by whoever wants it to end.

    Attributes:
        opener: Opens the source; a test may put another one in.
    """

    def __init__(self, settings: AgentSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._source = settings.source()
        self._stop = stop
        self._agent: Agent | None = None
        self.opener: Callable[[SourceSettings], Source] = open_source
        self._sinks: list[QueuedSink] = []

    def run(self) -> AgentStatus:
        """Collect until the source ends, time is up or ``stop`` is set; return how it went.

        Raises:
            ServeFlowError: Source, sinks, spool or settings are not as they should be.
        """
        settings, name = self._settings, self._settings.collector_name
        with ExitStack() as stack:
            later = stack.enter_context(ExitStack())  # left after sinks are closed
            sender = open_sender(settings.to, settings.credentials())
            stack.callback(sender.close)
            self._sinks = open_sinks(settings.sinks)
            stack.callback(lambda: close_all(self._sinks, _SINKS_S))
            folder = settings.spool.folder
            schema = schema_of(sender, self._stop, remembered_schema(folder))
            if schema is None:
                return self.status()
            warm_up(with_header=schema.header)
            options = AgentOptions(
                name,
                source_in_words(self._source),
                settings.to,
                settings.collector(),
                settings.delivery(),
                edge_limits(settings.memory, schema.depth, with_header=schema.header),
                settings.drain_s,
            )
            spool = None
            if folder is not None:
                spool = DiskSpool(folder, settings.spooling(), name, schema, self._sinks)
                later.callback(spool.close)  # it keeps what sinks have not written by then
                remember_schema(folder, schema)
            own = service_endpoints(settings.to) if self._source.interface else ()
            source = self.opener(replace(self._source, with_header=schema.header, exclude=own))
            stack.callback(source.close)
            agent = Agent(source, sender, schema, options, self._writer(schema), spool)
            stack.callback(agent.close)
            self._agent = agent
            with self._stopping(agent):
                agent.run()
            close_all(self._sinks, _SINKS_S)
            return self.status()

    @property
    def running(self) -> bool:
        """Whether packets are read."""
        return self._agent is not None

    def status(self) -> AgentStatus:
        """Tell how it is; from any thread."""
        if self._agent is None:
            settings = self._settings
            words = source_in_words(self._source)
            found = AgentStatus(settings.collector_name, words, settings.to, connected=False)
        else:
            found = self._agent.status()
        return replace(found, sinks=tuple(sink.counters() for sink in self._sinks))

    def heartbeat_age_s(self) -> float:
        """How long ago the loop was last seen at work; 0: it has not begun."""
        return 0.0 if self._agent is None else self._agent.heartbeat_age_s

    def reopen(self) -> None:
        """Have sinks open their files anew, as after a rotation."""
        for sink in self._sinks:
            sink.reopen()

    def _writer(self, schema: ServiceSchema) -> VerdictHandler:
        name, interface = self._settings.collector_name, self._source.interface
        sinks = self._sinks

        def write(settled: Settled, classes: tuple[str, ...], model_version: str) -> None:
            found = Verdicts(settled, classes, schema.tiers, model_version, name, interface)
            for sink in sinks:
                sink.write(found)

        return write

    @contextmanager
    def _stopping(self, agent: Agent) -> Iterator[None]:
        """End the agent when it is asked to, or its time is up."""
        done = threading.Event()

        def watch() -> None:
            until_s = self._settings.duration_s
            begin_s = time.monotonic()
            while not done.wait(_LOOK_S):
                over = until_s is not None and time.monotonic() - begin_s >= until_s
                if self._stop.is_set() or over:
                    agent.stop()
                    return

        thread = threading.Thread(target=watch, name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def collect(settings: AgentSettings, as_json: bool, stop: threading.Event) -> None:
    """Run ``serveflow collect``.

    Args:
        settings: What to do.
        as_json: Print one JSON object at the end, for machines.
        stop: Set by whoever wants it to end; signals set it too.

    Raises:
        ServeFlowError: Source, sinks, spool or settings are not as they should be.
    """
    set_up_logging(settings.log.format, settings.log.level)
    collecting = Collecting(settings, stop)
    with ExitStack() as stack:
        stack.enter_context(signals(stop, collecting.reopen))
        address = settings.metrics_address
        if address is not None:
            from collectors.agent_http import AgentHttp  # not where nobody wants it

            stack.enter_context(AgentHttp(address, collecting.status, collecting.heartbeat_age_s))
        status = collecting.run()
    if as_json:
        emit_json(summary_of(status))
    else:
        messages.print(status_line(status), highlight=False, soft_wrap=True)


def status_line(status: AgentStatus) -> str:
    """Return in one line how a collector has done, for people."""
    table, final = status.table, sum(status.verdicts.values())
    median_ms = status.latency_ms.get("total", {}).get("p50")
    parts = [f"{table.packets:,} packets", f"{table.flows:,} flows", f"{final:,} verdicts"]
    if median_ms is not None:
        parts.append(f"median {median_ms:.1f} ms")
    waiting = table.unsettled_flows + (status.spool.waiting_flows if status.spool else 0)
    for count, what in (
        (status.seen.kernel_drops, "packets dropped by the kernel"),
        (table.refused_flows, "flows refused"),
        (table.evicted_flows, "flows evicted"),
        (table.lost_flows, "flows without a verdict"),
        (waiting, "flows left in the spool"),
        (sum(sum(sink.lost.values()) for sink in status.sinks), "verdicts that sinks lost"),
    ):
        if count:
            parts.append(f"[yellow]{count:,} {what}[/]")
    return " · ".join(parts)


def source_in_words(source: SourceSettings) -> str:
    """Return what is read, for people."""
    if source.interface is not None:
        return f"interface {source.interface}" + (f" ({source.bpf})" if source.bpf else "")
    if source.watch:
        return f"folder {source.paths[0]}"
    return "standard input" if list(source.paths) == ["-"] else ", ".join(map(str, source.paths))


@contextmanager
def signals(stop: threading.Event, reopen: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT set ``stop``, and SIGHUP call ``reopen``, for a while."""

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    def anew(number: int, frame: FrameType | None) -> None:
        reopen()

    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGTERM, end), (signal.SIGINT, end), (signal.SIGHUP, anew)
        )
    }  # fmt: skip
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summary_of(status: AgentStatus) -> dict[str, Any]:
    """Return the object that ``--json`` prints: that of ``replay --json``, and some more."""
    table, seen, latency = status.table, status.seen, status.latency_ms
    final = sum(status.verdicts.values())
    return {
        "flows": table.flows,
        "final": final,
        "open": table.unsettled_flows,
        "packets": table.packets,
        "frames": seen.frames,
        "malformed": seen.malformed,
        "duplicates": status.delivery.duplicate_packets,
        "by_tier": status.tiers,
        "by_reason": status.verdicts,
        "by_protocol": status.protocols,
        "answered_within_16ms": round(status.within_16ms / final, 4) if final else None,
        "median_latency_ms": latency.get("total", {}).get("p50"),
        "p99_latency_ms": latency.get("total", {}).get("p99"),
        "latency_ms": latency,
        "captures": seen.captures,
        "damaged": [{"capture": name, "reason": why} for name, why in seen.damaged],
        "kernel_drops": seen.kernel_drops,
        "ring_packets": seen.ring_packets,
        "spooled_bytes": status.spool.spooled_bytes if status.spool else 0,
        "refused_flows": table.refused_flows,
        "refused_packets": table.refused_packets,
        "evicted_flows": table.evicted_flows,
        "replayed_flows": status.delivery.replayed_flows,
        "lost_flows": table.lost_flows,
        "recovered_flows": status.spool.recovered_flows if status.spool else 0,
        "sinks": [asdict(sink) for sink in status.sinks],
    }
