"""A collector tells of itself over HTTP, and strangers can neither hang it nor fill it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics

from collectors import status as status_module
from collectors.agent_http import AgentHttp, status_to_dict
from collectors.agent_metrics import FIELDS, AgentMetrics
from collectors.bounded_http import HttpLimits
from collectors.losses import HOPS, LOSSES, losses
from collectors.sources import SourceCounters
from collectors.status import (
    AgentStatus,
    DeliveryCounters,
    SinkCounters,
    SpoolCounters,
    TableStatus,
)
from flows.errors import SettingsError

STATUS = AgentStatus(
    name="edge", source="interface eth1", to="http://s:8000", model_version="abc", uptime_s=5.0,
    seen=SourceCounters(
        frames=100, malformed=2, kernel_drops=7, card_drops=4, broken_entries=1,
        skipped={"not_ip": 5, "bad_ip": 2, "own_traffic": 9, "odd": 1},
        damaged=(("a", "cut"),), damaged_captures=1,
    ),
    table=TableStatus(packets=80, flows=20, refused_flows=3, refused_packets=6, evicted_flows=1),
    delivery=DeliveryCounters(batches=4),
    spool=SpoolCounters(dropped_flows=2, unspooled_records=8, damaged_bytes=16),
    sinks=(SinkCounters("eve:/e", written=9, lost={"sink_full": 3}), SinkCounters("zeek:/z")),
    verdicts={"confident": 8, "degraded": 2}, tiers={"t1": 10}, labels={"dns": 10},
    latency_ms={"total": {"p50": 1.0}}, latency_sum_ms={"total": 50.0},
    latency_counts={"total": {0.1: 1, 10.0: 8, float("inf"): 10}}, within_16ms=8,
)  # fmt: skip

# Fields that are told otherwise than as a number of their own.
TOLD_OTHERWISE = {
    "name", "source", "to", "connected", "model_version", "protocols", "labels",
    "verdicts", "tiers", "latency_ms", "latency_counts", "latency_sum_ms",
    "seen.malformed",  # a sum of what seen.skipped counts by reason
    "seen.damaged",  # names of some of seen.damaged_captures
    "delivery.last_error", "sinks.name", "sinks.last_error",
}  # fmt: skip


class Served:
    """An agent's HTTP server, with what it is to say."""

    def __init__(self, limits: HttpLimits | None = None) -> None:
        self.status: Callable[[], AgentStatus] = lambda: STATUS
        self.age_s = 0.1
        self.http = AgentHttp(
            ("127.0.0.1", 0), lambda: self.status(), lambda: self.age_s, limits=limits
        )

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http.port, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return response.status, response.read(), told
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http.port), timeout=10)


@pytest.fixture(name="served")
def _served() -> Iterator[Served]:
    served = Served(HttpLimits(request_s=1.0, connections=4))
    with served.http:
        yield served


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def received(connection: socket.socket) -> bytes:
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found


def leaves(kind: type[Any], prefix: str = "") -> set[str]:
    found = set()
    parts = {
        "seen": SourceCounters, "table": TableStatus, "delivery": DeliveryCounters,
        "spool": SpoolCounters, "sinks": SinkCounters,
    }  # fmt: skip
    for one in dataclasses.fields(kind):
        if not prefix and one.name in parts:
            found |= leaves(parts[one.name], f"{one.name}.")
        else:
            found.add(prefix + one.name)
    return found


def test_every_field_of_the_status_is_a_metric_a_loss_or_told_otherwise() -> None:
    """Who adds a counter must say what it is."""
    assert set(FIELDS) | set(LOSSES) | TOLD_OTHERWISE == leaves(AgentStatus)
    assert not set(FIELDS) & set(LOSSES)
    kinds = {name for name in status_module.__all__ if name != "AgentStatus"}
    assert kinds == {"TableStatus", "DeliveryCounters", "SpoolCounters", "SinkCounters"}


