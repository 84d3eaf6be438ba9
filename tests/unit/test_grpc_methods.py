"""The gRPC half of the Router, without Ray: what it answers and with which status it refuses."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from grpc import StatusCode
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from deployments.access import Access, KeysFile
from deployments.answers import Answers
from deployments.api_keys import editing, new_key
from deployments.dispatch import Dispatcher
from deployments.fakes import FAKE_SPEC, FakeFastTiers, FakeSlowTiers
from deployments.grpc_methods import GrpcMethods
from deployments.local import LocalTracker
from deployments.metrics import Metrics
from deployments.protocols import CascadeSpec, FastTiers
from flows.errors import (
    BodyTooLargeError,
    ForbiddenError,
    UnauthenticatedError,
    WireError,
    WireSchemaError,
)
from flows.packet import PACKET_DTYPE, Records
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchInPartsRequest,
    ClassifyBatchRequest,
    GetSchemaRequest,
    StreamVerdictsRequest,
    StreamVerdictsResponse,
)
from flows.verdict_wire import VerdictReader
from flows.wire import PacketBatch, encode_batch

NOW_NS = 1_700_000_000 * 10**9
MAX_BODY_BYTES = 100_000


class Context:
    """Stands for what Ray Serve passes."""

    code: StatusCode | None = None
    details = ""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def set_code(self, code: StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


class Uncounted:
    """Stands for the metrics."""

    def verdicts(self, part: Records, stayed_ns: int) -> None:
        pass

    def changed(self) -> None:
        pass


class Broken:
    """Fast tiers that fail as they are told."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, packets: Records) -> Records:
        raise self._error


def service(fast: FastTiers | None = None, spec: CascadeSpec = FAKE_SPEC) -> GrpcMethods:
    dispatcher = Dispatcher(spec, fast or FakeFastTiers(), [LocalTracker(spec)], FakeSlowTiers())
    methods = GrpcMethods()
    methods.access = Access()
    metrics = cast(Metrics, Uncounted())
    methods.answers = Answers(spec, dispatcher, metrics, 1, MAX_BODY_BYTES)
    return methods


def body(n: int = 40, watermark_ns: int = NOW_NS, collector: str = "edge#1") -> bytes:
    packets = np.zeros(n, PACKET_DTYPE)
    packets["flow_id"] = np.arange(n) + 1
    packets["time_ns"] = NOW_NS
    packets["ip_bytes"] = np.arange(n) % 17
    packets["from_originator"] = 1
    return encode_batch(PacketBatch(collector, watermark_ns, packets))


LATE = body(watermark_ns=NOW_NS + 100 * 10**9)  # every wait is over


def read(stream: bytes) -> list[Records]:
    return [verdicts for verdicts, _ in VerdictReader(io.BytesIO(stream))]


async def all_of(messages: AsyncIterator[Any]) -> list[Any]:
    return [message async for message in messages]


def test_the_schema_holds_what_http_says() -> None:
    methods = service()
    got = asyncio.run(methods.GetSchema(GetSchemaRequest(), Context()))
    schema = methods.answers.schema().to_dict()
    for name, value in schema.items():
        field = getattr(got, name)
        if name == "columns":
            field, value = (
                [(c.name, c.type) for c in field],
                [(c["name"], c["type"]) for c in value],
            )
        elif isinstance(value, tuple):
            field, value = list(field), list(value)
        assert field == value, name


def test_one_piece_holds_what_the_parts_hold() -> None:
    whole = asyncio.run(service().ClassifyBatch(ClassifyBatchRequest(packets=LATE), Context()))
    request = ClassifyBatchInPartsRequest(packets=LATE)
    pieces = asyncio.run(all_of(service().ClassifyBatchInParts(request, Context())))
    assert len(pieces) == 3, "the fast part, what it settled, the end"
    for ours, theirs in zip(
        read(whole.verdicts), read(b"".join(p.verdicts for p in pieces)), strict=True
    ):
        assert np.array_equal(ours, theirs)
    assert len(read(pieces[0].verdicts + pieces[2].verdicts)[0]) == 40


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (WireError("why"), StatusCode.INVALID_ARGUMENT, "why"),
        (WireSchemaError("why"), StatusCode.INVALID_ARGUMENT, "why"),
        (BodyTooLargeError("why"), StatusCode.RESOURCE_EXHAUSTED, "why"),
        (
            BackPressureError(num_queued_requests=1, max_queued_requests=1),
            StatusCode.UNAVAILABLE,
            "a model did not answer: BackPressureError",
        ),
        (ActorDiedError(), StatusCode.UNAVAILABLE, "a model did not answer: ActorDiedError"),
        (KeyError("/etc/secret"), StatusCode.INTERNAL, "the service failed on this request"),
    ],
)
def test_what_fails_behind_ends_with_a_status_and_no_insides(
    error: Exception, code: StatusCode, told: str
) -> None:
    for answer in (
        lambda context: service(Broken(error)).ClassifyBatch(
            ClassifyBatchRequest(packets=LATE), context
        ),
        lambda context: all_of(
            service(Broken(error)).ClassifyBatchInParts(
                ClassifyBatchInPartsRequest(packets=LATE), context
            )
        ),
    ):
        context = Context()
        with pytest.raises(type(error)):  # Ray Serve logs it, counts it, and sends our status
            asyncio.run(answer(context))
        assert (context.code, context.details) == (code, told)


