"""Prometheus scrapes the running service and a collector; each query of ours finds its data."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from collectors.sender import HttpSender
from conftest import ROOT, Running, free_port
from deployments.metric_names import METRICS, exported_names
from flows.packet import PACKET_DTYPE
from flows.wire import ARROW_STREAM, PacketBatch
from prometheus_server import Prometheus, dashboard_queries, prometheus, rule_queries, selectors

pytestmark = pytest.mark.serve

RECORDED = ROOT / "tests" / "scrapes" / "troubled.prom"

# What a calm service has nothing to tell of: why, and the recorded scrape of a troubled one has it.
RARE = {
    "ray_serveflow_refused_flows_total": "only under overload",
    "ray_serveflow_refused_batches_total": "only under overload",
    "ray_serveflow_shed_packets_total": "only when a tracker or model does not take packets",
    'ray_serveflow_verdicts_total{reason="degraded"}': "only under overload",
    "ray_serveflow_tracker_restarts_total": "only after a tracker has died",
    "ray_serveflow_lost_flows_total": "only a minute after a collector has gone",
}


@pytest.fixture(scope="module")
def scraped(
    running: Running, cli: Any, test_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the service, which has answered something, and a collector."""
    folder = tmp_path_factory.mktemp("prometheus")
    metrics = f"127.0.0.1:{free_port()}"
    jobs = [
        {
            "job_name": "ray",
            "http_sd_configs": [{"url": f"{running.service.dashboard}/api/prometheus/sd"}],
        },
        {"job_name": "serveflow-collectors", "static_configs": [{"targets": [metrics]}]},
    ]
    with (
        prometheus(folder, jobs) as server,
        collector(folder, running.separate, metrics) as watched,
    ):
        for times in range(2):
            for run in test_runs.glob("*.pcap"):
                shutil.copy(run, watched / f"{times}-{run.name}")
            # Drift is told of windows of 2,000 flows, and these runs hold fewer.
            assert cli("replay", test_runs, "--to", running.separate).status == 0
            nonsense(running.separate)
            stranger = httpx.get(f"{running.keyed.url}/v1/schema", trust_env=False)
            assert stranger.status_code == 401
            # The first time counters appear; what is counted then is no increase to Prometheus.
            names = {"ray_serveflow_flows_total", "serveflow_collector_verdicts_total > 0"}
            assert server.until(names, 60) == set()
        yield server


@contextlib.contextmanager
def collector(folder: Path, to: str, metrics: str) -> Iterator[Path]:
    """Let a collector watch a folder, and return that."""
    watched = folder / "captures"
    watched.mkdir()
    with (folder / "collector.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from serveflow_app.cli import main; main()",
             "collect", str(watched), "--watch", "--to", to, "--metrics", metrics,
             "--sink", f"eve:{folder / 'eve.json'}", "--spool", str(folder / "spool")],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield watched
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "collector.log").read_text()[-2000:]


def nonsense(url: str) -> None:
    """Send what makes no sense: no batch, packets that cannot be, and one packet twice."""
    headers = {"content-type": ARROW_STREAM}
    answer = httpx.post(f"{url}/v1/batches", content=b"x", headers=headers, trust_env=False)
    assert answer.status_code == 422
    packets = np.zeros(4, PACKET_DTYPE)
    packets["flow_id"] = [1, 1, 2, 2]
    packets["packet_index"] = [255, 254, 0, 0]  # deeper than any bundle looks, and the same
    with HttpSender(url) as sender:
        list(sender.submit(PacketBatch("nonsense", 1, packets)))


def test_the_service_exports_what_the_table_says_and_nothing_else(scraped: Prometheus) -> None:
    recorded = {line.partition("{")[0] for line in RECORDED.read_text().splitlines()}
    rare = {selector.partition("{")[0] for selector in RARE}
    assert scraped.until(exported_names() - rare, 60) == set()
    names = {n for n in scraped.get("label/__name__/values") if n.startswith("ray_serveflow_")}
    assert names <= exported_names()
    assert rare <= recorded <= exported_names()
    allowed = {"tier", "reason", "model", "tracker", "le"}
    for metric in METRICS.values():
        assert set(metric.labels) <= allowed


def test_every_query_evaluates_and_all_it_asks_for_is_there(scraped: Prometheus) -> None:
    """Alerts return nothing as long as all is well: so it is what they ask for that must be there.

    Recording rules of a ratio want traffic within five minutes, which there is.
    """
    queries = [*dashboard_queries(), *rule_queries()]
    wanted = {selector for query in queries for selector in selectors(query)} - RARE.keys()
    assert len(wanted) > 30
    assert scraped.until(wanted, 90) == set()
    for query in queries:
        scraped.ask(query)  # fails if it cannot be evaluated
    # A query of rare things, or of none that is lost, may be empty; all others say something.
    empty = {q for q in dashboard_queries() if not scraped.ask(q)}
    assert all(selectors(q) & RARE.keys() or q.endswith("> 0") for q in empty), empty


def test_prometheus_takes_our_rules_and_none_fails(scraped: Prometheus) -> None:
    assert scraped.until({"serveflow:queue_seconds:p99_rate5m"}, 60) == set()
    for group in scraped.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule


def test_what_is_rare_is_in_the_recorded_scrape_of_a_troubled_service(tmp_path: Path) -> None:
    class Recorded(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(RECORDED.read_bytes())

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        target = f"127.0.0.1:{site.server_port}"
        jobs = [{"job_name": "recorded", "static_configs": [{"targets": [target]}]}]
        with prometheus(tmp_path, jobs) as server:
            assert server.until(set(RARE), 30) == set()
        site.shutdown()
