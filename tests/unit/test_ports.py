"""Ports for a service's own use are free, different, and nobody's by chance."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serveflow_app import ports
from serveflow_app.ports import free_ports, free_range


def test_ports_are_free_and_different() -> None:
    found = free_ports(8)
    assert len(set(found)) == 8
    for port in found:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_no_outgoing_connection_takes_one_meanwhile() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < lowest for port in free_ports(8))


def test_a_port_that_is_taken_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        monkeypatch.setattr(ports, "_RANGE", range(port, port + 1))
        monkeypatch.setattr(ports, "_TRIES", 1)
        with pytest.raises(OSError, match="no 1 free ports"):
            free_ports(1)


def test_ports_in_a_row_skip_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    start = free_range(20)[0]
    monkeypatch.setattr(ports, "_RANGE", range(start, start + 20))
    with socket.create_server(("127.0.0.1", start + 3)):
        assert free_range(10) == range(start + 10, start + 20)
        with pytest.raises(OSError, match="no 20 free ports in a row"):
            free_range(20)
