"""Packets by way of tshark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collectors import pyshark_source
from collectors.file_sources import FileSource
from collectors.open_source import SourceSettings, open_source
from collectors.pyshark_source import PysharkSettings, PysharkSource
from collectors.tshark_lines import _time_ns
from flows.errors import SettingsError
from frames import ethernet, icmp, ipv4, ipv6, pcap, tcp, udp
from namespaces import packets_of

FRAMES = [
    ipv4(tcp(options=b"\x02\x04\x05\xb4")), ipv4(udp(payload=b"x" * 30), 17), ipv4(icmp(), 1),
]  # fmt: skip
IEEE802_11 = 105


def wireless(packet: bytes, ethertype: bytes = b"\x08\x00") -> bytes:
    """A data frame of a wireless network."""
    return b"\x08\x00\x00\x00" + bytes(20) + b"\xaa\xaa\x03\x00\x00\x00" + ethertype + packet


def test_a_capture_gives_the_same_packets_as_without_tshark(test_runs: Path) -> None:
    paths = sorted(test_runs.glob("*.pcap"))[:2]
    source = PysharkSource(PysharkSettings(paths, with_header=True))
    assert np.array_equal(packets_of(source), packets_of(FileSource(paths, with_header=True)))
    assert source.counters.captures == 2
    assert not source.live
    assert source.quiet_until_ns() == 0
    source.close()


def test_a_display_filter_chooses(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([ethernet(frame) for frame in FRAMES]))
    source = open_source(SourceSettings([str(path)], display_filter="udp or icmp"))
    assert packets_of(source)["protocol"].tolist() == [17, 1]
    assert source.counters.frames == 2


def test_a_display_filter_that_is_none_is_refused_with_tsharks_words() -> None:
    with pytest.raises(SettingsError, match=r"display_filter: 'tcp prot 80': .*unexpected"):
        open_source(SourceSettings(interface="lo", display_filter="tcp prot 80"))


def test_link_layers_that_the_decoder_does_not_know_are_read(tmp_path: Path) -> None:
    """Tshark says where the IP packet is; what is in it is read as ever."""
    plain, radio = tmp_path / "plain.pcap", tmp_path / "radio.pcap"
    six = ipv6(tcp())
    frames = [ethernet(frame) for frame in FRAMES] + [ethernet(six, 0x86DD)]
    plain.write_bytes(pcap(frames, nanos=True))
    frames = [wireless(frame) for frame in FRAMES] + [wireless(six, b"\x86\xdd")]
    radio.write_bytes(pcap([*frames, b"\x80\x00" + bytes(40)], link=IEEE802_11, nanos=True))
    source = PysharkSource(PysharkSettings([radio, plain]))
    expected = packets_of(FileSource([plain, plain]))
    assert np.array_equal(packets_of(source), expected)
    assert source.counters.skipped == {"not_ip": 1}
    assert source.counters.frames == 5 + 4
    assert source.counters.damaged == ()


def test_damage_is_named_with_tsharks_words(tmp_path: Path) -> None:
    cut, none = tmp_path / "cut.pcap", tmp_path / "none.pcap"
    cut.write_bytes(pcap([ethernet(frame) for frame in FRAMES])[:-3])
    none.write_bytes(b"this is no capture at all, is it")
    source = PysharkSource(PysharkSettings([cut, none]))
    assert len(packets_of(source)) == 2
    (first, reason), (second, _) = source.counters.damaged
    assert (Path(first).name, Path(second).name) == ("cut.pcap", "none.pcap")
    assert reason.startswith("tshark: ")
    assert "cut short" in reason


@pytest.mark.parametrize(
    "text", ["1700000000.123456789", "2023-11-14T22:13:20.123456789Z", "1700000000.1234567890"]
)
def test_time_stamps_are_exact_in_both_forms(text: str) -> None:
    assert _time_ns(text) == 1_700_000_000_123_456_789


def test_a_tshark_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="apt-get install tshark"):
        PysharkSource(PysharkSettings(interface="lo"))


def test_what_breaks_in_a_line_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "tshark"
    script.write_text(
        "#!/bin/sh\n"
        'echo \'{"layers": {"frame": 7}}\'\necho \'{"layers": \'\necho \'{"index": {}}\'\n'
        'echo \'{"layers": {"frame_raw": "00", "frame": {"frame_frame_time_epoch": "1.5",\'\\\n'
        '\'"frame_frame_len": "1", "frame_frame_protocols": "x:ip"}, "ip_raw": "zz"}}\'\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(pyshark_source, "_tshark", lambda: str(script))
    monkeypatch.setattr(pyshark_source, "_check", lambda *_: None)
    source = PysharkSource(PysharkSettings(interface="lo", display_filter="tcp"))
    assert source.live
    assert not len(packets_of(source))
    assert (source.counters.frames, source.counters.broken_entries) == (3, 3)
    source.close()
