"""Services on one machine share nothing, and what the caller's environment says counts more."""

from __future__ import annotations

from pathlib import Path

import pytest

from serveflow_app.serve_config import default_config, load_config
from serveflow_app.service_environment import service_environment

ROUTERS = "RAY_SERVE_DIRECT_INGRESS_{}_{}_PORT"


def router_ports(environment: dict[str, str], kind: str) -> range:
    first, last = (int(environment[ROUTERS.format(end, kind)]) for end in ("MIN", "MAX"))
    return range(first, last + 1)


def test_routers_have_ports_for_each_kind_of_request(tmp_path: Path) -> None:
    """Ray Serve tells gRPC not to share a port in words that gRPC does not heed."""
    environment = service_environment(load_config(default_config()), tmp_path)
    http, grpc = router_ports(environment, "HTTP"), router_ports(environment, "GRPC")
    assert len(http) == len(grpc) >= 20
    assert not set(http) & set(grpc)


def test_services_take_others_each_time(tmp_path: Path) -> None:
    config = load_config(default_config())
    found = [router_ports(service_environment(config, tmp_path), "GRPC") for _ in range(6)]
    assert len(set(found)) > 1, "chosen at random among those that are free"


@pytest.mark.parametrize("name", ["AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"])
def test_metrics_of_two_services_are_not_behind_one_port(tmp_path: Path, name: str) -> None:
    config = load_config(default_config())
    found = [service_environment(config, tmp_path)[name] for _ in range(6)]
    assert len(set(found)) > 1


def test_files_of_the_proxies_lie_in_the_services_folder(tmp_path: Path) -> None:
    environment = service_environment(load_config(default_config()), tmp_path)
    for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE"):
        assert Path(environment[f"RAY_SERVE_HAPROXY_{name}"]).parent == tmp_path


def test_what_is_set_already_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.7")
    environment = service_environment(load_config(default_config()), tmp_path)
    assert environment["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] == "0.7"
