"""A collector knows the way to its service, so as not to watch it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from collectors.endpoints import service_endpoints
from flows.errors import ServiceUnavailableError, SettingsError


def test_addresses_need_no_look_up() -> None:
    assert service_endpoints("http://10.0.0.9:8000/base") == (("10.0.0.9", 8000),)
    assert service_endpoints("grpcs://[2001:db8::1]:9000/app") == (("2001:db8::1", 9000),)
    assert service_endpoints("http://10.0.0.9") == (("10.0.0.9", 80),)
    assert service_endpoints("https://10.0.0.9") == (("10.0.0.9", 443),)
    assert service_endpoints("unix:/run/serveflow.sock") == ()


def test_a_name_stands_for_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("service", 8000)
        four, six = socket.AF_INET, socket.AF_INET6
        return [
            (four, 1, 6, "", ("10.0.0.2", port)),
            (four, 1, 6, "", ("10.0.0.1", port)),
            (four, 1, 6, "", ("10.0.0.1", port)),
            (six, 1, 6, "", ("fe80::1%eth0", port, 0, 2)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    assert service_endpoints("http://service:8000") == (
        ("10.0.0.1", 8000), ("10.0.0.2", 8000), ("fe80::1", 8000)
    )  # fmt: skip


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no\.such\.invalid cannot be looked up"):
        service_endpoints("http://no.such.invalid:8000")


@pytest.mark.parametrize("url", ["grpc://host", "ftp://host:1", "http://", "http://h:x", "h:1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="give an address"):
        service_endpoints(url)
