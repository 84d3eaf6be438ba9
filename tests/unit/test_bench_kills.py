"""What ``bench kills`` compares and feeds, without a service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_agent import some_flows
from test_spool import AGENT

import frames as f
from benchmarks.fake_service import FakeHttpService
from benchmarks.feeding import Feeder
from benchmarks.kills import compare, missing_of
from benchmarks.soak import slope_per_minute
from benchmarks.stalls import Seen, silences
from benchmarks.unspooled import split_missing
from benchmarks.victims import victim
from collectors.collector import Collector
from collectors.disk_spool import DiskSpool
from collectors.fakes import FAKE_SCHEMA
from collectors.sender import HttpSender
from flows.errors import ServiceUnavailableError
from flows.packet import PACKET_DTYPE
from flows.wire import PacketBatch

CALM = {("a",): ["web"], ("b",): ["mail", "mail"], ("c",): ["dns"]}


def test_equal_runs_are_equal() -> None:
    found = compare(CALM, {flow: list(said) for flow, said in CALM.items()})
    assert found == {
        "flows": 4, "missing": 0, "twice": 0, "again": 0, "continued": 0, "other_label": 0,
        "same_share": 1.0,
    }  # fmt: skip


def test_what_is_missing_doubled_or_different_is_told() -> None:
    stormy = {("a",): ["web", "web"], ("b",): ["mail"], ("c",): ["ntp"], ("d",): ["web"]}
    found = compare(CALM, stormy)
    assert (found["missing"], found["twice"], found["other_label"]) == (1, 2, 1)
    assert (found["again"], found["continued"]) == (1, 1)
    assert list(missing_of(CALM, stormy)) == [("b",)]


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
    title = "ray::ServeReplica:x:OfThisTest"  # the service that others share may be a child, too
    child = subprocess.Popen(
        [title, "-c", "import time; time.sleep(60)"], executable=sys.executable
    )
    try:
        deadline_s = time.monotonic() + 20
        while victim("OfThisTest", os.getpid(), 7) is None and time.monotonic() < deadline_s:
            time.sleep(0.05)  # until it has become another program
        found = victim("OfThisTest", os.getpid(), 7)
        assert found is not None
        assert found[0] == child.pid
        assert found[1].startswith(title)
        assert victim("OfThisTest", child.pid, 0) == found, "the service's own process counts too"
        assert victim("OfNoTest", os.getpid(), 0) is None
        assert victim("OfThisTest", 1 << 30, 0) is None, "it is another service's"
    finally:
        child.kill()
        child.wait()


def test_silence_is_told_apart_by_who_died() -> None:
    seen = Seen()
    seen.verdicts[0] = [0.0, 0.1, 0.2, 3.0, 3.1]  # killed at .25
    seen.verdicts[1] = [0.0, 0.15, 0.3, 0.7, 0.8, 3.0]
    seen.verdicts[2] = [0.0, 0.05, 5.0, 5.9, 7.6, 90.0]  # killed at 5.5
    seen.deaths = [(0.25, 0), (5.5, 2)]
    found = silences(seen, 3)
    assert found["owner_s"] == pytest.approx(2.8)
    assert found["others_s"] == pytest.approx(4.95), "of tracker 2 after the first death"
    assert found["usual_s"] == pytest.approx(0.15)
    assert silences(Seen(), 3) == {"others_s": 0.0, "owner_s": 0.0, "usual_s": 0.0}


def test_flows_that_were_spooled_are_told_from_those_that_were_not(tmp_path: Path) -> None:
    chunk = some_flows(20)[0]
    assert chunk is not None
    spool = DiskSpool(tmp_path, AGENT, "edge", FAKE_SCHEMA)
    collector = Collector(FAKE_SCHEMA, seed=spool.seed, journal=spool.journal)
    collector.observe(chunk.packets, chunk.endpoints, np.zeros(len(chunk.packets), np.int64))
    start = f"{np.datetime64(int(chunk.packets['time_ns'][0]), 'ns')}"[:26]
    flow = (start, "192.0.2.1", 1000, "192.0.2.2", 53, "UDP")
    other = (start, "192.0.2.1", 1001, "192.0.2.2", 53, "UDP")
    assert split_missing([flow, other], [tmp_path]) == {"spooled": 1, "unread": 1}
    spool.close()


def test_a_reader_that_comes_when_all_is_over_gets_the_end(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2), 17))]
    capture.write_bytes(f.pcap(frames, times_ns=[10**9], nanos=True))
    reading, writing = os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 0.01)
    feeder.start()
    feeder.join()
    os.close(reading)
    later, its_end = os.pipe()
    feeder.redirect(os.fdopen(its_end, "wb"))
    with os.fdopen(later, "rb") as pipe:
        assert len(pipe.read()) == 24


def test_packets_that_nobody_read_are_counted(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap"
    frames = [f.ethernet(f.ipv4(f.udp(1, 2), 17))] * 50
    capture.write_bytes(f.pcap(frames, times_ns=[10**9 + i * 10**7 for i in range(50)], nanos=True))
    reading, writing = os.pipe()
    feeder = Feeder(capture, os.fdopen(writing, "wb"), 0.2)
    os.close(reading)
    feeder.start()
    feeder.join()
    assert feeder.unseen == 50
    assert feeder.took_s >= 0.19
    assert not feeder.at_work


def test_a_made_up_service_serves_by_the_real_wire() -> None:
    with FakeHttpService() as made_up, HttpSender(made_up.url) as sender:
        assert sender.schema() == FAKE_SCHEMA
        packets = np.zeros(4, PACKET_DTYPE)
        packets["flow_id"] = np.arange(4)
        packets["ip_bytes"] = 60, 61, 62, 63
        first, last = sender.submit(PacketBatch("edge#1", 0, packets))
        assert first.verdicts["final"].tolist() == [1, 0, 1, 0]
        assert len(last.verdicts) == 0
        made_up.service.trouble = "away"
        with pytest.raises(ServiceUnavailableError):
            list(sender.submit(PacketBatch("edge#1", 0, packets)))
