"""Requests that make no sense, or mean harm: 4xx, nothing told, little memory, and it serves on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pytest

from conftest import Keyed, Running
from flows.packet import PACKET_DTYPE
from flows.rpc.flow_classifier_pb2 import (
    ClassifyBatchRequest,
    StreamVerdictsRequest,
    StreamVerdictsResponse,
)
from flows.rpc.flow_classifier_pb2_grpc import FlowClassifierServiceStub
from flows.wire import ARROW_STREAM, MAX_BATCH_PACKETS, PacketBatch, encode_batch
from hostile import NOW_NS, Hostility, Request, arrow_body, send

pytestmark = pytest.mark.serve

REQUESTS = 5_000
MOST_MORE_MIB = 96  # some bodies of the largest size at a time
LEAKS = re.compile(
    rb'Traceback|File "|site-packages|\.py\b|\bsfk_|object at 0x'
    rb"|/(?:home|root|usr|tmp|var|opt|etc)/"
)
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@pytest.fixture
def keyed(running: Running) -> Keyed:
    return running.keyed


@pytest.fixture
def http(keyed: Keyed) -> Iterator[httpx.Client]:
    shown = {"authorization": f"Bearer {keyed.keys['any']}"}
    with httpx.Client(base_url=keyed.url, headers=shown, timeout=60, trust_env=False) as client:
        yield client


def resident_mib() -> float:
    """Return the memory of the Router that wants keys."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                title = (folder / "cmdline").read_bytes()
                pages = int((folder / "statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            if title.startswith(b"ray::ServeReplica:keyed:Router"):
                return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    raise AssertionError("there is no such process")


def serves(http: httpx.Client) -> bool:
    body = arrow_body(5, collector="after#1")
    answer = http.post("/v1/batches", content=body, headers={"content-type": ARROW_STREAM})
    return answer.status_code == 200 and http.get("/healthz").status_code == 200


def test_thousands_of_hostile_requests_get_4xx_and_cost_little(
    keyed: Keyed, http: httpx.Client
) -> None:
    prefix = urlsplit(keyed.url).path
    requests = list(Hostility(2024, prefix, keyed.keys["any"]).draw(REQUESTS))
    assert serves(http)
    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(lambda r: send(keyed.url, r), requests[:500]))
        before_mib = resident_mib()
        answers = warm + list(pool.map(lambda r: send(keyed.url, r), requests[500:]))
    statuses = Counter(int(code) for answer in answers for code in STATUS.findall(answer))
    for request, answer in zip(requests, answers, strict=True):
        codes = [int(code) for code in STATUS.findall(answer)]
        assert all(code < 500 and code != 429 for code in codes), (request.kind, request.data[:300])
        assert codes or not request.whole, (request.kind, request.data[:300])
        assert not LEAKS.search(answer.replace(b"/etc/passwd", b"")), (request.kind, answer[:500])
    assert {400, 401, 404, 405, 413, 415, 422} <= set(statuses), statuses
    assert sum(statuses.values()) > REQUESTS // 2, statuses
    assert resident_mib() - before_mib < MOST_MORE_MIB
    assert serves(http)
    status = http.get("/v1/status").json()
    assert status["holds"]


def test_requests_made_of_the_openapi_document(keyed: Keyed, tmp_path: Path) -> None:
    """schemathesis: what the document allows, what it forbids, and without the key."""
    refusals = (
        "[checks]\nnegative_data_rejection.expected-statuses = [400, 401, 405, 413, 415, 422]\n"
    )
    (tmp_path / "schemathesis.toml").write_text(refusals)  # by default 413 is none
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{keyed.url}/openapi.json",
            "--url", keyed.url, "--header", f"Authorization: Bearer {keyed.keys['any']}",
            "--checks", "all", "--phases", "examples,coverage,fuzzing",
            "--max-examples", "150", "--seed", "2024", "--generation-database", "none",
            "--request-timeout", "30", "--workers", "2",
        ],
        capture_output=True, text=True, timeout=220, check=False,
        cwd=tmp_path, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"Tested: +5\b", done.stdout), done.stdout


@pytest.mark.parametrize("dripping", ["headers", "body", "nothing", "grpc"])
def test_who_sends_ever_so_slowly_is_cut_off(running: Running, keyed: Keyed, dripping: str) -> None:
    """A byte a second, or none: closed after 10 s; here it only must not last."""
    url = urlsplit(running.separate_grpc if dripping == "grpc" else keyed.url)
    key = keyed.keys["any"]
    begin = {
        "headers": f"GET {url.path}/v1/schema HTTP/1.1\r\nhost: a\r\n",
        "body": f"POST {url.path}/v1/batches HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n"
        f"content-type: {ARROW_STREAM}\r\nauthorization: Bearer {key}\r\n\r\n",
        "nothing": "",
        "grpc": "PRI * HTTP/2.0\r\n\r\nSM\r\n",
    }[dripping]
    drip = {"headers": b"x: y\r\n", "body": b"x", "nothing": b"", "grpc": b""}[dripping]
    answer = b""
    with socket.create_connection((url.hostname, url.port), timeout=1) as connection:
        connection.sendall(begin.encode())
        for _ in range(60):
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                connection.sendall(drip)
                continue
            except ConnectionError:
                break
            answer += piece
            if not piece:
                break
        else:
            pytest.fail("still open")
    if dripping != "grpc":
        assert STATUS.findall(answer) == [b"408"]


