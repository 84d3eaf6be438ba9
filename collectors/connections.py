"""Connections to one HTTP server, kept open between requests; many threads may share them.

The standard library's client, because a request by it takes a fifth of what it takes by urllib3
(117 against 590 µs of CPU, docs/performance.md), and an edge box sends some hundred a second.
"""

from __future__ import annotations

import http.client
import select
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import SplitResult, urlsplit

from collectors.credentials import Credentials
from flows.errors import SettingsError

__all__ = ["Connections"]

_CONNECT_S = 5.0


class Connections:
    """Asks one server; a request takes an idle connection or makes a new one.

    Args:
        url: The server's base address, ``http://…`` or ``https://…``.
        timeout_s: How long the server may be silent within one request.
        idle: How many connections are kept while nobody uses them.
        credentials: How to make TLS connections.

    Raises:
        SettingsError: The address is none.
    """

    def __init__(
        self, url: str, *, timeout_s: float, idle: int, credentials: Credentials | None = None
    ) -> None:
        parts, self._host, self._port = _parse(url)
        self._path = parts.path.rstrip("/")
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = (credentials or Credentials()).tls_context()
        self._timeout_s = timeout_s
        # A deque appends and pops in one step, so that threads need no lock around it. The last
        # one used is the next one used: the others may become old and be closed by the server.
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._most_idle = idle

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response, whose body is for the caller to read.

        The connection is kept if the body has been read to its end, and else closed.

        Args:
            method: Such as ``POST``.
            path: Behind the base address, with its slash.
            body: What to send.
            headers: Beside those that HTTP itself needs.

        Raises:
            OSError: The server cannot be reached, or was silent for too long.
            http.client.HTTPException: It does not speak HTTP, or broke off.
        """
        connection = self._take()
        response = None
        try:
            connection.request(method, f"{self._path}{path}", body, dict(headers or {}))
            response = connection.getresponse()
            yield response
        finally:
            # The rest of a response must not meet the next request.
            usable = response is not None and _ended(response) and not response.will_close
            if usable and len(self._idle) < self._most_idle:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> http.client.HTTPConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if not _dropped(connection):
                return connection
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_S)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_CONNECT_S, context=self._tls
            )
        connection.connect()
        connection.sock.settimeout(self._timeout_s)
        return connection


def _parse(url: str) -> tuple[SplitResult, str, int | None]:
    """Return an address's parts, with its host and port."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and url.isascii():
            return parts, parts.hostname, parts.port
    except ValueError:  # a port that is no number, say
        pass
    raise SettingsError(f"{url}: give an address such as http://127.0.0.1:8000")


def _ended(response: http.client.HTTPResponse) -> bool:
    """Tell whether a response has been read to its end; its connection is free then."""
    if response.length == 0:  # read1 leaves such a one open
        response.close()
    return response.isclosed()


def _dropped(connection: http.client.HTTPConnection) -> bool:
    """Tell whether the server has closed an idle connection: then there is an end to read."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