def test_every_loss_is_told_by_hop_and_reason() -> None:
    found = {
        (loss.hop, loss.reason, loss.sink): loss.count for loss in losses(STATUS) if loss.count
    }
    assert found == {
        ("card", "dropped_packets", ""): 4,
        ("kernel_ring", "dropped_packets", ""): 7,
        ("kernel_ring", "broken_entries", ""): 1,
        ("decode", "bad_ip_frames", ""): 2,
        ("decode", "odd_frames", ""): 1,
        ("decode", "damaged_captures", ""): 1,
        ("table", "refused_flows", ""): 3,
        ("table", "refused_packets", ""): 6,
        ("table", "evicted_flows", ""): 1,
        ("spool", "dropped_flows", ""): 2,
        ("spool", "unspooled_records", ""): 8,
        ("spool", "damaged_bytes", ""): 16,
        ("service", "degraded_flows", ""): 2,
        ("sink", "sink_full_verdicts", "eve:/e"): 3,
    }
    hops = [loss.hop for loss in losses(STATUS)]
    assert hops == sorted(hops, key=HOPS.index)
    assert {loss.count for loss in losses(AgentStatus("", "", ""))} == {0}


@pytest.mark.parametrize("parse", [plain_metrics, open_metrics])
def test_metrics_in_both_formats(served: Served, parse: Any) -> None:
    accept = {plain_metrics: "text/plain", open_metrics: "application/openmetrics-text"}[parse]
    code, body, headers = served.get("/metrics", {"accept": f"{accept}; version=1.0.0"})
    assert code == 200
    assert headers["content-type"].startswith(accept)
    families = {family.name: family for family in parse(body.decode())}
    own = {name: f for name, f in families.items() if name.startswith("serveflow_collector_")}
    samples = {
        (sample.name.removeprefix("serveflow_collector_"), *sample.labels.values()): sample.value
        for family in own.values()
        for sample in family.samples
    }
    assert samples["frames_total",] == 100
    assert samples["lost_total", "card", "dropped_packets"] == 4
    assert samples["lost_total", "sink", "sink_full_verdicts", "eve:/e"] == 3
    assert samples["skipped_frames_total", "not_ip"] == 5
    assert samples["sink_written_verdicts_total", "zeek:/z"] == 0
    assert samples["verdicts_total", "degraded"] == 2
    assert samples["tier_verdicts_total", "t1"] == 10
    assert samples["model_info", "abc"] == 1
    assert samples["verdict_seconds_bucket", "0.01"] == 8
    assert samples["verdict_seconds_count",] == 10
    assert samples["verdict_seconds_sum",] == 0.05
    assert "process_resident_memory_bytes" in families
    labels = {key for f in own.values() for sample in f.samples for key in sample.labels}
    assert labels == {"hop", "reason", "sink", "tier", "model", "le"}
    assert all(family.documentation for family in own.values())


def test_a_collector_that_has_nothing_yet_has_metrics_too() -> None:
    text, _ = AgentMetrics(lambda: AgentStatus("", "", "")).text("")
    assert b"serveflow_collector_flows_total 0.0" in text
    assert b"serveflow_collector_spool_bytes" not in text


def test_health_is_the_loop_and_readiness_the_service(served: Served) -> None:
    assert served.get("/healthz")[0] == served.get("/readyz")[0] == 200
    away = DeliveryCounters(away_s=3.2, last_error="refused")
    served.status = lambda: replace(STATUS, delivery=away)
    assert served.get("/healthz")[0] == 200
    code, body, _ = served.get("/readyz")
    assert code == 503
    assert json.loads(body)["reason"] == "the service has not answered for 3 s: refused"
    served.status = lambda: replace(STATUS, connected=False)
    assert served.get("/readyz")[0] == 503
    served.age_s = 42.0
    code, body, _ = served.get("/healthz")
    assert code == 503
    assert json.loads(body)["reason"] == "the loop has not been seen at work for 42 s"


def test_the_status_as_json(served: Served) -> None:
    code, body, _ = served.get("/status?x=1")
    found = json.loads(body)
    assert code == 200
    assert found == json.loads(json.dumps(status_to_dict(STATUS)))
    assert found["table"]["flows"] == 20
    assert found["latency_counts"]["total"] == {"0.1": 1, "10": 8, "inf": 10}
    assert {"hop": "card", "reason": "dropped_packets", "count": 4, "sink": ""} in found["lost"]


