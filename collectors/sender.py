"""How a collector reaches the service: one small protocol, and its HTTP form.

:mod:`collectors.grpc_sender` holds its gRPC form.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from types import TracebackType
from typing import Any, Protocol

from collectors.connections import Connections
from collectors.credentials import Credentials
from collectors.trace import TRACEPARENT, traceparent
from flows.errors import (
    KeyRefusedError,
    OverloadedError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    WireError,
)
from flows.packet import Records
from flows.service_schema import ServiceSchema
from flows.verdict_wire import VerdictReader
from flows.wire import ARROW_STREAM, NEW_FLOWS, PacketBatch, encode_batch, new_flows_of

__all__ = [
    "DEFAULT_RETRY_S",
    "HttpSender",
    "Part",
    "Sender",
    "open_sender",
    "read_parts",
    "retry_after_s",
]

DEFAULT_RETRY_S = 1.0
"""When to try again if an overloaded service does not say."""

_MOST_PATIENCE_S = 60.0
_CHUNK_BYTES = 64 * 1024
_HEADERS = {"content-type": ARROW_STREAM, "accept": ARROW_STREAM}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the answer to a batch.

    Attributes:
        verdicts: ``VERDICT_DTYPE [n]``.
        notes: What the service says of itself: ``trackers`` (incarnations by tracker), and in an
            answer's last part ``away`` (numbers of the trackers that did not take their rows).
        classes: Names of the labels.
        model_version: The bundle that judged.
    """

    verdicts: Records
    notes: dict[str, Any]
    classes: tuple[str, ...]
    model_version: str


class Sender(Protocol):
    """Takes batches to the service. Its calls block; several may be made at a time."""

    def schema(self) -> ServiceSchema:
        """Ask what the service wants.

        Raises:
            ServiceUnavailableError: It cannot be reached or is not ready.
            ServiceRefusedError: It answers, but not as a ServeFlow service.
        """

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """Submit a batch and yield the answer's parts as they come.

        Raises:
            OverloadedError: The service took nothing of it; it says when to try again.
            ServiceUnavailableError: The answer did not come, or not to its end.
            ServiceRefusedError: The service refuses this batch for good.
        """

    def close(self) -> None:
        """Let go of connections."""


