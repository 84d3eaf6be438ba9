"""What ``bench peers`` compares that is made of our own parts: our engine, and a plain service."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.cpu import cpu_ms
from benchmarks.overlay import play
from benchmarks.peer_programs import Cost
from benchmarks.recorded import RepeatedCaptures, read_captures
from benchmarks.template import flow_template
from collectors.delivery import DeliverySettings
from collectors.replay import ReplaySettings
from flows.errors import ServiceError
from flows.table import FlowTable
from flows.wire import PacketBatch, encode_batch
from models.cascade import load_cascade
from serveflow_app.local_sender import LocalSender

__all__ = ["OurEngine", "OurTable", "OwnService"]

_ROOT = Path(__file__).resolve().parent.parent
_HOST = "127.0.0.1"
_CLIENTS = 4
_START_S = 60.0
_WATERMARK_NS = 10**18


class OurTable:
    """Reads, decodes and tracks; the part of ours that is most like the other programs.

    Args:
        capture: The capture.
    """

    does = "reads, decodes, tracks flows; no model"

    def __init__(self, capture: Path) -> None:
        self._capture = capture

    def __call__(self) -> Cost:
        """Run once.

        Raises:
            CaptureError: The capture cannot be read to its end.
        """
        source = RepeatedCaptures([self._capture], 1)
        table = FlowTable(first_packets=1)
        clock = _Clock()
        for chunk in source.chunks():
            table.update(chunk.packets, chunk.endpoints)
        return clock.cost(table.counters.flows)


class OurEngine:
    """Capture file to verdicts in one process, as ``bench engine`` has it.

    Args:
        capture: The capture.
        bundle: The bundle's folder.

    Raises:
        BundleError: The bundle cannot be loaded.
    """

    does = "the same, and a verdict on each flow by the cascade, in batches"

    def __init__(self, capture: Path, bundle: Path) -> None:
        self._cascade = load_cascade(bundle)
        self._capture = capture

    def __call__(self) -> Cost:
        """Run once.

        Raises:
            CaptureError: The capture cannot be read to its end.
        """
        source = RepeatedCaptures([self._capture], 1, with_header=self._cascade.needs_header)
        sender = LocalSender(self._cascade)
        settings = ReplaySettings(delivery=DeliverySettings(max_open=1, batch_delay_s=0.0))
        clock = _Clock()
        flows = play(source, sender, settings, lambda *_: None)
        cost = clock.cost(flows)
        sender.close()
        return cost


class _Clock:
    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def cost(self, flows: int) -> Cost:
        return Cost(flows, time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s)


class OwnService:
    """The plain service of :mod:`benchmarks.peer_service`, started when it is first asked.

    Args:
        capture: The capture whose flows it is asked about.
        bundle: The bundle's folder.
    """

    name = "FastAPI + deepest model"
    does = "a plain service under uvicorn: one request a flow, no cascade; without the packet side"

    def __init__(self, capture: Path, bundle: Path) -> None:
        self._capture = capture
        self._bundle = bundle
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._bodies: list[bytes] = []

    @property
    def version(self) -> str:
        """The versions of what it is made of."""
        return f"{version('fastapi')}, uvicorn {version('uvicorn')}"

    def __call__(self) -> Cost:
        """Ask about each flow once, over four connections.

        Raises:
            CaptureError: The capture cannot be read to its end.
            ServiceError: The service did not start, or failed.
        """
        process = self._process or self._start()
        before_ms = sum(cpu_ms(process.pid).values())
        asked = self._ask(self._bodies)
        spent_s = (sum(cpu_ms(process.pid).values()) - before_ms) / 1000.0
        return Cost(asked.flows, spent_s, asked.wall_s, client_cpu_s=asked.cpu_s)

    def _start(self) -> subprocess.Popen[bytes]:
        cascade = load_cascade(self._bundle)
        recorded = read_captures([self._capture], with_header=cascade.needs_header)
        template = flow_template(recorded, cascade.depth, cascade.max_wait_s)
        rows = np.split(template.rows, template.offsets[1:-1])
        self._bodies = [encode_batch(PacketBatch("peers", _WATERMARK_NS, one)) for one in rows]
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self._port = probe.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.peer_service", str(self._bundle.resolve()),
                   str(self._port)]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._process = process
        self._wait_ready(process)
        return process

    def _ask(self, bodies: list[bytes]) -> Cost:
        failed: list[str] = []

        def work(own: list[bytes]) -> None:
            connection = http.client.HTTPConnection(_HOST, self._port, timeout=30.0)
            for body in own:
                connection.request("POST", "/classify", body)
                response = connection.getresponse()
                response.read()
                if response.status != http.HTTPStatus.OK:
                    failed.append(f"{response.status}")
                    return
            connection.close()

        threads = [
            threading.Thread(target=work, args=(bodies[i::_CLIENTS],)) for i in range(_CLIENTS)
        ]
        clock = _Clock()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mine = clock.cost(len(bodies))
        if failed:
            raise ServiceError(f"{self.name} answered {failed[0]}")
        return mine

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        end_s = time.monotonic() + _START_S
        while time.monotonic() < end_s and process.poll() is None:
            try:
                connection = http.client.HTTPConnection(_HOST, self._port, timeout=5.0)
                connection.request("GET", "/ready")
                connection.getresponse().read()
                connection.close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise ServiceError(f"{self.name} did not start")

    def __enter__(self) -> OwnService:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
