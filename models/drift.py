"""How far the answers that a cascade gives have moved from those that it gave in validation.

The population stability index (PSI) of two distributions over the same bins is
``Σ (p - q) · ln(p / q)``; by the usual rule of thumb nothing has changed below .1 and much above
.25. It tells that traffic is not what the bundle was made for, and not whether labels are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.bundle import read_bundle, read_validation
from models.manifest import VALIDATION_FOLDER
from models.yardstick import route

__all__ = ["DriftReference", "drift_reference", "psi"]

_HALF = 0.5  # added to every count: a bin that is empty on one side must not make it infinite


@dataclass(frozen=True, slots=True)
class DriftReference:
    """Of how many validation flows the cascade says what.

    Attributes:
        labels: Flows by label, int64 ``[classes]``; ``unknown`` is none of them.
        tiers: Flows by the tier that answers them, int64 ``[tiers]``.
    """

    labels: npt.NDArray[np.int64]
    tiers: npt.NDArray[np.int64]


def drift_reference(bundle: Path) -> DriftReference | None:
    """Return what a bundle's cascade answers in validation; None: the bundle keeps no judgements.

    Args:
        bundle: The bundle's folder.

    Raises:
        BundleError: It is damaged, incomplete or of another version.
    """
    contents = read_bundle(bundle, tiers=())
    if not (bundle / VALIDATION_FOLDER).is_dir():
        return None
    kept = read_validation(bundle)
    thresholds = [tier.class_thresholds or tier.threshold for tier in contents.tiers[:-1]]
    answered_by = route(kept.tiers, kept.sizes, thresholds)
    labels = np.stack([tier.labels for tier in kept.tiers])[answered_by, np.arange(len(kept.sizes))]
    return DriftReference(
        np.bincount(labels, minlength=len(contents.classes)),
        np.bincount(answered_by, minlength=len(contents.tiers)),
    )


def psi(expected: npt.NDArray[np.int64], seen: npt.NDArray[np.int64]) -> float:
    """Return the population stability index of two counts over the same bins, both ``[bins]``."""
    p, q = ((n + _HALF) / (n.sum() + _HALF * len(n)) for n in (seen, expected))
    return float(((p - q) * np.log(p / q)).sum())
