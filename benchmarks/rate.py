"""``serveflow bench service-rate``: how many new flows per second the running service holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu import cpu_by_process, cpu_ms, spent_ms
from benchmarks.environment import environment
from benchmarks.generator import Generator, Outcome
from benchmarks.lane import Trial
from benchmarks.results import medians, spread
from benchmarks.search import highest_rate
from benchmarks.started import config_under_test, started
from collectors.sender import HttpSender
from flows.errors import ServiceError

__all__ = ["Measured", "RateSettings", "measure_rate", "run_measured", "tested_service"]

_SHORT_WARM_UP_S = 2.0
_SHORT_S = 4.0


@dataclass(frozen=True, slots=True)
class RateSettings:
    """What to measure.

    Attributes:
        captures: Where the flows come from.
        transport: Name of the transport.
        config: Serve configuration; None: the one that comes along.
        placement: separate or colocated; None: as the configuration says.
        bundle: The bundle; None: as the configuration says.
        trackers: Number of trackers; None: as the configuration says.
        url: A service that runs already; None: one is started.
        rate: Hold this rate; None: search the highest.
        seconds: How long a rate must hold.
        warm_up_s: How long the load goes before that.
        limit_ms: What p99 of queueing must stay below.
        rounds: Full-length runs to take medians of.
        load: How flows are offered: ``collectors``, ``batch_delay_s``, ``spread``,
            ``batch_flows`` and ``keep_going`` of :class:`benchmarks.lane.Trial`.
    """

    captures: list[Path]
    transport: str
    config: Path | None
    placement: str | None
    bundle: Path | None
    trackers: int | None
    url: str | None
    rate: float | None
    seconds: float
    warm_up_s: float
    limit_ms: float
    rounds: int
    load: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a load.

    Attributes:
        outcome: What the generator says.
        cpu_ms: CPU milliseconds within the measured time, by part.
        replicas: How many processes of each part there were at its end.
        steady: Whether there were the same ones at its beginning.
    """

    outcome: Outcome
    cpu_ms: dict[str, float]
    replicas: dict[str, int]
    steady: bool


@dataclass(frozen=True, slots=True)
class Tested:
    """The service that is measured.

    Attributes:
        url: Where batches go.
        status_url: Where its counters stand; None: not known.
        pid: Its process; None: it runs elsewhere, so that its CPU is not seen.
        start_s: How long it took to start; None: it ran already.
    """

    url: str
    status_url: str | None
    pid: int | None
    start_s: float | None


