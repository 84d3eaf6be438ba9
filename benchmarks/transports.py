"""How the load generator reaches the service: one small protocol, its HTTP and its gRPC form.

Not the collector's sender, which encodes each batch itself and costs a multiple of this: a
generator that is to share the machine with the service has to be cheap.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from collectors.sender import Part, read_parts, retry_after_s
from flows.errors import (
    OverloadedError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    WireError,
)
from flows.packet import Records
from flows.service_schema import ServiceSchema
from flows.verdict_wire import VerdictReader
from flows.wire import ARROW_STREAM, NEW_FLOWS

__all__ = ["TRANSPORTS", "HttpTransport", "Transport", "check_transport", "open_transport"]

_HEADERS = {"content-type": ARROW_STREAM, "accept": ARROW_STREAM}


class Transport(Protocol):
    """One connection to the service; one request at a time."""

    def schema(self) -> ServiceSchema:
        """Ask what the service wants.

        Raises:
            ServiceUnavailableError: It cannot be reached.
            ServiceRefusedError: It answers, but not as a ServeFlow service.
        """

    def submit(
        self, body: bytes | bytearray, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        """Submit an encoded batch.

        Args:
            body: The batch.
            new_flows: How many of its rows are a flow's first packet.

        Yields:
            As the answer's parts come: ``VERDICT_DTYPE [n]``, and the notes about the service.

        Raises:
            OverloadedError: It took nothing of the batch, and says when to try again.
            ServiceUnavailableError: It does not take the batch now, or the answer broke off.
            ServiceRefusedError: It refuses this batch for good.
        """

    def close(self) -> None:
        """Let go of the connection."""


class _CountedResponse(http.client.HTTPResponse):
    """Counts the bytes of its body."""

    body_bytes = 0

    def read(self, amt: int | None = None) -> bytes:
        found = super().read(amt)
        self.body_bytes += len(found)
        return found


class HttpTransport:
    """HTTP/1.1 over one connection that stays open.

    Args:
        url: The service's base address, such as ``http://127.0.0.1:8000``.
        timeout_s: How long the service may be silent within one request.

    Attributes:
        sent_bytes: Bytes of all batches submitted.
        received_bytes: Bytes of all answers to them that were read to their end.

    Raises:
        SettingsError: ``url`` is no http address.
    """

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        address = urlsplit(url)
        try:
            port = address.port or 80
        except ValueError:
            port = 0
        if address.scheme != "http" or not address.hostname or not port:
            raise SettingsError(f"--url {url}: give an address such as http://127.0.0.1:8000")
        self._url = url
        self._path = address.path.rstrip("/")
        self._connection = http.client.HTTPConnection(address.hostname, port, timeout=timeout_s)
        self._connection.response_class = _CountedResponse
        self.sent_bytes = 0
        self.received_bytes = 0

    def schema(self) -> ServiceSchema:
        """Ask ``GET /v1/schema``; see :meth:`Transport.schema`."""
        response = self._ask("GET", "/v1/schema")
        body = response.read()
        try:
            return ServiceSchema.from_dict(json.loads(body))
        except (WireError, ValueError) as error:
            raise ServiceRefusedError(f"{self._url} is no ServeFlow service: {error}") from None

    def submit(
        self, body: bytes | bytearray, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        """Post to ``/v1/batches``; see :meth:`Transport.submit`."""
        response = self._ask("POST", "/v1/batches", body, {**_HEADERS, NEW_FLOWS: str(new_flows)})
        self.sent_bytes += len(body)
        try:
            yield from VerdictReader(response)
            response.read()  # the end of the chunks, so that the connection can be used again
            self.received_bytes += getattr(response, "body_bytes", 0)
        except (OSError, http.client.HTTPException, WireError) as error:
            self._connection.close()
            raise self._broken(error) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | bytearray | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, self._path + path, body, headers or {})
            response = self._connection.getresponse()
            if response.status == http.HTTPStatus.OK:
                return response
            said = response.read().decode(errors="replace")[:200]
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._broken(error) from None
        told = f"{self._url} answered {response.status}: {said}"
        if response.status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise OverloadedError(told, retry_after_s(dict(response.headers)))
        if response.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise ServiceUnavailableError(told)
        raise ServiceRefusedError(told)

    def _broken(self, error: Exception) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"{self._url}: {error or type(error).__name__}. "
            "Is the service running (serveflow serve) and the address right?"
        )


class GrpcTransport:
    """gRPC, answers part by part, as the collector's own sender but with batches encoded before.

    Args:
        url: The service's address, such as ``grpc://127.0.0.1:9000``.

    Raises:
        SettingsError: ``url`` is no such address, or gRPC is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from collectors.grpc_sender import GrpcSender  # not every box has gRPC
        except ModuleNotFoundError as error:
            raise SettingsError(f"--transport grpc: {error.name} is not installed") from None

        class Encoded(GrpcSender):
            def submit_encoded(self, body: bytes) -> Iterator[Part]:
                return read_parts(self._pieces(body))

        self._url = url
        self._sender = Encoded(url)

    def schema(self) -> ServiceSchema:
        """Call ``GetSchema``; see :meth:`Transport.schema`."""
        return self._sender.schema()

    def submit(
        self, body: bytes | bytearray, new_flows: int
    ) -> Iterator[tuple[Records, dict[str, Any]]]:
        """Call ``ClassifyBatchInParts``; see :meth:`Transport.submit`."""
        try:
            for part in self._sender.submit_encoded(bytes(body)):
                yield part.verdicts, part.notes
        except WireError as error:
            raise ServiceUnavailableError(f"{self._url}: {error}") from None

    def close(self) -> None:
        """Close the connection."""
        self._sender.close()


TRANSPORTS: dict[str, Callable[[str], Transport]] = {"http": HttpTransport, "grpc": GrpcTransport}
"""The transports by name."""


def check_transport(name: str) -> None:
    """Make sure that there is a transport of this name.

    Raises:
        SettingsError: There is none.
    """
    if name not in TRANSPORTS:
        raise SettingsError(f"--transport {name}: there is {', '.join(TRANSPORTS)}")


def open_transport(name: str, url: str) -> Transport:
    """Return a new connection.

    Raises:
        SettingsError: There is no transport of that name.
    """
    check_transport(name)
    return TRANSPORTS[name](url)
