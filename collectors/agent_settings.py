"""Settings of ``serveflow collect``: what there is, what it means, what holds by default.

:mod:`collectors.settings_sources` gathers them from a file, the environment and flags.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from collectors.agent import AgentOptions
from collectors.collector import CollectorSettings
from collectors.credentials import Credentials
from collectors.delivery import DeliverySettings
from collectors.journal import SpoolSettings
from collectors.open_source import SourceSettings
from collectors.ring_settings import RING_BYTES
from collectors.sink_specs import SINK_KINDS
from flows.table import FlowTimeouts

__all__ = [
    "DEFAULT_TO",
    "AgentSettings",
    "BatchSection",
    "LogSection",
    "SpoolSection",
    "TimeoutsSection",
    "as_bytes",
    "bytes_in_words",
    "host_and_port",
]

DEFAULT_TO = "http://127.0.0.1:8000"
"""Where a service is that nobody has told otherwise."""

_OPTIONS = AgentOptions(name="", source="", to="")
_DELIVERY = _OPTIONS.delivery
_COLLECTOR = _OPTIONS.collector
_TIMEOUTS = _COLLECTOR.timeouts
_SPOOL = SpoolSettings()
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_URL = re.compile(r"(https?|grpcs?)://[^\s/]+(/\S*)?", re.ASCII)


def as_bytes(given: Any) -> Any:
    """Return the number of bytes that ``64MiB``, ``1.5GB`` or ``4096`` stand for."""
    if not isinstance(given, str):
        if isinstance(given, bool):
            raise ValueError("must be a number of bytes such as 64MiB")
        return given
    found = _SIZE.fullmatch(given.strip())
    if found is None:
        raise ValueError("must be a number of bytes such as 64MiB, 1.5GB or 4096")
    unit = (found[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(float(found[1]) * base ** _POWERS[unit[:1]])


def bytes_in_words(count: int) -> str:
    """Return a number of bytes as :func:`as_bytes` reads it, in the largest unit that fits."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{unit}"
    return str(count)


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: It is neither.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    usable = colon and host and port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16
    if not usable or (":" in host) != bracketed or set("[]") & set(host):
        raise ValueError("must be HOST:PORT such as 127.0.0.1:9105 or '[::1]:9105', or off")
    return host, int(port)


def _service(given: str) -> str:
    if not _URL.fullmatch(given):
        raise ValueError(
            "must be an address such as http://HOST:8000, https://…, grpc://HOST:9000 or grpcs://…"
        )
    return given


def _listener(given: Any) -> Any:
    if given is False or given == "off":  # YAML reads a bare off as false
        return "off"
    if isinstance(given, str):
        host_and_port(given)
    return given


def _sink(given: str) -> str:
    kind, _, where = given.partition(":")
    if kind not in SINK_KINDS or not where:
        raise ValueError(f"must be one of {', '.join(SINK_KINDS.values())}")
    return given


_Bytes = Annotated[int, BeforeValidator(as_bytes)]
_Policy = Literal["block", "drop_oldest", "drop_newest"]
_Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class _Section(BaseModel):
    # Defaults are checked too, as some are those of other modules.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class SpoolSection(_Section):
    """Where flows are kept on disk that have no final verdict yet."""

    folder: Path | None = Field(
        default=None,
        description="Folder of the spool. Without one, flows are in memory alone: what has no "
        "final verdict when the collector dies is lost, and what finds no room is refused or gets "
        "its provisional verdict, and is counted.",
        examples=["/var/lib/serveflow/spool"],
    )
    max_bytes: _Bytes = Field(
        default=_SPOOL.max_bytes,
        ge=2 * _SPOOL.segment_bytes,
        description="What the spool may take of the disk.",
    )
    policy: _Policy = Field(
        default=cast(_Policy, _SPOOL.policy),
        description="When it is full. block: read no more packets until there is room; then the "
        "kernel drops, and counts, what does not fit into its ring. drop_oldest: give up the "
        "flows that have waited longest. drop_newest: keep new flows in memory alone.",
    )
    fsync_interval_s: float = Field(
        default=_SPOOL.fsync_interval_s,
        gt=0,
        le=3600,
        description="So often the disk is made to write down what it was given: a power loss "
        "costs what came since; a collector that is killed loses nothing of it.",
    )


