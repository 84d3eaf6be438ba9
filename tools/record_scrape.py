"""Make ``tests/scrapes/troubled.prom``: what a service exports that is in all the trouble there is.

It runs a service that may take on next to nothing, gives it more than that, kills a tracker, lets a
collector vanish, and keeps the lines of our own metrics. It takes two minutes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np

from collectors.sender import HttpSender
from flows.errors import ServiceError
from flows.packet import PACKET_DTYPE
from flows.wire import PacketBatch
from serveflow_app.serve_config import default_config, load_config, override
from serveflow_app.service import Service

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "scrapes" / "troubled.prom"

_NOW_NS = 1_700_000_000 * 10**9
_GONE_S = 65.0  # after a minute of silence a collector has gone
_TOLD_S = 20.0  # until metrics are told to Ray and exported by it
_SECONDS_OF_TROUBLE = 25.0
_RETRY_S = 0.1


def _packets(n: int, first_flow: int) -> np.ndarray:
    packets = np.zeros(n, PACKET_DTYPE)
    packets["flow_id"] = np.arange(first_flow, first_flow + n)
    packets["time_ns"] = _NOW_NS
    packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
    packets["from_originator"] = 1
    return packets


def _submit(url: str, collector: str, first_flow: int, n: int, late_s: int = 0) -> None:
    with HttpSender(url) as sender:
        packets = _packets(n, first_flow)
        # To be refused is what it is for; and then collectors wait, too.
        try:
            list(sender.submit(PacketBatch(collector, _NOW_NS + late_s * 10**9, packets)))
        except ServiceError:
            time.sleep(_RETRY_S)


def _keep_busy(url: str, number: int, until_s: float) -> None:
    flow = number * 10**9
    while time.monotonic() < until_s:
        _submit(url, f"busy-{number}", flow, 2_000, late_s=60)
        flow += 2_000


def _tracker_pid(service_pid: int) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes().rstrip(b"\0 ")
                ours = os.getsid(int(folder.name)) == service_pid
            except OSError:
                continue  # it has ended meanwhile
            if ours and title == b"ray::ServeReplica:serveflow:FlowTracker-0":
                return int(folder.name)
    raise SystemExit("FlowTracker-0 runs nowhere")


def _exported(dashboard: str) -> str:
    found = httpx.get(f"{dashboard}/api/prometheus/sd", trust_env=False, timeout=30).json()
    targets = [target for group in found for target in group["targets"]]
    text = "".join(httpx.get(f"http://{t}/metrics", trust_env=False).text for t in targets)
    ours = [line for line in text.splitlines() if line.startswith("ray_serveflow_")]
    # Histograms are long, and a calm service has them too.
    return "".join(f"{line}\n" for line in ours if "_seconds_" not in line)


def record() -> str:
    """Return the lines that it exports of our metrics."""
    args = {"max_slow_flows": 500, "max_waiting_flows": 3_000}
    config = override(load_config(default_config()), port=8123, grpc_port=9123, args=args)
    with Service(config) as service:
        service.wait_ready()
        _submit(service.url, "vanished", 1, 500)
        until_s = time.monotonic() + _SECONDS_OF_TROUBLE
        busy = [
            threading.Thread(target=_keep_busy, args=(service.url, i, until_s)) for i in range(1, 7)
        ]
        for one in busy:
            one.start()
        time.sleep(_SECONDS_OF_TROUBLE / 2)
        os.kill(_tracker_pid(service.pid or 0), signal.SIGKILL)
        for one in busy:
            one.join()
        _submit(service.url, "vanished", 10**12, 500)  # to the new tracker too
        time.sleep(_GONE_S)
        _submit(service.url, "last", 2 * 10**12, 500)
        time.sleep(_TOLD_S)
        return _exported(service.dashboard)


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(record())
    sys.exit(0)
