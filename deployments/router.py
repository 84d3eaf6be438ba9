"""Router: the ingress. Reads batches, runs the dispatch, streams verdicts back."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations at run time,
# in a copy of the class that Ray Serve makes. The copy sees what this module holds when the class
# is made: what it uses must stand above it.

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.access import Caller
from deployments.access_metrics import AccessMetrics
from deployments.answers import Answers, too_large
from deployments.conservation import conservation
from deployments.dispatch import Dispatcher
from deployments.front import Front, answer_of_replica
from deployments.grpc_methods import GrpcMethods
from deployments.handles import HandleFastTiers, HandleSlowTiers, HandleTracker
from deployments.json_form import MAX_JSON_BYTES, JsonBatch, verdicts_to_json
from deployments.limits import Limits
from deployments.local import LocalFastTiers, LocalSlowTiers
from deployments.metrics import Metrics
from deployments.openapi import BATCHES, READINESS, READS, Api
from deployments.problems import add_problem_handlers, problem
from deployments.protocols import CascadeSpec, FastTiers, SlowTiers
from deployments.reach import access_of, keys_file_of
from deployments.readiness import Readiness
from deployments.scaling import BusyTime
from deployments.settling import Pace
from deployments.streamed import StreamedResponse
from flows.errors import BodyTooSlowError, OverloadedError
from flows.wire import ARROW_STREAM, MAX_BATCH_PACKETS, NEW_FLOWS, PacketBatch, new_flows_of
from models.cascade import load_cascade
from models.drift import drift_reference

__all__ = ["Router", "RouterSettings", "api"]

JSON = "application/json"
_PATH = "/v1/batches"
_BODIES = 8  # of the largest size, which may be in memory before they are whole
_BODY_S = 9.0  # until a body is whole; below HAProxy's own patience with a silent client

api = Api(
    title="ServeFlow",
    description="Answers each network flow with the cheapest model on the fewest packets "
    "that is sure enough.",
    docs_url="/docs",
    redoc_url=None,
    redirect_slashes=False,  # a redirect would repeat whatever host the client named
)
add_problem_handlers(api)
api.add_middleware(Front, api=api, path=_PATH, answer=answer_of_replica)


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What the Router has to know.

    Attributes:
        spec: The bundle's cascade.
        bundle: The bundle's folder, loaded here only when no model handles are given.
        max_body_bytes: The most bytes of one body.
        pace: How rows for trackers are gathered.
        limits: How much is taken on before load is shed.
        keys_file: The setting of that name.
    """

    spec: CascadeSpec
    bundle: Path
    max_body_bytes: int
    pace: Pace
    limits: Limits
    keys_file: str | None = None


