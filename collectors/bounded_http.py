"""A small HTTP server that strangers cannot hang or fill: GET only, one request per connection.

A request has a few seconds and a few KiB, from connect to its last byte. When too many connections
wait for their requests to come, the oldest one is closed: an honest request comes at once.
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flows.errors import SettingsError

__all__ = ["Answer", "BoundedServer", "HttpLimits"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What strangers may take.

    Attributes:
        request_s: From connect until the request is there, and again for the answer to be taken.
        request_bytes: Of the request, headers included.
        connections: At a time.
    """

    request_s: float = 5.0
    request_bytes: int = 16 * 1024
    connections: int = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered.

    Attributes:
        body: What.
        content_type: Of what kind.
        status: As HTTP has it.
    """

    body: bytes
    content_type: str = "application/json"
    status: int = HTTPStatus.OK


class _TooLargeError(Exception):
    """A request has more bytes than it may have."""


class _Request(io.RawIOBase):
    """What comes on a connection, up to a time and a size."""

    def __init__(self, connection: socket.socket, limits: HttpLimits) -> None:
        self._connection = connection
        self._until_s = time.monotonic() + limits.request_s
        self._left = limits.request_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise _TooLargeError
        self._connection.settimeout(left_s)
        n = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= n
        return n


class _Handler(BaseHTTPRequestHandler):
    server: BoundedServer
    rfile: Any  # no socket file: see setup
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.requestline = self.command = ""  # the request line may never come
        self.request_version = self.protocol_version
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection, self.server.limits), 1024)

    def handle(self) -> None:
        try:
            self.close_connection = True
            self.handle_one_request()
        except _TooLargeError:
            with suppress(OSError):
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except (OSError, ValueError):
            return  # it is the stranger's connection that broke

    def do_GET(self) -> None:
        self.server.arrived(self.connection)
        self.connection.settimeout(self.server.limits.request_s)
        if not self.server.may_ask(self.headers.get("host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "ask by an IP address or localhost")
            return
        path = self.path.partition("?")[0]
        try:
            answer = self.server.answer(path, self.headers.get("accept", ""))
        except Exception:  # whatever it is, the next scrape is to be answered
            _log.exception("%s cannot be answered", path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send(answer)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:  # any other method
            status = HTTPStatus.METHOD_NOT_ALLOWED
        # No echo of what the stranger sent, which the message may hold.
        said = message if status == HTTPStatus.MISDIRECTED_REQUEST else status.description
        problem = {"title": status.phrase, "status": int(status), "detail": said}
        self._send(Answer(json.dumps(problem).encode(), "application/problem+json", status))

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(self.server.limits.request_s)
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.send_header("connection", "close")
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "serveflow"

    def log_message(self, *_: Any) -> None:
        return


class BoundedServer(ThreadingHTTPServer):
    """Answers ``GET`` from a thread per connection, of which there are only so many.

    Args:
        host: Where to listen: an address, or a name of this machine.
        port: Its port; 0: any.
        answer: Given the path and the header ``Accept``, returns the answer; None: there is
            nothing of that name. Called from many threads.
        limits: What strangers may take.

    Raises:
        SettingsError: It cannot listen there.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[str, str], Answer | None],
        limits: HttpLimits | None = None,
    ) -> None:
        self.answer = answer
        self.limits = limits or HttpLimits()
        self._lock = threading.Lock()
        self._awaited: dict[socket.socket, None] = {}  # the oldest first
        self._open = 0
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__(address[:2], _Handler)  # type: ignore[arg-type] # as getaddrinfo has it
        except OSError as error:
            raise SettingsError(
                f"metrics: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from None
        self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def open_connections(self) -> int:
        """Connections that are being seen to."""
        return self._open

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Listen, without asking the network for the name of this machine."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "serveflow", self.port

    def process_request(self, request: Any, client_address: Any) -> None:
        """See to a connection in a thread; see the module."""
        with self._lock:
            if self._open >= self.limits.connections and self._awaited:
                oldest = next(iter(self._awaited))
                del self._awaited[oldest]
                _shut(oldest)
            if self._open >= 2 * self.limits.connections:  # those that take no answer, too
                self.shutdown_request(request)
                return
            self._open += 1
            self._awaited[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self.shutdown_request(request)
            self._done(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Run in the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._done(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: it is the stranger's connection."""

    def arrived(self, request: Any) -> None:
        """Note that a connection's request is there."""
        with self._lock:
            self._awaited.pop(request, None)

    def may_ask(self, host: str) -> bool:
        """Tell whether the header ``Host`` is that of somebody who means this server.

        A web page could have a browser ask loopback under a name of its own (DNS rebinding).
        """
        if not self.loopback or not host:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() == "localhost"
        return True

    def _done(self, request: Any) -> None:
        with self._lock:
            self._awaited.pop(request, None)
            self._open -= 1

    def _serve(self) -> None:
        self.serve_forever(poll_interval=0.1)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may have gone by itself
        connection.shutdown(socket.SHUT_RDWR)
