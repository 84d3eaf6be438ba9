"""The compiled encoders say what plain Python says, whatever is in the verdicts."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.community_ids import community_ids
from collectors.eve_sink import eve_lines
from collectors.exchange import Settled
from collectors.json_lines import out_lines, verdict_lines
from collectors.sinks import Verdicts
from collectors.text_columns import Texts, base62, decimals, integers, joined, names, times
from collectors.zeek_sink import ZEEK_FIELDS, zeek_lines, zeek_text
from flows.keys import ICMP_PAIRS, FiveTuple, addresses_of, community_id
from flows.packet import FlowEndReason, Protocol
from flows.table import FLOW_DTYPE
from flows.verdict import VERDICT_DTYPE, Reason
from made_verdicts import made

DAYS_11_NS = 10**15 - 1  # up to here all digits of a latency are exact in a float64

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

uint64s = st.integers(0, 2**64 - 1)
half_addresses = st.one_of(
    uint64s, st.lists(st.sampled_from([0, 0, 1, 0xF, 0xABCD, 0xFFFF]), min_size=4, max_size=4).map(
        lambda groups: sum(group << 16 * k for k, group in enumerate(groups))
    )
)  # fmt: skip
ratios = st.one_of(
    st.floats(0, 1, width=32), st.integers(0, 32).map(lambda k: k / 32), st.just(1.0)
)
latencies = st.one_of(
    st.integers(0, 999),
    st.integers(0, DAYS_11_NS // 3),
    st.integers(0, 10**6).map(lambda k: k * 1_000),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ports = st.one_of(st.integers(0, 65_535), st.integers(0, 20), st.integers(126, 146))


@st.composite
def flows(draw: st.DrawFn) -> np.ndarray:
    out = np.zeros(draw(st.integers(1, 6)), FLOW_DTYPE)
    for row in out:
        protocol = draw(st.sampled_from(list(Protocol)))
        row["protocol"], row["flow_id"] = protocol, draw(uint64s)
        row["ip_version"] = {Protocol.ICMP: 4, Protocol.ICMPV6: 6}.get(
            protocol, draw(st.sampled_from([4, 6]))
        )
        row["start_time_ns"] = draw(st.integers(-(2**62), 2**62))
        row["src_port"], row["dst_port"] = draw(ports), draw(ports)
        for end in ("src", "dst"):
            hi, lo = draw(half_addresses), draw(half_addresses)
            if row["ip_version"] == 4:
                hi, lo = 0, 0xFFFF << 32 | lo & 0xFFFFFFFF
            elif hi == 0 and lo >> 32 == 0xFFFF:
                hi = 1  # Pythons write mapped addresses in different ways
            row[f"{end}_hi"], row[f"{end}_lo"] = hi, lo
        if draw(st.booleans()):
            row["dst_hi"], row["dst_lo"] = row["src_hi"], row["src_lo"]
    return out


@st.composite
def verdicts(draw: st.DrawFn) -> Verdicts:
    records = draw(flows())
    classes = tuple(draw(st.lists(texts, min_size=1, max_size=4)))
    tiers = tuple(draw(st.lists(texts, min_size=1, max_size=3)))
    said = np.zeros(len(records), VERDICT_DTYPE)
    for row in said:
        row["label"] = draw(st.integers(0, len(classes) - 1))
        row["tier"] = draw(st.integers(0, len(tiers) - 1))
        row["reason"] = draw(st.sampled_from(list(Reason)))
        row["packets_used"] = draw(st.integers(0, 255))
        row["confidence"], row["novelty"] = draw(ratios), draw(ratios)
        row["wait_ns"] = draw(latencies)
    spent = [np.array([draw(latencies) for _ in records], np.int64) for _ in range(2)]
    interface = draw(st.one_of(st.none(), texts))
    ends = np.array([draw(st.sampled_from(FlowEndReason)) for _ in records], np.uint8)
    settled = Settled(records, said, spent[0], spent[1], draw(st.sampled_from([ends, None])))
    return Verdicts(settled, classes, tiers, draw(texts), draw(texts), interface)


def plain(found: Verdicts) -> list[dict[str, Any]]:
    return verdict_lines(found.settled, found.classes, found.tiers, found.model_version)


def each(column: Texts) -> list[str]:
    text, ends = joined([(b"", column)], b"")
    data, at = text.tobytes(), [0, *ends.tolist()]
    return [data[at[i] : at[i + 1]].decode() for i in range(len(ends))]


@given(verdicts())
@settings(max_examples=300, deadline=None)
def test_lines_of_out_are_those_of_plain_python(found: Verdicts) -> None:
    wanted = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in plain(found))
    assert out_lines(found).tobytes().decode() == wanted


def microseconds(time_ns: int) -> str:
    return f"{np.datetime64(time_ns, 'ns').astype('datetime64[us]')}+0000"


@given(verdicts())
@settings(max_examples=300, deadline=None)
def test_an_eve_record_says_what_a_line_of_out_says(found: Verdicts) -> None:
    text, ends = eve_lines(found)
    records = [json.loads(line) for line in text.tobytes().split(b"\n")[:-1]]
    assert ends[-1] == len(text)
    assert len(records) == len(found) == len(ends)
    for record, line, flow, verdict, end in zip(
        records, plain(found), found.settled.flows, found.settled.verdicts, found.settled.ends,
        strict=True,
    ):  # fmt: skip
        ended = FlowEndReason(int(end)).name.lower() if end else None
        assert record["flow"].get("end_reason") == ended
        own = record["serveflow"]
        assert own["flow_id"] == str(line["flow_id"])
        assert record["flow_id"] == line["flow_id"] % 2**51
        for name in ("label", "confidence", "novelty", "tier", "packets_used", "reason",
                     "model_version", "latency_ms"):  # fmt: skip
            assert own[name] == line[name]
        for name in ("src_ip", "dest_ip", "community_id"):
            assert record[name] == line[name]
        assert record["proto"].replace("IPv6-ICMP", "ICMPV6") == line["proto"]
        assert record["flow"]["start"] == microseconds(int(flow["start_time_ns"]))
        assert record["timestamp"] == microseconds(int(flow["start_time_ns"] + verdict["wait_ns"]))
        assert record.get("in_iface") == found.interface
        assert record["host"] == found.collector
        pairs = ICMP_PAIRS.get(int(flow["protocol"]))
        if pairs is None:
            assert (record["src_port"], record["dest_port"]) == (
                line["src_port"],
                line["dest_port"],
            )
            assert not {"icmp_type", "icmp_code"} & set(record)
        else:
            has_answer = any(int(flow["src_port"]) in pair for pair in pairs)
            assert record["icmp_type"] == line["src_port"]
            assert record.get("icmp_code") == (None if has_answer else line["dest_port"])
            assert not {"src_port", "dest_port"} & set(record)


def zeek_meaning(cell: str) -> str | None:
    if cell in ("-", "(empty)"):
        return {"-": None, "(empty)": ""}[cell]
    head, *rest = cell.split("\\x")
    return head + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)


@given(verdicts())
@settings(max_examples=300, deadline=None)
def test_a_zeek_line_says_what_a_line_of_out_says(found: Verdicts) -> None:
    lines = zeek_lines(found).tobytes().decode().split("\n")
    assert lines.pop() == ""
    for text, line, flow in zip(lines, plain(found), found.settled.flows, strict=True):
        cells = text.split("\t")
        row = dict(zip([name for name, _ in ZEEK_FIELDS], cells, strict=True))
        for name, own in [("id.orig_h", "src_ip"), ("id.orig_p", "src_port"),
                          ("id.resp_h", "dest_ip"), ("id.resp_p", "dest_port"),
                          ("community_id", "community_id"), ("confidence", "confidence"),
                          ("novelty", "novelty"), ("packets_used", "packets_used"),
                          ("reason", "reason")]:  # fmt: skip
            assert row[name] == str(line[own])
        assert zeek_meaning(row["label"]) == line["label"]
        assert zeek_meaning(row["tier"]) == line["tier"]
        assert zeek_meaning(row["model_version"]) == line["model_version"]
        assert zeek_meaning(row["interface"]) == found.interface
        for name, ms in line["latency_ms"].items():
            assert abs(float(row[name]) - ms / 1e3) <= 0.51e-6 + 1e-9 * ms
        whole, _, part = row["ts"].partition(".")
        sign = -1 if whole.startswith("-") else 1
        assert int(whole) * 10**6 + sign * int(part) == int(flow["start_time_ns"]) // 1_000
        assert len(row["uid"]) == 18
        digits = enumerate(reversed(row["uid"][1:12]))
        assert sum(BASE62.index(digit) * 62**k for k, digit in digits) == line["flow_id"]


@given(flows())
@settings(max_examples=300, deadline=None)
def test_community_ids_are_those_of_one_flow_at_a_time(records: np.ndarray) -> None:
    src, dst = addresses_of(records)
    assert each(community_ids(records)) == [
        community_id(FiveTuple(src[i], dst[i], int(flow["src_port"]), int(flow["dst_port"]),
                               int(flow["protocol"])))
        for i, flow in enumerate(records)
    ]  # fmt: skip


@given(st.lists(st.integers(-DAYS_11_NS, DAYS_11_NS), min_size=1), st.lists(uint64s, min_size=1))
@settings(deadline=None)
def test_numbers_are_written_as_python_writes_them(signed: list[int], unsigned: list[int]) -> None:
    values = np.array(signed, np.int64)
    assert each(decimals(values, 6, short=True)) == [repr(v / 1e6) if v else "0.0" for v in signed]
    assert each(decimals(values, 4, short=True)) == [repr(v / 1e4) if v else "0.0" for v in signed]
    assert [int(v.replace(".", "")) for v in each(decimals(values, 6, short=False))] == signed
    assert each(integers(np.array(unsigned, np.uint64))) == [str(v) for v in unsigned]


def test_a_time_that_no_clock_shows_is_written_all_the_same() -> None:
    extremes = np.array([-(2**63) + 1, 2**63 - 1, 0, 951_782_400_000_000_000], np.int64)
    assert each(times(extremes, 9)) == [str(np.datetime64(int(t), "ns")) for t in extremes]


def test_base_62_counts_with_digits_then_capitals() -> None:
    assert each(base62(np.array([0, 61, 62, 2**64 - 1], np.uint64), 11)) == [
        "00000000000", "0000000000z", "00000000010", "LygHa16AHYF"
    ]  # fmt: skip


def test_a_number_that_is_none_counts_as_0_and_ratios_stay_ratios() -> None:
    found = made(3)
    found.settled.verdicts["confidence"] = [np.nan, np.inf, -1]
    lines = [json.loads(line) for line in eve_lines(found)[0].tobytes().splitlines()]
    assert [line["serveflow"]["confidence"] for line in lines] == [0, 1, 0]


def test_a_label_that_there_is_no_name_for_is_an_error() -> None:
    found = replace(made(9), classes=("only",))
    try:
        names(found.classes, found.settled.verdicts["label"])
    except IndexError:
        return
    raise AssertionError


def test_what_reads_like_nothing_in_a_zeek_log_is_escaped() -> None:
    assert [zeek_text(text) for text in (None, "", "-", "(empty)", "a-b", "a\\\t")] == [
        b"-", b"(empty)", b"\\x2d", b"\\x28empty)", b"a-b", b"a\\x5c\\x09"
    ]  # fmt: skip
