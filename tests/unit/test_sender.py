"""The HTTP sender: what each kind of answer means."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from collectors.sender import HttpSender
from flows.errors import (
    OverloadedError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
)
from flows.packet import PACKET_DTYPE
from flows.service_schema import ServiceSchema
from flows.verdict import VERDICT_DTYPE
from flows.verdict_wire import VerdictWriter
from flows.wire import ARROW_STREAM, PacketBatch, decode_batch

SCHEMA = ServiceSchema(10, 10.0, ("a",), ("t",), (10,), "v", 2, 100, 1000)
BATCH = PacketBatch("edge", 1, np.zeros(3, PACKET_DTYPE))


class Server:
    """A service that answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.kind = "application/json"
        self.body = b"{}"
        self.headers: dict[str, str] = {}
        self.seen: list[bytes] = []
        self.traces: list[str] = []
        self.clients: set[tuple[str, int]] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                outer.traces.append(self.headers["traceparent"])
                outer.seen.append(self.rfile.read(int(self.headers["content-length"])))
                self.answer()

            def answer(self) -> None:
                self.send_response(outer.status)
                self.send_header("content-type", outer.kind)
                self.send_header("content-length", str(len(outer.body)))
                outer.clients.add(self.client_address)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def sender(server: Server) -> Iterator[HttpSender]:
    sender = HttpSender(server.url)
    yield sender
    sender.close()


def test_the_schema_is_read(server: Server, sender: HttpSender) -> None:
    server.body = json.dumps(SCHEMA.to_dict()).encode()
    assert sender.schema() == SCHEMA


def test_a_batch_goes_out_and_verdicts_come_back(server: Server, sender: HttpSender) -> None:
    writer = VerdictWriter(("a", "b"), "v1")
    verdicts = np.zeros(2, VERDICT_DTYPE)
    server.kind = ARROW_STREAM
    server.body = writer.part(verdicts, {"trackers": {"0": "x"}}) + writer.part(verdicts[:1])
    server.body += writer.end()
    parts = list(sender.submit(BATCH))
    assert [(len(p.verdicts), p.notes, p.classes) for p in parts] == [
        (2, {"trackers": {"0": "x"}}, ("a", "b")),
        (1, {}, ("a", "b")),
    ]
    assert decode_batch(server.seen[0]).collector == "edge"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_help_when_tried_again(server: Server, sender: HttpSender, status: int) -> None:
    server.status = status
    server.body = json.dumps({"detail": "busy"}).encode()
    with pytest.raises(ServiceUnavailableError, match=f"{status}: busy"):
        list(sender.submit(BATCH))


@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1", "retry-after-ms": "200"}, 0.2),
        ({"retry-after": "99999999"}, 60.0),
        ({"retry-after": "9" * 5_000}, 60.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({}, 1.0),
    ],
)
def test_an_overloaded_service_says_when_to_try_again(
    server: Server, sender: HttpSender, headers: dict[str, str], retry_after_s: float
) -> None:
    server.status = 429
    server.headers = headers
    with pytest.raises(OverloadedError) as refusal:
        list(sender.submit(BATCH))
    assert refusal.value.retry_after_s == retry_after_s


def test_each_batch_has_a_trace_context_of_its_own(server: Server, sender: HttpSender) -> None:
    server.status = 503
    for _ in range(3):
        with pytest.raises(ServiceUnavailableError):
            list(sender.submit(BATCH))
    assert len(set(server.traces)) == 3
    for told in server.traces:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", told)


def test_one_connection_serves_many_batches(server: Server, sender: HttpSender) -> None:
    writer = VerdictWriter(("a",), "v1")
    server.kind = ARROW_STREAM
    server.body = writer.part(np.zeros(1, VERDICT_DTYPE)) + writer.end()
    for _ in range(5):
        list(sender.submit(BATCH))
    assert len(server.clients) == 1


def test_an_answer_that_goes_on_behind_its_end_is_refused(
    server: Server, sender: HttpSender
) -> None:
    writer = VerdictWriter(("a",), "v1")
    server.kind = ARROW_STREAM
    server.body = writer.part(np.zeros(1, VERDICT_DTYPE)) + writer.end() + bytes(100_000)
    with pytest.raises(ServiceUnavailableError, match="goes on after its end"):
        list(sender.submit(BATCH))


def test_an_address_of_another_kind_says_what_is_wanted() -> None:
    with pytest.raises(SettingsError, match="such as http://"):
        HttpSender("127.0.0.1:8000")


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_will_not_help_when_tried_again(
    server: Server, sender: HttpSender, status: int
) -> None:
    server.status = status
    server.body = b"<html>no</html>"
    with pytest.raises(ServiceRefusedError, match=f"{status}: <html>"):
        list(sender.submit(BATCH))


def test_an_answer_that_breaks_off_may_be_tried_again(server: Server, sender: HttpSender) -> None:
    server.body = VerdictWriter(("a",), "v").part(np.zeros(9, VERDICT_DTYPE))[:-30]
    with pytest.raises(ServiceUnavailableError, match="broke off"):
        list(sender.submit(BATCH))


def test_another_service_is_told_apart(server: Server, sender: HttpSender) -> None:
    with pytest.raises(ServiceRefusedError, match="no ServeFlow service"):
        sender.schema()


def test_a_service_that_is_not_there_says_what_to_do(server: Server) -> None:
    server.close()
    sender = HttpSender(server.url)
    with pytest.raises(ServiceUnavailableError, match="serveflow serve"):
        sender.schema()
    sender.close()