@serve.deployment
@serve.ingress(api)
class Router(GrpcMethods, BusyTime):
    """The ingress of the service: HTTP here, gRPC in :class:`GrpcMethods`.

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
        # First of all: without it nothing may be served.
        self.access = access_of(keys_file_of(settings.keys_file), AccessMetrics().refused)
        self._settings = settings
        self._spec = settings.spec
        self._trackers = [HandleTracker(handle) for handle in trackers]
        parts: dict[str, Callable[[], Awaitable[Any]]] = {
            f"FlowTracker {i}": tracker.status for i, tracker in enumerate(self._trackers)
        }
        for name, handle in (("FastModel", fast), ("SlowModel", slow)):
            if handle is not None:
                parts[name] = handle.ready.remote
        self._readiness = Readiness(parts)
        self._dispatcher = Dispatcher(
            settings.spec,
            self._fast_tiers(fast),
            self._trackers,
            self._slow_tiers(slow),
            settings.pace,
            settings.limits,
        )
        self.answers = Answers(
            settings.spec,
            self._dispatcher,
            Metrics(settings.spec, self._dispatcher, drift_reference(settings.bundle)),
            len(trackers),
            settings.max_body_bytes,
        )
        self.answers.warm_up()
        self._secret = secrets.token_bytes(32)
        self._read_bytes = 0  # of bodies that are not whole yet

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
        _PATH,
        summary="Submit packets, get verdicts",
        response_class=Response,
        **BATCHES,
    )
    async def batches(self, request: Request) -> Response:
        """Take a packet batch (Arrow IPC stream, or JSON) and stream the verdicts back.

        The answer's first part leaves as soon as the fast tiers are done, its second when the
        flows that became due are settled. JSON comes back in one piece.
        """
        caller = self._caller(request)
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            return problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "content-encoding: send batches as they are, without compression",
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == ARROW_STREAM:
            declared = request.headers.get(NEW_FLOWS, "")
            if declared.isdecimal():  # a number of any length: Python refuses very long ones
                self.answers.make_sure_of_room(min(int(declared[:9]), MAX_BATCH_PACKETS))
            data = await self._body(request, self._settings.max_body_bytes)
            batch = self.answers.read(data)
            self.access.speaks_for(caller, batch.collector)
            return await self._stream(batch)
        if kind == JSON:
            limit = min(MAX_JSON_BYTES, self._settings.max_body_bytes)
            body = JsonBatch.model_validate_json(await self._body(request, limit))
            self.access.speaks_for(caller, body.collector)
            batch = body.to_batch(self._secret, with_header=self._spec.needs_header)
            return await self._json(batch)
        return problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content-type must be {ARROW_STREAM} or {JSON}, not {kind[:80] or 'absent'}",
        )

    def _caller(self, request: Request) -> Caller:
        return self.access.caller(request.headers.getlist("authorization"))

    async def _body(self, request: Request, limit: int) -> bytes:
        """Read the body, and no more of it than allowed."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large(limit)
        if self._read_bytes > _BODIES * self._settings.max_body_bytes:
            self._dispatcher.counters.batches_refused += 1
            raise OverloadedError(
                "too many bodies are being read: submit this one again a little later",
                self._settings.limits.retry_after_s,
            )
        chunks = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._read_bytes += len(chunk)
                    if size > limit:
                        raise too_large(limit)
                    chunks.append(chunk)
        except TimeoutError:
            raise BodyTooSlowError(f"the body was not whole after {_BODY_S:.0f} s") from None
        finally:
            self._read_bytes -= size
        return b"".join(chunks)

    async def _stream(self, batch: PacketBatch) -> Response:
        pieces = self.answers.encoded(batch)
        # Awaited here: what goes wrong before the first piece can still be said by a status.
        first = await anext(pieces)
        return StreamedResponse(first, pieces, media_type=ARROW_STREAM)

    async def _json(self, batch: PacketBatch) -> Response:
        self.answers.make_sure_of_room(new_flows_of(batch.packets))
        spec = self._spec
        verdicts = []
        async for part in self.answers.parts(batch):
            verdicts += verdicts_to_json(part, spec.classes, spec.tiers, spec.model_version)
        return JSONResponse({"verdicts": verdicts})

    @api.get("/v1/schema", summary="What a collector has to know", **READS)
    async def schema(self, request: Request) -> JSONResponse:
        """Return the columns of a batch, the bundle's depth and wait, and the limits."""
        self._caller(request)
        return JSONResponse(self.answers.schema().to_dict())

    @api.get("/v1/status", summary="The conservation counters", **READS)
    async def status(self, request: Request) -> JSONResponse:
        """Return what this Router and each tracker have seen, and whether it adds up."""
        self._caller(request)
        router = self._dispatcher.counters.to_dict()
        trackers = [await tracker.status() for tracker in self._trackers]
        access = {"access": self.access.to_dict()}
        return JSONResponse(conservation(router, trackers) | access)

    @api.get("/healthz", summary="Whether the ingress answers")
    async def healthz(self) -> JSONResponse:
        """Return 200 while this Router can take batches; it wants no key and tells no more."""
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", summary="Whether all parts have started", **READINESS)
    async def readyz(self) -> JSONResponse:
        """Return 200 once every part has answered this Router; it wants no key."""
        missing = await self._readiness.missing()
        if missing:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"starting: no answer yet from {', '.join(missing)}"
            )
        return JSONResponse({"status": "ready"})
