"""How a collector reaches the service: one small protocol, and its HTTP form.

:mod:`collectors.grpc_sender` holds its gRPC form.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import httpx

from flows.errors import (
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    WireError,
)
from flows.packet import Records
from flows.service_schema import ServiceSchema
from flows.wire import ARROW_STREAM, PacketBatch, VerdictReader, encode_batch

__all__ = ["HttpSender", "Part", "Sender", "open_sender", "read_parts"]

_OVERLOADED = 429


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
        WireError: It is no verdict stream, or it ends before its end mark.
    """
    # Buffered, because Arrow takes a short read for the end.
    reader = VerdictReader(io.BufferedReader(_Body(chunks)))
    for verdicts, notes in reader:
        yield Part(verdicts, notes, reader.classes, reader.model_version)


def open_sender(url: str) -> Sender:
    """Return the sender that an address asks for: ``http://…``, ``https://…`` or ``grpc://…``.

    Raises:
        SettingsError: The address is none of these, or what it needs is not installed.
    """
    if not url.startswith("grpc://"):
        return HttpSender(url)
    try:
        from collectors.grpc_sender import GrpcSender  # an edge box may do without gRPC
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{url}: {error.name} is not installed: pip install 'serveflow[grpc]', or use HTTP"
        ) from None
    return GrpcSender(url)


class HttpSender:
    """Submits batches over HTTP.

    Args:
        url: The service's base address, such as ``http://127.0.0.1:8000``.
        timeout_s: How long the service may be silent within one request.
        connections: Requests that may be open at a time.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, connections: int = 16) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._url,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            limits=httpx.Limits(max_connections=connections),
            trust_env=False,  # a proxy meant for browsers must not see packet batches
        )

    def schema(self) -> ServiceSchema:
        """Ask ``GET /v1/schema``; see :meth:`Sender.schema`."""
        try:
            response = self._client.get("/v1/schema")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ServiceRefusedError(f"{self._url}: {error}") from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        self._check(response)
        try:
            return ServiceSchema.from_dict(response.json())
        except (WireError, ValueError) as error:
            raise ServiceRefusedError(f"{self._url} is no ServeFlow service: {error}") from None

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """Post to ``/v1/batches``; see :meth:`Sender.submit`."""
        try:
            with self._client.stream(
                "POST",
                "/v1/batches",
                content=encode_batch(batch),
                headers={"content-type": ARROW_STREAM, "accept": ARROW_STREAM},
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    self._check(response)
                yield from read_parts(response.iter_raw())
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except WireError as error:
            raise ServiceUnavailableError(f"{self._url}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> HttpSender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, response: httpx.Response) -> None:
        """Raise what an answer other than 200 means."""
        code = response.status_code
        if code == httpx.codes.OK:
            return
        said = f"{self._url} answered {code}: {_problem(response)}"
        if code >= httpx.codes.INTERNAL_SERVER_ERROR or code == _OVERLOADED:
            raise ServiceUnavailableError(said)
        raise ServiceRefusedError(said)

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"{self._url}: {error or type(error).__name__}. "
            "Is the service running (serveflow serve) and the address right?"
        )


def _problem(response: httpx.Response) -> str:
    """Return what a problem+json body (RFC 9457) says, or the body's beginning."""
    try:
        problem = response.json()
        return str(problem.get("detail") or problem.get("title"))
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        return response.text[:200].strip() or response.reason_phrase
