"""``serveflow bench latency``: from a flow's first packet to its verdict, in real time.

Three contenders: the bundle's cascade, its deepest tier alone (every flow waits for the depth, its
end or its timeout: what the ServeFlow paper calls slow only), and its last tier on packet 1 alone.
Each is a bundle; the single tiers' are written for the occasion. In each round every one gets a
service of its own, one after the other: idle replicas of the others would take their share of the
cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environment import environment
from benchmarks.overlay import Overlay, play
from benchmarks.recorded import Recorded, read_captures
from benchmarks.results import medians, percentiles, spread
from benchmarks.started import config_under_test, started
from collectors.collector import Settled
from collectors.replay import ReplaySettings
from collectors.sender import HttpSender, Part, Sender
from flows.packet import packet_dtype
from flows.service_schema import ServiceSchema
from flows.verdict import Reason
from flows.wire import PacketBatch
from models.bundle import BundleContents, read_bundle, write_bundle
from models.metrics import WITHIN_MS
from serveflow_app.settings import AppArgs

__all__ = ["FlowTimes", "LatencySettings", "TimedSender", "contenders", "measure_latency"]

_PROBES = 50
_WARM_UP_S = 2.0
_KINDS = ("cascade", "slow_only", "fast_only")


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """What to measure.

    Attributes:
        captures: Where the flows come from.
        rate: New flows per second.
        seconds: How long flows begin, per round.
        placement: separate or colocated; None: as the configuration says.
        rounds: Rounds to take medians of.
        config: Serve configuration; None: the one that comes along.
        bundle: The bundle; None: as the configuration says.
    """

    captures: list[Path]
    rate: float
    seconds: float
    placement: str | None
    rounds: int
    config: Path | None
    bundle: Path | None


def measure_latency(
    settings: LatencySettings, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: What to measure.
        on_progress: Called with what goes on.

    Raises:
        ServeFlowError: A capture, the configuration, the bundle or the service is not as it
            should be.
    """
    base = config_under_test(settings.config, placement=settings.placement, bundle=settings.bundle)
    contents = read_bundle(AppArgs.model_validate(base["applications"][0]["args"]).bundle_path)
    taken = environment(
        captures=[path.name for path in settings.captures], rate=settings.rate,
        seconds=settings.seconds, rounds=settings.rounds,
        placement=base["applications"][0]["args"].get("placement"),
        model_version=contents.model_version, tiers=[tier.name for tier in contents.tiers],
    )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory(prefix="serveflow-bench-") as folder:
        recorded: dict[bool, Recorded] = {}
        configs = contenders(base, contents, Path(folder))
        for number in range(settings.rounds):
            for kind, config in configs.items():
                on_progress(
                    f"round {number + 1} of {settings.rounds}: {kind.replace('_', ' ')}, "
                    f"{settings.seconds:.0f} s of load and {contents.max_wait_s:.0f} s of waits …"
                )
                with started(config) as (service, _):
                    warm_up_s = min(_WARM_UP_S, settings.seconds)
                    _replay(service.url, settings, warm_up_s, recorded, with_tail=False)
                    found[kind].append(
                        _replay(service.url, settings, settings.seconds, recorded, with_tail=True)
                    )
    rounds = {kind: medians(several) for kind, several in found.items()}
    speedups = [
        slow["p50_ms"] / cascade["p50_ms"]
        for slow, cascade in zip(found["slow_only"], found["cascade"], strict=True)
    ]
    return {
        "rate": settings.rate,
        **rounds,
        "median_speedup": median(speedups),
        "spread_of_rounds": {
            "median_speedup": spread(speedups),
            **{kind: spread([one["p50_ms"] for one in found[kind]]) for kind in _KINDS},
        },
        "environment": taken,
    }


