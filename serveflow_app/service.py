"""Start, await and stop the service as a child process: ``serve run`` with our configuration."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import yaml

from collectors.sender import HttpSender
from flows.errors import KeyRefusedError, ServiceError
from serveflow_app.deploy_errors import deploy_error
from serveflow_app.processes import end_session
from serveflow_app.serve_config import (
    check_access,
    grpc_port_of,
    host_of,
    http_port_of,
    serveflow_apps,
)
from serveflow_app.service_environment import service_environment
from serveflow_app.settings import DEFAULT_HOST

__all__ = ["Service"]

_STOP_S = 40.0
_NOT_UP = "not up"
_LOOK_S = 2.0  # from one question to the dashboard to the next: starting takes all cores as it is
_LIBC = ctypes.CDLL(None)  # found here, as looking it up after the fork could deadlock
_PR_SET_PDEATHSIG = 1
_DASHBOARD = re.compile(r"dashboard at\W+(?:\x1b\[\d+m)*(?:https?://)?([\w.]+:\d+)")


def _end_with_parent() -> None:
    """Have the kernel interrupt this process when its parent dies, even of SIGKILL (Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Service:
    """The service as a child process.

    Args:
        config: A checked Serve configuration.
        log: File for everything that Ray and the service print; a temporary one by default.
    """

    def __init__(self, config: dict[str, Any], log: Path | None = None) -> None:
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="serveflow-")
        self.log = log or Path(self._folder.name) / "service.log"
        self._started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The service's base address."""
        return f"http://{self._reached_at()}:{http_port_of(self._config)}"

    @property
    def grpc_url(self) -> str | None:
        """The address for gRPC; None: the configuration serves none."""
        port = grpc_port_of(self._config)
        return f"grpc://{self._reached_at()}:{port}" if port else None

    def _reached_at(self) -> str:
        host = host_of(self._config)
        return DEFAULT_HOST if host == "0.0.0.0" else host  # noqa: S104 (compared, not bound)

    @property
    def dashboard(self) -> str:
        """Address of Ray's dashboard, as Ray says it once it is up."""
        found = _DASHBOARD.search(self._logged())
        return f"http://{found.group(1)}" if found else _NOT_UP

    @property
    def pid(self) -> int | None:
        """The child process; None before :meth:`start`."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the child process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the child process; :meth:`wait_ready` tells when it serves.

        Raises:
            ServiceError: Something answers at the address already.
            SettingsError: It would serve beyond loopback without keys; see
                :func:`~serveflow_app.serve_config.check_access`.
        """
        check_access(self._config)
        for url, option in ((self.url, "--port"), (self.grpc_url, "--grpc-port")):
            if url is not None and _taken(url):
                raise ServiceError(
                    f"{url} is taken: something answers there. Stop it, or choose another {option}."
                )
        folder = Path(self._folder.name)
        path = folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(self._config, sort_keys=False))
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(path), "--address=local"]
        self._started_s = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and file)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=service_environment(self._config, folder),
                start_new_session=True,  # Ctrl-C reaches it once: from us
                preexec_fn=_end_with_parent,  # one system call and no locks: safe after a fork
            )

    def wait_ready(
        self,
        timeout_s: float = 180.0,
        on_wait: Callable[[float], None] = lambda _: None,
        route_prefix: str = "",
    ) -> float:
        """Wait until all parts of the application behind ``route_prefix`` answer, and gRPC does.

        Returns:
            The seconds since its start.

        Raises:
            ServiceError: It ended, or did not answer in time; the message holds what was missing
                and the log's end.
        """
        look_s = _LOOK_S
        while missing := _missing(f"{self.url}{route_prefix}") or self._missing_grpc():
            waited_s = time.monotonic() - self._started_s
            if not self.running:
                raise ServiceError(f"the service ended while it started:\n{self.tail()}")
            if waited_s >= look_s:
                look_s = waited_s + _LOOK_S
                self._check_deployed()
            if waited_s > timeout_s:
                raise ServiceError(f"not ready after {timeout_s:.0f} s: {missing}\n{self.tail()}")
            on_wait(waited_s)
            time.sleep(0.2)
        return time.monotonic() - self._started_s

    def _check_deployed(self) -> None:
        dashboard = self.dashboard
        if dashboard != _NOT_UP and (error := deploy_error(dashboard)) is not None:
            raise ServiceError(f"the service could not be deployed: {error}")

    def _missing_grpc(self) -> str | None:
        """Tell why one of our applications does not answer over gRPC, if it is served."""
        if self.grpc_url is None:
            return None
        from collectors.grpc_sender import GrpcSender  # where gRPC is off it need not be installed

        for app in serveflow_apps(self._config):
            with GrpcSender(f"{self.grpc_url}/{app['name']}", timeout_s=2.0) as sender:
                try:
                    sender.schema()
                except KeyRefusedError:
                    continue  # it answers, if not to us
                except ServiceError as error:
                    return str(error)
        return None

    def stop(self) -> None:
        """Shut the service and its Ray instance down."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            # An HAProxy that Ray was just reloading would go on, and hold the port.
            end_session(process.pid)
            self._process = None
        self._folder.cleanup()

    def wait(self) -> int:
        """Wait until the child process ends by itself; return its exit status."""
        return self._process.wait() if self._process else 0

    def tail(self, lines: int = 25) -> str:
        """Return the end of the log."""
        return "\n".join(self._logged().splitlines()[-lines:])

    def _logged(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _missing(url: str) -> str | None:
    """Tell why the application there is not ready."""
    with HttpSender(url, timeout_s=3.0) as sender:
        try:
            sender.ready()
        except ServiceError as error:
            return str(error)
    return None


def _taken(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((address.hostname or DEFAULT_HOST, address.port or 80)) == 0