class _Body(io.RawIOBase):
    """A response body as a readable file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def read_parts(chunks: Iterator[bytes]) -> Iterator[Part]:
    """Read the answer to a batch, part by part, as its bytes come.

    Raises:
        WireError: It is no verdict stream, it ends before its end mark, or goes on after it.
    """
    # Buffered, because Arrow takes a short read for the end.
    reader = VerdictReader(io.BufferedReader(_Body(chunks)))
    for verdicts, notes in reader:
        yield Part(verdicts, notes, reader.classes, reader.model_version)
    # Read to its very end, or the connection could not be used again.
    if any(chunks):
        raise WireError("the answer goes on after its end mark")


def open_sender(url: str, credentials: Credentials | None = None) -> Sender:
    """Return the sender for an address: ``http://…``, ``https://…``, ``grpc://…``, ``grpcs://…``.

    Raises:
        SettingsError: The address is none of these, or what it needs is not installed.
    """
    if not url.startswith(("grpc://", "grpcs://")):
        return HttpSender(url, credentials=credentials)
    try:
        from collectors.grpc_sender import GrpcSender  # an edge box may do without gRPC
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{url}: {error.name} is not installed: pip install 'serveflow[grpc]', or use HTTP"
        ) from None
    return GrpcSender(url, credentials=credentials)


class HttpSender:
    """Submits batches over HTTP.

    Args:
        url: The service's base address, such as ``http://127.0.0.1:8000``.
        timeout_s: How long the service may be silent within one request.
        connections: Requests that may be open at a time.
        credentials: What to show to the service.

    Raises:
        SettingsError: The address is not one for HTTP, or a file of credentials cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        connections: int = 32,
        credentials: Credentials | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = credentials or Credentials()
        self._credentials.authorization()
        self._connections = Connections(
            url, timeout_s=timeout_s, idle=connections, credentials=credentials
        )

    def schema(self) -> ServiceSchema:
        """Ask ``GET /v1/schema``; see :meth:`Sender.schema`."""
        try:
            return ServiceSchema.from_dict(self._get("/v1/schema"))
        except WireError as error:
            raise self._stranger(error) from None

    def ready(self) -> None:
        """Ask ``GET /readyz``; return when all parts of the service have started.

        Raises:
            ServiceUnavailableError: It cannot be reached, or says what has not started yet.
            ServiceRefusedError: It answers, but not as a ServeFlow service.
        """
        self._get("/readyz")

    def status(self) -> dict[str, Any]:
        """Ask ``GET /v1/status``: the conservation counters of Router and trackers.

        Raises:
            ServiceUnavailableError: It cannot be reached or is not ready.
            ServiceRefusedError: It answers, but not as a ServeFlow service.
        """
        found: dict[str, Any] = self._get("/v1/status")
        return found

    def _get(self, path: str) -> Any:
        try:
            with self._connections.request("GET", path, headers=self._headers()) as response:
                body = response.read()
                self._check(response.status, body, dict(response.headers.items()))
            return json.loads(body)
        except (HTTPException, OSError) as error:
            raise self._unreachable(error) from None
        except ValueError as error:
            raise self._stranger(error) from None

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """Post to ``/v1/batches``; see :meth:`Sender.submit`."""
        told = {NEW_FLOWS: str(new_flows_of(batch.packets)), TRACEPARENT: traceparent()}
        headers = self._headers({**_HEADERS, **told})
        body = encode_batch(batch)
        try:
            with self._connections.request("POST", "/v1/batches", body, headers) as response:
                if response.status != HTTPStatus.OK:
                    told = dict(response.headers.items())
                    self._check(response.status, response.read(), told)
                # As it comes: read1 does not wait until so much is there.
                yield from read_parts(iter(partial(response.read1, _CHUNK_BYTES), b""))
        except (HTTPException, OSError) as error:
            raise self._unreachable(error) from None
        except WireError as error:
            raise ServiceUnavailableError(f"{self._url}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> HttpSender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _headers(self, others: Mapping[str, str] | None = None) -> dict[str, str]:
        shown = self._credentials.authorization()
        return {**(others or {}), **({"authorization": shown} if shown else {})}

    def _check(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Raise what an answer other than 200 means."""
        if status == HTTPStatus.OK:
            return
        said = f"{self._url} answered {status}: {_problem(status, body)}"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise OverloadedError(said, retry_after_s(headers))
        if status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServiceUnavailableError(said)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise KeyRefusedError(said)
        raise ServiceRefusedError(said)

    def _stranger(self, error: Exception) -> ServiceRefusedError:
        return ServiceRefusedError(f"{self._url} is no ServeFlow service: {error}")

    def _unreachable(self, error: Exception) -> ServiceUnavailableError:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServiceUnavailableError(
            f"{self._url}: {said}. Is the service running (serveflow serve) and the address right?"
        )


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return when to try again, as far as the answer's headers say so in numbers."""
    told = {name.lower(): value for name, value in headers.items()}
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = told.get(name, "")
        if given.isdecimal():  # a number of any length: Python refuses very long ones
            return min(int(given[:9]) * unit_s, _MOST_PATIENCE_S)
    return DEFAULT_RETRY_S


def _problem(status: int, body: bytes) -> str:
    """Return what a problem+json body (RFC 9457) says, or the body's beginning."""
    try:
        problem = json.loads(body)
        return str(problem.get("detail") or problem.get("title"))
    except (ValueError, AttributeError):
        text = body[:200].decode(errors="replace").strip()
        return text or HTTPStatus(status).phrase
