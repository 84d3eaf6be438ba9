"""``serveflow bench silence``: how late the last verdicts come on a wire that has fallen silent.

Some flows of one packet each begin on a virtual cable, and then there is nothing more. Each one is
final when its wait is over; how long after that the collector has its verdict is measured.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.started import config_under_test, started
from benchmarks.veth import Namespace
from collectors.agent import Agent, AgentOptions
from collectors.exchange import Settled
from collectors.ring_settings import RingSettings
from collectors.ring_source import RingSource
from collectors.sender import HttpSender
from collectors.warm_up import warm_up
from flows.errors import ServeFlowError
from flows.verdict import Reason

__all__ = ["SilenceSettings", "measure_silence"]

_SPREAD_S = 2.0  # in which the flows begin, at random
_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class SilenceSettings:
    """What to do.

    Attributes:
        flows: How many.
        config: Serve configuration; None: the one that comes along.
        url: A service that runs already, in place of one of one's own.
    """

    flows: int = 60
    config: Path | None = None
    url: str | None = None


def measure_silence(
    settings: SilenceSettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run; return the object that ``--json`` prints.

    Raises:
        ServeFlowError: The service is not as it should be, or no flow had to wait.
        SettingsError: There is no right to make a network namespace.
    """
    taken = environment(flows=settings.flows)
    if settings.url is not None:
        late_s = _late(settings.url, settings.flows, on_progress)
    else:
        with started(config_under_test(settings.config)) as (service, _):
            late_s = _late(service.url, settings.flows, on_progress)
    if not late_s:
        raise ServeFlowError("no flow had to wait for its deadline: the service is sure of all")
    late_ms = sorted(1e3 * late for late in late_s)
    return {
        "flows": settings.flows,
        "timed_out": len(late_ms),
        "late_ms": {"median": late_ms[len(late_ms) // 2], "most": late_ms[-1]},
        "environment": taken,
    }


def _late(url: str, flows: int, on_progress: Callable[[str], None]) -> list[float]:
    """Return by how many seconds verdicts of flows whose wait was over came later."""
    with HttpSender(url) as sender, Namespace() as where:
        schema = sender.schema()
        warm_up(with_header=schema.header)
        where.add_veth()
        with where.entered():
            source = RingSource(RingSettings("sf1", with_header=schema.header))
        found: list[float] = []

        def note(settled: Settled, classes: tuple[str, ...], model_version: str) -> None:
            now_ns = time.time_ns()
            over = settled.verdicts["reason"] == Reason.TIMEOUT
            begun_ns = settled.flows["start_time_ns"][over]
            found.extend(((now_ns - begun_ns) * 1e-9 - schema.max_wait_s).tolist())

        agent = Agent(source, sender, schema, AgentOptions("edge", "sf1", url), note)
        thread = threading.Thread(target=agent.run, name="agent")
        thread.start()
        try:
            time.sleep(1.0)
            on_progress("a packet of each flow …")
            _send(where, flows)
            on_progress("silence …")
            time.sleep(schema.max_wait_s + _MARGIN_S)
        finally:
            agent.stop()
            thread.join()
            agent.close()
            source.close()
    return found


def _send(where: Namespace, flows: int) -> None:
    rng = random.Random(1)  # noqa: S311 (to be repeatable)
    with where.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind(("sf0", 0))
        for number in range(flows):
            time.sleep(rng.uniform(0.0, 2 * _SPREAD_S / flows))
            sender.send(_packet(number))


def _packet(number: int) -> bytes:
    """Return a UDP packet to a port of its own, of which nothing is known."""
    udp = struct.pack("!HHHH", 20_000 + number, 30_000 + 37 * number, 8 + 40, 0) + bytes(40)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0,
        bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)),
    )  # fmt: skip
    return bytes(12) + b"\x08\x00" + ip + udp
