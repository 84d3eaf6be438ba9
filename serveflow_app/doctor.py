"""What ``serveflow doctor`` checks: whether a collector can do here what its settings say.

Each check is a function of the settings and of a :class:`serveflow_app.doctor_system.System`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from collectors.agent_settings import AgentSettings, bytes_in_words
from collectors.endpoints import service_endpoints
from collectors.memory import edge_limits
from collectors.ring_settings import RingSettings
from flows.errors import CaptureError, ServeFlowError
from flows.packet import MAX_DEPTH
from flows.service_schema import ServiceSchema
from serveflow_app.doctor_system import System

__all__ = ["CHECKS", "Finding", "Level", "Patient", "examine"]

_MOST_AHEAD_S = 2.0
_FEWEST_FILES = 256
_PYTHON_BYTES = 300 << 20  # what the process takes without any flow: 225 MiB at its start


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        check: Its name.
        level: How bad it is.
        said: What is so.
        do: What to do about it; empty: nothing.
    """

    check: str
    level: Level
    said: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined.

    Attributes:
        settings: Of the collector.
        system: Where it is to run.
        schema: What the service wants; the error if it has not told.
    """

    settings: AgentSettings
    system: System
    schema: ServiceSchema | ServeFlowError


_Check = Callable[[Patient], Iterator[Finding]]


def examine(settings: AgentSettings, system: System) -> list[Finding]:
    """Make all checks."""
    schema: ServiceSchema | ServeFlowError
    try:
        schema = system.service_schema(settings.to, settings.credentials())
    except ServeFlowError as error:
        schema = error
    except ModuleNotFoundError as error:
        schema = ServeFlowError(f"{error.name} is not installed: pip install 'serveflow[grpc]'")
    patient = Patient(settings, system, schema)
    return [finding for check in CHECKS for finding in check(patient)]


def check_source(patient: Patient) -> Iterator[Finding]:
    """Is there something to read, and do its settings go together?"""
    try:
        source = patient.settings.source()
    except ServeFlowError as error:
        yield Finding("source", Level.FAIL, str(error), "set interface or captures")
        return
    missing = [path for path in source.paths if path != "-" and not Path(path).exists()]
    if missing:
        yield Finding("source", Level.FAIL, f"there is no {', '.join(missing)}", "mend captures")
    else:
        what = source.interface or ", ".join(map(str, source.paths))
        yield Finding("source", Level.OK, f"reads {what}")
    if source.by_tshark and not patient.system.has_program("tshark"):
        yield Finding(
            "source", Level.FAIL, "tshark is missing, which display_filter needs",
            "apt-get install tshark, and pip install 'serveflow[pyshark]'",
        )  # fmt: skip


def check_rights(patient: Patient) -> Iterator[Finding]:
    """May this process capture?"""
    if patient.settings.interface is None or patient.settings.display_filter:
        return
    if patient.system.may_capture():
        yield Finding("rights", Level.OK, "CAP_NET_RAW is there")
    else:
        yield Finding(
            "rights", Level.FAIL, "CAP_NET_RAW is missing: interfaces cannot be watched",
            "start it as root, or from systemd with AmbientCapabilities=CAP_NET_RAW "
            "(collectors/serveflow-collect.service)",
        )  # fmt: skip


def check_interface(patient: Patient) -> Iterator[Finding]:
    """Is the interface there and up, and does it show packets as they cross the wire?"""
    name = patient.settings.interface
    if name is None or patient.settings.display_filter:
        return
    try:
        found = patient.system.interface(name)
    except CaptureError as error:
        yield Finding("interface", Level.FAIL, str(error), "set display_filter to go by tshark")
        return
    waits = patient.settings.wait_for_interface
    if found is None:
        there = ", ".join(patient.system.interfaces()) or "none"
        level = Level.WARN if waits else Level.FAIL
        yield Finding("interface", level, f"there is no {name}", f"there are: {there}")
        return
    if not found.up:
        level = Level.WARN if waits else Level.FAIL
        yield Finding("interface", level, f"{name} is down", f"ip link set {name} up")
    else:
        yield Finding("interface", Level.OK, f"{name}: {found.link.name}, MTU {found.mtu}, up")
    if found.merges and not found.loopback:
        words = " ".join(f"{word} off" for word in found.merges)
        yield Finding(
            "offloads", Level.WARN,
            f"{name} merges packets before they are seen ({', '.join(found.merges)}); models "
            "learn from packets as they cross the wire",
            f"on a tap: ethtool -K {name} {words}",
        )  # fmt: skip


def check_filter(patient: Patient) -> Iterator[Finding]:
    """Does the tcpdump expression compile?"""
    settings = patient.settings
    if settings.interface is None or settings.display_filter or not settings.bpf:
        return
    try:
        found = patient.system.interface(settings.interface)
        if found is None:
            return  # another check says so
        RingSettings(settings.interface, bpf=settings.bpf).filter(found.link)
    except ServeFlowError as error:
        yield Finding("filter", Level.FAIL, str(error), "mend bpf")
    else:
        yield Finding("filter", Level.OK, f"{settings.bpf!r} compiles")


def check_credentials(patient: Patient) -> Iterator[Finding]:
    """Can the files be read that are shown to the service, and by nobody else?"""
    settings = patient.settings
    try:
        shown = settings.credentials()
        shown.authorization()
        if settings.to.startswith(("https:", "grpcs:")):
            shown.tls_context()
    except ServeFlowError as error:
        yield Finding("credentials", Level.FAIL, str(error), "mend the file, or the setting")
        return
    secrets = [file for file in (settings.api_key_file, settings.tls_key_file) if file]
    if not secrets:
        return
    yield Finding("credentials", Level.OK, "the files can be read")
    for file in secrets:
        if patient.system.file_mode(file) & 0o007:
            yield Finding(
                "credentials", Level.WARN, f"every user may read {file}", f"chmod o-rwx {file}"
            )
    if settings.api_key_file and settings.to.startswith(("http:", "grpc:")):
        yield Finding(
            "credentials", Level.WARN, "the API key travels in clear", "use https:// or grpcs://"
        )


def check_service(patient: Patient) -> Iterator[Finding]:
    """Does the service answer, and speak the same version?"""
    to, schema = patient.settings.to, patient.schema
    if isinstance(schema, ServeFlowError):
        yield Finding("service", Level.FAIL, str(schema), "start serveflow serve, or mend to")
        return
    yield Finding(
        "service", Level.OK,
        f"{to}: bundle {schema.model_version}, {len(schema.classes)} classes, the first "
        f"{schema.depth} packets, {schema.trackers} trackers",
    )  # fmt: skip
    try:
        at = service_endpoints(to)
    except ServeFlowError as error:
        yield Finding("self-traffic", Level.FAIL, str(error), "mend to, or name resolution")
    else:
        places = ", ".join(f"{host} port {port}" for host, port in at)
        yield Finding("self-traffic", Level.OK, f"not captured: TCP of {places}")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Is the clock right? Verdicts carry its time."""
    if patient.system.clock_synchronised() is False:
        yield Finding(
            "clock", Level.WARN, "the kernel's clock is not synchronised",
            "run an NTP client (chrony, systemd-timesyncd)",
        )  # fmt: skip
    if isinstance(patient.schema, ServeFlowError):
        return
    settings = patient.settings
    ahead_s = patient.system.service_clock_ahead_s(settings.to, settings.credentials())
    if ahead_s is None:
        yield Finding("clock", Level.OK, "the service does not tell its time")
    elif abs(ahead_s) > _MOST_AHEAD_S:
        which = "ahead of" if ahead_s > 0 else "behind"
        yield Finding(
            "clock", Level.WARN,
            f"the service's clock is {abs(ahead_s):.0f} s {which} this one",
            "synchronise both, or times in logs will not agree",
        )  # fmt: skip
    else:
        yield Finding("clock", Level.OK, "the service's clock agrees to about a second")


