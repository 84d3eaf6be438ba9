"""``serveflow collect`` as a user runs it: files, pipes, a live wire, signals, no service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.veth import Namespace
from collectors.agent_settings import AgentSettings
from collectors.open_source import SourceSettings, open_source
from conftest import Running
from namespaces import namespace, send_frames, veth
from serveflow_app.run_collect import Collecting

__all__ = ["namespace", "veth"]

pytestmark = [pytest.mark.serve, pytest.mark.e2e]

_KEYS = {
    "flows", "final", "open", "kernel_drops", "ring_packets", "spooled_bytes", "refused_flows",
    "evicted_flows", "replayed_flows", "by_tier", "by_reason", "duplicates", "damaged",
    "answered_within_16ms", "median_latency_ms",
}  # fmt: skip


def labels(path: Path) -> list[tuple[Any, ...]]:
    """Return what was said of each flow, from lines of either kind."""
    said = []
    for line in path.read_text().splitlines():
        told = json.loads(line)
        own = told.get("serveflow", told)
        start = (told.get("start_time") or told["flow"]["start"])[:26]
        ends = (told["src_ip"], told["src_port"], told["dest_ip"], told["dest_port"])
        said.append((start, *ends, own["label"], own["tier"], own["packets_used"], own["reason"]))
    return sorted(said)


@pytest.fixture(scope="module")
def calm(cli: Any, test_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    out = tmp_path_factory.mktemp("calm") / "verdicts"
    cli("classify", test_runs / "run-01.pcap", "--out", out)
    return labels(out)


def collect(*args: object, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from serveflow_app.cli import main; main()", "collect",
         *map(str, args), "--metrics", "off", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def test_a_file_is_collected_as_it_is_classified(
    running: Running, cli: Any, test_runs: Path, tmp_path: Path, calm: list[Any]
) -> None:
    eve = tmp_path / "eve.json"
    done = cli("collect", test_runs / "run-01.pcap", "--to", running.separate, "--sink",
               f"eve:{eve}", "--spool", tmp_path / "spool", "--metrics", "off")  # fmt: skip
    assert done.status == 0, done.told
    assert done.out.keys() >= _KEYS
    assert done.out["flows"] == done.out["final"] == len(calm)
    assert done.out["open"] == done.out["lost_flows"] == done.out["refused_flows"] == 0
    assert done.out["spooled_bytes"] > 0
    assert list((tmp_path / "spool").glob("*.spool")) == [], "all of it has its verdicts"
    assert labels(eve) == calm


def test_a_pipe_is_collected_and_a_signal_ends_it_with_every_verdict(
    running: Running, test_runs: Path, tmp_path: Path
) -> None:
    data = (test_runs / "run-01.pcap").read_bytes()
    eve = tmp_path / "eve.json"
    with collect("-", "--to", running.separate_grpc, "--sink", f"eve:{eve}",
                 stdin=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()
        until_s = time.monotonic() + 60
        while not (eve.exists() and eve.stat().st_size) and time.monotonic() < until_s:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.stdout.read())
        process.stdin.close()
        assert process.wait(60) == 0
    assert told["flows"] == told["final"] > 100
    assert told["open"] == 0
    assert len(labels(eve)) == told["final"]


def test_a_live_wire_says_what_a_file_of_the_same_packets_says(
    running: Running, cli: Any, veth: Namespace, test_runs: Path, tmp_path: Path
) -> None:
    """To the nanosecond: tcpdump writes down what the collector sees."""
    from test_live import frames_of, tcpdump_on

    written, eve = tmp_path / "written.pcap", tmp_path / "eve.json"
    settings = AgentSettings(
        to=running.separate, interface="sf1", sinks=(f"eve:{eve}",), metrics="off"
    )
    stop = threading.Event()
    collecting = Collecting(settings, stop)
    frames = frames_of(test_runs / "run-01.pcap")
    with written.open("wb") as file, tcpdump_on(veth, file):

        def opened(own: SourceSettings) -> Any:
            with veth.entered():
                return open_source(own)

        collecting.opener = opened
        thread = threading.Thread(target=collecting.run)
        thread.start()
        until_s = time.monotonic() + 60
        while not collecting.running and time.monotonic() < until_s:
            time.sleep(0.05)
        send_frames(veth, frames)
        while time.monotonic() < until_s and (
            collecting.status().seen.frames < len(frames) or len(frames_of(written)) < len(frames)
        ):
            time.sleep(0.1)
        stop.set()
        thread.join()
    status = collecting.status()
    assert status.seen.kernel_drops == 0
    assert status.seen.ring_packets == len(frames)
    assert cli("classify", written, "--out", tmp_path / "filed").status == 0
    live, filed = labels(eve), labels(tmp_path / "filed")
    assert len(live) == len(filed) > 500
    # Flows that the signal ended have ended by another reason than those that the file did.
    assert [one[:7] for one in live] == [one[:7] for one in filed]


def test_without_a_service_a_collector_waits_and_says_so(tmp_path: Path, test_runs: Path) -> None:
    with collect(test_runs, "--to", "http://127.0.0.1:9", "--duration", "1") as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert b"Is the service running" in told
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "captures or an interface"),
        (("nowhere.pcap",), "there is no such file"),
        (("-", "--interface", "lo"), "give one of them"),
        (("-", "--sink", "tape:x"), "eve:FILE"),
        (("-", "--memory", "256KiB"), "give at least"),
        (("-", "--to", "ftp://x"), "address"),
    ],
)
def test_what_cannot_be_collected_is_told(
    running: Running, cli: Any, args: tuple[str, ...], told: str
) -> None:
    to = () if "--to" in args else ("--to", running.separate)
    done = cli("collect", *args, *to, "--metrics", "off")
    assert done.status == 1
    assert told in done.out["error"]


def test_settings_come_from_the_environment_too(running: Running, test_runs: Path) -> None:
    environment = {
        **os.environ,
        "SERVEFLOW_COLLECT_TO": running.separate,
        "SERVEFLOW_COLLECT_CAPTURES": str(test_runs / "run-02.pcap"),
    }
    with collect(env=environment) as process:
        out, _ = process.communicate(timeout=120)
    assert json.loads(out)["final"] > 100
