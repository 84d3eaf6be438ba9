"""The running service over gRPC: the same answers, limits and refusals as over HTTP."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
from grpc import StatusCode

from collectors.grpc_sender import GrpcSender
from collectors.sender import HttpSender
from conftest import Running
from flows.errors import ServiceRefusedError, ServiceUnavailableError
from flows.packet import PACKET_DTYPE, packet_dtype
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchInPartsRequest,
    ClassifyBatchRequest,
    GetSchemaRequest,
    StreamVerdictsRequest,
    StreamVerdictsResponse,
)
from flows.rpc.flow_classifier_pb2_grpc import FlowClassifierServiceStub
from flows.verdict_wire import VerdictReader
from flows.wire import PacketBatch, encode_batch

pytestmark = pytest.mark.serve

NOW_NS = 1_700_000_000 * 10**9
LATER_NS = NOW_NS + 100 * 10**9  # every wait is over by then
OURS = (("application", "serveflow"),)


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    target = running.separate_grpc.removeprefix("grpc://").partition("/")[0]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> FlowClassifierServiceStub:
    return FlowClassifierServiceStub(channel)


@pytest.fixture
def sender(running: Running) -> Iterator[GrpcSender]:
    with GrpcSender(running.separate_grpc) as sender:
        yield sender


def first_packets(n: int, first_flow: int = 1) -> np.ndarray:
    packets = np.zeros(n, PACKET_DTYPE)
    packets["flow_id"] = np.arange(first_flow, first_flow + n)
    packets["time_ns"] = NOW_NS
    packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
    packets["from_originator"] = 1
    return packets


def encoded(collector: str, watermark_ns: int, packets: np.ndarray) -> bytes:
    return encode_batch(PacketBatch(collector, watermark_ns, packets))


def verdicts_of(stream: bytes) -> list[np.ndarray]:
    return [verdicts for verdicts, _ in VerdictReader(io.BytesIO(stream))]


def test_the_schema_is_that_of_http(running: Running) -> None:
    for grpc_url, http_url in (
        (running.separate_grpc, running.separate),
        (running.colocated_grpc, running.colocated),
    ):
        with GrpcSender(grpc_url) as ours, HttpSender(http_url) as theirs:
            assert ours.schema() == theirs.schema()


def test_one_piece_and_parts_say_what_http_says(
    running: Running, stub: FlowClassifierServiceStub, sender: GrpcSender
) -> None:
    packets = first_packets(300)
    whole = stub.ClassifyBatch(
        ClassifyBatchRequest(packets=encoded("whole", LATER_NS, packets)), metadata=OURS
    )
    parts = [p.verdicts for p in sender.submit(PacketBatch("parts", LATER_NS, packets))]
    with HttpSender(running.separate) as http:
        reference = [p.verdicts for p in http.submit(PacketBatch("http", LATER_NS, packets))]
    for got in (verdicts_of(whole.verdicts), parts):
        # The fast part, and what followed it in however many.
        for ours, theirs in ((got[:1], reference[:1]), (got[1:], reference[1:])):
            ours = np.sort(np.concatenate(ours), order="flow_id")
            theirs = np.sort(np.concatenate(theirs), order="flow_id")
            for column in ("flow_id", "label", "confidence", "tier", "final", "reason", "wait_ns"):
                assert np.array_equal(ours[column], theirs[column]), column


def test_what_is_no_batch_is_refused_with_the_words_of_http(
    running: Running, stub: FlowClassifierServiceStub
) -> None:
    wide = encode_batch(PacketBatch("wide", 1, np.zeros(1, packet_dtype(True))))
    for content in (b"", b"\xde\xad\xbe\xef" * 1000, wide):
        problem = httpx.post(
            f"{running.separate}/v1/batches",
            content=content,
            headers={"content-type": "application/vnd.apache.arrow.stream"},
            trust_env=False,
        ).json()
        with pytest.raises(grpc.RpcError) as whole:
            stub.ClassifyBatch(ClassifyBatchRequest(packets=content), metadata=OURS)
        request = ClassifyBatchInPartsRequest(packets=content)
        with pytest.raises(grpc.RpcError) as parts:
            list(stub.ClassifyBatchInParts(request, metadata=OURS))
        for refused in (whole.value, parts.value):
            assert refused.code() is StatusCode.INVALID_ARGUMENT
            assert refused.details() == problem["detail"]


@pytest.mark.parametrize("more_bytes", [1, 100_000, 80_000_000])
def test_a_body_over_the_limit_is_refused(
    stub: FlowClassifierServiceStub, sender: GrpcSender, more_bytes: int
) -> None:
    """Just over the limit by our own words, far over it before it is read."""
    body = bytes(sender.schema().max_body_bytes + more_bytes)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ClassifyBatch(ClassifyBatchRequest(packets=body), metadata=OURS)
    assert refused.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "arger" in refused.value.details() or "smaller" in refused.value.details()


def test_what_there_is_not_is_refused(
    channel: grpc.Channel, stub: FlowClassifierServiceStub
) -> None:
    call = channel.unary_unary("/serveflow.v1.FlowClassifierService/Nothing")
    with pytest.raises(grpc.RpcError) as unknown:
        call(b"", metadata=OURS)
    assert unknown.value.code() is StatusCode.UNIMPLEMENTED
    for metadata in ((), (("application", "nothing"),)):
        with pytest.raises(grpc.RpcError) as elsewhere:
            stub.GetSchema(GetSchemaRequest(), metadata=metadata)
        assert elsewhere.value.code() is StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as label:
        next(stub.StreamVerdicts(StreamVerdictsRequest(labels=["nothing"]), metadata=OURS))
    assert label.value.code() is StatusCode.INVALID_ARGUMENT
    assert "there is no 'nothing'" in label.value.details()


def test_a_message_that_is_none_tells_nothing_of_our_insides(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/serveflow.v1.FlowClassifierService/ClassifyBatch")
    with pytest.raises(grpc.RpcError) as broken:
        call(b"\xff\xff\xff", metadata=OURS)
    assert "/" not in broken.value.details()
    assert "Traceback" not in broken.value.details()


def with_verdicts(watch: Iterator[StreamVerdictsResponse]) -> StreamVerdictsResponse:
    return next(message for message in watch if message.verdicts)


def test_watchers_see_what_was_classified_over_http_and_grpc(
    running: Running, stub: FlowClassifierServiceStub, sender: GrpcSender
) -> None:
    http_watch = stub.StreamVerdicts(StreamVerdictsRequest(collector="by-http#1"), metadata=OURS)
    final_watch = stub.StreamVerdicts(
        StreamVerdictsRequest(collector="by-grpc", only_final=True), metadata=OURS
    )
    for watch in (http_watch, final_watch):
        assert next(watch) == StreamVerdictsResponse(), "the first message: it has begun"
    with HttpSender(running.separate) as http:
        batch = PacketBatch("by-http#1", NOW_NS, first_packets(50, 500_000))
        (by_http, *_) = http.submit(batch)
    seen = with_verdicts(http_watch)
    assert (seen.collector, seen.dropped_batches) == ("by-http#1", 0)
    (verdicts,) = verdicts_of(seen.verdicts)
    assert np.array_equal(verdicts, by_http.verdicts)

    batch = PacketBatch("by-grpc#2", LATER_NS, first_packets(50, 600_000))
    final = sum(int(part.verdicts["final"].sum()) for part in sender.submit(batch))
    got = 0
    while got < final:
        (verdicts,) = verdicts_of(with_verdicts(final_watch).verdicts)
        assert verdicts["final"].all()
        got += len(verdicts)
    assert got == final == 50
    for watch in (http_watch, final_watch):
        watch.cancel()


def test_watchers_that_leave_make_room_for_others(stub: FlowClassifierServiceStub) -> None:
    for _ in range(40):
        watch = stub.StreamVerdicts(StreamVerdictsRequest(), metadata=OURS)
        assert next(watch) == StreamVerdictsResponse()
        watch.cancel()


def test_the_sender_names_refusals_and_absence(running: Running, sender: GrpcSender) -> None:
    with pytest.raises(ServiceRefusedError, match="INVALID_ARGUMENT: collector must have"):
        list(sender.submit(PacketBatch("x" * 1000, 1, first_packets(1))))
    with (
        GrpcSender("grpc://127.0.0.1:9") as absent,
        pytest.raises(ServiceUnavailableError, match="Is the service running"),
    ):
        absent.schema()
    with (
        GrpcSender(running.separate.replace("http://", "grpc://")) as http_port,
        pytest.raises(ServiceRefusedError, match="Is this its port for gRPC"),
    ):
        http_port.schema()


def test_it_listens_on_loopback_only(running: Running) -> None:
    """In front, and behind, at each Router, where Ray by itself would listen to everyone."""
    api = f"{running.service.dashboard}/api/serve/applications/"
    groups = httpx.get(api, trust_env=False, timeout=30).json()["target_groups"]
    behind = {t["port"] for g in groups if g["protocol"] == "gRPC" for t in g["targets"]}
    front = int(running.separate_grpc.rpartition(":")[2].partition("/")[0])
    assert behind
    for port in {front} | behind:
        assert accepts("127.0.0.1", port)
        # Another address of this machine, on any Linux: all of 127.0.0.0/8 is.
        assert not accepts("127.0.0.2", port)


def accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
