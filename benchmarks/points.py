"""``serveflow bench capacity-points``: what the running service takes at several loads.

Measured points for :mod:`benchmarks.capacity`: one service, started once, gets each load in turn,
in another order in each round.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.environment import environment
from benchmarks.generator import Generator
from benchmarks.lane import Trial
from benchmarks.rate import Measured, RateSettings, run_measured, tested_service
from benchmarks.results import medians
from flows.errors import SettingsError
from serveflow_app.serve_config import default_config, load_config
from serveflow_app.settings import AppArgs

__all__ = ["LOADS", "measure_points", "parse_load"]

LOADS = ("10000@2", "10000@8", "20000@4", "20000@16", "30000@4", "30000@8", "45000@4")
"""The loads by default: new flows per second, and by how many collectors."""

_SEED = 7


def parse_load(text: str) -> tuple[float, int]:
    """Return new flows per second and how many collectors send them from ``RATE@COLLECTORS``.

    Raises:
        SettingsError: It is not of that form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)@(\d+)", text)
    if not found or not float(found[1]) or not int(found[2]):
        raise SettingsError(f"--load {text}: give RATE@COLLECTORS, such as 20000@4")
    return float(found[1]), int(found[2])


def measure_points(
    settings: RateSettings,
    loads: Sequence[tuple[float, int]],
    on_trial: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure; return the object that ``--json`` prints.

    Args:
        settings: As for :func:`benchmarks.rate.measure_rate`; ``rate`` and the ``collectors``
            of ``load`` are left aside.
        loads: New flows per second, and how many collectors send them.
        on_trial: Called with a line on each load that begins.

    Raises:
        ServeFlowError: A capture, the configuration or the service is not as it should be.
    """
    args = AppArgs(**load_config(settings.config or default_config())["applications"][0]["args"])
    trackers = settings.trackers or args.trackers
    taken = environment(
        captures=[path.name for path in settings.captures], transport=settings.transport,
        placement=settings.placement or args.placement, trackers=trackers,
        gather_s=args.gather_s, seconds=settings.seconds, warm_up_s=settings.warm_up_s,
        rounds=settings.rounds, batch_delay_s=settings.load["batch_delay_s"],
    )  # fmt: skip
    found: dict[tuple[float, int], list[Measured]] = {load: [] for load in loads}
    with (
        tested_service(settings) as tested,
        Generator(settings.captures, settings.transport, tested.url) as generator,
    ):
        first = Trial(min(rate for rate, _ in loads), 0.0, 3.0, **settings.load)
        run_measured(generator, first, tested.pid)  # so that nothing is done for the first time
        shuffled = random.Random(_SEED)  # noqa: S311 (an order, no secret)
        for number in range(settings.rounds):
            order = list(loads)
            shuffled.shuffle(order)
            for rate, collectors in order:
                on_trial(f"round {number + 1}: {rate:,.0f} new flows/s, {collectors} collectors")
                trial = replace(
                    first,
                    rate=rate,
                    collectors=collectors,
                    warm_up_s=settings.warm_up_s,
                    seconds=settings.seconds,
                )
                measured = run_measured(generator, trial, tested.pid)
                found[rate, collectors].append(measured)
        start_s = tested.start_s
    points = [
        {
            "rate": rate,
            "collectors": collectors,
            "rounds": len(several),
            "held": all(one.outcome.holds(settings.limit_ms) for one in several),
            # Not steady: a replica came or went meanwhile, whose start counts as its work.
            "steady": all(one.steady for one in several),
            "replicas": several[-1].replicas,
            **medians([_figures(one) for one in several]),
        }
        for (rate, collectors), several in found.items()
    ]
    return {"points": points, "start_s": start_s, "environment": taken}


def _figures(measured: Measured) -> dict[str, Any]:
    outcome = measured.outcome
    return {
        "flows_per_second": outcome.flows / outcome.trial["seconds"],
        "packets_per_second": outcome.packets_per_second,
        "batches_per_second": outcome.batches_per_second,
        "sent_bytes_per_flow": outcome.sent_bytes_per_flow,
        "received_bytes_per_flow": outcome.received_bytes_per_flow,
        "first_answer_ms": outcome.first_ms,
        "queue_ms": outcome.queue_ms,
        "cores_used": {
            part: spent / 1000.0 / outcome.trial["seconds"]
            for part, spent in measured.cpu_ms.items()
        },
    }
