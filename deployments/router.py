"""Router: the ingress. Reads batches, runs the dispatch, streams verdicts back."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations at run time,
# in a copy of the class that Ray Serve makes. The copy sees what this module holds when the class
# is made: what it uses must stand above it.

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.conservation import conservation
from deployments.dispatch import CascadeSpec, Dispatcher, FastTiers, SlowTiers
from deployments.handles import HandleFastTiers, HandleSlowTiers, HandleTracker
from deployments.json_form import JsonBatch, verdicts_to_json
from deployments.local import LocalFastTiers, LocalSlowTiers
from deployments.metrics import Metrics
from deployments.problems import add_problem_handlers, problem
from flows.errors import BodyTooLargeError
from flows.packet import Records
from flows.service_schema import ServiceSchema
from flows.wire import ARROW_STREAM, MAX_BATCH_PACKETS, PacketBatch, VerdictWriter, decode_batch
from models.cascade import load_cascade

__all__ = ["Router", "RouterSettings", "api"]

JSON = "application/json"
_TURNS_TO_SEND = 2  # of the event loop, until Ray Serve has passed a chunk on to the socket
_JSON_BYTES = 4 * 1024 * 1024  # parsing JSON costs far more memory than its text

api = FastAPI(
    title="ServeFlow",
    description="Answers each network flow with the cheapest model on the fewest packets "
    "that is sure enough.",
    docs_url="/docs",
    redoc_url=None,
)
add_problem_handlers(api)


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What the Router has to know.

    Attributes:
        spec: The bundle's cascade.
        bundle: The bundle's folder, loaded here only when no model handles are given.
        max_body_bytes: The most bytes of one body.
    """

    spec: CascadeSpec
    bundle: Path
    max_body_bytes: int


def _unavailable(error: RayServeException) -> JSONResponse:
    detail = f"a model did not answer: {type(error).__name__}"
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)


@serve.deployment
@serve.ingress(api)
class Router:
    """The ingress of the service.

    Args:
        settings: What the Router has to know.
        trackers: One handle per tracker, by tracker.
        fast: FastModel; None: its tiers run here (``placement: colocated``).
        slow: SlowModel; None: its tiers run here.
    """

    def __init__(
        self,
        settings: RouterSettings,
        trackers: list[DeploymentHandle[Any]],
        fast: DeploymentHandle[Any] | None,
        slow: DeploymentHandle[Any] | None,
    ) -> None:
        self._settings = settings
        self._spec = settings.spec
        self._trackers = [HandleTracker(handle) for handle in trackers]
        self._dispatcher = Dispatcher(
            settings.spec, self._fast_tiers(fast), self._trackers, self._slow_tiers(slow)
        )
        self._metrics = Metrics(settings.spec)
        self._secret = secrets.token_bytes(32)

    def _fast_tiers(self, handle: DeploymentHandle[Any] | None) -> FastTiers:
        if handle is not None:
            return HandleFastTiers(handle)
        tiers = range(self._spec.fast_tiers)
        local = LocalFastTiers(load_cascade(self._settings.bundle, tiers=tiers))
        local.warm_up()
        return local

    def _slow_tiers(self, handle: DeploymentHandle[Any] | None) -> SlowTiers:
        if handle is not None:
            return HandleSlowTiers(handle)
        tiers = range(self._spec.fast_tiers, len(self._spec.depths))
        local = LocalSlowTiers(load_cascade(self._settings.bundle, tiers=tiers))
        local.warm_up()
        return local

    @api.post(
        "/v1/batches",
        summary="Submit packets, get verdicts",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
                    JSON: {"schema": JsonBatch.model_json_schema()},
                },
            }
        },
    )
    async def batches(self, request: Request) -> Response:
        """Take a packet batch (Arrow IPC stream, or JSON) and stream the verdicts back.

        The answer's first part leaves as soon as the fast tiers are done, its second when the
        flows that became due are settled. JSON comes back in one piece.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == ARROW_STREAM:
            data = await self._body(request, self._settings.max_body_bytes)
            batch = decode_batch(data, with_header=self._spec.needs_header)
            return await self._stream(batch)
        if kind == JSON:
            limit = min(_JSON_BYTES, self._settings.max_body_bytes)
            body = JsonBatch.model_validate_json(await self._body(request, limit))
            batch = body.to_batch(self._secret, with_header=self._spec.needs_header)
            return await self._json(batch)
        return problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content-type must be {ARROW_STREAM} or {JSON}, not {kind[:80] or 'absent'}",
        )

    async def _body(self, request: Request, limit: int) -> bytes:
        """Read the body, and no more of it than allowed."""
        too_large = BodyTooLargeError(f"the body is over {limit:,} bytes: send smaller batches")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        chunks = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
        return b"".join(chunks)

    async def _stream(self, batch: PacketBatch) -> Response:
        parts = self._dispatcher.handle(batch)
        try:
            first = await anext(parts, None)
        except RayServeException as error:
            return _unavailable(error)
        return StreamingResponse(self._encoded(first, parts), media_type=ARROW_STREAM)

    async def _encoded(
        self, first: Records | None, parts: AsyncIterator[Records]
    ) -> AsyncIterator[bytes]:
        writer = VerdictWriter(self._spec.classes, self._spec.model_version)
        if first is not None:
            self._metrics.verdicts(first)
            yield writer.part(first, self._notes())
            for _ in range(_TURNS_TO_SEND):
                await asyncio.sleep(0)
            async for part in parts:
                self._metrics.verdicts(part)
                yield writer.part(part, self._notes())
        yield writer.end()
        self._metrics.counters(self._dispatcher.counters)

    async def _json(self, batch: PacketBatch) -> Response:
        try:
            parts = [part async for part in self._dispatcher.handle(batch)]
        except RayServeException as error:
            return _unavailable(error)
        verdicts = []
        for part in parts:
            self._metrics.verdicts(part)
            verdicts += verdicts_to_json(
                part, self._spec.classes, self._spec.tiers, self._spec.model_version
            )
        self._metrics.counters(self._dispatcher.counters)
        return JSONResponse({"verdicts": verdicts})

    def _notes(self) -> dict[str, Any]:
        return {"trackers": {str(t): i for t, i in self._dispatcher.incarnations.items()}}

    @api.get("/v1/schema", summary="What a collector has to know")
    async def schema(self) -> JSONResponse:
        """Return the columns of a batch, the bundle's depth and wait, and the limits."""
        spec = self._spec
        schema = ServiceSchema(
            depth=spec.depths[-1],
            max_wait_s=spec.max_wait_s,
            classes=spec.classes,
            tiers=spec.tiers,
            depths=spec.depths,
            model_version=spec.model_version,
            trackers=len(self._trackers),
            max_batch_packets=MAX_BATCH_PACKETS,
            max_body_bytes=self._settings.max_body_bytes,
            header=spec.needs_header,
        )
        return JSONResponse(schema.to_dict())

    @api.get("/v1/status", summary="The conservation counters")
    async def status(self) -> JSONResponse:
        """Return what this Router and each tracker have seen, and whether it adds up."""
        router = self._dispatcher.counters.to_dict()
        trackers = [await tracker.status() for tracker in self._trackers]
        return JSONResponse(conservation(router, trackers))

    @api.get("/healthz", summary="Whether the ingress answers")
    async def healthz(self) -> JSONResponse:
        """Return 200 while this Router can take batches."""
        return JSONResponse({"status": "ok", "model_version": self._spec.model_version})
