"""Plain `serve run` beyond loopback, past all checks of the command line: nothing is served."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conftest import free_port
from serveflow_app import service as service_module
from serveflow_app.serve_config import default_config, load_config, override
from serveflow_app.service import Service

pytestmark = pytest.mark.e2e

EVERYWHERE = "0.0.0.0"  # noqa: S104 (bound for as long as it takes to be refused)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    """A service that was started beyond loopback without keys, as Ray alone would do it."""
    monkeypatch.setattr(service_module, "check_access", lambda _: None)
    monkeypatch.delenv("SERVEFLOW_KEYS_FILE", raising=False)
    args = {"trackers": 1, "placement": "colocated"}
    ports = {"port": free_port(), "grpc_port": free_port()}
    config = override(load_config(default_config()), host=EVERYWHERE, args=args, **ports)
    with Service(config, tmp_path / "log") as service:
        yield service


def told(service: Service) -> str:
    """Return what Ray says of the deployment, in the log or at the dashboard."""
    log = service.log.read_text(errors="replace")
    try:
        found = httpx.get(
            f"{service.dashboard}/api/serve/applications/", timeout=3, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL):
        return log
    return log + found.text


def test_the_router_refuses_to_start_beyond_loopback_without_keys(unchecked: Service) -> None:
    for _ in range(150):
        running = unchecked.running  # asked first: what it said last is in the log then
        if "serving on 0.0.0.0 would let anybody in" in told(unchecked):
            break
        assert running, unchecked.tail()
        time.sleep(1)
    else:
        pytest.fail(unchecked.tail())
    try:
        answer = httpx.get(f"{unchecked.url}/v1/schema", timeout=3, trust_env=False)
    except httpx.HTTPError:
        return  # nobody there
    assert answer.status_code in (404, 500, 503), "HAProxy, with nobody behind it"