def check_spool(patient: Patient) -> Iterator[Finding]:
    """Can the spool be written to, is there room for it, and does nobody else use it?"""
    spool, system = patient.settings.spool, patient.system
    if spool.folder is None:
        yield Finding(
            "spool", Level.WARN,
            "there is none: a collector that is killed forgets the flows without a verdict",
            "set spool.folder",
        )  # fmt: skip
        return
    holder = system.lock_holder(spool.folder / "lock")
    if holder is not None:
        yield Finding(
            "spool", Level.FAIL, f"{holder} uses {spool.folder}",
            "give each collector a folder of its own",
        )  # fmt: skip
        return
    yield from _room(
        "spool", spool.folder, system, spool.max_bytes - system.used_bytes(spool.folder)
    )


def check_sinks(patient: Patient) -> Iterator[Finding]:
    """Can the places be written to where verdicts go?"""
    if not patient.settings.sinks:
        yield Finding("sinks", Level.WARN, "there is none: verdicts are counted alone", "set sinks")
    for spec in patient.settings.sinks:
        kind, _, rest = spec.partition(":")
        where = rest.partition("?")[0]
        name = f"sink {kind}"
        if kind == "kafka":
            yield _brokers(name, where, patient.system)
        elif where != "-":
            folder = Path(where) if kind == "parquet" else Path(where).parent
            yield from _room(name, folder, patient.system, 0)


