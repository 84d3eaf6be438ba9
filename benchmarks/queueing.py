"""Waiting in queues: Erlang C, and Allen and Cunneen's approximation for general times.

Allen, *Probability, Statistics and Queueing Theory*, 2nd ed. 1990, section 5.3: the mean wait of a
G/G/c queue is that of M/M/c times (Ca² + Cs²) / 2, the squared coefficients of variation of the
times between arrivals and of service. That factor is called the variability here; it is 1 for
M/M/c. The wait of those who have to wait is taken to be exponential, as it is in M/M/c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Queue", "answer_quantile_ms", "erlang_c", "least"]

_ENOUGH = 1e-8  # less is no progress: along a narrow valley it would go on for long


def erlang_c(servers: int, utilisation: float) -> float:
    """Return the share of arrivals that have to wait in M/M/c.

    Args:
        servers: c.
        utilisation: Share of the servers' time that is used; from 1 on everybody waits.
    """
    if utilisation >= 1.0:
        return 1.0
    offered = servers * utilisation
    blocked = 1.0  # Erlang B, by its recursion
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    return blocked / (1.0 - utilisation * (1.0 - blocked))


@dataclass(frozen=True, slots=True)
class Queue:
    """A station of several servers.

    Attributes:
        servers: How many.
        utilisation: Share of their time that is used.
        service_ms: Mean time of a call at a server.
        variability: (Ca² + Cs²) / 2.
    """

    servers: int
    utilisation: float
    service_ms: float
    variability: float

    @property
    def waits(self) -> float:
        """Share of calls that have to wait."""
        return erlang_c(self.servers, self.utilisation)

    @property
    def mean_wait_ms(self) -> float:
        """Mean wait of all calls; infinite where more comes than can be done."""
        if self.utilisation >= 1.0:
            return math.inf
        relative = self.waits / (self.servers * (1.0 - self.utilisation))
        return self.variability * relative * self.service_ms

    def wait_ms(self, quantile: float) -> float:
        """Return a quantile of the wait of all calls."""
        waits = self.waits
        if waits <= 1.0 - quantile or not self.mean_wait_ms:
            return 0.0
        return self.mean_wait_ms / waits * math.log(waits / (1.0 - quantile))


def answer_quantile_ms(queue: Queue, period_ms: float, quantile: float) -> float:
    """Return a quantile of the time from a flow's first packet to its first answer.

    It is the sum of the wait until the collector's next batch (uniform in its period, as flows
    begin at any time), of the wait in the queue, and of the service time.

    Args:
        queue: Where the batch is answered.
        period_ms: From one batch of a collector to its next.
        quantile: Such as .5 or .99.
    """
    waits, mean_ms = queue.waits, queue.mean_wait_ms
    if math.isinf(mean_ms):
        return math.inf
    rate = waits / mean_ms if mean_ms else math.inf

    def share_by(time_ms: float) -> float:
        spare = time_ms - queue.service_ms
        if spare <= 0.0:
            return 0.0
        inside = min(spare, period_ms)
        if math.isinf(rate):
            return inside / period_ms
        late = waits / rate * (math.exp(-rate * (spare - inside)) - math.exp(-rate * spare))
        return (inside - late) / period_ms

    low, high = queue.service_ms, queue.service_ms + period_ms
    while share_by(high) < quantile:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if share_by(middle) < quantile else (low, middle)
    return high


def least(
    of: Callable[[Sequence[float]], float], start: Sequence[float], steps: Sequence[float]
) -> list[float]:
    """Return where a function of few numbers, none below 0, is least (pattern search).

    Hooke and Jeeves, *Direct search*, J. ACM 8(2), 1961: one number at a time goes up or down by
    its step as long as that helps by more than 1e-8; where nothing does, steps are halved.

    Args:
        of: The function.
        start: Where to begin.
        steps: The first step of each number.
    """
    at, step = list(start), list(steps)
    best = of(at)
    while max(one / first for one, first in zip(step, steps, strict=True)) > 1e-4:
        better = False
        for i in range(len(at)):
            for change in (step[i], -step[i]):
                tried = [*at[:i], max(0.0, at[i] + change), *at[i + 1 :]]
                value = of(tried)
                if value < best - _ENOUGH:
                    at, best, better = tried, value, True
                    break
        if not better:
            step = [one / 2.0 for one in step]
    return at
