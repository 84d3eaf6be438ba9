"""The gRPC sender: what each kind of answer means."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from collectors import grpc_sender
from collectors.grpc_sender import GrpcSender
from collectors.sender import HttpSender, open_sender
from flows.errors import ServiceRefusedError, ServiceUnavailableError, SettingsError
from flows.packet import PACKET_DTYPE
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchInPartsRequest,
    ClassifyBatchInPartsResponse,
    GetSchemaRequest,
    GetSchemaResponse,
)
from flows.rpc.flow_classifier_pb2_grpc import (
    FlowClassifierServiceServicer,
    add_FlowClassifierServiceServicer_to_server,
)
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.verdict_wire import VerdictWriter
from flows.wire import PacketBatch, decode_batch

SCHEMA = ServiceSchema(10, 2.5, ("a", "b"), ("t", "u"), (1, 10), "v", 2, 100, 1000, header=True)
BATCH = PacketBatch("edge", 1, np.zeros(3, PACKET_DTYPE))
LARGE = PacketBatch("edge", 1, np.zeros(300, PACKET_DTYPE))


class Server(FlowClassifierServiceServicer):
    """A service that answers as it is told."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.status: StatusCode | None = None
        self.schema = GetSchemaResponse(**SCHEMA.to_dict())
        self.seen: list[bytes] = []
        self.traces: list[str | bytes | None] = []
        self.applications: list[str | bytes | None] = []
        self.peers: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_FlowClassifierServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"grpc://127.0.0.1:{port}"
        self._server.start()

    def GetSchema(  # noqa: N802 (the RPC's name)
        self, request: GetSchemaRequest, context: grpc.ServicerContext
    ) -> GetSchemaResponse:
        self.applications.append(dict(context.invocation_metadata()).get("application"))
        self.peers.append(context.peer())
        if self.status:
            context.abort(self.status, "told so")
        return self.schema

    def ClassifyBatchInParts(  # noqa: N802
        self, request: ClassifyBatchInPartsRequest, context: grpc.ServicerContext
    ) -> Iterator[ClassifyBatchInPartsResponse]:
        self.seen.append(request.packets)
        self.traces.append(dict(context.invocation_metadata()).get("traceparent"))
        for piece in self.pieces:
            yield ClassifyBatchInPartsResponse(verdicts=piece)
            self.go_on.wait(30)
        if self.status:
            context.abort(self.status, "told so")

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def sender(server: Server) -> Iterator[GrpcSender]:
    with GrpcSender(server.url, timeout_s=20) as sender:
        yield sender


def answer() -> list[bytes]:
    writer = VerdictWriter(("a", "b"), "v1")
    verdicts = np.zeros(2, VERDICT_DTYPE)
    first = writer.part(verdicts, {"trackers": {"0": "x"}})
    return [first, writer.part(verdicts[:1]), writer.end()]


def test_the_schema_is_read(sender: GrpcSender) -> None:
    assert sender.schema() == SCHEMA


def test_the_application_is_named_if_it_is_given(server: Server, sender: GrpcSender) -> None:
    sender.schema()
    with GrpcSender(f"{server.url}/colocated") as other:
        other.schema()
    assert server.applications == [None, "colocated"]


def test_a_batch_goes_out_and_verdicts_come_back(server: Server, sender: GrpcSender) -> None:
    server.pieces = answer()
    parts = list(sender.submit(BATCH))
    assert [(len(p.verdicts), p.notes, p.classes, p.model_version) for p in parts] == [
        (2, {"trackers": {"0": "x"}}, ("a", "b"), "v1"),
        (1, {}, ("a", "b"), "v1"),
    ]
    assert decode_batch(server.seen[0]).collector == "edge"
    (trace,) = server.traces
    assert str(trace).startswith("00-")
    assert len(str(trace)) == 55


def test_the_first_part_is_there_before_the_second_has_left(
    server: Server, sender: GrpcSender
) -> None:
    server.pieces = answer()
    server.go_on.clear()
    parts = sender.submit(BATCH)
    assert len(next(parts).verdicts) == 2
    server.go_on.set()
    assert len(next(parts).verdicts) == 1


