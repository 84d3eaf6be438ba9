"""README's commands are run as they stand, in order.

In a folder that comes first, as it takes longest.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conftest import free_port

pytestmark = [pytest.mark.serve, pytest.mark.e2e]

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SERVE = "serveflow serve\n"
_STARTS_S = 120


@pytest.fixture(scope="module")
def port() -> int:
    """Stands for 8000, which something else may hold here."""
    return free_port()


@pytest.fixture
def environment(port: int) -> dict[str, str]:
    """A shell's environment in which this installation's commands are found."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SERVEFLOW_PORT": str(port),
        "SERVEFLOW_GRPC_PORT": str(free_port()),
        "SERVEFLOW_URL": f"http://127.0.0.1:{port}",
        "SERVEFLOW_COLLECT_TO": f"http://127.0.0.1:{port}",
        "SERVEFLOW_COLLECT_METRICS": f"127.0.0.1:{free_port()}",
    }


@pytest.fixture
def servers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for server in started:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, "SIGTERM ends the service as Ctrl-C does"


def wait_until_it_serves(server: subprocess.Popen[bytes], port: int) -> None:
    end_s = time.monotonic() + _STARTS_S
    while time.monotonic() < end_s:
        assert server.poll() is None, "the service ended while it started"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("the service did not come up")


@pytest.mark.timeout(500)
def test_the_commands_of_the_readme_work(
    root: Path,
    port: int,
    environment: dict[str, str],
    servers: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    blocks = _BLOCK.findall((root / "README.md").read_text())
    assert _SERVE in blocks
    assert "make demo" in blocks[0]
    for block in blocks:
        if block == _SERVE:
            servers.append(subprocess.Popen(["serveflow", "serve"], cwd=root, env=environment))
            wait_until_it_serves(servers[-1], port)
            continue
        # This very test is part of `make test`.
        script = block.replace("make test", "make --dry-run test")
        script = script.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        script = script.replace("/tmp/", f"{tmp_path}/")  # noqa: S108 (the README's, not ours)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
