"""The wire forms: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import WireError, WireSchemaError
from flows.packet import PACKET_DTYPE, packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.wire import (
    MAX_BATCH_PACKETS,
    PACKET_SCHEMA,
    PacketBatch,
    VerdictReader,
    VerdictWriter,
    decode_batch,
    encode_batch,
    malformed_rows,
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


def test_an_answer_that_breaks_off_is_an_error() -> None:
    writer = VerdictWriter(("dns",), "abc")
    body = writer.part(np.zeros(4, VERDICT_DTYPE)) + writer.part(np.zeros(4, VERDICT_DTYPE))
    with pytest.raises(WireError, match="broke off"):
        list(VerdictReader(io.BytesIO(body[:-20])))


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
