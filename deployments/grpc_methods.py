"""The methods of ``serveflow.v1.FlowClassifierService``; ``proto/`` says what each one does.

Ray Serve calls the ingress deployment's method that has the RPC's name. Each call may last as
long as its client's deadline: a timeout in ``grpc_options`` would end ``StreamVerdicts`` as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from deployments.access import Access
from deployments.answers import Answers
from deployments.grpc_status import StatusContext, telling
from deployments.watchers import Choice, Seen
from flows.errors import WireError
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchInPartsRequest,
    ClassifyBatchInPartsResponse,
    ClassifyBatchRequest,
    ClassifyBatchResponse,
    GetSchemaRequest,
    GetSchemaResponse,
    StreamVerdictsRequest,
    StreamVerdictsResponse,
)
from flows.verdict_wire import VerdictWriter
from flows.wire import PacketBatch

__all__ = ["GrpcMethods"]

_SIGN_OF_LIFE_S = 10.0  # below the idle timeouts of proxies on the way


class GrpcMethods:
    """The gRPC half of the Router.

    Attributes:
        answers: What it shares with the HTTP half.
        access: Who may ask.
    """

    answers: Answers
    access: Access

    async def GetSchema(  # noqa: N802 (the RPC's name, as for the others)
        self, request: GetSchemaRequest, grpc_context: StatusContext
    ) -> GetSchemaResponse:
        """Tell what a collector has to know."""
        with telling(grpc_context):
            self.access.grpc_caller(grpc_context)
            return GetSchemaResponse(**self.answers.schema().to_dict())

    async def ClassifyBatch(  # noqa: N802
        self, request: ClassifyBatchRequest, grpc_context: StatusContext
    ) -> ClassifyBatchResponse:
        """Answer a batch in one piece."""
        with telling(grpc_context):
            batch = self._batch(request.packets, grpc_context)
            pieces = [piece.data async for piece in self.answers.encoded(batch)]
            return ClassifyBatchResponse(verdicts=b"".join(pieces))

    async def ClassifyBatchInParts(  # noqa: N802
        self, request: ClassifyBatchInPartsRequest, grpc_context: StatusContext
    ) -> AsyncIterator[ClassifyBatchInPartsResponse]:
        """Answer a batch part by part."""
        with telling(grpc_context):
            batch = self._batch(request.packets, grpc_context)
            async with aclosing(self.answers.encoded(batch)) as pieces:
                async for piece in pieces:
                    yield ClassifyBatchInPartsResponse(verdicts=piece.data)

    async def StreamVerdicts(  # noqa: N802
        self, request: StreamVerdictsRequest, grpc_context: StatusContext
    ) -> AsyncIterator[StreamVerdictsResponse]:
        """Follow the verdicts that this Router gives; the first message says that it has begun."""
        with telling(grpc_context):
            caller = self.access.grpc_caller(grpc_context)
            self.access.speaks_for(caller, request.collector)
            with self.answers.watchers.watching(self._choice(request)) as watcher:
                yield StreamVerdictsResponse()
                while True:
                    seen = await watcher.take(_SIGN_OF_LIFE_S)
                    self.access.still(caller)
                    yield self._message(seen)

    def _batch(self, packets: bytes, grpc_context: StatusContext) -> PacketBatch:
        caller = self.access.grpc_caller(grpc_context)
        batch = self.answers.read(packets)
        self.access.speaks_for(caller, batch.collector)
        return batch

    def _choice(self, request: StreamVerdictsRequest) -> Choice:
        classes = self.answers.spec.classes
        for label in request.labels:
            if label not in classes:
                raise WireError(f"labels: there is no {label[:80]!r} (GetSchema lists the classes)")
        labels = tuple(classes.index(label) for label in request.labels)
        return Choice(request.collector, labels or None, request.only_final)

    def _message(self, seen: Seen) -> StreamVerdictsResponse:
        verdicts = b""
        if len(seen.verdicts):
            spec = self.answers.spec
            writer = VerdictWriter(spec.classes, spec.model_version)
            verdicts = writer.part(seen.verdicts) + writer.end()
        return StreamVerdictsResponse(
            verdicts=verdicts,
            collector=seen.collector,
            dropped_batches=seen.dropped_batches,
            dropped_verdicts=seen.dropped_verdicts,
        )
