"""The service under test, started on a free port with the settings that a bench asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serveflow_app.output import messages
from serveflow_app.ports import free_ports
from serveflow_app.serve_config import (
    check_bundles,
    default_config,
    grpc_port_of,
    load_config,
    override,
)
from serveflow_app.service import Service
from serveflow_app.settings import DEFAULT_HOST, bundle_folder

__all__ = ["config_under_test", "started"]


def config_under_test(
    config: Path | None,
    *,
    placement: str | None = None,
    bundle: Path | None = None,
    trackers: int | None = None,
    grpc: bool = False,
) -> dict[str, Any]:
    """Return the configuration to test: ``serve_config.yaml`` with the flags' values put in.

    Args:
        config: The file; None: the one that comes along.
        placement: separate or colocated; None, here and below: as the file says.
        bundle: The bundle.
        trackers: Number of trackers.
        grpc: Serve gRPC, whether the file does or not.

    Raises:
        SettingsError: The configuration is wrong, or a value is out of range.
        BundleError: The bundle is damaged.
    """
    given = {"placement": placement, "trackers": trackers}
    args: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if bundle is not None:
        args["bundle"] = str(bundle_folder(bundle).resolve())
    loaded = load_config(config or default_config())
    ports = free_ports(2)
    checked = override(
        loaded,
        host=DEFAULT_HOST,
        port=ports[0],
        grpc_port=ports[1] if grpc or grpc_port_of(loaded) else None,
        args=args,
    )
    check_bundles(checked)
    return checked


@contextmanager
def started(config: dict[str, Any]) -> Iterator[tuple[Service, float]]:
    """Start the service; yield it, ready in all its applications, and how long that took, seconds.

    Raises:
        ServiceError: It did not start.
    """
    with Service(config) as service:
        with messages.status("starting Ray Serve …"):
            took_s = service.wait_ready()
            for app in config["applications"][1:]:
                service.wait_ready(route_prefix=app["route_prefix"])
        yield service, took_s