def test_who_watches_in_silence_is_not_cut_off(keyed: Keyed) -> None:
    """A watcher sends nothing after its request: that must not count as a slow sender."""
    target = keyed.grpc_url.removeprefix("grpc://").partition("/")[0]
    metadata = [("application", "keyed"), ("authorization", f"Bearer {keyed.keys['any']}")]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = StreamVerdictsRequest(collector="nobody")
        watch = FlowClassifierServiceStub(channel).StreamVerdicts(request, metadata=metadata)
        for _ in range(3):  # it has begun; two signs of life, each after 10 s
            assert next(watch) == StreamVerdictsResponse()
        watch.cancel()


def chunked(http: httpx.Client, data: bytes, size: int) -> httpx.Response:
    pieces = (data[i : i + size] for i in range(0, len(data), size))
    return http.post("/v1/batches", content=pieces, headers={"content-type": ARROW_STREAM})


def test_megabytes_in_chunks_of_six_bytes_are_read(keyed: Keyed, http: httpx.Client) -> None:
    """3 MB, as sound as any other batch."""
    packets = np.zeros(40_000, PACKET_DTYPE)
    packets["flow_id"], packets["flow_end_reason"] = np.arange(40_000), 1  # marks: no new flows
    body = encode_batch(PacketBatch("chunks#1", NOW_NS, packets))
    assert len(body) > 3_000_000
    head = (
        f"POST {urlsplit(keyed.url).path}/v1/batches HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    )
    head += f"content-type: {ARROW_STREAM}\r\ntransfer-encoding: chunked\r\n"
    head += f"authorization: Bearer {keyed.keys['any']}\r\n\r\n"
    pieces = b"".join(b"6\r\n" + body[i : i + 6] + b"\r\n" for i in range(0, len(body) - 5, 6))
    rest = body[len(body) - len(body) % 6 :]
    pieces += (b"%x\r\n" % len(rest) + rest + b"\r\n" if rest else b"") + b"0\r\n\r\n"
    answer = send(keyed.url, Request("chunks", head.encode() + pieces, whole=True))
    assert STATUS.findall(answer) == [b"200"]
    assert serves(http)


def test_what_is_too_much_is_413(keyed: Keyed, http: httpx.Client) -> None:
    arrow = {"content-type": ARROW_STREAM}
    limit = http.get("/v1/schema").json()["max_body_bytes"]
    before_mib = resident_mib()
    packet = {"flow_id": 1, "proto": "TCP", "time_ns": NOW_NS, "ip_bytes": 60}
    rows = encode_batch(
        PacketBatch("rows#1", NOW_NS, np.zeros(MAX_BATCH_PACKETS + 1, PACKET_DTYPE))
    )
    for answer in (
        http.post("/v1/batches", content=bytes(limit + 1), headers=arrow),
        chunked(http, bytes(limit + 1), 1 << 20),
        http.post("/v1/batches", content=rows, headers=arrow),
        http.post("/v1/batches", json={"packets": [packet] * 1_025}),
        http.post("/v1/batches", json={"x" * 300_000: 1}),
    ):
        assert answer.status_code == 413, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert resident_mib() - before_mib < MOST_MORE_MIB
    assert serves(http)


def test_compressed_bodies_are_refused_before_they_are_inflated(
    keyed: Keyed, http: httpx.Client
) -> None:
    before_mib = resident_mib()
    bomb = arrow_body(60_000, compression="zstd")
    answer = http.post("/v1/batches", content=bomb, headers={"content-type": ARROW_STREAM})
    assert (answer.status_code, "compressed" in answer.text) == (422, True)
    for coding in ("gzip", "zstd", "br, gzip"):
        headers = {"content-type": ARROW_STREAM, "content-encoding": coding}
        answer = http.post("/v1/batches", content=arrow_body(), headers=headers)
        assert answer.status_code == 415
    target = keyed.grpc_url.removeprefix("grpc://").partition("/")[0]
    metadata = [("application", "keyed"), ("authorization", f"Bearer {keyed.keys['any']}")]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            FlowClassifierServiceStub(channel).ClassifyBatch(
                ClassifyBatchRequest(packets=bytes(400_000_000)),
                metadata=metadata,
                compression=grpc.Compression.Gzip,
            )
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_mib() - before_mib < MOST_MORE_MIB
    assert serves(http)


@pytest.mark.parametrize(
    "header",
    [
        "x-request-id: \xff",
        "serve_multiplexed_model_id: \xff",
        "x-request-timeout-seconds: \xff",
        "x: " + "y" * 20_000,
        "\r\n".join(f"h{i}: 1" for i in range(300)),
    ],
)
def test_headers_that_ray_would_stumble_over_are_400(keyed: Keyed, header: str) -> None:
    path = urlsplit(keyed.url).path
    data = f"GET {path}/healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{header}\r\n\r\n"
    answer = send(keyed.url, Request("header", data.encode("latin-1"), whole=True))
    assert STATUS.findall(answer) == [b"400"]


def test_noise_at_the_grpc_port_harms_nobody(running: Running, http: httpx.Client) -> None:
    url = running.separate_grpc.replace("grpc://", "http://")
    requests = list(Hostility(7, "", "").draw(300))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda r: send(url, Request(r.kind, r.data, whole=False)), requests))
    time.sleep(0.1)
    assert serves(http)