def check_memory(patient: Patient) -> Iterator[Finding]:
    """Is so much memory there as flows may take, and is it enough to work with?"""
    settings, schema = patient.settings, patient.schema
    depth, header = MAX_DEPTH, True
    if isinstance(schema, ServiceSchema):
        depth, header = schema.depth, schema.header
    try:
        limits = edge_limits(settings.memory, depth, with_header=header)
    except ServeFlowError as error:
        yield Finding("memory", Level.FAIL, str(error), "raise memory")
        return
    need = settings.memory + _PYTHON_BYTES + (settings.ring_bytes if settings.interface else 0)
    free = patient.system.available_bytes()
    least = "" if isinstance(schema, ServiceSchema) else "at least "
    flows = f"{least}{limits.ledger.unsettled:,} unsettled flows"
    said = f"{bytes_in_words(settings.memory)} for {flows}"
    if free is not None and need > free:
        yield Finding(
            "memory", Level.FAIL,
            f"{said}, with all else {need >> 20:,} MiB, but only {free >> 20:,} MiB are left",
            "lower memory or ring_bytes, or give the machine or container more",
        )  # fmt: skip
    else:
        yield Finding("memory", Level.OK, said)


def check_open_files(patient: Patient) -> Iterator[Finding]:
    """May this process have enough files open?"""
    limit = patient.system.open_files_limit()
    if limit < _FEWEST_FILES:
        yield Finding(
            "open files", Level.WARN, f"at most {limit}, connections included",
            f"ulimit -n {4 * _FEWEST_FILES}, or LimitNOFILE= of systemd",
        )  # fmt: skip
    else:
        yield Finding("open files", Level.OK, f"at most {limit:,}")


def check_metrics(patient: Patient) -> Iterator[Finding]:
    """Can metrics be served?"""
    address = patient.settings.metrics_address
    if address is None:
        yield Finding("metrics", Level.WARN, "off: losses are not seen from outside", "set metrics")
        return
    taken = patient.system.port_free(*address)
    where = patient.settings.metrics
    if not taken:
        yield Finding("metrics", Level.OK, f"{where} is free")
    else:
        yield Finding(
            "metrics", Level.FAIL, f"{where}: {taken}",
            "another collector may run here (serveflow top); set metrics to another port",
        )  # fmt: skip


CHECKS: tuple[_Check, ...] = (
    check_source,
    check_rights,
    check_interface,
    check_filter,
    check_credentials,
    check_service,
    check_clock,
    check_spool,
    check_sinks,
    check_memory,
    check_open_files,
    check_metrics,
)
"""All checks, in the order in which they are told."""


def _room(check: str, folder: Path, system: System, wanted: int) -> Iterator[Finding]:
    why_not = system.writable(folder)
    if why_not:
        yield Finding(
            check, Level.FAIL, f"{folder}: {why_not}", "make it, and give it to this user"
        )
        return
    free = system.free_bytes(folder)
    if free < max(wanted, 1 << 20):
        level = Level.WARN if free >= 1 << 20 else Level.FAIL
        yield Finding(
            check, level,
            f"{folder}: {free >> 20:,} MiB are free, {max(wanted, 0) >> 20:,} MiB may be wanted",
            "make room" + (", or lower spool.max_bytes" if check == "spool" else ""),
        )  # fmt: skip
    else:
        yield Finding(check, Level.OK, f"{folder}: can be written, {free >> 20:,} MiB are free")


def _brokers(check: str, where: str, system: System) -> Finding:
    brokers = where.rpartition("/")[0].split(",")
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if port.isdecimal() and system.answers(host.strip("[]"), int(port)):
            return Finding(check, Level.OK, f"{broker} answers")
    return Finding(
        check, Level.FAIL, f"no broker answers: {', '.join(brokers)}", "mend sinks, or the network"
    )
