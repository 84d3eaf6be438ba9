"""``serveflow bench service-rate``: how many new flows per second the running service holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.cpu import cpu_ms
from benchmarks.environment import environment
from benchmarks.generator import Generator, Outcome
from benchmarks.lane import Trial
from benchmarks.results import medians, spread
from benchmarks.search import highest_rate
from benchmarks.started import config_under_test, started
from flows.errors import ServiceError, ServiceUnavailableError

__all__ = ["RateSettings", "measure_rate"]

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
class _Measured:
    outcome: Outcome
    cpu_ms: dict[str, float]  # by part, within the measured time


@dataclass(frozen=True, slots=True)
class _Tested:
    url: str  # for batches
    status_url: str | None  # for the counters; None: not known
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
        _service(settings) as tested,
        Generator(settings.captures, settings.transport, tested.url) as generator,
    ):

        def run(rate: float, full: bool) -> tuple[bool, _Measured]:
            trial = Trial(
                rate,
                settings.warm_up_s if full else min(_SHORT_WARM_UP_S, settings.warm_up_s),
                settings.seconds if full else min(_SHORT_S, settings.seconds),
                **settings.load,
            )
            on_trial(f"{rate:,.0f} new flows/s for {trial.seconds:g} s")
            measured = _run(generator, trial, tested.pid)
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
def _service(settings: RateSettings) -> Iterator[_Tested]:
    """Yield the service to measure."""
    if settings.url is not None:
        status_url = settings.url if settings.transport == "http" else None
        yield _Tested(settings.url, status_url, None, None)
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
        yield _Tested(url or service.url, service.url, service.pid, start_s)


def _run(generator: Generator, trial: Trial, pid: int | None) -> _Measured:
    samples: list[dict[str, float]] = []

    def sample(_: str) -> None:
        used = cpu_ms(pid) if pid is not None else {}
        used["generator"] = cpu_ms(generator.pid)["ray"]
        samples.append(used)

    outcome = generator.run(trial, sample)
    before, after = samples
    return _Measured(outcome, {part: after[part] - before[part] for part in after})


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
        ServiceUnavailableError: The service does not answer.
    """
    if url is None:
        return None
    try:
        response = httpx.get(f"{url}/v1/status", timeout=10.0, trust_env=False)
        status: dict[str, Any] = response.raise_for_status().json()
    except httpx.HTTPError as error:
        raise ServiceUnavailableError(f"{url}/v1/status: {error}") from None
    return {"holds": status["holds"], "flows": status["flows"], "packets": status["packets"]}


def _result(rounds: list[_Measured], status: dict[str, Any] | None) -> dict[str, Any]:
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
        "refused_flows": sum(one.refused_flows for one in outcomes),
        "unsent_flows": sum(one.unsent_flows for one in outcomes),
        "refused_batches": sum(one.refused for one in outcomes),
        "resent_flows": sum(one.resent for one in outcomes),
        "doubled_verdicts": sum(one.doubled for one in outcomes),
        "flows": sum(one.flows for one in outcomes),
        "batches": sum(one.batches for one in outcomes),
        "spread_of_rounds": spread(rates),
        "status": status,
    }  # fmt: skip


def _per_1000(measured: _Measured) -> dict[str, float]:
    flows = max(measured.outcome.flows, 1)
    parts = {part: spent / flows * 1000.0 for part, spent in measured.cpu_ms.items()}
    return {**parts, "all": sum(parts.values())}