def test_what_is_not_there_or_not_wanted(served: Served) -> None:
    assert served.get("/../etc/passwd")[0] == 404
    code, body, headers = served.get("/<b>", method="POST")
    assert (code, headers["allow"]) == (405, "GET, HEAD")
    assert b"<b>" not in body
    assert headers["content-type"] == "application/problem+json"
    assert served.get("/metrics", method="HEAD")[:2] == (200, b"")
    assert "python" not in json.dumps(headers).lower()


def test_a_web_page_cannot_ask_under_a_name_of_its_own(served: Served) -> None:
    assert served.get("/status", {"host": "evil.example:9105"})[0] == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:9105", "LOCALHOST"):
        assert served.get("/status", {"host": host})[0] == 200


def test_a_failure_to_tell_is_an_answer_too(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> AgentStatus:
        raise RuntimeError("secret")

    served.status = fails
    for path in ("/status", "/metrics", "/readyz"):
        code, body, _ = served.get(path)
        assert code == 500
        assert b"secret" not in body
    assert served.get("/healthz")[0] == 200
    assert len(caplog.records) == 3


def test_a_request_that_never_ends_is_closed(served: Served) -> None:
    """Bytes that trickle do not buy more time."""
    with served.raw() as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        closed = threading.Event()

        def trickle() -> None:
            try:
                while not closed.wait(0.1):
                    slow.sendall(b"x: y\r\n")
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        assert received(slow) == b""
        closed.set()
        thread.join()
    until(lambda: served.http.open_connections == 0)


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nx: "])
def test_a_request_has_a_size(served: Served, head: bytes) -> None:
    with served.raw() as long:
        with suppress(OSError):  # it may be closed meanwhile
            long.sendall(head + b"a" * (1 << 20))
        found = received(long)
    assert found == b"" or b" 431 " in found
    until(lambda: served.http.open_connections == 0)
    assert served.get("/healthz")[0] == 200


def test_many_idle_connections_keep_nobody_out(served: Served) -> None:
    def answers() -> bool:
        try:
            return served.get("/healthz")[0] == 200
        except ConnectionError:  # where the backlog was full, an idle one may come after it
            return False

    with ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(served.raw())
        until(answers)
        assert served.http.open_connections <= 8
    until(lambda: served.http.open_connections == 0)
    assert served.get("/healthz")[0] == 200


def test_whoever_takes_no_answer_is_let_go(served: Served) -> None:
    big = replace(STATUS, labels={f"label {i}": i for i in range(400_000)})
    served.status = lambda: big
    with served.raw() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        until(lambda: served.http.open_connections == 1)
        until(lambda: served.http.open_connections == 0)


@pytest.fixture(name="shared", scope="module")
def _shared() -> Iterator[Served]:
    served = Served(HttpLimits(request_s=0.2))
    with served.http:
        yield served


@given(st.binary(max_size=300))
def test_garbage_hurts_nobody(shared: Served, garbage: bytes) -> None:
    with shared.raw() as stranger:
        try:
            stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed meanwhile
        found = received(stranger)
    assert b" 500 " not in found.split(b"\r\n")[0]
    assert shared.get("/healthz")[0] == 200


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    with pytest.raises(SettingsError, match=f"127.0.0.1:{served.http.port}: "):
        AgentHttp(("127.0.0.1", served.http.port), lambda: STATUS, lambda: 0.0)
    with pytest.raises(SettingsError, match=r"no\.such\.invalid"):
        AgentHttp(("no.such.invalid", 0), lambda: STATUS, lambda: 0.0)


def test_beyond_loopback_it_warns(caplog: pytest.LogCaptureFixture) -> None:
    for host, said in (("0.0.0.0", 1), ("127.0.0.1", 0), ("::1", 0)):  # noqa: S104 (that is it)
        caplog.clear()
        server = AgentHttp((host, 0), lambda: STATUS, lambda: 0.0)
        server.close()
        assert len(caplog.records) == said, host
