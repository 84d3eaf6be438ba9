"""The wire forms: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import WireError, WireSchemaError
from flows.packet import PACKET_DTYPE, packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.verdict_wire import VerdictReader, VerdictWriter
from flows.wire import (
    MAX_BATCH_PACKETS,
    PACKET_SCHEMA,
    PacketBatch,
    decode_batch,
    encode_batch,
    malformed_rows,
    new_flows_of,
    open_batch,
    packet_schema,
)

METADATA = {"format": "serveflow.packets.v1", "collector": "edge", "watermark_ns": "7"}


def some_packets(n: int, *, with_header: bool = False) -> np.ndarray:
    rng = np.random.default_rng(1)
    packets = np.zeros(n, packet_dtype(with_header))
    if with_header:
        packets["header"] = rng.integers(0, 256, (n, 128))
    for name in PACKET_DTYPE.names:
        if name != "host":
            packets[name] = rng.integers(0, 200, n)
    packets["host"]["max_ttl"] = rng.integers(0, 200, n)
    packets["host"]["tcp_window"] = rng.integers(0, 60_000, n)
    return packets


def stream(schema: pa.Schema, rows: int = 3, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    arrays = [
        pa.array([bytes(f.type.byte_width)] * rows, f.type)
        if pa.types.is_fixed_size_binary(f.type)
        else pa.array(np.zeros(rows), f.type, from_pandas=False)
        for f in schema
    ]
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return bytes(sink.getvalue())


@pytest.mark.parametrize("n", [0, 1, 1000])
@pytest.mark.parametrize("with_header", [False, True])
def test_a_batch_comes_back_as_it_was(n: int, with_header: bool) -> None:
    batch = PacketBatch("edge#1", 123, some_packets(n, with_header=with_header))
    back = decode_batch(encode_batch(batch), with_header=with_header)
    assert (back.collector, back.watermark_ns) == ("edge#1", 123)
    assert back.packets.dtype == packet_dtype(with_header)
    assert (back.packets == batch.packets).all()


@pytest.mark.parametrize("with_header", [False, True])
@pytest.mark.parametrize("watermark_ns", [0, 7, 1_732_789_012_345_678_901])
def test_what_repeats_itself_is_written_and_read_as_arrow_does(
    with_header: bool, watermark_ns: int
) -> None:
    for n in (*range(20), 255, 256, 257, 3000):
        batch = PacketBatch("edge#é", watermark_ns, some_packets(n, with_header=with_header))
        by_arrow = arrow_stream(batch)
        for _ in range(2):  # the second time its messages are known
            assert encode_batch(batch) == by_arrow
            back = decode_batch(by_arrow, with_header=with_header)
            assert (back.collector, back.watermark_ns) == ("edge#é", watermark_ns)
            assert (back.packets == batch.packets).all()
        known = open_batch(by_arrow, with_header=with_header)
        assert known.new_flows == new_flows_of(batch.packets)


def arrow_stream(batch: PacketBatch) -> bytes:
    """Return a batch as pyarrow alone writes it."""
    schema = packet_schema("header" in batch.packets.dtype.names).with_metadata(
        METADATA | {"collector": batch.collector, "watermark_ns": str(batch.watermark_ns)}
    )
    columns = [
        pa.array(
            [row.tobytes() for row in batch.packets[f.name]]
            if pa.types.is_fixed_size_binary(f.type)
            else batch.packets[f.name],
            f.type,
        )
        for f in schema
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def outcome(body: bytes | bytearray) -> object:
    try:
        batch = decode_batch(body)
    except WireError as error:
        return str(error)
    return batch.collector, batch.watermark_ns, batch.packets.tobytes()


def test_broken_streams_are_taken_as_arrow_takes_them_however_well_known_they_are() -> None:
    rng = np.random.default_rng(5)
    whole = encode_batch(PacketBatch("edge", 1_732_789_012_345_678_901, some_packets(5)))
    decode_batch(whole)
    taken = 0
    for _ in range(3000):
        broken = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            broken[rng.integers(len(broken))] = rng.integers(256)
        if rng.random() < 0.2:
            del broken[rng.integers(len(broken)) :]
        given = bytes(broken)
        # A bytearray's messages are not looked up, nor remembered.
        by_arrow = outcome(broken)
        assert outcome(given) == by_arrow
        assert outcome(given) == by_arrow  # whatever of it is remembered by now
        taken += isinstance(by_arrow, tuple)
    assert 300 < taken < 2700


def test_a_watermark_out_of_range_is_refused_in_a_known_stream() -> None:
    whole = encode_batch(PacketBatch("edge", 1_732_789_012_345_678_901, some_packets(5)))
    decode_batch(whole)
    late = whole.replace(b"1732789012345678901", b"9732789012345678901")
    with pytest.raises(WireSchemaError, match="out of range"):
        decode_batch(late)


def test_batches_in_parts_come_back_with_their_headers() -> None:
    packets = some_packets(5, with_header=True)
    body = encode_batch(PacketBatch("edge", 1, packets))
    with pa.ipc.open_stream(body) as reader:
        (whole,) = reader
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        for part in (whole[:2], whole[2:2], whole[2:]):
            writer.write_batch(part)
    back = decode_batch(sink.getvalue(), with_header=True)
    assert (back.packets == packets).all()


@pytest.mark.parametrize(
    ("with_header", "said"),
    [(False, "column header is missing"), (True, "column header is not wanted")],
)
def test_headers_are_there_if_and_only_if_they_are_wanted(with_header: bool, said: str) -> None:
    body = encode_batch(PacketBatch("edge", 1, some_packets(3, with_header=with_header)))
    with pytest.raises(WireSchemaError, match=rf"^{said} \(GET /v1/schema lists the columns\)$"):
        decode_batch(body, with_header=not with_header)


def test_the_header_column_has_bytes() -> None:
    assert packet_schema(False) == PACKET_SCHEMA
    assert packet_schema(True).remove(0) == PACKET_SCHEMA
    assert packet_schema(True).field("header").type == pa.binary(128)


def test_a_missing_column_is_named() -> None:
    schema = PACKET_SCHEMA.remove(3).with_metadata(METADATA)
    with pytest.raises(WireSchemaError, match=f"column {PACKET_SCHEMA[3].name} is missing"):
        decode_batch(stream(schema))


def test_a_column_of_another_type_is_named() -> None:
    schema = PACKET_SCHEMA.set(0, pa.field("flow_id", pa.int32(), nullable=False))
    with pytest.raises(WireSchemaError, match="flow_id is int32, not uint64"):
        decode_batch(stream(schema.with_metadata(METADATA)))


@pytest.mark.parametrize("change", [{"format": "other"}, {"collector": ""}, {"watermark_ns": "x"}])
def test_wrong_metadata_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(WireSchemaError):
        decode_batch(stream(PACKET_SCHEMA.with_metadata(METADATA | change)))


def test_a_compressed_batch_is_refused_before_it_is_inflated() -> None:
    body = stream(PACKET_SCHEMA.with_metadata(METADATA), rows=60_000, compression="zstd")
    assert len(body) < 40_000
    with pytest.raises(WireError, match="compressed"):
        decode_batch(body)


def test_too_many_rows_are_refused() -> None:
    body = encode_batch(PacketBatch("edge", 1, np.zeros(MAX_BATCH_PACKETS + 1, PACKET_DTYPE)))
    with pytest.raises(WireError, match="smaller batches"):
        decode_batch(body)


@pytest.mark.parametrize("body", [b"", b"\0" * 64, b"\xff" * 64, b'{"packets": []}'])
def test_what_is_no_arrow_stream_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_batch(body)


def test_a_stream_cut_anywhere_is_refused_or_shorter() -> None:
    whole = encode_batch(PacketBatch("edge", 1, some_packets(5)))
    for end in range(0, len(whole) - 1, 7):
        with contextlib.suppress(WireError):
            assert len(decode_batch(whole[:end]).packets) in (0, 5)


def test_rows_that_cannot_be_packets_are_told() -> None:
    packets = np.zeros(5, PACKET_DTYPE)
    packets["packet_index"][1] = 64
    packets["flow_end_reason"][2] = 9
    packets["time_ns"][3] = -1
    packets["from_originator"][4] = 2
    assert malformed_rows(packets).tolist() == [False, True, True, True, True]


def test_verdicts_come_back_part_by_part() -> None:
    verdicts = np.zeros(4, VERDICT_DTYPE)
    verdicts["flow_id"] = [1, 2, 3, 4]
    writer = VerdictWriter(("dns", "http"), "abc")
    body = writer.part(verdicts[:3], {"trackers": {"0": "x"}}) + writer.part(verdicts[3:])
    reader = VerdictReader(io.BytesIO(body + writer.end()))
    parts = list(reader)
    assert (reader.classes, reader.model_version) == (("dns", "http"), "abc")
    assert [(p["flow_id"].tolist(), notes) for p, notes in parts] == [
        ([1, 2, 3], {"trackers": {"0": "x"}}),
        ([4], {}),
    ]


def test_answers_are_arrow_streams() -> None:
    for n in (0, 1, 7, 300, 1000):
        verdicts = np.zeros(n, VERDICT_DTYPE)
        verdicts["flow_id"] = np.arange(n)
        verdicts["wait_ns"] = -np.arange(n)
        verdicts["label"] = 513
        for _ in range(2):  # the second time its messages are known
            writer = VerdictWriter(("dns",), "abc")
            body = writer.part(verdicts, {"away": [1]}) + writer.part(verdicts) + writer.end()
            ((first, notes), (second, none)) = VerdictReader(io.BytesIO(body))
            assert (notes, none) == ({"away": [1]}, {})
            assert (first == verdicts).all()
            assert (second == verdicts).all()
            with pa.ipc.open_stream(body) as reader:
                parts = list(reader)
            for part in parts:
                part.validate(full=True)
                for name in VERDICT_DTYPE.names:
                    assert (part[name].to_numpy() == verdicts[name]).all()
            assert reader.schema.metadata[b"model_version"] == b"abc"


def test_an_answer_that_arrow_wrote_is_read() -> None:
    schema = answer_schema()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for at in (0, 2):
            columns = [pa.array(np.arange(at, at + 2), f.type) for f in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    parts = list(VerdictReader(io.BytesIO(sink.getvalue().to_pybytes())))
    assert [part["flow_id"].tolist() for part, _ in parts] == [[0, 1], [2, 3]]


def answer_schema() -> pa.Schema:
    writer = VerdictWriter(("dns",), "abc")
    return pa.ipc.open_stream(writer.end()).schema


def test_an_answer_of_other_columns_is_refused() -> None:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, answer_schema().remove(0)).close()
    with pytest.raises(WireError, match="its columns are not those"):
        VerdictReader(io.BytesIO(sink.getvalue().to_pybytes()))


@pytest.mark.parametrize("known", [False, True])
def test_an_answer_that_breaks_off_is_an_error(known: bool) -> None:
    rows = 41 + known
    writer = VerdictWriter(("dns",), "abc")
    body = writer.part(np.zeros(rows, VERDICT_DTYPE)) + writer.part(np.zeros(rows, VERDICT_DTYPE))
    if known:
        list(VerdictReader(io.BytesIO(body + writer.end())))
    for missing in (0, 20, 500):  # the end mark alone, and of the last part
        with pytest.raises(WireError, match="broke off: it ends early"):
            list(VerdictReader(io.BytesIO(body[: len(body) - missing])))


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1])
def test_an_answer_that_claims_to_be_huge_is_an_error(size: int) -> None:
    writer = VerdictWriter(("dns",), "abc")
    body = writer.part(np.zeros(43, VERDICT_DTYPE))
    true = struct.pack("<q", 1664)  # the columns, each filled up to 8 bytes
    assert body.count(true) == 1
    claims = io.BytesIO(body.replace(true, struct.pack("<Q", size)))
    reader = VerdictReader(io.BufferedReader(claims))
    with pytest.raises(WireError, match="broke off"):
        list(reader)


def test_a_service_schema_comes_back_as_it_was() -> None:
    schema = ServiceSchema(10, 10.0, ("a",), ("t",), (10,), "v", 2, 100, 1000)
    assert ServiceSchema.from_dict(schema.to_dict()) == schema
    wants = dataclasses.replace(schema, header=True)
    assert ServiceSchema.from_dict(wants.to_dict()) == wants
    columns = [[c["name"] for c in s.to_dict()["columns"]] for s in (schema, wants)]
    assert columns[1] == ["header", *columns[0]]


def test_a_service_that_says_nothing_of_headers_wants_none() -> None:
    said = ServiceSchema(10, 10.0, ("a",), ("t",), (10,), "v", 2, 100, 1000).to_dict()
    del said["header"]
    assert not ServiceSchema.from_dict(said).header


@pytest.mark.parametrize("change", [{"format": "v0"}, {"depth": 0}, {"depth": 65}, {"classes": 5}])
def test_a_service_schema_of_another_kind_is_refused(change: dict[str, object]) -> None:
    schema = ServiceSchema(10, 10.0, ("a",), ("t",), (10,), "v", 2, 100, 1000)
    with pytest.raises(WireSchemaError):
        ServiceSchema.from_dict(schema.to_dict() | change)
