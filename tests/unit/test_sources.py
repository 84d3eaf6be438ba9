"""Captures as sources: files, streams, folders, and what a user may ask for."""

from __future__ import annotations

import gzip
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from collectors.bpf import compile_filter, without_own
from collectors.file_sources import FileSource, StreamSource
from collectors.folder_source import FolderSettings, FolderSource
from collectors.open_source import SourceSettings, open_source
from collectors.ring_source import RingSource
from flows.errors import CaptureError, SettingsError
from flows.link import LinkType
from frames import block, enhanced, ethernet, interface, ipv4, pcap, section, tcp, udp
from namespaces import packets_of

FRAMES = [ethernet(ipv4(tcp(40_000 + i))) for i in range(5)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends for reading and writing; the second may be closed by the test."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def test_files_come_one_after_the_other_and_damage_is_named(tmp_path: Path) -> None:
    whole, cut, none = tmp_path / "a.pcap", tmp_path / "b.pcap", tmp_path / "c.pcap"
    whole.write_bytes(pcap([*FRAMES, b"\0" * 20]))
    cut.write_bytes(pcap(FRAMES)[:-3])
    none.write_bytes(b"no capture")
    source = FileSource([whole, cut, none, tmp_path / "away.pcap", whole])
    assert len(packets_of(source)) == 5 + 4 + 5
    assert source.read(0.0) is None
    counters = source.counters
    assert counters.frames == 6 + 4 + 6
    assert (counters.captures, counters.damaged_captures) == (5, 3)
    assert counters.skipped == {"not_ip": 2}
    names = [Path(name).name for name, _ in counters.damaged]
    assert names == ["b.pcap", "c.pcap", "away.pcap"]
    assert "cut off" in counters.damaged[0][1]
    assert not source.live
    assert source.quiet_until_ns() == 0


def test_a_stream_hands_packets_out_as_they_come(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    data = pcap(FRAMES)
    source = StreamSource(reading)
    seen = []
    for begin, end in ((0, 10), (10, 24), (24, 24 + 70), (24 + 70, 24 + 150), (24 + 150, None)):
        os.write(writing, data[begin:end])
        seen.append(len(packets_of(source, frames=0)))
    assert seen == [0, 0, 1, 1, 3]
    os.close(writing)
    assert source.read(5.0) is None
    assert source.counters.damaged == ()


def test_a_pcapng_stream_is_as_prompt(pipe: tuple[int, int]) -> None:
    """Its blocks come in one piece, and nothing more after them."""
    reading, writing = pipe
    os.write(writing, section() + interface() + enhanced(FRAMES[0], 10**15))
    source = StreamSource(reading)
    assert len(packets_of(source, frames=1)) == 1
    # A long block of no interest, bit by bit: nothing waits for its end.
    long = block(0xBAD, bytes(2 << 20))
    os.write(writing, long[:40_000])
    began_s = time.monotonic()
    decoded = source.read(0.05)
    assert decoded is not None
    assert not len(decoded.packets)
    assert time.monotonic() - began_s < 30.0
    at = 40_000
    while at < len(long):
        at += os.write(writing, long[at : at + 50_000])
        source.read(0.0)
    os.write(writing, enhanced(FRAMES[1], 10**15))
    assert len(packets_of(source, frames=2)) == 1


def test_a_live_stream_tells_how_far_all_has_been_seen(pipe: tuple[int, int]) -> None:
    source = StreamSource(pipe[0], live=True, behind_s=1.5)
    assert source.quiet_until_ns() == 0
    before_ns = time.time_ns()
    source.read(0.01)
    quiet_ns = source.quiet_until_ns()
    assert before_ns - 1_500_000_000 <= quiet_ns <= time.time_ns() - 1_500_000_000
    resting = StreamSource(pipe[0])
    resting.read(0.01)
    assert resting.quiet_until_ns() == 0


def test_a_stream_that_breaks_off_is_named(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, pcap(FRAMES)[:-1])
    os.close(writing)
    source = StreamSource(reading, name="that pipe")
    assert len(packets_of(source)) == 4
    ((name, reason),) = source.counters.damaged
    assert name == "that pipe"
    assert "cut off" in reason


class _Clock:
    """Seconds that go up when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_folder_gives_each_finished_capture_once(tmp_path: Path) -> None:
    clock = _Clock()
    source = FolderSource(tmp_path, FolderSettings(settle_s=1.0), clock)

    def now() -> int:
        clock.now_s += 0.3
        n = 0
        while True:
            decoded = source.read(0.0)
            assert decoded is not None
            if not len(decoded.packets):
                return n
            n += len(decoded.packets)

    assert now() == 0
    (tmp_path / "notes.txt").write_text("no capture")
    (tmp_path / ".hidden.pcap").write_bytes(pcap(FRAMES))
    (tmp_path / "a.pcap").write_bytes(pcap(FRAMES))
    assert now() == 0  # it may still grow
    clock.now_s += 1.0
    assert now() == 5
    clock.now_s += 1.0
    assert now() == 0
    with (tmp_path / "trace.pcap7").open("wb") as growing:  # as tcpdump -C names them
        growing.write(pcap(FRAMES[:2]))
        growing.flush()
        assert now() == 0
        clock.now_s += 100.0
        assert now() == 0  # a quiet wire: it does not grow, but is open
        growing.write(pcap(FRAMES[2:])[24:])
    assert now() == 0  # it has just changed
    clock.now_s += 1.0
    assert now() == 5
    # A name that is used again is another capture.
    (tmp_path / "a.pcap").write_bytes(pcap(FRAMES[:1]))
    assert now() == 0
    clock.now_s += 1.0
    assert now() == 1
    assert source.counters.frames == 11
    source.close()
    assert source.read(0.0) is None


def test_captures_of_a_folder_come_in_order_of_their_last_change(tmp_path: Path) -> None:
    for name, changed_s, port in (("b", 10, 1), ("c", 10, 2), ("a", 20, 3)):
        path = tmp_path / f"{name}.pcap"
        path.write_bytes(pcap([ethernet(ipv4(tcp(flags=port)))]))
        os.utime(path, (changed_s, changed_s))
    source = FolderSource(tmp_path, FolderSettings(settle_s=0.0, once=True))
    assert packets_of(source)["tcp_flags"].tolist() == [1, 2, 3]


def test_captures_that_were_read_can_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a.pcap").write_bytes(b"an older one")
    (tmp_path / "a.pcap").write_bytes(pcap(FRAMES))
    (tmp_path / "b.pcap.gz").write_bytes(gzip.compress(pcap(FRAMES))[:-20])
    source = FolderSource(tmp_path, FolderSettings(settle_s=0.0, once=True, move_done=True))
    packets_of(source)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["done/a.pcap", "done/a.pcap.1", "done/b.pcap.gz"]
    assert (tmp_path / "done" / "a.pcap").read_bytes() == b"an older one"
    assert [Path(name).name for name, _ in source.counters.damaged] == ["b.pcap.gz"]


def test_a_folder_that_goes_away_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    with pytest.raises(CaptureError, match="no such folder"):
        FolderSource(folder)
    folder.mkdir()
    source = FolderSource(folder)
    folder.rmdir()
    with pytest.raises(CaptureError, match="No such file"):
        source.read(0.0)


def test_the_right_source_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    for name in ("b.pcap", "a.pcap"):
        (folder / name).write_bytes(pcap(FRAMES))
    (tmp_path / "c.cap").write_bytes(pcap([ethernet(ipv4(udp(), 17))]))
    source = open_source(SourceSettings([str(folder), str(tmp_path / "c.cap")], with_header=True))
    packets = packets_of(source)
    assert packets["protocol"].tolist() == [6] * 10 + [17]
    assert "header" in (packets.dtype.names or ())
    watched = open_source(SourceSettings([str(folder)], watch=True))
    assert isinstance(watched, FolderSource)
    live = open_source(SourceSettings(interface="lo", ring_bytes=1 << 20))
    assert isinstance(live, RingSource)
    assert live.live
    live.close()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (SourceSettings, "either captures or an interface"),
        (lambda: SourceSettings(["a"], interface="lo"), "either captures or an interface"),
        (lambda: SourceSettings(["-", "a"]), "standard input"),
        (lambda: SourceSettings(["a"], bpf="tcp"), "bpf: only for an interface"),
        (lambda: SourceSettings(["a"], fanout=1), "fanout: only for an interface"),
        (lambda: SourceSettings(["a", "b"], watch=True), "one folder"),
        (lambda: SourceSettings(["a"], watch=True, display_filter="tcp"), "display filter"),
        (lambda: SourceSettings(["a"], move_done=True), "move_done"),
        (lambda: SourceSettings(interface="lo", fanout=1, tshark=True), "tshark knows nothing"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(asked: object, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        asked()  # type: ignore[operator]


def test_a_terminal_is_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.ttyname(os.openpty()[1])).open() as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(SettingsError, match="standard input is a terminal"):
            open_source(SourceSettings(["-"]))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file"):
        open_source(SourceSettings([str(tmp_path / "a.pcap")]))
    with pytest.raises(CaptureError, match="holds no"):
        open_source(SourceSettings([str(tmp_path)]))
    with pytest.raises(CaptureError, match=r"no such interface \(there are: .*lo"):
        open_source(SourceSettings(interface="nonesuch0"))


def test_a_filter_cuts_what_it_lets_pass() -> None:
    for name in ("lo", "nonesuch0"):  # with an interface to look at, and without one
        code = compile_filter("tcp port 80", name, LinkType.ETHERNET, 333)
        values = {k for op, _, _, k in struct.iter_unpack("=HBBI", code) if op == 6}
        assert values == {0, 333}


def test_a_filter_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"bpf: 'tcp prot 80'.*syntax error"):
        compile_filter("tcp prot 80", "lo", LinkType.ETHERNET, 512)


def test_without_libpcap_expressions_are_refused_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("collectors.bpf._LIBRARIES", ("libnonesuch.so.0",))
    with pytest.raises(SettingsError, match=r"bpf: .*apt-get install libpcap"):
        open_source(SourceSettings(interface="lo", bpf="tcp", ring_bytes=1 << 20))
    own = [("192.0.2.1", 8_000)]
    open_source(SourceSettings(interface="lo", exclude=own, ring_bytes=1 << 20)).close()


def test_the_services_packets_are_excluded_before_all_else() -> None:
    """``vlan`` in an expression changes what follows it, not what stands before."""
    told = without_own("vlan 7", [("192.0.2.1", 80), ("fe80::1%eth0", 443)])
    assert told.endswith(" and (vlan 7)")
    assert "(ip src host 192.0.2.1 and tcp src port 80)" in told
    assert "(ip6 dst host fe80::1 and tcp dst port 443)" in told
    assert without_own("", []) == ""
    with pytest.raises(SettingsError, match="is no IP address"):
        open_source(SourceSettings(interface="lo", exclude=[("localhost", 1)]))


def test_streams_and_files_give_the_same_packets(test_runs: Path, pipe: tuple[int, int]) -> None:
    (path, *_) = sorted(test_runs.glob("*.pcap"))
    reading, writing = pipe
    source = StreamSource(reading)
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        at += os.write(writing, data[at : at + 30_011])
        found.append(packets_of(source, frames=0))
    os.close(writing)
    assert np.array_equal(np.concatenate(found), packets_of(FileSource([path])))
