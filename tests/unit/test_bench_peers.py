"""Peers are given one capture that all of them read as the same flows, and told apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.long_capture import write_empty_capture, write_long_capture
from benchmarks.peer_programs import Program, read_ndpi, read_tshark
from benchmarks.peer_rivals import OurEngine, OurTable, OwnService
from benchmarks.recorded import read_captures
from flows.capture import CaptureReader
from flows.errors import ServeFlowError, SettingsError
from flows.link import LinkType


def test_a_long_capture_holds_each_flow_once_a_pass(test_runs: Path, tmp_path: Path) -> None:
    """Later each time and with other hosts, so that no program takes two copies for one flow."""
    runs = sorted(test_runs.glob("*.pcap"))[:2]
    once = read_captures(runs)
    path = tmp_path / "long.pcap"
    packets = write_long_capture(runs, 3, path)
    long = read_captures([path])
    assert packets == 3 * len(once.packets) == len(long.packets)
    assert long.flows == 3 * once.flows
    assert (long.packets["ip_bytes"][: len(once.packets)] == once.packets["ip_bytes"]).all()


def test_a_long_capture_is_in_order_and_whole(test_runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.pcap"
    write_long_capture([test_runs / "run-01.pcap"], 2, path)
    chunks = list(CaptureReader(path).chunks())
    times = [int(t) for chunk in chunks for t in chunk.packets["time_ns"]]
    assert times == sorted(times)
    data = path.read_bytes()
    at, lengths = 24, []
    while at < len(data):
        held, length = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (8, 12))
        lengths.append(held == length)
        at += 16 + held
    assert lengths
    assert all(lengths)


def test_an_empty_capture_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    write_empty_capture(path)
    assert sum(len(chunk.packets) for chunk in CaptureReader(path).chunks()) == 0
    assert OurTable(path)().flows == 0


def test_what_is_no_pcap_of_ethernet_is_refused(test_runs: Path, tmp_path: Path) -> None:
    data = bytearray((test_runs / "run-01.pcap").read_bytes()[:2_000])
    data[20] = LinkType.RAW
    (tmp_path / "raw.pcap").write_bytes(data)
    (tmp_path / "next.pcapng").write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(60))
    for name in ("raw.pcap", "next.pcapng"):
        with pytest.raises(SettingsError, match=r"pcap file of Ethernet"):
            write_long_capture([tmp_path / name], 1, tmp_path / "long.pcap")


def program(*code: str, asks: str = "print('Version 4.5.6 (or so)')") -> Program:
    return Program("peer", "counts", ("{python}", "-c", *code), ("{python}", "-c", asks), "-")


def test_a_program_is_timed_with_all_its_processes(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < .2: pass\n"
    code = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
        """print('{{"flows": 7}}')"""
    )
    cost = program(code).run(sys.executable, tmp_path, tmp_path)
    assert cost.flows == 7
    assert cost.cpu_s >= 0.2  # nearly all of it a child's


def test_a_program_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    failing = program("import sys; sys.exit('no such capture')")
    with pytest.raises(ServeFlowError, match=r"peer ended with 1, saying: no such capture"):
        failing.run(sys.executable, tmp_path, tmp_path)


def test_what_is_not_installed_has_no_version() -> None:
    assert program("", asks="print('Version 4.5.6 (or so)')").version(sys.executable) == "4.5.6"
    assert program("", asks="import nothing_of_the_kind").version(sys.executable) is None
    absent = Program("peer", "counts", (), ("no-such-program-anywhere",), "-")
    assert absent.version(sys.executable) is None


def test_flows_are_read_from_what_programs_print() -> None:
    assert read_ndpi("Traffic:\n\tUnique flows:          469          \n") == 469
    conversations = (
        "UDP Conversations\n          |  <-  | |  ->  |\n"
        "10.0.0.1:53  <-> 10.0.0.2:99  1 60 bytes\nfd0e::1:5 <-> fd0e::2:6 2 99 bytes\n"
    )
    assert read_tshark(conversations) == 2


def test_our_own_contenders_judge_every_flow(test_runs: Path, bundle: Path) -> None:
    run = test_runs / "run-01.pcap"
    flows = read_captures([run]).flows
    assert OurTable(run)().flows == flows
    cost = OurEngine(run, bundle)()
    assert cost.flows == flows
    assert cost.cpu_s > 0
    with OwnService(run, bundle) as service:
        cost = service()
    assert cost.flows == flows
    assert cost.cpu_s > 0