def test_what_comes_in_is_checked_first() -> None:
    for packets, code, told in (
        (b"no", StatusCode.INVALID_ARGUMENT, "not an Arrow IPC stream"),
        (bytes(MAX_BODY_BYTES + 1), StatusCode.RESOURCE_EXHAUSTED, "over 100,000 bytes"),
    ):
        context = Context()
        with pytest.raises(WireError):
            asyncio.run(service().ClassifyBatch(ClassifyBatchRequest(packets=packets), context))
        assert context.code is code
        assert told in context.details


def test_a_watcher_follows_what_is_classified() -> None:
    async def watch() -> tuple[list[StreamVerdictsResponse], int]:
        methods = service()
        request = StreamVerdictsRequest(collector="edge", labels=["a", "b", "c"], only_final=True)
        following = methods.StreamVerdicts(request, Context())
        begun = await anext(following)
        await methods.ClassifyBatch(ClassifyBatchRequest(packets=LATE), Context())
        messages = [begun, await anext(following)]
        await following.aclose()  # type: ignore[attr-defined] # it is a generator
        return messages, len(methods.answers.watchers)

    (begun, seen), left = asyncio.run(watch())
    assert begun == StreamVerdictsResponse()
    assert seen.collector == "edge#1"
    (verdicts,) = read(seen.verdicts)
    assert len(verdicts)
    assert verdicts["final"].all()
    assert set(verdicts["label"]) <= {0, 1, 2}
    assert left == 0, "who has gone is forgotten"


def test_a_label_that_there_is_not_is_refused() -> None:
    context = Context()
    request = StreamVerdictsRequest(labels=["a", "zebra"])
    with pytest.raises(WireError, match="zebra"):
        asyncio.run(all_of(service().StreamVerdicts(request, context)))
    assert context.code is StatusCode.INVALID_ARGUMENT


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[GrpcMethods, str, Path]:
    """A service that wants keys, a key of the collector `edge`, and the keys' file."""
    file, made = tmp_path / "keys.yaml", new_key("edge")
    with editing(file) as keys:
        keys.append(made.entry)
    methods = service()
    methods.access = Access(KeysFile(file))
    return methods, made.key, file


def calls(
    methods: GrpcMethods, context: Context, collector: str = "edge#1"
) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """One call of each kind."""
    packets = body(watermark_ns=NOW_NS, collector=collector)
    parts = ClassifyBatchInPartsRequest(packets=packets)
    watch = StreamVerdictsRequest(collector=collector)
    return [
        lambda: methods.GetSchema(GetSchemaRequest(), context),
        lambda: methods.ClassifyBatch(ClassifyBatchRequest(packets=packets), context),
        lambda: all_of(methods.ClassifyBatchInParts(parts, context)),
        lambda: all_of(methods.StreamVerdicts(watch, context)),
    ]


@pytest.mark.parametrize("shown", [(), (("authorization", "Bearer sfk_nobodys"),)])
def test_no_call_is_answered_without_a_key(keyed: Any, shown: tuple[tuple[str, str], ...]) -> None:
    methods, _, _ = keyed
    for i in range(4):
        context = Context(*shown)
        with pytest.raises(UnauthenticatedError):
            asyncio.run(calls(methods, context)[i]())
        assert context.code is StatusCode.UNAUTHENTICATED
    assert methods.access.refused == {("bad_key" if shown else "no_key"): 4}


def test_a_key_opens_its_own_collectors_flows_alone(keyed: Any) -> None:
    methods, key, _ = keyed
    context = Context(("authorization", f"Bearer {key}"))
    for call in calls(methods, context)[:3]:
        assert asyncio.run(call())
    assert context.code is None
    for call in calls(methods, context, "other#1")[1:]:
        with pytest.raises(ForbiddenError):
            asyncio.run(call())
        assert context.code is StatusCode.PERMISSION_DENIED


def test_nobody_watches_all_with_one_collectors_key(keyed: Any) -> None:
    context = Context(("authorization", f"Bearer {keyed[1]}"))
    with pytest.raises(ForbiddenError):
        asyncio.run(all_of(keyed[0].StreamVerdicts(StreamVerdictsRequest(), context)))


def test_a_watcher_leaves_when_its_key_is_revoked(keyed: Any) -> None:
    methods, key, file = keyed

    async def watch() -> None:
        context = Context(("authorization", f"Bearer {key}"))
        following = methods.StreamVerdicts(StreamVerdictsRequest(collector="edge"), context)
        await anext(following)
        await methods.ClassifyBatch(ClassifyBatchRequest(packets=LATE), context)
        assert (await anext(following)).verdicts
        await methods.ClassifyBatch(ClassifyBatchRequest(packets=LATE), context)
        with editing(file) as keys:
            keys.clear()
        methods.access.keys.refresh()
        with pytest.raises(UnauthenticatedError):
            await anext(following)
        assert context.code is StatusCode.UNAUTHENTICATED

    asyncio.run(watch())
