"""What a cascade that sees hosts' histories does for flows that come without them."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.cascade import Cascade
from models.dataset import Dataset
from models.evaluation_answers import answer_all
from models.metrics import WITHIN_MS, f1_scores

__all__ = ["without_host"]


def without_host(cascade: Cascade, data: Dataset) -> dict[str, Any] | None:
    """Return the figures of the same flows as third parties would submit them.

    Args:
        cascade: With all tiers loaded.
        data: Labelled flows.

    Returns:
        For ``cascade`` and ``slow_only`` their ``weighted_f1``, ``macro_f1`` and
        ``waited_at_most_16ms`` (inference left out); None if no tier sees a history.
    """
    if not cascade.sees_host:
        return None
    bare = data.without_host()
    classes = np.array(cascade.classes)
    true = data.labels
    if len(classes) > cascade.learned:  # it labels what it does not know
        true = np.where(np.isin(true, classes), true, classes[-1])
    found = {}
    for name, first in (("cascade", 0), ("slow_only", len(cascade.tiers) - 1)):
        way = answer_all(cascade, bare, first)
        scores = f1_scores(true, classes[way.said])
        found[name] = {
            "weighted_f1": round(scores["weighted_f1"], 4),
            "macro_f1": round(scores["macro_f1"], 4),
            "waited_at_most_16ms": round(float((way.wait_ms <= WITHIN_MS).mean()), 4),
        }
    return found
