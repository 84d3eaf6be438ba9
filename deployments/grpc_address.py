"""Ray Serve's gRPC servers listen on every address; this keeps them to loopback.

Ray Serve 2.60 has no setting for it: ``grpc_options`` knows a port and no host, and only HAProxy,
in front, listens where ``http_options.host`` says. The gRPC servers behind it, of each Router
replica (40000 …) and of the fallback proxy, would take batches from any address. HAProxy reaches
those on its own machine over loopback, so that on one machine nothing needs more.
"""

from __future__ import annotations

from typing import Any

__all__ = ["HOOK", "keep_grpc_on_loopback"]

HOOK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""The environment variable that names what Ray Serve calls in each process before it listens."""


def keep_grpc_on_loopback() -> list[Any]:
    """Have this process's gRPC servers listen on 127.0.0.1; return no middleware, as Ray asks.

    It takes the place of the one function by which Ray Serve adds an address to a gRPC server,
    which is private: ``tests/serve/test_grpc.py`` sees where the service listens.
    """
    from ray.serve._private import default_impl

    def add_address(grpc_server: Any, server_address: str) -> None:
        grpc_server.add_insecure_port(f"127.0.0.1:{server_address.rpartition(':')[2]}")

    default_impl.add_grpc_address = add_address
    return []
