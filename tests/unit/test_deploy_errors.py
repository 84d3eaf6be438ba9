"""What Ray's dashboard says of an application that could not be deployed, or does not say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serveflow_app.deploy_errors import deploy_error
from serveflow_app.ports import free_ports


@contextmanager
def dashboard(body: bytes, status: int = 200) -> Iterator[str]:
    """Stand in for Ray's dashboard."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/serve/applications/"
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def told(**states: dict[str, str]) -> bytes:
    return json.dumps({"applications": states}).encode()


def test_the_end_of_what_ray_says_is_told() -> None:
    message = "\n".join(["Traceback", *map(str, range(50)), "ValueError: no such bundle"])
    body = told(a={"status": "RUNNING"}, b={"status": "DEPLOY_FAILED", "message": message})
    with dashboard(body) as url:
        found = deploy_error(url)
    assert found is not None
    assert found.startswith("application b:\n")
    assert found.endswith("ValueError: no such bundle")
    assert "Traceback" not in found


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (told(a={"status": "DEPLOYING", "message": ""}), 200),
        (told(), 200),
        (b"Unauthorized", 401),
        (b"[]", 200),
        (b'{"applications": null}', 200),
        (b"{", 200),
    ],
)
def test_whatever_else_it_says_is_no_failure(body: bytes, status: int) -> None:
    with dashboard(body, status) as url:
        assert deploy_error(url) is None


def test_a_dashboard_that_is_not_up_is_no_failure() -> None:
    (port,) = free_ports(1)
    assert deploy_error(f"http://127.0.0.1:{port}") is None
