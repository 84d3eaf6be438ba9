"""The tiers that are trained: what each one is, sees and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.dataset import Dataset
from models.engines import Engine
from models.features import Sight
from models.inputs import see

__all__ = ["DEEP", "FAST", "MIDDLE", "Recipe", "inputs_of"]

_Fit = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64], int, int], Engine
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tier is made.

    Attributes:
        name: Name of the tier.
        depth: First packets that it judges.
        inputs: ``columns`` or ``sequence``, see :class:`models.bundle.TierModel`.
        fit: Trains it on inputs, classes, groups, the number of classes and a seed.
    """

    name: str
    depth: int
    inputs: str
    fit: _Fit


def inputs_of(recipe: Recipe, data: Dataset, sight: Sight) -> npt.NDArray[np.float32]:
    """Return what a tier sees of all flows; see :mod:`models.features`."""
    return see(recipe.inputs, data.packets, data.offsets, recipe.depth, sight)


def _tree(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    seed: int,
) -> Engine:
    from models.forest import fit_tree

    return fit_tree(inputs, labels, classes, seed=seed)


def _extra_trees(trees: int, most_bytes: int) -> _Fit:
    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.forest import fit_extra_trees

        return fit_extra_trees(
            inputs, labels, classes, trees=trees, most_bytes=most_bytes, seed=seed
        )

    return fit


def _sequence(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    seed: int,
) -> Engine:
    from models.sequence import SequenceSettings, fit_sequence

    return fit_sequence(inputs, labels, groups, classes, SequenceSettings(seed=seed))


FAST = (
    Recipe("tree@1", 1, "columns", _tree),
    Recipe("extra-trees@1", 1, "columns", _extra_trees(20, 1_000_000)),
)
"""The tiers on packet 1, cheapest first."""

MIDDLE = (
    Recipe("extra-trees@2", 2, "columns", _extra_trees(20, 1_000_000)),
    Recipe("extra-trees@5", 5, "columns", _extra_trees(20, 1_500_000)),
)
"""Tiers in between; those become part of a cascade that make flows wait less."""

DEEP = (
    Recipe("extra-trees@10", 10, "columns", _extra_trees(60, 6_000_000)),
    Recipe("network@10", 10, "sequence", _sequence),
)
"""What may become the deepest tier; the better one on held-out captures does."""