def contenders(
    base: dict[str, Any], contents: BundleContents, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return the configurations of the cascade and of its two ends alone, by kind.

    Args:
        base: A checked configuration of one application.
        contents: Its bundle, all tiers loaded.
        folder: Where to write the bundles of the two: the deepest tier alone, and the last tier on
            packet 1 alone.
    """
    on_packet_1 = [tier for tier in contents.tiers if tier.depth == 1]
    single = {
        "slow_only": contents.tiers[-1],
        "fast_only": on_packet_1[-1] if on_packet_1 else contents.tiers[0],
    }
    (app,) = base["applications"]
    found = {"cascade": base}
    for kind, tier in single.items():
        write_bundle(replace(contents, tiers=(tier,)), folder / kind)
        args = {**app["args"], "bundle": str(folder / kind)}
        found[kind] = {**base, "applications": [{**app, "args": args}]}
    return found


@dataclass(frozen=True, slots=True)
class _TimedPart(Part):
    """A part of an answer that knows when its batch left and when it came itself."""

    sent_ns: int
    came_ns: int


class TimedSender:
    """A sender whose answers' parts say when they came.

    Args:
        sender: The way to the service, over whatever transport.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def schema(self) -> ServiceSchema:
        """See :meth:`collectors.sender.Sender.schema`."""
        return self._sender.schema()

    def submit(self, batch: PacketBatch) -> Iterator[Part]:
        """See :meth:`collectors.sender.Sender.submit`."""
        sent_ns = time.monotonic_ns()
        for part in self._sender.submit(batch):
            yield _TimedPart(
                part.verdicts, part.notes, part.classes, part.model_version,
                sent_ns, time.monotonic_ns(),
            )  # fmt: skip

    def close(self) -> None:
        """See :meth:`collectors.sender.Sender.close`."""
        self._sender.close()


_Column = list[npt.NDArray[np.float64]]


@dataclass(slots=True)
class FlowTimes:
    """Where each flow's time went, ms.

    What lies between a batch's leaving and its answer's coming is transport as far as a batch
    that holds nothing takes it, and queueing beyond that.

    Args:
        round_trip_ms: What a batch that holds nothing takes.
    """

    round_trip_ms: float
    wait: _Column = field(default_factory=list)
    batch: _Column = field(default_factory=list)
    transport: _Column = field(default_factory=list)
    queue: _Column = field(default_factory=list)
    infer: _Column = field(default_factory=list)
    sure: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, settled: Settled, part: Part) -> None:
        """Take flows in that got their final verdict."""
        assert isinstance(part, _TimedPart)  # noqa: S101 (no other sender is used here)
        verdicts = settled.verdicts
        own_ms = verdicts["infer_ns"] / 1e6
        queue_ms = settled.queue_ns / 1e6
        trip_ms = np.clip((part.came_ns - part.sent_ns) / 1e6 - own_ms, 0.0, queue_ms)
        transport_ms = np.minimum(trip_ms, self.round_trip_ms)
        self.wait.append(verdicts["wait_ns"] / 1e6)
        self.batch.append(queue_ms - trip_ms)
        self.transport.append(transport_ms)
        self.queue.append(trip_ms - transport_ms)
        self.infer.append(settled.infer_ns / 1e6)
        at_once = np.isin(verdicts["reason"], (Reason.CONFIDENT, Reason.EXHAUSTED))
        self.sure.append(at_once & (verdicts["packets_used"] == 1))

    def figures(self) -> dict[str, Any]:
        """Return percentiles of the whole and of its parts."""
        names = ("wait", "batch", "transport", "queue", "infer")
        parts = {name: np.concatenate(getattr(self, name)) for name in names}
        total = np.asarray(sum(parts.values()))
        sure = np.concatenate(self.sure)
        return {
            **{f"{p}_ms": value for p, value in percentiles(total).items()},
            "within_16ms": float((total <= WITHIN_MS).mean()),
            "split": {name: percentiles(values) for name, values in parts.items()},
            "sure_share": float(sure.mean()),
            "sure_service_ms": percentiles((total - parts["wait"])[sure]),
            "flows": len(total),
        }


def _replay(
    url: str,
    settings: LatencySettings,
    seconds: float,
    recorded: dict[bool, Recorded],
    *,
    with_tail: bool,
) -> dict[str, Any]:
    """Replay one load in real time; return its figures.

    With a tail it goes on until the last flow has waited as long as it may; else flows still open
    are ended.
    """
    with HttpSender(url) as sender:
        schema = sender.schema()
        if schema.header not in recorded:
            recorded[schema.header] = read_captures(settings.captures, with_header=schema.header)
        tail_s = schema.max_wait_s if with_tail else 0.0
        overlay = Overlay(recorded[schema.header], settings.rate, seconds, tail_s)
        times = FlowTimes(_round_trip_ms(sender, schema))
        play(overlay, TimedSender(sender), ReplaySettings(speed=1.0), times.add)
    return times.figures()


def _round_trip_ms(sender: HttpSender, schema: ServiceSchema) -> float:
    """Return the median round trip of a batch that holds nothing, ms: transport alone."""
    nothing = PacketBatch("probe", 1, np.zeros(0, packet_dtype(schema.header)))
    took_ms = []
    for _ in range(_PROBES):
        begin_s = time.perf_counter()
        list(sender.submit(nothing))
        took_ms.append((time.perf_counter() - begin_s) * 1e3)
    return median(took_ms)
