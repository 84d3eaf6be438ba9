"""The doctor finds what would keep a collector from its work, and says what to do."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collectors.credentials import Credentials
from collectors.fakes import FAKE_SCHEMA
from collectors.settings_sources import load_settings
from flows.errors import ServiceUnavailableError
from serveflow_app.cli import app
from serveflow_app.doctor import CHECKS, Finding, Level, examine
from serveflow_app.doctor_system import FakeSystem, InterfaceFacts, LinuxSystem


def found(system: FakeSystem, **flags: Any) -> dict[str, list[Finding]]:
    """Examine a collector of eth0 with a spool and a sink, unless told otherwise."""
    given = {
        "interface": "eth0", "spool.folder": "/spool", "sinks": ["eve:/log/eve.json"],
        "to": "http://127.0.0.1:8000",
    }  # fmt: skip
    given |= {name.replace("__", "."): value for name, value in flags.items()}
    result: dict[str, list[Finding]] = {}
    for one in examine(load_settings(None, {}, given).settings, system):
        result.setdefault(one.check, []).append(one)
    return result


def well() -> FakeSystem:
    return FakeSystem(schema=FAKE_SCHEMA)


def worst(findings: dict[str, list[Finding]], check: str) -> Finding:
    order = [Level.OK, Level.WARN, Level.FAIL]
    return max(findings[check], key=lambda one: order.index(one.level))


def test_where_all_is_well_all_is_ok() -> None:
    for check, findings in found(well()).items():
        assert {one.level for one in findings} == {Level.OK}, check
        assert all(one.said for one in findings)


def test_whatever_is_not_ok_says_what_to_do() -> None:
    bad = FakeSystem(
        capture=False, links={}, synchronised=False, unwritable={Path("/spool"): "read-only"},
        free=0, available=1, open_files=10, busy="taken",
    )  # fmt: skip
    for findings in found(bad, sinks=["kafka:a:1/t", "parquet:/p"]).values():
        for one in findings:
            assert one.level is Level.OK or one.do, one


def test_a_source() -> None:
    assert worst(found(well(), interface=None), "source").level is Level.FAIL
    missing = found(well(), interface=None, captures=["/no/such.pcap"])
    assert "/no/such.pcap" in worst(missing, "source").said
    by_tshark = found(replace(well(), programs=()), display_filter="tls")
    assert "tshark is missing" in worst(by_tshark, "source").said
    assert "rights" not in by_tshark  # those of dumpcap count


def test_the_right_to_capture() -> None:
    bad = worst(found(replace(well(), capture=False)), "rights")
    assert bad.level is Level.FAIL
    assert "CAP_NET_RAW" in bad.said
    assert "rights" not in found(replace(well(), capture=False), interface=None, captures=["-"])


def test_an_interface() -> None:
    none = replace(well(), links={"lo": InterfaceFacts(loopback=True)})
    assert worst(found(none), "interface") == Finding(
        "interface", Level.FAIL, "there is no eth0", "there are: lo"
    )
    assert worst(found(none, wait_for_interface=True), "interface").level is Level.WARN
    down = replace(well(), links={"eth0": InterfaceFacts(up=False)})
    assert worst(found(down), "interface").do == "ip link set eth0 up"
    merging = replace(well(), links={"eth0": InterfaceFacts(merges=("gro", "lro"))})
    assert worst(found(merging), "offloads").do == "on a tap: ethtool -K eth0 gro off lro off"
    loopback = replace(well(), links={"eth0": InterfaceFacts(merges=("gro",), loopback=True)})
    assert "offloads" not in found(loopback)


def test_a_filter() -> None:
    assert "filter" not in found(well())
    assert worst(found(well(), bpf="tcp port 80"), "filter").level is Level.OK
    bad = worst(found(well(), bpf="tcp prot 80"), "filter")
    assert bad.level is Level.FAIL
    assert "tcp prot 80" in bad.said


def test_credentials(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert "credentials" not in found(well())
    assert worst(found(well(), api_key_file=str(key)), "credentials").level is Level.FAIL
    key.write_text("abc\n")
    system = replace(well(), modes={key: 0o600})
    clear = worst(found(system, api_key_file=str(key)), "credentials")
    assert (clear.level, clear.said) == (Level.WARN, "the API key travels in clear")
    tls = {"api_key_file": str(key), "to": "https://127.0.0.1:1"}
    assert worst(found(system, **tls), "credentials").level is Level.OK
    open_to_all = replace(well(), modes={key: 0o644})
    assert worst(found(open_to_all, **tls), "credentials").do == f"chmod o-rwx {key}"


def test_the_service() -> None:
    away = replace(well(), schema=ServiceUnavailableError("nobody answers"))
    assert worst(found(away), "service") == Finding(
        "service", Level.FAIL, "nobody answers", "start serveflow serve, or mend to"
    )
    assert "bundle fake" in worst(found(well()), "service").said
    assert "127.0.0.1 port 8000" in worst(found(well()), "self-traffic").said


@pytest.mark.parametrize(("ahead_s", "which"), [(9.0, "ahead of"), (-9.0, "behind")])
def test_the_clocks(ahead_s: float, which: str) -> None:
    bad = worst(found(replace(well(), ahead_s=ahead_s)), "clock")
    assert (bad.level, which in bad.said) == (Level.WARN, True)
    assert worst(found(replace(well(), synchronised=False)), "clock").level is Level.WARN
    assert worst(found(replace(well(), ahead_s=None)), "clock").level is Level.OK


def test_the_spool() -> None:
    assert worst(found(well(), spool__folder=None), "spool").level is Level.WARN
    held = worst(found(replace(well(), holder="process 7 (serveflow)")), "spool")
    assert (held.level, held.said) == (Level.FAIL, "process 7 (serveflow) uses /spool")
    full = replace(well(), free=1 << 29)
    assert worst(found(full), "spool").level is Level.WARN
    assert worst(found(replace(full, used=1 << 29)), "spool").level is Level.OK
    assert worst(found(replace(well(), free=0)), "spool").level is Level.FAIL
    locked = replace(well(), unwritable={Path("/spool"): "read-only"})
    assert "read-only" in worst(found(locked), "spool").said


def test_the_sinks() -> None:
    assert worst(found(well(), sinks=None), "sinks").level is Level.WARN
    bad = replace(well(), unwritable={Path("/log"): "no", Path("/p"): "no"})
    assert worst(found(bad), "sink eve").level is Level.FAIL
    assert worst(found(bad, sinks=["parquet:/p?x=1"]), "sink parquet").level is Level.FAIL
    assert "sink eve" not in found(bad, sinks=["eve:-"])
    kafka = ["kafka:a:1,b:2/topic"]
    assert worst(found(well(), sinks=kafka), "sink kafka").level is Level.FAIL
    up = replace(well(), listening=(("b", 2),))
    assert worst(found(up, sinks=kafka), "sink kafka").said == "b:2 answers"


def test_memory() -> None:
    assert worst(found(well(), memory="256KiB"), "memory").level is Level.FAIL
    short = worst(found(replace(well(), available=1 << 28)), "memory")
    assert (short.level, "only 256 MiB are left" in short.said) == (Level.FAIL, True)
    assert worst(found(replace(well(), available=None)), "memory").level is Level.OK
    away = replace(well(), schema=ServiceUnavailableError("x"))
    assert "at least" in worst(found(away), "memory").said


def test_open_files_and_the_metrics_port() -> None:
    assert worst(found(replace(well(), open_files=64)), "open files").level is Level.WARN
    assert worst(found(replace(well(), busy="in use")), "metrics").said == "127.0.0.1:9105: in use"
    assert worst(found(well(), metrics="off"), "metrics").level is Level.WARN


def test_every_check_is_described() -> None:
    assert all(check.__doc__ for check in CHECKS)


class _Dated(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(FAKE_SCHEMA.to_dict()).encode()
        self.send_response_only(200)
        if self.path == "/healthz":
            self.send_header("date", self.server.date)  # type: ignore[attr-defined]
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(name="service")
def _service() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Dated)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_this_machine_is_asked(service: ThreadingHTTPServer, tmp_path: Path) -> None:
    """The real system, as far as every machine is alike."""
    here = LinuxSystem()
    loopback = here.interface("lo")
    assert loopback is not None
    assert loopback.loopback
    assert loopback.mtu > 1000
    assert here.interface("no-such-if") is None
    assert here.interface("x" * 40) is None
    assert "lo" in here.interfaces()
    assert here.may_capture() in (True, False)
    assert here.clock_synchronised() in (True, False, None)
    assert (here.available_bytes() or 0) > 1 << 20
    assert here.open_files_limit() > 10
    assert here.has_program("sh")
    assert not here.has_program("no-such-program")
    assert here.writable(tmp_path / "new" / "deeper") == ""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert "no folder" in here.writable(file / "below")
    assert here.used_bytes(tmp_path) >= 10
    assert here.used_bytes(tmp_path / "none") == 0
    assert here.free_bytes(tmp_path / "none") > 0
    file.chmod(0o640)
    assert here.file_mode(file) == 0o640

    port = service.server_port
    url = f"http://127.0.0.1:{port}"
    assert here.service_schema(url, Credentials()) == FAKE_SCHEMA
    service.date = "Wed, 21 Oct 2015 07:28:00 GMT"  # type: ignore[attr-defined]
    ahead_s = here.service_clock_ahead_s(url, Credentials())
    assert ahead_s is not None
    assert ahead_s < -1e6
    service.date = "yesterday"  # type: ignore[attr-defined]
    assert here.service_clock_ahead_s(url, Credentials()) is None
    assert here.service_clock_ahead_s("grpc://127.0.0.1:1", Credentials()) is None
    assert here.answers("127.0.0.1", port)
    assert here.port_free("127.0.0.1", port)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        other = unused.getsockname()[1]
    assert not here.answers("127.0.0.1", other)
    assert here.port_free("127.0.0.1", other) == ""
    with pytest.raises(ServiceUnavailableError):
        here.service_schema(f"grpc://127.0.0.1:{other}", Credentials())


def test_who_holds_a_lock_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    here = LinuxSystem()
    assert here.lock_holder(lock) is None
    with lock.open("w") as held:
        assert here.lock_holder(lock) is None
        fcntl.flock(held, fcntl.LOCK_EX)
        assert str(here.lock_holder(lock)).startswith(f"process {os.getpid()}")


def test_the_command_tells_all_and_its_exit_status_is_the_outcome(
    service: ThreadingHTTPServer, tmp_path: Path
) -> None:
    runner = CliRunner()
    service.date = http.client.responses[200]  # type: ignore[attr-defined]
    capture = tmp_path / "a.pcap"
    capture.write_bytes(b"")
    arguments = [
        "doctor", "--to", f"http://127.0.0.1:{service.server_port}", "--set", f"captures={capture}",
        "--set", "metrics=off", "--set", "memory=64MiB", "--sink", f"eve:{tmp_path}/a.json",
        "--set", "sinks=eve:-", "--spool", str(tmp_path / "spool"),
    ]  # fmt: skip
    good = runner.invoke(app, [*arguments, "--json"])
    assert good.exit_code == 0, good.output
    told = json.loads(good.stdout)
    assert told["ok"] is True
    assert any(one["said"].startswith(f"{tmp_path / 'spool'}: ") for one in told["checks"])
    assert {one["check"] for one in told["checks"]} >= {"source", "service", "spool", "memory"}
    bad = runner.invoke(app, [*arguments, "--set", "captures=/no/such.pcap"])
    assert bad.exit_code == 1
    assert "/no/such.pcap" in bad.stdout.replace("\n", "")
    assert "→" in bad.stdout
