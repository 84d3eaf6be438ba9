"""Who gets in, at the running service, over HTTP and gRPC."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from collectors.credentials import Credentials
from collectors.grpc_sender import GrpcSender
from collectors.sender import HttpSender
from conftest import Keyed, Running
from deployments.api_keys import editing, new_key
from flows.errors import KeyRefusedError
from flows.packet import PACKET_DTYPE
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchInPartsRequest,
    ClassifyBatchRequest,
    GetSchemaRequest,
    StreamVerdictsRequest,
)
from flows.rpc.flow_classifier_pb2_grpc import FlowClassifierServiceStub
from flows.wire import ARROW_STREAM, PacketBatch, encode_batch

pytestmark = pytest.mark.serve

NOW_NS = 1_700_000_000 * 10**9


def batch(collector: str, flow_id: int = 1) -> PacketBatch:
    packets = np.zeros(1, PACKET_DTYPE)
    packets["flow_id"], packets["time_ns"], packets["from_originator"] = flow_id, NOW_NS, 1
    packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
    return PacketBatch(collector, NOW_NS, packets)


@dataclass(frozen=True)
class Doors:
    """Every way into the service that wants a key: what is answered, in HTTP's numbers."""

    http: httpx.Client
    stub: FlowClassifierServiceStub

    def knock(self, key: str | None, collector: str = "edge-1#0a1b") -> dict[str, int]:
        """Ask for everything, for flows of ``collector``."""
        shown = {} if key is None else {"authorization": f"Bearer {key}"}
        arrow = {"content-type": ARROW_STREAM, **shown}
        body = encode_batch(batch(collector))
        packet = {"flow_id": 1, "proto": "TCP", "time_ns": NOW_NS, "ip_bytes": 60}
        in_json = {"collector": collector, "packets": [packet]}
        metadata = [("application", "keyed"), *shown.items()]
        whole, parts = ClassifyBatchRequest(packets=body), ClassifyBatchInPartsRequest(packets=body)
        watch = StreamVerdictsRequest(collector=collector)
        return {
            "GET /v1/schema": self.http.get("/v1/schema", headers=shown).status_code,
            "GET /v1/status": self.http.get("/v1/status", headers=shown).status_code,
            "POST arrow": self.http.post("/v1/batches", content=body, headers=arrow).status_code,
            "POST json": self.http.post("/v1/batches", json=in_json, headers=shown).status_code,
            "GetSchema": status(lambda: self.stub.GetSchema(GetSchemaRequest(), metadata=metadata)),
            "ClassifyBatch": status(lambda: self.stub.ClassifyBatch(whole, metadata=metadata)),
            "ClassifyBatchInParts": status(
                lambda: list(self.stub.ClassifyBatchInParts(parts, metadata=metadata))
            ),
            "StreamVerdicts": status(
                lambda: first_of(self.stub.StreamVerdicts(watch, metadata=metadata))
            ),
        }


def first_of(stream: Any) -> None:
    next(stream)
    stream.cancel()


def status(call: Callable[[], Any]) -> int:
    """Return what a call ended with, as the HTTP status that means the same."""
    try:
        call()
    except grpc.RpcError as error:
        return {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}[error.code().name]
    return 200


OF_A_COLLECTOR = {
    "POST arrow",
    "POST json",
    "ClassifyBatch",
    "ClassifyBatchInParts",
    "StreamVerdicts",
}


@pytest.fixture
def keyed(running: Running) -> Keyed:
    return running.keyed


@pytest.fixture
def doors(keyed: Keyed) -> Iterator[Doors]:
    target = keyed.grpc_url.removeprefix("grpc://").partition("/")[0]
    with (
        grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel,
        httpx.Client(base_url=keyed.url, timeout=30, trust_env=False) as http,
    ):
        yield Doors(http, FlowClassifierServiceStub(channel))


def test_the_access_matrix(doors: Doors, keyed: Keyed) -> None:
    """No key, a wrong one, an expired one, another collector's, the right one, one for all."""
    nobody = dict.fromkeys(doors.knock(None), 401)
    everything = dict.fromkeys(nobody, 200)
    others = {way: 403 if way in OF_A_COLLECTOR else 200 for way in nobody}
    wrong = new_key("edge-1").key  # of the right form, for the right collector, and not in the file
    half_right = keyed.keys["edge-1"][:-1] + "_"
    for key, expected in (
        (None, nobody),
        ("secret", nobody),
        (wrong, nobody),
        (half_right, nobody),
        (keyed.keys["expired"], nobody),
        (keyed.keys["edge-2"], others),
        (keyed.keys["edge-1"], everything),
        (keyed.keys["any"], everything),
    ):
        assert doors.knock(key) == expected, key and key[:12]


def test_one_collectors_key_does_not_watch_all(doors: Doors, keyed: Keyed) -> None:
    for what, expected in (("edge-1", 403), ("any", 200)):
        metadata = [("application", "keyed"), ("authorization", f"Bearer {keyed.keys[what]}")]
        watch = StreamVerdictsRequest()
        got = status(lambda: first_of(doors.stub.StreamVerdicts(watch, metadata=metadata)))  # noqa: B023 (called at once)
        assert got == expected