def measure_rate(
    settings: RateSettings,
    on_trial: Callable[[str], None] = lambda _: None,
    on_outcome: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: What to measure.
        on_trial: Called with a line on each load that begins.
        on_outcome: Called with a line on what came of it.

    Raises:
        ServeFlowError: A capture, the configuration or the service is not as it should be, or no
            rate holds at all.
    """
    taken = environment(**_told(settings))
    with (
        tested_service(settings) as tested,
        Generator(settings.captures, settings.transport, tested.url) as generator,
    ):

        def run(rate: float, full: bool) -> tuple[bool, Measured]:
            trial = Trial(
                rate,
                settings.warm_up_s if full else min(_SHORT_WARM_UP_S, settings.warm_up_s),
                settings.seconds if full else min(_SHORT_S, settings.seconds),
                **settings.load,
            )
            on_trial(f"{rate:,.0f} new flows/s for {trial.seconds:g} s")
            measured = run_measured(generator, trial, tested.pid)
            held = measured.outcome.holds(settings.limit_ms)
            on_outcome(f"{rate:,.0f} new flows/s: {_said(measured.outcome, held)}")
            return held, measured

        tried: list[tuple[float, bool]]
        if settings.rate is None:
            found = highest_rate(run, first=4_000.0, rounds=settings.rounds)
            rounds, tried, held = found.confirmed, found.tried, found.rate is not None
            if not held:
                raise ServiceError(
                    "no rate holds: not one flow/s was answered in time. Look at the service's "
                    "log, or give --rate to see what becomes of one load"
                )
        else:
            run(settings.rate, False)  # so that nothing is done for the first time
            several = [run(settings.rate, True) for _ in range(settings.rounds)]
            rounds = [measured for _, measured in several]
            tried = [(settings.rate, one) for one, _ in several]
            held = all(one for one, _ in several)
        status = _status(tested.status_url)
        return {**_result(rounds, status), "held": held, "tried": tried, "start_s": tested.start_s,
                "transport": settings.transport, "flows_in_captures": generator.flows,
                "environment": taken}  # fmt: skip


def _told(settings: RateSettings) -> dict[str, Any]:
    names = ("transport", "placement", "trackers", "rate", "seconds", "warm_up_s", "limit_ms",
             "rounds")  # fmt: skip
    told = {name: getattr(settings, name) for name in names}
    told["captures"] = [path.name for path in settings.captures]
    told["bundle"] = None if settings.bundle is None else settings.bundle.name
    told["config"] = None if settings.config is None else settings.config.name
    return {**told, **settings.load}


@contextmanager
def tested_service(settings: RateSettings) -> Iterator[Tested]:
    """Yield the service to measure."""
    if settings.url is not None:
        status_url = settings.url if settings.transport == "http" else None
        yield Tested(settings.url, status_url, None, None)
        return
    config = config_under_test(
        settings.config,
        placement=settings.placement,
        bundle=settings.bundle,
        trackers=settings.trackers,
        grpc=settings.transport == "grpc",
    )
    with started(config) as (service, start_s):
        url = service.grpc_url if settings.transport == "grpc" else service.url
        yield Tested(url or service.url, service.url, service.pid, start_s)


def run_measured(generator: Generator, trial: Trial, pid: int | None) -> Measured:
    """Put one load on the service; return what came of it, CPU by part included.

    Raises:
        ServeFlowError: The service cannot be reached.
    """
    samples: list[tuple[dict[int, tuple[str, float]], float]] = []

    def sample(_: str) -> None:
        service = cpu_by_process(pid) if pid is not None else {}
        samples.append((service, sum(cpu_ms(generator.pid).values())))

    outcome = generator.run(trial, sample)
    (before, generator_before_ms), (after, generator_after_ms) = samples
    used = spent_ms(before, after) if pid is not None else {}
    used["generator"] = generator_after_ms - generator_before_ms
    return Measured(outcome, used, _replicas(after), _replicas(before) == _replicas(after))


def _replicas(processes: dict[int, tuple[str, float]]) -> dict[str, int]:
    parts = [part for part, _ in processes.values()]
    return {part: parts.count(part) for part in ("ingress", "fast", "slow", "trackers")}


def _said(outcome: Outcome, held: bool) -> str:
    if held:
        return f"held, p99 of queueing {outcome.queue_ms['p99']:,.0f} ms"
    why = [
        f"{outcome.lost_flows:,} lost" if outcome.lost_flows else "",
        f"{outcome.doubled:,} doubled" if outcome.doubled and not outcome.resent else "",
        f"refused ({outcome.error})" if outcome.refused else "",
        "the backlog grew" if outcome.gave_up else "",
    ]
    slow = f"p99 of queueing {outcome.queue_ms['p99']:,.0f} ms"
    return f"not held: {', '.join(one for one in why if one) or slow}"


def _status(url: str | None) -> dict[str, Any] | None:
    """Ask for the conservation counters; None: a service over gRPC alone does not tell them.

    Raises:
        ServiceError: The service does not answer, or not as it should.
    """
    if url is None:
        return None
    with HttpSender(url, timeout_s=10.0) as sender:
        status = sender.status()
    return {"holds": status["holds"], "flows": status["flows"], "packets": status["packets"]}


def _result(rounds: list[Measured], status: dict[str, Any] | None) -> dict[str, Any]:
    outcomes = [one.outcome for one in rounds]
    rates = [one.new_flows_per_second for one in outcomes]
    cpu = medians([_per_1000(one) for one in rounds])
    return {
        "new_flows_per_second": medians([{"rate": rate} for rate in rates])["rate"],
        "packets_per_second": medians([{"rate": o.packets_per_second} for o in outcomes])["rate"],
        "lost_flows": sum(one.lost_flows for one in outcomes),
        "open_flows": status["flows"]["open"] if status else None,
        "queue_p99_ms": medians([one.queue_ms for one in outcomes])["p99"],
        "queue_ms": medians([one.queue_ms for one in outcomes]),
        "first_answer_ms": medians([one.first_ms for one in outcomes]),
        "cpu_ms_per_1000_flows": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "cores_used": {
            part: medians([{"x": one.cpu_ms[part] / 1000.0 / one.outcome.trial["seconds"]}
                           for one in rounds])["x"]
            for part in rounds[0].cpu_ms
        },
        "answered_per_second": medians([{"x": o.answered_per_second} for o in outcomes])["x"],
        "held_back_batches": sum(one.held_back for one in outcomes),
        "refused_flows": sum(one.refused_flows for one in outcomes),
        "unsent_flows": sum(one.unsent_flows for one in outcomes),
        "refused_batches": sum(one.refused for one in outcomes),
        "resent_flows": sum(one.resent for one in outcomes),
        "doubled_verdicts": sum(one.doubled for one in outcomes),
        "flows": sum(one.flows for one in outcomes),
        "batches": sum(one.batches for one in outcomes),
        "batches_per_second": medians([{"x": o.batches_per_second} for o in outcomes])["x"],
        "sent_bytes_per_flow": medians([{"x": o.sent_bytes_per_flow} for o in outcomes])["x"],
        "received_bytes_per_flow": medians(
            [{"x": o.received_bytes_per_flow} for o in outcomes]
        )["x"],
        "spread_of_rounds": spread(rates),
        "status": status,
    }  # fmt: skip


def _per_1000(measured: Measured) -> dict[str, float]:
    flows = max(measured.outcome.flows, 1)
    parts = {part: spent / flows * 1000.0 for part, spent in measured.cpu_ms.items()}
    return {**parts, "all": sum(parts.values())}
