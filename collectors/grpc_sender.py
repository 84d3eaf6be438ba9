"""The sender over gRPC: ``serveflow.v1.FlowClassifierService``."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from urllib.parse import urlsplit

import grpc
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from collectors.credentials import Credentials
from collectors.sender import DEFAULT_RETRY_S, Part, read_parts
from collectors.trace import TRACEPARENT, traceparent
from flows.errors import (
    KeyRefusedError,
    OverloadedError,
    ServiceError,
    ServiceRefusedError,
    ServiceUnavailableError,
    SettingsError,
    WireError,
)
from flows.rpc.flow_classifier_pb2 import ClassifyBatchInPartsRequest, GetSchemaRequest
from flows.rpc.flow_classifier_pb2_grpc import FlowClassifierServiceStub
from flows.service_schema import ServiceSchema
from flows.wire import PacketBatch, encode_batch

__all__ = ["GrpcSender"]

# An HTTP/2 connection stays with one ingress for as long as it lives, so that an ingress that was
# added later would get nothing to do: a new one is opened now and then, not by all at once.
_RENEW_S = (60.0, 300.0)
_MOST_ANSWER_BYTES = 16 * 1024 * 1024
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy meant for browsers must not see packet batches
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a service that is back is found soon
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", _MOST_ANSWER_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel would share the old connection
)
_REFUSALS = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.OUT_OF_RANGE,
    StatusCode.UNIMPLEMENTED,
}


class _Connection:
    """A channel, and how many calls are on it."""

    def __init__(self, target: str, tls: grpc.ChannelCredentials | None) -> None:
        if tls is None:
            self.channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self.channel = grpc.secure_channel(target, tls, options=_CHANNEL_OPTIONS)
        self.stub = FlowClassifierServiceStub(self.channel)  # type: ignore[no-untyped-call] # generated
        self.renew_at_s = time.monotonic() + random.uniform(*_RENEW_S)  # noqa: S311 (jitter, no secret)
        self.calls = 0


class GrpcSender:
    """Submits batches over gRPC.

    Args:
        url: The service's address, such as ``grpc://127.0.0.1:9000`` (``grpcs://``: with TLS), and
            behind a slash the application's name where the service runs several.
        timeout_s: How long the service may take to answer one request to its end.
        credentials: What to show to the service.

    Raises:
        SettingsError: The address is not of that form, or a file of credentials cannot be used.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 30.0, credentials: Credentials | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._target, self._application = _parsed(self._url)
        self._credentials = credentials or Credentials()
        self._credentials.authorization()
        self._tls = self._url.startswith("grpcs://")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._schema: ServiceSchema | None = None

    def schema(self) -> ServiceSchema:
        """Call ``GetSchema``; see :meth:`collectors.sender.Sender.schema`."""
        try:
            with self._stub() as stub:
                answer = stub.GetSchema(
                    GetSchemaRequest(), timeout=self._timeout_s, metadata=self._metadata()
                )
            self._schema = ServiceSchema.from_dict(
                MessageToDict(
                    answer,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                )
            )
        except grpc.RpcError as error:
            raise self._meaning(error) from None
        except WireError as error:
            raise ServiceRefusedError(f"{self._url} is no ServeFlow service: {error}") from None
        return self._schema

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """Call ``ClassifyBatchInParts``; see :meth:`collectors.sender.Sender.submit`."""
        try:
            yield from read_parts(self._pieces(encode_batch(batch)))
        except WireError as error:
            raise ServiceUnavailableError(f"{self._url}: {error}") from None

    def close(self) -> None:
        """Close the connection; calls on it end as unavailable."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    def __enter__(self) -> GrpcSender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pieces(self, packets: bytes) -> Iterator[bytes]:
        request = ClassifyBatchInPartsRequest(packets=packets)
        with self._stub() as stub:
            metadata = (*self._metadata(), (TRACEPARENT, traceparent()))
            call = stub.ClassifyBatchInParts(request, timeout=self._timeout_s, metadata=metadata)
            try:
                for message in call:
                    yield message.verdicts
            except grpc.RpcError as error:
                raise self._meaning(error, len(packets)) from None
            finally:
                call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        shown = self._credentials.authorization()
        named = (("application", self._application), ("authorization", shown))
        return tuple((name, value) for name, value in named if value)

    def _connect(self) -> _Connection:
        tls = None
        if self._tls:
            tls = grpc.ssl_channel_credentials(*self._credentials.tls_files())
        return _Connection(self._target, tls)

    @contextmanager
    def _stub(self) -> Iterator[FlowClassifierServiceStub]:
        """Lend the connection for one call, a new one when the present one is old."""
        with self._lock:
            if self._connection is None or time.monotonic() >= self._connection.renew_at_s:
                old, self._connection = self._connection, self._connect()
                if old is not None and not old.calls:
                    old.channel.close()
            connection = self._connection
            connection.calls += 1
        try:
            yield connection.stub
        finally:
            with self._lock:
                connection.calls -= 1
                if connection is not self._connection and not connection.calls:
                    connection.channel.close()

    def _meaning(self, error: grpc.RpcError, sent_bytes: int = 0) -> ServiceError:
        """Return what a status other than OK means."""
        code, details = error.code(), error.details() or ""
        said = f"{self._url} answered {code.name}: {details[:500]}"
        if code is StatusCode.RESOURCE_EXHAUSTED and self._too_large(sent_bytes):
            return ServiceRefusedError(said)
        if code is StatusCode.RESOURCE_EXHAUSTED:
            return OverloadedError(said, DEFAULT_RETRY_S)
        if code is StatusCode.NOT_FOUND and self._schema is not None:
            # It was there: while an application is replaced, the way to it may be gone.
            return ServiceUnavailableError(said)
        if code is StatusCode.UNIMPLEMENTED:
            said += ". Is this its port for gRPC, and is it a ServeFlow service?"
        if code in (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED):
            return KeyRefusedError(said)
        if code in _REFUSALS:
            return ServiceRefusedError(said)
        if code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            said += ". Is the service running (serveflow serve), with gRPC, and the address right?"
        return ServiceUnavailableError(said)

    def _too_large(self, sent_bytes: int) -> bool:
        """Tell a refusal for good from overload, for which gRPC has one status."""
        return self._schema is not None and sent_bytes > self._schema.max_body_bytes


def _parsed(url: str) -> tuple[str, str]:
    """Return an address's target and its application's name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{url}: {error}") from None
    application = parts.path.strip("/")
    if (
        parts.scheme not in ("grpc", "grpcs")
        or not parts.hostname
        or port is None
        or "/" in application
    ):
        raise SettingsError(f"{url}: give grpc://HOST:PORT, or grpc://HOST:PORT/APPLICATION")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", application