@pytest.mark.parametrize(
    "status",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
    ],
)
@pytest.mark.parametrize("pieces", [0, 1])
def test_what_may_help_when_tried_again(
    server: Server, sender: GrpcSender, status: StatusCode, pieces: int
) -> None:
    server.status, server.pieces = status, answer()[:pieces]
    with pytest.raises(ServiceUnavailableError, match=f"{status.name}: told so"):
        list(sender.submit(BATCH))


@pytest.mark.parametrize(
    "status",
    [
        StatusCode.INVALID_ARGUMENT,
        StatusCode.UNIMPLEMENTED,
        StatusCode.NOT_FOUND,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    ],
)
def test_what_will_not_help_when_tried_again(
    server: Server, sender: GrpcSender, status: StatusCode
) -> None:
    server.status = status
    with pytest.raises(ServiceRefusedError, match=f"{status.name}: told so"):
        list(sender.submit(BATCH))
    with pytest.raises(ServiceRefusedError, match=f"{status.name}: told so"):
        sender.schema()


def test_a_batch_that_is_too_large_is_no_overload(server: Server, sender: GrpcSender) -> None:
    """Both have one status in gRPC; what is over the limit would never get better."""
    sender.schema()
    server.status = StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ServiceRefusedError, match="RESOURCE_EXHAUSTED"):
        list(sender.submit(LARGE))


def test_an_application_that_was_there_may_come_back(server: Server, sender: GrpcSender) -> None:
    sender.schema()
    server.status = StatusCode.NOT_FOUND
    with pytest.raises(ServiceUnavailableError, match="NOT_FOUND"):
        list(sender.submit(BATCH))


def test_an_answer_that_breaks_off_may_be_tried_again(server: Server, sender: GrpcSender) -> None:
    for pieces in ([], [answer()[0][:-30]], [b"what"]):
        server.pieces = pieces
        with pytest.raises(ServiceUnavailableError, match="the answer"):
            list(sender.submit(BATCH))


def test_another_service_is_told_apart(server: Server, sender: GrpcSender) -> None:
    server.schema = GetSchemaResponse(format="serveflow.packets.v9")
    with pytest.raises(ServiceRefusedError, match="the service speaks"):
        sender.schema()


def test_a_service_that_is_not_there_says_what_to_do(server: Server) -> None:
    server.close()
    with (
        GrpcSender(server.url) as sender,
        pytest.raises(ServiceUnavailableError, match="serveflow serve"),
    ):
        sender.schema()


def test_the_connection_is_renewed_now_and_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ingress that is added later gets its share; calls under way are not cut off."""
    server.pieces = answer()
    server.go_on.clear()
    monkeypatch.setattr(grpc_sender, "_RENEW_S", (0.0, 0.0))
    with GrpcSender(server.url) as sender:
        under_way = sender.submit(BATCH)
        next(under_way)
        sender.schema()
        sender.schema()
        server.go_on.set()
        assert len(list(under_way)) == 1
    assert len(set(server.peers)) == 2


@pytest.mark.parametrize(
    "url",
    ["grpc://edge", "grpc://:9000", "grpc://edge:0x9", "grpc://edge:99999", "grpc://edge:9000/a/b"],
)
def test_an_address_that_is_none_says_how_it_should_be(url: str) -> None:
    with pytest.raises(SettingsError, match=url):
        open_sender(url)


def test_the_address_chooses_the_sender() -> None:
    for url, kind in (
        ("http://127.0.0.1:8000", HttpSender),
        ("grpc://127.0.0.1:9000", GrpcSender),
        ("grpc://[::1]:9000/serveflow", GrpcSender),
    ):
        sender = open_sender(url)
        assert isinstance(sender, kind)
        sender.close()


def test_an_edge_box_without_grpc_is_told_what_to_install() -> None:
    code = (
        "import sys; sys.modules['grpc'] = None\n"
        "from collectors.sender import open_sender\n"
        "open_sender('http://127.0.0.1:9').close()\n"
        "from flows.errors import SettingsError\n"
        "try: open_sender('grpc://127.0.0.1:9')\n"
        "except SettingsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serveflow[grpc]" in done.stdout
