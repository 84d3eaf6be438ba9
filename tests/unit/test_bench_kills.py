"""What ``bench kills`` compares and feeds, without a service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import frames as f
from benchmarks.feeding import Feeder
from benchmarks.kills import compare, victims
from flows.errors import SettingsError

CALM = {("a",): ["web"], ("b",): ["mail", "mail"], ("c",): ["dns"]}


def test_equal_runs_are_equal() -> None:
    found = compare(CALM, {flow: list(said) for flow, said in CALM.items()})
    assert found == {"flows": 4, "missing": 0, "twice": 0, "other_label": 0, "same_share": 1.0}


def test_what_is_missing_doubled_or_different_is_told() -> None:
    stormy = {("a",): ["web", "web"], ("b",): ["mail"], ("c",): ["ntp"], ("d",): ["web"]}
    found = compare(CALM, stormy)
    assert (found["missing"], found["twice"], found["other_label"]) == (1, 2, 3)


def test_a_capture_is_fed_when_it_is_due_and_whole(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2, payload=bytes(i)), 17)) for i in range(40)]
    times = [1_000_000_000 + i * 50_000_000 for i in range(40)]
    capture.write_bytes(f.pcap(frames, times_ns=times, nanos=True))
    reading, writing = os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 10.0)
    assert feeder.seconds == pytest.approx(39 * 0.05 / 10)
    begin_s = time.monotonic()
    feeder.start()
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == capture.read_bytes()
    feeder.join()
    assert time.monotonic() - begin_s >= feeder.seconds


def test_a_reader_that_goes_away_ends_the_feeding(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2), 17))] * 50
    capture.write_bytes(f.pcap(frames, times_ns=[10**9 + i * 10**7 for i in range(50)], nanos=True))
    reading, writing = os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 1.0)
    feeder.start()
    os.close(reading)
    feeder.join()


def test_only_a_services_own_processes_are_its_parts() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "ray::ServeReplica:x:Router"]
    )
    try:
        with pytest.raises(SettingsError, match="Router"):
            victims("Router", child.pid)
    finally:
        child.kill()
        child.wait()
