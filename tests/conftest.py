"""What several tests share: the embedded data, the command line, one running service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from deployments.api_keys import editing, new_key
from serveflow_app.ports import free_ports
from serveflow_app.serve_config import default_config, load_config, override
from serveflow_app.service import Service

ROOT = Path(__file__).resolve().parent.parent


_NO_SERVICE = {"test_cli.py", "test_evaluate.py", "test_tshark_agreement.py", "test_tune.py"}
_OWN_SERVICE = {
    "test_as_pods.py", "test_demo.py", "test_open_doors.py", "test_production_config.py",
    "test_readme.py",
}  # fmt: skip


class _ByFile(LoadScopeScheduling):
    """Keeps a file's tests in one process, as all that share the service or need networks.

    So are all that start services of their own: that takes all cores, so one at a time does.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        if file.parent.name not in ("demo", "e2e", "serve") or file.name in _NO_SERVICE:
            return str(file)
        return "own services" if file.name in _OWN_SERVICE else "shared service"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Share the tests out to ``-n`` processes, those with services first, as they take longest."""
    config.option.loadscopereorder = False  # by number of tests they would come last
    return _ByFile(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def test_runs() -> Path:
    """The embedded test runs, which no model was trained on."""
    return ROOT / "lab" / "captures" / "test"


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The embedded bundle."""
    return ROOT / "models" / "embedded"


@dataclass(frozen=True)
class Result:
    """What a command left: its exit status, its JSON object, and what it told people."""

    status: int
    out: dict[str, Any]
    told: str


@pytest.fixture(scope="session")
def cli() -> Any:
    """Run ``serveflow ARGS --json`` as a user does."""

    def run(*args: object, timeout_s: float = 200) -> Result:
        done = subprocess.run(
            [sys.executable, "-c", "from serveflow_app.cli import main; main()",
             *map(str, args), "--json"],
            capture_output=True, text=True, timeout=timeout_s, check=False,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert len(lines) <= 1, "more than one JSON object on standard output"
        return Result(done.returncode, json.loads(lines[0]) if lines else {}, done.stderr)

    return run


def free_port() -> int:
    (port,) = free_ports(1)
    return port


@dataclass(frozen=True)
class Keyed:
    """The application of the shared service that wants API keys."""

    url: str
    grpc_url: str
    file: Path
    keys: dict[str, str]  # edge-1 and edge-2, each its own; any; expired, once of edge-1


@dataclass(frozen=True)
class Running:
    """The shared service: the same bundle behind three applications."""

    service: Service
    separate: str  # address: 4 trackers, models in replicas of their own
    colocated: str  # address: 1 tracker, models inside the Router
    separate_grpc: str
    colocated_grpc: str
    keyed: Keyed  # 1 tracker, models inside the Router, and keys


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One Ray Serve cluster for all tests that need one."""
    base = load_config(default_config())
    port = free_port()
    config = override(base, port=port, grpc_port=free_port(), args={"trackers": 4})
    (second,) = override(base, args={"trackers": 1, "placement": "colocated"})["applications"]
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys = _keys(file)
    third = {**second, "name": "keyed", "route_prefix": "/keyed"}
    third["args"] = {**third["args"], "keys_file": str(file)}
    second = {**second, "name": "colocated", "route_prefix": "/colocated"}
    config["applications"] += [second, third]
    with Service(config) as service:
        service.wait_ready()
        service.wait_ready(route_prefix="/colocated")
        service.wait_ready(route_prefix="/keyed")
        yield Running(
            service,
            separate=service.url,
            colocated=f"{service.url}/colocated",
            separate_grpc=f"{service.grpc_url}/serveflow",
            colocated_grpc=f"{service.grpc_url}/colocated",
            keyed=Keyed(f"{service.url}/keyed", f"{service.grpc_url}/keyed", file, keys),
        )


def _keys(file: Path) -> dict[str, str]:
    """Make a keys file, and return its keys."""
    now = datetime.now(UTC)
    ends = {"expired": now - timedelta(minutes=1), "edge-1": now + timedelta(days=1)}
    made = {
        what: new_key(collector, ends.get(what))
        for what, collector in (
            ("edge-1", "edge-1"), ("edge-2", "edge-2"), ("any", "*"), ("expired", "edge-1")
        )
    }  # fmt: skip
    with editing(file) as entries:
        entries += [one.entry for one in made.values()]
    return {what: one.key for what, one in made.items()}
