"""What a cascade does for flows of which less can be seen: no host's history, no server's port."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.cascade import Cascade
from models.dataset import Dataset
from models.evaluation_answers import Study, answer_all
from models.metrics import WITHIN_MS, f1_scores

__all__ = ["in_brief", "ports", "without_host", "without_port"]


_HOW = {
    "masked": "the same tiers with the responder's port and with it hidden from them, which does "
    "worse than tiers trained without",
    "trained": "trained with the responder's port, and without",
}


def without_host(cascade: Cascade, data: Dataset) -> dict[str, Any] | None:
    """Return the figures of the same flows as third parties would submit them.

    Args:
        cascade: With all tiers loaded.
        data: Labelled flows.

    Returns:
        For ``cascade`` and ``slow_only`` what :func:`in_brief` says; None: no tier sees a history.
    """
    return _of(cascade, data.without_host()) if cascade.sees_host else None


def without_port(cascade: Cascade, data: Dataset) -> dict[str, Any] | None:
    """Return the figures of the same flows as if their responders' ports told nothing.

    The tiers stay as they are: what has learned to go by the port does worse so than what was
    trained without.

    Args:
        cascade: With all tiers loaded.
        data: Labelled flows.

    Returns:
        For ``cascade`` and ``slow_only`` what :func:`in_brief` says; None: no tier sees the port.
    """
    return _of(cascade, data.without_port()) if cascade.sees_port else None


def ports(
    seen: float,
    own: dict[str, Any],
    other: dict[str, Any] | None = None,
    how: Literal["masked", "trained"] = "masked",
) -> dict[str, Any]:
    """Return figures with the responder's port and without, as an evaluation reports them.

    Args:
        seen: Share of the cascades that see it: between 0 and 1 if folds chose differently.
        own: Figures of what is evaluated.
        other: The same where the port is seen, if that does not see it, and the reverse; None:
            there are none.
        how: How the two differ: the port is hidden from the same tiers, or a cascade was trained
            for each.

    Returns:
        ``seen``; ``with`` and ``without`` the port, None: there are no such figures; ``how``, in
        words.
    """
    both: dict[str, dict[str, Any] | None] = {"with": None, "without": None}
    if seen in (0.0, 1.0):
        both = {"with": own, "without": other} if seen else {"with": other, "without": own}
    one = "trained with the responder's port" if seen else "trained without the responder's port"
    return {"seen": seen, **both, "how": one if other is None else _HOW[how]}


def in_brief(study: Study) -> dict[str, Any]:
    """Return a study's figures as far as they can be told of flows of which less is seen, too.

    Returns:
        For ``cascade`` and ``slow_only`` their ``weighted_f1``, ``macro_f1`` and
        ``waited_at_most_16ms`` (inference left out).
    """
    ways = {"cascade": study.cascade, "slow_only": study.slow_only}
    return {name: _brief(study.true, way.said, way.wait_ms) for name, way in ways.items()}


def _of(cascade: Cascade, data: Dataset) -> dict[str, Any]:
    classes = np.array(cascade.classes)
    true = data.labels
    if len(classes) > cascade.learned:  # it labels what it does not know
        true = np.where(np.isin(true, classes), true, classes[-1])
    found = {}
    for name, first in (("cascade", 0), ("slow_only", len(cascade.tiers) - 1)):
        way = answer_all(cascade, data, first)
        found[name] = _brief(true, classes[way.said], way.wait_ms)
    return found


def _brief(
    true: npt.NDArray[Any], said: npt.NDArray[Any], wait_ms: npt.NDArray[np.float64]
) -> dict[str, float]:
    scores = f1_scores(true, said)
    return {
        "weighted_f1": round(scores["weighted_f1"], 4),
        "macro_f1": round(scores["macro_f1"], 4),
        "waited_at_most_16ms": round(float((wait_ms <= WITHIN_MS).mean()), 4),
    }
