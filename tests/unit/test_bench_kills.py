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
from benchmarks.soak import slope_per_minute
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
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 0.2)
    begin_s = time.monotonic()
    feeder.start()
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == capture.read_bytes()
    feeder.join()
    assert time.monotonic() - begin_s >= 0.2


def test_a_reader_that_goes_away_ends_the_feeding(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2), 17))] * 50
    capture.write_bytes(f.pcap(frames, times_ns=[10**9 + i * 10**7 for i in range(50)], nanos=True))
    reading, writing = os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 0.5)
    feeder.start()
    os.close(reading)
    feeder.join()


def test_another_reader_gets_the_header_and_what_is_still_to_come(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2), 17))] * 50
    data = f.pcap(frames, times_ns=[10**9 + i * 10**7 for i in range(50)], nanos=True)
    capture.write_bytes(data)
    (reading, writing), (later, its_end) = os.pipe(), os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 0.6)
    feeder.start()
    os.read(reading, 1)
    os.close(reading)
    time.sleep(0.2)
    feeder.redirect(os.fdopen(its_end, "wb"))
    with os.fdopen(later, "rb") as pipe:
        rest = pipe.read()
    feeder.join()
    assert rest[:24] == data[:24]
    assert 0 < len(rest) < len(data)
    assert data.endswith(rest[24:])


def test_memory_that_grows_has_a_slope() -> None:
    assert slope_per_minute([0.0, 30.0, 60.0], [10.0, 11.0, 12.0]) == pytest.approx(2.0)
    assert slope_per_minute([0.0, 30.0, 60.0], [10.0, 10.0, 10.0]) == pytest.approx(0.0)
    assert slope_per_minute([0.0], [10.0]) == 0.0


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