def test_refusals_are_problems_that_say_how_to_get_in(doors: Doors, keyed: Keyed) -> None:
    none = doors.http.get("/v1/schema")
    wrong = doors.http.get("/v1/schema", headers={"authorization": "Bearer x"})
    other = doors.http.post(
        "/v1/batches",
        content=encode_batch(batch("edge-1#1")),
        headers={"content-type": ARROW_STREAM, "authorization": f"Bearer {keyed.keys['edge-2']}"},
    )
    assert none.headers["www-authenticate"] == 'Bearer realm="serveflow"'
    assert wrong.headers["www-authenticate"] == 'Bearer realm="serveflow", error="invalid_token"'
    assert "www-authenticate" not in other.headers
    for answer, code in ((none, 401), (wrong, 401), (other, 403)):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code == code
        assert "edge-1" not in answer.text, "whose the flows would be is not told"


def test_without_a_key_health_tells_whether_it_serves_and_nothing_else(doors: Doors) -> None:
    answer = doors.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    answer = doors.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def test_a_refused_batch_leaves_no_trace_but_a_count(doors: Doors, keyed: Keyed) -> None:
    shown = {"authorization": f"Bearer {keyed.keys['any']}"}
    before = doors.http.get("/v1/status", headers=shown).json()
    doors.knock(None)
    doors.knock(keyed.keys["edge-2"])
    after = doors.http.get("/v1/status", headers=shown).json()
    assert after["packets"] == before["packets"]
    assert after["flows"] == before["flows"]
    was, now = before["access"]["refused"], after["access"]["refused"]
    more = {kind: n - was.get(kind, 0) for kind, n in now.items()}
    assert (more["no_key"], more["other_collector"]) == (8, 5)
    assert after["access"]["keys"] == 4


def test_collectors_get_in_with_their_key_file(keyed: Keyed, tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    file.write_text(keyed.keys["edge-1"] + "\n")
    for sender in (
        HttpSender(keyed.url, credentials=Credentials(file)),
        GrpcSender(keyed.grpc_url, credentials=Credentials(file)),
    ):
        with sender:
            assert sender.schema().depth > 1
            assert sum(len(part.verdicts) for part in sender.submit(batch("edge-1#f", 7))) >= 1
            with pytest.raises(KeyRefusedError, match=r"403|PERMISSION_DENIED"):
                list(sender.submit(batch("edge-9#f")))
    for stranger in (HttpSender(keyed.url), GrpcSender(keyed.grpc_url)):
        with stranger, pytest.raises(KeyRefusedError, match="an API key is wanted"):
            stranger.schema()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return holds()


def test_keys_are_renewed_and_revoked_while_it_runs(doors: Doors, keyed: Keyed) -> None:
    def gets_in(key: str) -> bool:
        shown = {"authorization": f"Bearer {key}"}
        return doors.http.get("/v1/schema", headers=shown).status_code == 200

    old, new = keyed.keys["edge-2"], new_key("edge-2")
    assert not gets_in(new.key)
    with editing(keyed.file) as entries:
        entries.append(new.entry)
    assert within(10, lambda: gets_in(new.key))
    assert gets_in(old), "both count while the collector is given the new one"
    whole = keyed.file.read_bytes()
    keyed.file.write_bytes(whole[: len(whole) // 2])  # a damaged file changes nothing
    shown = {"authorization": f"Bearer {keyed.keys['any']}"}

    def failures() -> int:
        found = doors.http.get("/v1/status", headers=shown).json()["access"]["reload_failures"]
        return int(found)

    assert within(10, lambda: failures() > 0)
    assert gets_in(new.key)
    keyed.file.write_bytes(whole)
    with editing(keyed.file) as entries:
        entries[:] = [one for one in entries if one.id != new.entry.id]
    assert within(10, lambda: not gets_in(new.key))
    assert gets_in(old)


def test_what_is_not_for_strangers_listens_on_loopback(running: Running) -> None:
    """Statistics and metrics of HAProxy, which Ray by itself opens to everybody; the dashboard."""
    environment = environment_of(running.service.pid or 0)
    ports = [int(environment[f"RAY_SERVE_HAPROXY_{what}_PORT"]) for what in ("STATS", "METRICS")]
    ports.append(int(running.service.dashboard.rpartition(":")[2]))
    for port in ports:
        assert accepts("127.0.0.1", port)
        assert not accepts("127.0.0.2", port)
    assert environment["RAY_AUTH_MODE"] == "disabled", "said, not left to Ray"


def environment_of(pid: int) -> dict[str, str]:
    found = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(one).split("=", 1) for one in found if b"=" in one)


def accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def test_reflection_is_off(running: Running) -> None:
    target = running.separate_grpc.removeprefix("grpc://").partition("/")[0]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        for version in ("v1", "v1alpha"):
            service = f"/grpc.reflection.{version}.ServerReflection"
            call = channel.stream_stream(f"{service}/ServerReflectionInfo")
            with pytest.raises(grpc.RpcError) as refused:
                list(call(iter([b""]), metadata=[("application", "serveflow")]))
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_no_key_is_in_the_logs(running: Running) -> None:
    folder = re.search(r"/\S+/session_[\w-]+", running.service.log.read_text(errors="replace"))
    files = list(Path(folder.group(0), "logs").rglob("*.log")) if folder else []
    assert not [
        file
        for file in [running.service.log, *files]
        if any(key.encode() in file.read_bytes() for key in running.keyed.keys.values())
    ]