class BatchSection(_Section):
    """How packets are gathered into batches for the service."""

    min_delay_s: float = Field(
        default=_DELIVERY.batch_delay_s,
        ge=0,
        le=10,
        description="Least time between two batches. Longer ones cost less, shorter ones answer "
        "sooner.",
    )
    max_packets: int = Field(
        default=_COLLECTOR.max_batch_packets,
        ge=1,
        le=1 << 20,
        description="Packets of a batch at most; the service may set a lower bound.",
    )
    max_in_flight: int = Field(
        default=_DELIVERY.max_in_flight,
        ge=1,
        le=64,
        description="Batches at a time of which no part of the answer has come. Batches grow "
        "while they wait; more in flight helps where the service is far away.",
    )


class TimeoutsSection(_Section):
    """When flows end by themselves, in capture time."""

    tcp_idle_s: _Seconds = Field(
        default=_TIMEOUTS.tcp_idle_s, description="TCP flows without a packet for so long."
    )
    udp_idle_s: _Seconds = Field(
        default=_TIMEOUTS.udp_idle_s, description="UDP flows; RFC 4787 recommends 300 s or more."
    )
    icmp_idle_s: _Seconds = Field(
        default=_TIMEOUTS.icmp_idle_s, description="ICMP and ICMPv6 flows."
    )
    active_s: _Seconds = Field(
        default=_TIMEOUTS.active_s,
        description="Flows that have gone on for so long, as IPFIX does it.",
    )
    linger_s: _Seconds = Field(
        default=_TIMEOUTS.linger_s,
        description="For so long packets after the end of a TCP flow count as its stragglers.",
    )


class LogSection(_Section):
    """What the collector says on standard error."""

    format: Literal["text", "json"] = Field(
        default="text", description="text: lines for people. json: one JSON object per line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is worth a line."
    )


