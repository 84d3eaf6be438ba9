"""A made-up service over HTTP, for what only the collector is measured by.

Its verdicts are arithmetic on packets (:class:`collectors.fakes.FakeService`), so that nothing of
Ray or of models is in the figures. The wire form is the real one.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from collectors.fakes import FAKE_SCHEMA, FakeService
from flows.errors import ServiceError
from flows.verdict_wire import VerdictWriter
from flows.wire import ARROW_STREAM, decode_batch

__all__ = ["FakeHttpService"]


class FakeHttpService:
    """Serves until it is left.

    Attributes:
        service: Who judges; a bench may make trouble there.
        url: Its address, on loopback.
    """

    def __init__(self) -> None:
        self.service = FakeService()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self.service))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHttpService:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients are killed here."""


def _handler_of(service: FakeService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(200, "application/json", json.dumps(FAKE_SCHEMA.to_dict()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            writer = VerdictWriter(FAKE_SCHEMA.classes, FAKE_SCHEMA.model_version)
            try:
                parts = [
                    writer.part(part.verdicts, part.notes)
                    for part in service.submit(decode_batch(body))
                ]
            except ServiceError as error:
                self._answer(503, "text/plain", str(error).encode())
                return
            self._answer(200, ARROW_STREAM, b"".join([*parts, writer.end()]))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
