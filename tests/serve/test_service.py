"""The running service: answers, counters, and what it does with requests that make no sense."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from collectors.sender import HttpSender
from conftest import Running
from flows.capture import CaptureReader
from flows.errors import ServiceRefusedError, ServiceUnavailableError
from flows.packet import PACKET_DTYPE, packet_dtype
from flows.table import FlowTable
from flows.wire import ARROW_STREAM, MAX_BATCH_PACKETS, NEW_FLOWS, PacketBatch, encode_batch
from models.cascade import load_cascade

pytestmark = pytest.mark.serve

JSON_PACKET = {
    "src_ip": "10.0.0.1",
    "dest_ip": "10.0.0.2",
    "src_port": 40000,
    "dest_port": 443,
    "proto": "TCP",
    "time_ns": 1_700_000_000_000_000_000,
    "ip_bytes": 60,
    "tcp_flags": 2,
}


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.separate, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def sender(running: Running) -> Iterator[HttpSender]:
    with HttpSender(running.separate) as sender:
        yield sender


def first_packets(n: int, first_flow: int = 1) -> np.ndarray:
    packets = np.zeros(n, PACKET_DTYPE)
    packets["flow_id"] = np.arange(first_flow, first_flow + n)
    packets["time_ns"] = 1_700_000_000 * 10**9
    packets["ip_bytes"], packets["ip_version"], packets["protocol"] = 60, 4, 6
    packets["from_originator"] = 1
    return packets


def test_the_schema_says_what_the_bundle_needs(running: Running, bundle: Path) -> None:
    cascade = load_cascade(bundle)
    for url, trackers in ((running.separate, 4), (running.colocated, 1)):
        with HttpSender(url) as sender:
            schema = sender.schema()
        assert schema.classes == cascade.classes
        assert schema.depth == cascade.depth
        assert schema.model_version == cascade.model_version
        assert schema.trackers == trackers
        assert schema.header == cascade.needs_header


def test_every_first_packet_gets_an_answer_in_the_first_part(sender: HttpSender) -> None:
    packets = first_packets(500)
    parts = list(sender.submit(PacketBatch("first", 1_700_000_000 * 10**9, packets)))
    assert set(parts[0].verdicts["flow_id"]) == set(packets["flow_id"])
    later_ns = 1_700_000_100 * 10**9  # every wait is over by then
    more = list(sender.submit(PacketBatch("first", later_ns, packets[:0])))
    final = [
        v for part in [*parts, *more] for v in part.verdicts["flow_id"][part.verdicts["final"] == 1]
    ]
    assert sorted(final) == packets["flow_id"].tolist()


def test_a_person_can_ask_in_json(http: httpx.Client) -> None:
    answer = http.post("/v1/batches", json={"packets": [JSON_PACKET]})
    assert answer.status_code == 200
    (verdict,) = answer.json()["verdicts"]
    assert 0 <= verdict["confidence"] <= 1
    assert verdict["packets_used"] == 1
    assert verdict["latency_ms"]["wait"] == 0


def test_the_conservation_laws_hold(sender: HttpSender, http: httpx.Client) -> None:
    packets = first_packets(200, 10_000)
    twice = np.concatenate([packets, packets])
    list(sender.submit(PacketBatch("laws", 1_700_000_000 * 10**9, twice)))
    status = http.get("/v1/status").json()
    assert status["holds"], status
    assert status["packets"]["duplicate"] >= 200
    assert len(status["trackers"]) == 4
    assert len({tracker["incarnation"] for tracker in status["trackers"]}) == 4


@pytest.mark.parametrize(
    ("content", "kind", "code", "match"),
    [
        (b"\xde\xad\xbe\xef" * 1000, ARROW_STREAM, 422, "Arrow"),
        (b"", ARROW_STREAM, 422, "Arrow"),
        (b"{", "application/json", 422, "JSON"),
        (b'{"packets": 7}', "application/json", 422, "packets"),
        (b'{"packets": [], "colector": "x"}', "application/json", 422, "colector"),
        (b"x", "text/plain", 415, "content-type must be"),
        (b"x", "", 415, "content-type must be"),
    ],
)
def test_what_is_no_batch_is_a_problem(
    http: httpx.Client, content: bytes, kind: str, code: int, match: str
) -> None:
    answer = http.post("/v1/batches", content=content, headers={"content-type": kind})
    assert_problem(answer, code, match)


def assert_problem(answer: httpx.Response, code: int, match: str) -> None:
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == code
    assert match in problem["detail"]
    assert "Traceback" not in answer.text


def test_another_arrow_schema_is_a_problem(http: httpx.Client) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"flow_id": pa.array([1], pa.int32())})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer = http.post(
        "/v1/batches", content=bytes(sink.getvalue()), headers={"content-type": ARROW_STREAM}
    )
    assert_problem(answer, 422, "GET /v1/schema lists the columns")


def test_a_body_of_100_mb_is_refused(http: httpx.Client) -> None:
    body = bytes(100_000_000)
    headers = {"content-type": ARROW_STREAM}
    try:
        answer = http.post("/v1/batches", content=body, headers=headers)
    except httpx.WriteError:
        pass  # refused and closed before all of it was sent
    else:
        assert_problem(answer, 413, "send smaller batches")
    # A body that does not say how long it is gets no further either.
    pieces = (bytes(1_000_000) for _ in range(40))
    try:
        answer = http.post("/v1/batches", content=pieces, headers=headers)
    except httpx.WriteError:
        pass
    else:
        assert_problem(answer, 413, "send smaller batches")


def test_unknown_paths_and_methods_are_problems(http: httpx.Client) -> None:
    assert_problem(http.get("/v1/nothing"), 404, "Not Found")
    assert_problem(http.delete("/v1/batches"), 405, "Method Not Allowed")


def test_it_keeps_serving_after_all_that(sender: HttpSender, http: httpx.Client) -> None:
    for content in (b"\x00" * 100, b"\xff\xff\xff\xff\x00\x00\x01\x00" + bytes(64)):
        for _ in range(20):
            http.post("/v1/batches", content=content, headers={"content-type": ARROW_STREAM})
    assert http.get("/healthz").status_code == 200
    batch = PacketBatch("after", 1_700_000_000 * 10**9, first_packets(10, 90_000))
    assert sum(len(part.verdicts) for part in sender.submit(batch)) >= 10


def test_the_sender_names_refusals_and_absence(running: Running, sender: HttpSender) -> None:
    broken = first_packets(1)
    broken["time_ns"] = 5
    with pytest.raises(ServiceRefusedError, match="answered 422"):
        list(sender.submit(PacketBatch("x" * 1000, 1, broken)))
    with (
        HttpSender("http://127.0.0.1:9") as absent,
        pytest.raises(ServiceUnavailableError, match="Is the service running"),
    ):
        absent.schema()
    with (
        HttpSender(running.service.dashboard) as other,
        pytest.raises(ServiceRefusedError, match=r"no ServeFlow service|answered 404"),
    ):
        other.schema()


def test_new_flows_are_refused_before_too_many_wait(running: Running, http: httpx.Client) -> None:
    """Two batches at a time of as many new flows as may be: the second finds the first waiting."""
    now_ns = 1_700_000_000 * 10**9
    bodies = [
        encode_batch(PacketBatch(f"flood-{i}", now_ns, first_packets(MAX_BATCH_PACKETS)))
        for i in range(4)
    ]

    def post(body: bytes) -> httpx.Response:
        url = f"{running.separate}/v1/batches"
        return httpx.post(
            url, content=body, headers={"content-type": ARROW_STREAM}, trust_env=False, timeout=60
        )

    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(post, bodies))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(bodies)
    for answer in refused:
        assert_problem(answer, 429, "waiting for their first answer")
        assert int(answer.headers["retry-after"]) >= 1
    # All that is open becomes due at once, more than Ray Serve's usual 4 MB hold.
    late_ns = now_ns + 100 * 10**9
    with HttpSender(running.separate) as sender:
        for i in range(len(bodies)):
            for part in sender.submit(PacketBatch(f"flood-{i}", late_ns, first_packets(0))):
                assert part.verdicts["final"].all()
    status = http.get("/v1/status").json()
    assert status["holds"]
    assert status["flows"]["open"] < MAX_BATCH_PACKETS
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize("told", ["9" * 5_000, "-1", "many"])
def test_a_wrong_number_of_new_flows_does_no_harm(http: httpx.Client, told: str) -> None:
    body = encode_batch(PacketBatch("told", 1_700_000_000 * 10**9, first_packets(0)))
    headers = {"content-type": ARROW_STREAM, NEW_FLOWS: told}
    assert http.post("/v1/batches", content=body, headers=headers).status_code == 200


def test_headers_that_the_bundle_does_not_read_are_refused(sender: HttpSender) -> None:
    batch = PacketBatch("wide", 1, np.zeros(1, packet_dtype(True)))
    with pytest.raises(ServiceRefusedError, match="answered 422: column header is not wanted"):
        list(sender.submit(batch))


def test_the_second_part_settles_what_the_first_left_open(
    sender: HttpSender, test_runs: Path
) -> None:
    chunk = next(CaptureReader(sorted(test_runs.glob("*.pcap"))[0]).chunks())
    FlowTable(first_packets=1, seed=77).update(chunk.packets, chunk.endpoints)
    packets = chunk.packets[chunk.packets["packet_index"] == 0]
    over_ns = int(packets["time_ns"].max()) + 100 * 10**9  # every wait is over by then
    first, *others = sender.submit(PacketBatch("parts", over_ns, packets))
    open_flows = first.verdicts["flow_id"][first.verdicts["final"] == 0]
    assert len(first.verdicts) == len(packets)
    assert 0 < len(open_flows) < len(packets)
    assert sorted(v for o in others for v in o.verdicts["flow_id"]) == sorted(open_flows)
    assert all(o.verdicts["final"].all() for o in others)


def test_ray_shows_the_deployments_and_our_counters(running: Running) -> None:
    api = f"{running.service.dashboard}/api/serve/applications/"
    applications = httpx.get(api, trust_env=False, timeout=30).json()["applications"]
    deployments = applications["serveflow"]["deployments"]
    expected = {"Router", "FastModel", "SlowModel", *(f"FlowTracker-{t}" for t in range(4))}
    assert set(deployments) == expected
    assert {d["status"] for d in deployments.values()} == {"HEALTHY"}
    for _ in range(30):
        with contextlib.suppress(httpx.ConnectError):  # Ray names pages just before they are there
            if "ray_serveflow_flows_total" in exported(running):
                break
        time.sleep(1)
    text = exported(running)
    for name in ("flows_total", "packets_total", "verdicts_total"):
        assert f"ray_serveflow_{name}" in text


def exported(running: Running) -> str:
    """Return the metrics that Ray's agents export for Prometheus."""
    found = httpx.get(f"{running.service.dashboard}/api/prometheus/sd", trust_env=False, timeout=30)
    targets = [target for group in found.json() for target in group["targets"]]
    return "".join(httpx.get(f"http://{t}/metrics", trust_env=False).text for t in targets)
