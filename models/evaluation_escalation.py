"""Whether the right flows are escalated: against an oracle, chance and least confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation_answers import Study
from models.metrics import f1_from_counts

__all__ = ["escalation", "share_to_catch"]

_CATCH = (0.82, 0.95)
_RANDOM_DRAWS = 50
_SEED = 0


def escalation(study: Study) -> dict[str, Any] | None:
    """Return how well the cascade chooses the flows that it escalates.

    A flow *benefits* when the last tier on packet 1 gets it wrong and the deepest tier right. The
    choices compared hand a flow either to the one or to the other of these two tiers.

    Returns:
        None if no tier judges packet 1; else

        - ``escalated``: share of all flows that the cascade escalates, the budget;
        - ``benefit_flows``, ``benefit_share`` of all flows, and ``benefit_escalated``: the share
          of them that the cascade escalates;
        - ``fast_errors`` and ``fast_errors_caught``: the share of them that it escalates;
        - ``weighted_f1`` of ``fast_only``, ``random`` and ``least_confidence`` (at the cascade's
          budget; the mean of 50 draws, of all or of equal confidence), ``cascade``,
          ``slow_only`` and ``oracle`` (exactly the flows that benefit, ``oracle_escalated``);
        - ``to_catch``: the share that has to be escalated by least confidence to catch a share of
          the fast tier's errors, each as ``errors`` and the keys of :func:`share_to_catch`.

        Shares of nothing are None.
    """
    fast, slow = study.fast_only, study.slow_only
    if fast is None:
        return None
    wrong = fast.said != study.true
    benefit = wrong & (slow.said == study.true)
    escalated = study.escalated(study.cascade)
    budget = int(escalated.sum())

    support = np.bincount(study.true, minlength=len(study.names))

    def weighted_f1(said: npt.NDArray[np.int64]) -> float:
        hits = np.bincount(said[said == study.true], minlength=len(support))
        claimed = np.bincount(said, minlength=len(support))
        return float(f1_from_counts(hits, support, claimed) @ support / len(said))

    def handing_over(which: npt.NDArray[np.bool_]) -> float:
        return weighted_f1(np.where(which, slow.said, fast.said))

    rng = np.random.default_rng(_SEED)
    by_chance, by_confidence = [], []
    for _ in range(_RANDOM_DRAWS):
        draw = rng.random(len(study.true))
        by_chance.append(handing_over(_first(np.argsort(draw), budget)))
        by_confidence.append(handing_over(_first(np.lexsort((draw, fast.confidence)), budget)))
    return {
        "escalated": round(budget / len(escalated), 4),
        "benefit_flows": int(benefit.sum()),
        "benefit_share": round(float(benefit.mean()), 4),
        "benefit_escalated": _share(escalated[benefit]),
        "fast_errors": int(wrong.sum()),
        "fast_errors_caught": _share(escalated[wrong]),
        "oracle_escalated": round(float(benefit.mean()), 4),
        "weighted_f1": {
            "fast_only": round(weighted_f1(fast.said), 4),
            "random": round(float(np.mean(by_chance)), 4),
            "least_confidence": round(float(np.mean(by_confidence)), 4),
            "cascade": round(weighted_f1(study.cascade.said), 4),
            "slow_only": round(weighted_f1(slow.said), 4),
            "oracle": round(handing_over(benefit), 4),
        },
        "to_catch": [
            {"errors": share, **share_to_catch(fast.confidence, wrong, share)} for share in _CATCH
        ],
    }


def share_to_catch(
    confidence: npt.NDArray[np.float32], wrong: npt.NDArray[np.bool_], share: float
) -> dict[str, float | None]:
    """Return the share of flows to escalate, least confident first, to catch errors.

    Args:
        confidence: float32 ``[n]``.
        wrong: Which flows are errors, bool ``[n]``.
        share: Of the errors that is to be caught, within (0, 1].

    Returns:
        ``escalated``: by a threshold, which takes all flows of equal confidence or none;
        ``escalated_ties_by_chance``: as expected if chance orders flows of equal confidence. Both
        within (0, 1], to 4 digits; None if there are no errors.
    """
    errors = np.sort(confidence[wrong])
    if not len(errors):
        return {"escalated": None, "escalated_ties_by_chance": None}
    # A hair less, so that 0.95 of 20 errors is 19 of them whatever the rounding of the product.
    needed = max(int(np.ceil(share * len(errors) - 1e-9)), 1)
    level = errors[needed - 1]
    below, level_flows = int((confidence < level).sum()), int((confidence == level).sum())
    level_errors = int((errors == level).sum())
    still = needed - int((errors < level).sum())
    # Where the r-th of E marked among T stands on average when they are shuffled.
    expected = below + still * (level_flows + 1) / (level_errors + 1)
    n = len(confidence)
    return {
        "escalated": round((below + level_flows) / n, 4),
        "escalated_ties_by_chance": round(expected / n, 4),
    }


def _first(order: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Return which rows come first in an order, as a mask."""
    which = np.zeros(len(order), np.bool_)
    which[order[:count]] = True
    return which


def _share(which: npt.NDArray[np.bool_]) -> float | None:
    return round(float(which.mean()), 4) if len(which) else None