class AgentSettings(_Section):
    """Everything that a collector can be told. Secrets come by file only."""

    name: str | None = Field(
        default=None,
        pattern=r"^[\w.:@-]{1,100}$",
        description="Who the collector is, in verdicts and metrics; by default the host's name.",
        examples=["edge-7"],
    )
    to: Annotated[str, AfterValidator(_service)] = Field(
        default=DEFAULT_TO,
        description="Address of the service: http://HOST:PORT or grpc://HOST:PORT; https:// and "
        "grpcs:// with TLS.",
    )
    interface: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Network interface to watch; takes the right CAP_NET_RAW. Either this or "
        "captures.",
        examples=["eth1"],
    )
    captures: tuple[str, ...] = Field(
        default=(),
        description="Captures to read: files, folders, or - for standard input.",
        examples=[["/srv/captures"]],
    )
    watch: bool = Field(
        default=False, description="Read what comes into a folder, the one of captures, for ever."
    )
    move_done: bool = Field(
        default=False,
        description="With watch: move what was read into the folder's subfolder done.",
    )
    bpf: str = Field(
        default="",
        description="What of the interface to see, as a tcpdump expression (man pcap-filter). "
        "The collector's own way to the service is never seen.",
        examples=["not port 22"],
    )
    display_filter: str = Field(
        default="",
        description="What to see, as an expression of Wireshark. Packets then come by way of "
        "tshark (extra pyshark): slow, but it understands far more kinds of captures.",
        examples=["tls or quic"],
    )
    fanout: int | None = Field(
        default=None,
        ge=0,
        lt=1 << 16,
        description="A number shared by collectors that divide the interface's flows among them.",
        examples=[7],
    )
    ring_bytes: _Bytes = Field(
        default=RING_BYTES,
        ge=1 << 18,
        lt=1 << 32,
        description="The ring in which the kernel hands packets over; what bridges a pause.",
    )
    wait_for_interface: bool = Field(
        default=False,
        description="Wait for an interface that is down or away, now or later, instead of ending.",
    )
    memory: _Bytes = Field(
        default=256 << 20,
        gt=0,
        description="What flows may take of memory. Python, its libraries and the ring come on "
        "top. When it is full, new flows are refused first, then the oldest ones get their "
        "provisional verdict.",
    )
    spool: SpoolSection = SpoolSection()
    sinks: tuple[Annotated[str, AfterValidator(_sink)], ...] = Field(
        default=(),
        description="Where final verdicts go, each as KIND:WHERE?OPTION=VALUE&…: eve:FILE, "
        "zeek:FILE, parquet:FOLDER, kafka:HOST:PORT/TOPIC.",
        examples=[["eve:/var/log/serveflow/eve.json"]],
    )
    batch: BatchSection = BatchSection()
    timeouts: TimeoutsSection = TimeoutsSection()
    api_key_file: Path | None = Field(
        default=None,
        description="File with the API key for the service on its first line.",
        examples=["/etc/serveflow/api-key"],
    )
    tls_ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) of whom to trust, in place of the system's.",
        examples=["/etc/serveflow/ca.pem"],
    )
    tls_cert_file: Path | None = Field(
        default=None,
        description="The collector's own TLS certificate (PEM); goes with tls_key_file.",
        examples=["/etc/serveflow/collector.pem"],
    )
    tls_key_file: Path | None = Field(
        default=None,
        description="The certificate's private key (PEM).",
        examples=["/etc/serveflow/collector.key"],
    )
    metrics: Annotated[str, BeforeValidator(_listener)] = Field(
        default="127.0.0.1:9105",
        description="Where /metrics, /healthz, /readyz and /status are served: HOST:PORT, or off. "
        "There is no password: whoever reaches it can read it.",
    )
    log: LogSection = LogSection()
    duration_s: _Seconds | None = Field(
        default=None,
        description="End after so long; by default not before the packets end.",
        examples=[60],
    )
    drain_s: float = Field(
        default=_OPTIONS.drain_s,
        ge=0,
        le=3600,
        description="How long the last verdicts are waited for at the end.",
    )

    @property
    def collector_name(self) -> str:
        """Who the collector is."""
        return self.name or re.sub(r"[^\w.:@-]", "-", socket.gethostname())[:100] or "collector"

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where metrics are served; None: nowhere."""
        return None if self.metrics == "off" else host_and_port(self.metrics)

    def source(self) -> SourceSettings:
        """Return what is to be read.

        Raises:
            SettingsError: Neither an interface nor captures are given, or what does not go
                together.
        """
        return SourceSettings(
            paths=self.captures,
            interface=self.interface,
            watch=self.watch,
            move_done=self.move_done,
            bpf=self.bpf,
            display_filter=self.display_filter,
            fanout=self.fanout,
            ring_bytes=self.ring_bytes,
            wait_for_interface=self.wait_for_interface,
        )

    def credentials(self) -> Credentials:
        """Return what is shown to the service.

        Raises:
            SettingsError: A certificate is given without its key, or the other way round.
        """
        return Credentials(
            self.api_key_file, self.tls_ca_file, self.tls_cert_file, self.tls_key_file
        )

    def spooling(self) -> SpoolSettings:
        """Return how to spool, where ``spool.folder`` is given."""
        return SpoolSettings(
            max_bytes=self.spool.max_bytes,
            policy=self.spool.policy,
            fsync_interval_s=self.spool.fsync_interval_s,
        )

    def collector(self) -> CollectorSettings:
        """Return how flows are handled."""
        return CollectorSettings(
            max_batch_packets=self.batch.max_packets,
            timeouts=FlowTimeouts(**self.timeouts.model_dump()),
        )

    def delivery(self) -> DeliverySettings:
        """Return how batches are delivered; the service is waited for as long as it takes."""
        return DeliverySettings(
            max_in_flight=self.batch.max_in_flight,
            batch_delay_s=self.batch.min_delay_s,
            give_up_after_s=None,
        )
