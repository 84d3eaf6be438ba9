"""Where a service is, as addresses: what a collector must not see of its own traffic."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from flows.errors import ServiceUnavailableError, SettingsError

__all__ = ["service_endpoints"]

_PORTS = {"http": 80, "https": 443, "grpc": None, "grpcs": None}


def service_endpoints(url: str) -> tuple[tuple[str, int], ...]:
    """Return all addresses of a service, with its port: for ``SourceSettings.exclude``.

    A collector that watches its own way to the service would feed itself: each batch would make
    packets, which make the next batch. A name is looked up once; if it moves to another address,
    the collector has to be started again.

    Args:
        url: The service's address, ``http://…``, ``https://…``, ``grpc://…``, ``grpcs://…``; one
            that begins with ``unix:`` makes no packets.

    Raises:
        SettingsError: The address is none of these.
        ServiceUnavailableError: Its name is not known, or not now.
    """
    if url.startswith("unix:"):
        return ()
    try:
        parts = urlsplit(url)
        usual = _PORTS[parts.scheme]
        port = parts.port or usual
    except (KeyError, ValueError):
        port = None
    if port is None or not parts.hostname:
        raise SettingsError(f"{url}: give an address such as http://HOST:8000 or grpc://HOST:9000")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServiceUnavailableError(
            f"{url}: {parts.hostname} cannot be looked up: {reason}"
        ) from None
    # A zone behind % says through which interface, not where to.
    return tuple(sorted({(str(at[0]).partition("%")[0], port) for *_, at in found}))
