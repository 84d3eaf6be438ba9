"""What runs in production, run on loopback: only replicas are fewer, and the address another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deployments.api_keys import ANY_COLLECTOR, editing, new_key
from serveflow_app.ports import free_ports
from serveflow_app.serve_config import load_config
from serveflow_app.service import Service
from verdict_lines import read_verdicts

pytestmark = [pytest.mark.serve, pytest.mark.e2e, pytest.mark.timeout(500)]


def production_config(root: Path, folder: Path) -> dict[str, Any]:
    """Return the configuration, with one replica of each deployment, on free ports of loopback."""
    patch = yaml.safe_load((root / "k8s/overlays/production/serve-config.yaml").read_text())
    path = folder / "serve_config.yaml"
    path.write_text(patch["spec"]["serveConfigV2"])
    config = load_config(path)
    http_port, grpc_port = free_ports(2)
    config["http_options"] |= {"host": "127.0.0.1", "port": http_port}
    config["grpc_options"]["port"] = grpc_port
    for deployment in config["applications"][0]["deployments"]:
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    return config


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the Secret is mounted, with a key beside the file of its digest."""
    folder = tmp_path_factory.mktemp("keys")
    made = new_key(ANY_COLLECTOR)
    with editing(folder / "keys.yaml") as entries:
        entries.append(made.entry)
    (folder / "key").write_text(made.key)
    return folder


@pytest.fixture(scope="module")
def production(
    root: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    config = production_config(root, tmp_path_factory.mktemp("production"))
    lines = (root / "k8s/base/ray.env").read_text().splitlines()
    with pytest.MonkeyPatch.context() as patched:
        for name, _, value in (line.partition("=") for line in lines if line[0] != "#"):
            patched.setenv(name, value)
        patched.setenv("SERVEFLOW_KEYS_FILE", str(keys / "keys.yaml"))
        # As many as three workers have: what replicas ask for stays as it is.
        patched.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 12}))
        with Service(config) as service:
            service.wait_ready()
            yield service


def test_it_takes_a_replay_and_answers_every_flow(
    production: Service, keys: Path, cli: Any, test_runs: Path, tmp_path: Path
) -> None:
    """Over HTTP and gRPC with a key, with the verdicts of the same bundle in one process."""
    runs = sorted(test_runs.glob("*.pcap"))
    assert production.grpc_url is not None
    for way, to in (("http", production.url), ("grpc", production.grpc_url)):
        result = cli(
            "replay", *runs, "--to", to, "--out", tmp_path / way, "--api-key-file", keys / "key"
        )
        assert result.status == 0, result.told
        assert result.out["final"] == result.out["flows"] > 1000
        assert result.out["open"] == 0
    assert cli("classify", *runs, "--out", tmp_path / "classify").status == 0
    reference = read_verdicts(tmp_path / "classify")
    for way in ("http", "grpc"):
        assert read_verdicts(tmp_path / way) == reference, way


def test_nobody_gets_in_without_a_key(production: Service, cli: Any, test_runs: Path) -> None:
    assert production.grpc_url is not None
    for to in (production.url, production.grpc_url):
        result = cli("replay", test_runs / "run-01.pcap", "--to", to)
        assert result.status != 0
        assert "key" in result.told


def test_nothing_is_lost_and_each_tracker_has_its_share(production: Service, keys: Path) -> None:
    headers = {"authorization": f"Bearer {(keys / 'key').read_text()}"}
    url = f"{production.url}/v1/status"
    status = httpx.get(url, headers=headers, trust_env=False, timeout=30).json()
    assert status["holds"], status
    assert len(status["trackers"]) == 4


def test_replicas_have_what_production_gives_them(production: Service) -> None:
    """Ray has read the settings as they are written, and knows them all."""
    dashboard = f"{production.dashboard}/api/serve/applications/"
    told = httpx.get(dashboard, trust_env=False, timeout=30).json()
    deployments = told["applications"]["serveflow"]["deployments"]
    assert {name for name in deployments if re.match("FlowTracker", name)} == {
        f"FlowTracker-{tracker}" for tracker in range(4)
    }
    for name, wanted in (("Router", 1), ("FastModel", 0.5), ("SlowModel", 1)):
        config = deployments[name]["deployment_config"]
        assert config["ray_actor_options"]["num_cpus"] == wanted
        assert deployments[name]["status"] == "HEALTHY"
    assert deployments["Router"]["deployment_config"]["max_replicas_per_node"] == 1
