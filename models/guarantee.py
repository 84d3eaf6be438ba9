"""A bound of a loss that holds for any distribution: Hoeffding–Bentkus, in a fixed sequence.

Bates, Angelopoulos, Lei, Malik and Jordan 2021 (Distribution-Free, Risk-Controlling Prediction
Sets) give the bound; Angelopoulos, Bates, Candès, Jordan and Lei 2021 (Learn then Test) the test
of one setting after the other. The unit is a capture: flows of one capture are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from models.yardstick import Judgements, route

__all__ = [
    "PATH",
    "certified",
    "fewest_units",
    "group_losses",
    "hoeffding_bentkus",
    "least_risk",
    "path_losses",
]

PATH = (
    0.999,
    0.995,
    *(i / 100 for i in range(99, 59, -1)),
    *(i / 500 for i in range(299, 200, -1)),
    *(i / 100 for i in range(40, -1, -1)),
)
"""Thresholds, the same for every tier, from hardly ever early to always early.

Finer about .5: that is where the assurance of most flows lies by a benefit gate. Written down
before any flow is looked at: a path that was fitted to the flows could not be tested on them.
"""


def hoeffding_bentkus(mean: float, n: int, risk: float) -> float:
    """Return the p-value of "the expected loss is greater than ``risk``".

    It is the smaller one of Hoeffding's (in the form with the relative entropy) and Bentkus'.

    Args:
        mean: Of the losses of ``n`` independent units, each from 0 to 1.
        n: Units, at least 1.
        risk: From 0 to 1.
    """
    if risk >= 1.0:
        return 0.0  # no loss is greater than 1
    if mean >= risk:
        return 1.0
    hoeffding = math.exp(-n * _relative_entropy(mean, risk))
    # Losses are means of floats: what is a whole number of units must stay one.
    bentkus = math.e * _binomial_cdf(math.ceil(n * mean - 1e-9), n, risk)
    return min(1.0, hoeffding, bentkus)


def certified(
    losses: Iterable[npt.NDArray[np.float64]], risk: float, confidence: float
) -> list[float]:
    """Test settings in their order, up to the first one that fails.

    With probability ``confidence`` all that pass have an expected loss of at most ``risk``: only
    the first false one could be passed by mistake, and the tests end where one fails.

    Args:
        losses: Of each unit, float64 ``[n]`` within [0, 1], for each setting in its order.
        risk: That is to be guaranteed.
        confidence: Of the guarantee.

    Returns:
        The p-values of those that pass.
    """
    passed: list[float] = []
    for each in losses:
        p = hoeffding_bentkus(float(each.mean()), len(each), risk)
        if p > 1.0 - confidence:
            break
        passed.append(p)
    return passed


def group_losses(
    right: npt.NDArray[np.bool_],
    right_deepest: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return each group's loss of accuracy, float64 ``[groups]``; a gain counts as 0.

    Args:
        right: Whether each flow is answered rightly, ``[n]``.
        right_deepest: Whether the deepest tier alone would, ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
    """
    _, at = np.unique(groups, return_inverse=True)
    lost = np.bincount(at, weights=right_deepest.astype(np.float64) - right) / np.bincount(at)
    return np.asarray(np.clip(lost, 0.0, 1.0))


def path_losses(
    true: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    tiers: Sequence[Judgements],
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield what each group loses by a cascade, for each threshold of :data:`PATH` in its order.

    Args:
        true: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        sizes: Packets of each flow that count, int64 ``[n]``.
        tiers: What each tier says, shallowest first.

    Returns:
        See :func:`group_losses`.
    """
    rows = np.arange(len(true))
    labels = np.stack([tier.labels for tier in tiers])
    for threshold in PATH:
        said = labels[route(tiers, sizes, (threshold,) * (len(tiers) - 1)), rows]
        yield group_losses(said == true, labels[-1] == true, groups)


def fewest_units(risk: float, confidence: float) -> int:
    """Return with how many units at least ``risk`` can be guaranteed: if none shows a loss.

    Args:
        risk: Above 0 and below 1.
        confidence: Of the guarantee.
    """
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-risk))


def least_risk(n: int, confidence: float) -> float:
    """Return the least risk that ``n`` units can guarantee: if none shows a loss."""
    return float(1.0 - (1.0 - confidence) ** (1.0 / n))


def _relative_entropy(a: float, b: float) -> float:
    """Of a coin of probability ``a`` to one of ``b``; 0 <= a < b < 1."""
    first = a * math.log(a / b) if a > 0.0 else 0.0
    return first + (1.0 - a) * (math.log1p(-a) - math.log1p(-b))


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """Return the probability of at most ``k`` of ``n``; by logarithms, as ``n`` may be large."""
    if p <= 0.0 or k >= n:
        return 1.0
    log_odds = math.log(p) - math.log1p(-p)
    log_term = n * math.log1p(-p)
    total = math.exp(log_term)
    for i in range(1, k + 1):
        log_term += math.log((n - i + 1) / i) + log_odds
        total += math.exp(log_term)
    return min(1.0, total)
