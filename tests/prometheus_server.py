"""Prometheus (Debian package ``prometheus``) as tests run it, and what our queries ask it for."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from conftest import ROOT, free_port

ALERTS = ROOT / "monitoring" / "alerts.yaml"
DASHBOARD = ROOT / "monitoring" / "grafana" / "serveflow.json"

OF_RAY = {
    "ray_serve_deployment_replica_healthy",
    "ray_component_cpu_percentage",
    "ray_component_rss_bytes",
    "ray_node_mem_used",
    "ray_node_mem_total",
}
"""What we ask for of Ray's own; tests/serve finds each of them at a running service."""

_SELECTOR = re.compile(r"\b(?:up\b|(?:ray_|serveflow_|serveflow:)[\w:]+)(?:\{[^}]*\})?")


def dashboard_queries() -> list[str]:
    """Return all queries of the dashboard, as Grafana would send them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in panels
        for target in panel.get("targets", [])
    ]


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules, of which ``kind`` is ``alert`` or ``record``."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def rule_queries() -> list[str]:
    """Return the expressions of all rules."""
    return [rule["expr"] for kind in ("record", "alert") for rule in rules(kind)]


def selectors(query: str) -> set[str]:
    """Return what a query asks for: each metric with its matchers."""
    return set(_SELECTOR.findall(query))


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus server."""

    url: str

    def ask(self, query: str) -> list[Any]:
        """Evaluate a query; it must not fail nor be warned of."""
        found = httpx.get(
            f"{self.url}/api/v1/query", params={"query": query}, trust_env=False, timeout=30
        ).json()
        assert found["status"] == "success", f"{query}: {found}"
        assert not found.get("warnings"), f"{query}: {found['warnings']}"
        result: list[Any] = found["data"]["result"]
        return result

    def get(self, path: str) -> Any:
        """Return what an interface of it says."""
        return httpx.get(f"{self.url}/api/v1/{path}", trust_env=False, timeout=30).json()["data"]

    def until(self, queries: set[str], timeout_s: float) -> set[str]:
        """Wait until each query returns something; return those that do not."""
        until_s = time.monotonic() + timeout_s
        while queries and time.monotonic() < until_s:
            queries = {query for query in queries if not self.ask(query)}
            time.sleep(0.5)
        return queries


@contextmanager
def prometheus(folder: Path, jobs: list[dict[str, Any]]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes ``jobs`` each second and evaluates our rules."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": jobs,
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        for _ in range(100):
            assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
            try:
                if httpx.get(f"{server.url}/-/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass  # not up yet
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(20)
