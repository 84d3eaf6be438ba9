"""Finds the highest rate that holds: doubles, bisects, confirms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Found", "highest_rate"]

_T = TypeVar("_T")
_LEAST = 1.0  # new flows/s below which there is no use in searching on


@dataclass(frozen=True, slots=True)
class Found(Generic[_T]):
    """What a search found.

    Attributes:
        rate: The highest rate that held in each of the confirming runs; None: none did.
        confirmed: What those runs gave.
        tried: Every rate that was tried, in order, and whether it held.
    """

    rate: float | None
    confirmed: list[_T]
    tried: list[tuple[float, bool]]


def highest_rate(
    run: Callable[[float, bool], tuple[bool, _T]],
    *,
    first: float,
    rounds: int,
    precision: float = 0.05,
) -> Found[_T]:
    """Search the highest rate that holds.

    Short runs double the rate until it does not hold, or halve it until it does, and then bisect.
    The rate found is confirmed by full-length runs; where one of them does not hold, the next
    lower rate is tried, by ``precision``.

    Args:
        run: Runs a load at a rate, in full length or short; tells whether it held, and what came
            of it.
        first: The rate to begin with.
        rounds: Confirming runs.
        precision: How close, as a share of the rate, the highest rate is wanted.
    """
    tried: list[tuple[float, bool]] = []

    def holds(rate: float) -> bool:
        held, _ = run(rate, False)
        tried.append((rate, held))
        return held

    low, high = first, first
    if holds(first):
        while holds(2 * low):
            low *= 2
        high = 2 * low
    else:
        while low / 2 >= _LEAST:
            high, low = low, low / 2
            if holds(low):
                break
        else:
            return Found(None, [], tried)
    while high / low > 1 + precision:
        middle = (low * high) ** 0.5
        if holds(middle):
            low = middle
        else:
            high = middle
    while low >= _LEAST:
        confirmed: list[_T] = []
        while len(confirmed) < rounds:
            held, got = run(low, True)
            tried.append((low, held))
            if not held:
                break
            confirmed.append(got)
        if len(confirmed) == rounds:
            return Found(low, confirmed, tried)
        low *= 1 - precision
    return Found(None, [], tried)
