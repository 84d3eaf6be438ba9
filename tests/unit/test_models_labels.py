"""Labels find their flows by capture, five-tuple and time."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import numpy as np
import pytest

from flows.errors import LabelsError
from flows.table import FLOW_DTYPE
from models.labels import LabelBook

HEAD = "pcap,src_ip,src_port,dst_ip,dst_port,proto,label"


def book(tmp_path: Path, *rows: str, head: str = HEAD, column: str = "label") -> LabelBook:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return LabelBook.read(path, column)


def flow(
    src: str, src_port: int, dst: str, dst_port: int, protocol: int, start_s: float = 0.0
) -> np.ndarray:
    out = np.zeros(1, FLOW_DTYPE)
    for side, text in (("src", src), ("dst", dst)):
        address = ipaddress.ip_address(text)
        number = int(address) if address.version == 6 else 0xFFFF << 32 | int(address)
        out[f"{side}_hi"], out[f"{side}_lo"] = number >> 64, number & (2**64 - 1)
    out["src_port"], out["dst_port"], out["protocol"] = src_port, dst_port, protocol
    out["ip_version"] = ipaddress.ip_address(src).version
    out["start_time_ns"] = round(start_s * 1e9)
    return out


def label_of(labels: LabelBook, capture: str, flows: np.ndarray) -> str | None:
    known, found = labels.match(capture, flows)
    assert known.dtype == np.bool_
    assert (found[0] != "") == known[0]
    return str(found[0]) if known[0] else None


def test_a_flow_is_found_by_its_five_tuple_in_either_direction(tmp_path: Path) -> None:
    labels = book(tmp_path, "a.pcap,10.0.0.1,50000,10.0.0.2,443,TCP,web")
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 50_000, "10.0.0.2", 443, 6)) == "web"
    assert label_of(labels, "a.pcap", flow("10.0.0.2", 443, "10.0.0.1", 50_000, 6)) == "web"
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 443, "10.0.0.2", 50_000, 6)) is None
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 50_000, "10.0.0.2", 443, 17)) is None
    assert label_of(labels, "b.pcap", flow("10.0.0.1", 50_000, "10.0.0.2", 443, 6)) is None


@pytest.mark.parametrize("proto", ["TCP", "tcp", " Tcp ", "6"])
def test_a_protocol_is_a_name_or_a_number(tmp_path: Path, proto: str) -> None:
    labels = book(tmp_path, f"a.pcap,10.0.0.1,1,10.0.0.2,2,{proto},x")
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 1, "10.0.0.2", 2, 6)) == "x"


def test_ipv6_addresses_may_be_written_in_any_way(tmp_path: Path) -> None:
    labels = book(tmp_path, "a.pcap,2001:DB8:0::1,5353,ff02::fb,5353,udp,mdns")
    assert label_of(labels, "a.pcap", flow("2001:db8::1", 5_353, "ff02::fb", 5_353, 17)) == "mdns"


def test_a_capture_is_found_by_its_file_name_or_its_path(tmp_path: Path) -> None:
    labels = book(
        tmp_path,
        "one/a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,first",
        "two/a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,second",
        "b.pcap,10.0.0.1,1,10.0.0.2,2,tcp,third",
        "three/c.pcap,10.0.0.1,1,10.0.0.2,2,tcp,fourth",
    )
    found = flow("10.0.0.1", 1, "10.0.0.2", 2, 6)
    assert label_of(labels, "one/a.pcap", found) == "first"
    assert label_of(labels, "two/a.pcap", found) == "second"
    assert label_of(labels, "somewhere/b.pcap", found) == "third"
    assert label_of(labels, "c.pcap", found) == "fourth"
    assert label_of(labels, "a.pcap", found) is None  # which one?
    assert label_of(labels, "xb.pcap", found) is None


def test_of_flows_with_one_five_tuple_the_nearest_start_counts(tmp_path: Path) -> None:
    labels = book(
        tmp_path,
        "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,late,200.5",
        "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,early,100",
        head=f"{HEAD},start_time",
    )
    for start_s, wanted in ((0, "early"), (149, "early"), (151, "late"), (999, "late")):
        found = flow("10.0.0.1", 1, "10.0.0.2", 2, 6, start_s)
        assert label_of(labels, "a.pcap", found) == wanted


def test_without_times_the_first_row_counts(tmp_path: Path) -> None:
    row = "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp"
    labels = book(tmp_path, f"{row},first", f"{row},second")
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 1, "10.0.0.2", 2, 6)) == "first"


@pytest.mark.parametrize("ports", [("0", "0"), ("8", "0"), ("", ""), ("77", "77")])
def test_icmp_is_matched_whatever_stands_for_its_ports(
    tmp_path: Path, ports: tuple[str, str]
) -> None:
    labels = book(tmp_path, f"a.pcap,10.0.0.1,{ports[0]},10.0.0.2,{ports[1]},icmp,ping")
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 8, "10.0.0.2", 0, 1)) == "ping"
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 8, "10.0.0.3", 0, 1)) is None
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 8, "10.0.0.2", 0, 58)) is None


def test_any_column_may_be_the_label(tmp_path: Path) -> None:
    labels = book(
        tmp_path,
        "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,fine,coarse",
        head=f"{HEAD},master",
        column="master",
    )
    assert label_of(labels, "a.pcap", flow("10.0.0.1", 1, "10.0.0.2", 2, 6)) == "coarse"


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"labels\.csv: columns dst_port, kind are missing"):
        book(tmp_path, head="pcap,src_ip,src_port,dst_ip,proto,label", column="kind")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(LabelsError, match="it has none"):
        LabelBook.read(tmp_path / "empty.csv")


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    bad = (
        "a.pcap,10.0.0.300,1,10.0.0.2,2,tcp,x",
        "a.pcap,10.0.0.1,70000,10.0.0.2,2,tcp,x",
        "a.pcap,10.0.0.1,1,10.0.0.2,2,carrier pigeon,x",
        "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,",
        "a.pcap,10.0.0.1",
    )
    labels = book(tmp_path, "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,x", *bad)
    assert labels.size == 1
    assert labels.skipped_count == len(bad)
    assert labels.skipped[0].startswith("line 3: ")
    with pytest.raises(LabelsError, match=r"none of its 5 rows .* line 2: .*10\.0\.0\.300"):
        book(tmp_path, *bad)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"nothing\.csv"):
        LabelBook.read(tmp_path / "nothing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelsError, match=r"binary\.csv"):
        LabelBook.read(tmp_path / "binary.csv")


def test_no_flows_have_no_labels(tmp_path: Path) -> None:
    labels = book(tmp_path, "a.pcap,10.0.0.1,1,10.0.0.2,2,tcp,x")
    for capture in ("a.pcap", "b.pcap"):
        known, found = labels.match(capture, np.zeros(0, FLOW_DTYPE))
        assert len(known) == len(found) == 0
