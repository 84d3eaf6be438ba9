"""The models that may become tiers: what each one is, sees and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.engines import Engine, MeanEngine

__all__ = ["DEPTHS", "EFFORTS", "Effort", "Recipe", "extra_trees", "paper_zoo", "quick_zoo", "zoo"]

DEPTHS = (1, 2, 3, 4, 5, 10)
"""First packets that tiers may judge."""

Effort = Literal["quick", "standard", "full"]
EFFORTS: tuple[Effort, ...] = ("quick", "standard", "full")
"""How much is tried in training."""

Share = float | Literal["sqrt"] | None

_Kind = Literal["mlp", "cnn", "gru", "transformer"]

_Fit = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64], int, int], Engine
]

_Draw = Callable[[np.random.Generator], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
_FitDrawn = Callable[
    [npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64], int, int, _Draw], Engine
]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tier is made.

    Attributes:
        name: Name of the tier.
        depth: First packets that it judges.
        inputs: A key of :data:`models.inputs.FORMS`.
        fit: Trains it on inputs, classes, groups, the number of classes and a seed.
        parts: Recipes whose mean it is; then it is not trained itself.
        alone: Whether it must not be trained in one process with another at the same time.
        fit_drawn: Trains it like ``fit`` in passes over flows that are drawn for each, see
            :data:`models.networks_training.Draw`: changed as another network would have shown
            them. None: it learns from flows as they are.
    """

    name: str
    depth: int
    inputs: str
    fit: _Fit
    parts: tuple[Recipe, ...] = ()
    alone: bool = False
    fit_drawn: _FitDrawn | None = None


def quick_zoo(share: Share) -> tuple[Recipe, ...]:
    """Return the few recipes that are best for what they cost.

    Args:
        share: Columns that a split of extremely randomised trees chooses from.
    """
    return (
        smoothed_tree(1),
        *(extra_trees(depth, 20, share) for depth in DEPTHS[:-1]),
        extra_trees(10, 60, share),
    )


def zoo(effort: Effort, share: Share, *, costly: bool) -> tuple[Recipe, ...]:
    """Return what is tried, the most promising first: time may run out.

    Args:
        effort: How much.
        share: Columns that a split of extremely randomised trees chooses from.
        costly: Whether tiers on few packets may take tens of microseconds a flow.
    """
    found = list(quick_zoo(share))
    if effort == "quick":
        return tuple(found)
    found += [extra_trees(depth, 60, share) for depth in (1, 2, 4)]
    for depth in (10, 2, 1, 3, 5, 4) if costly or effort == "full" else (10, 5):
        forest, boosted = extra_trees(depth, 60, share), light_gbm(depth)
        found += [forest, boosted, mean(forest, boosted)]
    found = list({one.name: one for one in found}.values())
    found.append(random_forest(10, 60, share))
    if effort == "standard":
        return tuple(found)
    found += [random_forest(depth, 60, share) for depth in DEPTHS[:-1]]
    found += [xgboost(10), xgboost(1), extra_trees(10, 20, share)]
    found += [network("mlp", depth) for depth in (10, 1)]
    found += [network(kind, 10) for kind in ("cnn", "gru", "transformer")]
    found += [augmented(network(kind, 10), kind) for kind in ("mlp", "cnn", "gru", "transformer")]
    return tuple(found)


def paper_zoo() -> tuple[Recipe, ...]:
    """Return the tiers of the ServeFlow paper (arXiv 2402.03694), on the headers' bits.

    A decision tree and boosted trees on packet 1, boosted trees on packet 10.
    """
    return (bit_tree(1), light_gbm(1, "bits"), light_gbm(10, "bits"))


def bit_tree(depth: int) -> Recipe:
    """Return one decision tree on the headers' bits (CART, Breiman et al. 1984)."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.forest import fit_tree

        return fit_tree(inputs, labels, classes, seed=seed)

    return Recipe(f"tree-bits@{depth}", depth, "bits", fit)


def smoothed_tree(depth: int) -> Recipe:
    """Return one tree of at most 1,024 leaves that says what a forest says."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.forest import fit_distilled_tree, fit_extra_trees

        teacher = fit_extra_trees(inputs, labels, classes, trees=60, most_bytes=_ANY, seed=seed)
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([inputs, *(_crossed(inputs, labels, rng) for _ in range(_COPIES))])
        return fit_distilled_tree(drawn, teacher.scores(drawn), seed=seed)

    return Recipe(f"tree@{depth}", depth, "columns", fit)


def extra_trees(depth: int, trees: int, share: Share) -> Recipe:
    """Return extremely randomised trees (Geurts et al. 2006)."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.forest import fit_extra_trees

        return fit_extra_trees(
            inputs,
            labels,
            classes,
            trees=trees,
            min_leaf=1,
            max_features=share,
            most_bytes=_BYTES_PER_TREE * trees,
            smoothing=_SMOOTHING,
            seed=seed,
        )

    return Recipe(f"extra-trees-{trees}@{depth}", depth, "columns", fit)


def random_forest(depth: int, trees: int, share: Share) -> Recipe:
    """Return a random forest (Breiman 2001)."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.forest import fit_random_forest

        return fit_random_forest(
            inputs,
            labels,
            classes,
            trees=trees,
            min_leaf=1,
            max_features=share,
            most_bytes=_BYTES_PER_TREE * trees,
            smoothing=_SMOOTHING,
            seed=seed,
        )

    return Recipe(f"random-forest-{trees}@{depth}", depth, "columns", fit)


def light_gbm(depth: int, inputs: str = "columns") -> Recipe:
    """Return boosted trees by LightGBM (Ke et al. 2017)."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.boosted import BoostedSettings, fit_lightgbm

        return fit_lightgbm(inputs, labels, groups, classes, BoostedSettings(seed=seed))

    name = "lightgbm" if inputs == "columns" else f"lightgbm-{inputs}"
    return Recipe(f"{name}@{depth}", depth, inputs, fit)


def xgboost(depth: int) -> Recipe:
    """Return boosted trees by XGBoost (Chen and Guestrin 2016)."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.boosted import BoostedSettings, fit_xgboost

        return fit_xgboost(inputs, labels, groups, classes, BoostedSettings(seed=seed))

    return Recipe(f"xgboost@{depth}", depth, "columns", fit)


def network(kind: _Kind, depth: int) -> Recipe:
    """Return a neural network, see :mod:`models.networks`."""

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        from models.networks import NetworkSettings, fit_network

        return fit_network(kind, inputs, labels, groups, classes, NetworkSettings(seed=seed))

    # torch draws from one generator per process, and sets its threads for all.
    form = "columns" if kind == "mlp" else "sequence"
    return Recipe(f"{kind}@{depth}", depth, form, fit, alone=True)


def augmented(recipe: Recipe, kind: _Kind) -> Recipe:
    """Return a network that learns from flows with losses, other gaps and early ends.

    See :mod:`models.augmentation`. Whether that helps is for validation to say.
    """

    def fit_drawn(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
        draw: _Draw,
    ) -> Engine:
        from models.networks import NetworkSettings, fit_network

        settings = NetworkSettings(seed=seed)
        return fit_network(kind, inputs, labels, groups, classes, settings, draw=draw)

    name, _, depth = recipe.name.partition("@")
    return replace(recipe, name=f"{name}-augmented@{depth}", fit_drawn=fit_drawn)


def mean(first: Recipe, second: Recipe) -> Recipe:
    """Return the mean of two recipes that judge as many packets and take the same inputs."""
    name = f"{first.name.partition('@')[0]}-{second.name}"

    def fit(
        inputs: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        groups: npt.NDArray[np.int64],
        classes: int,
        seed: int,
    ) -> Engine:
        return MeanEngine(
            [part.fit(inputs, labels, groups, classes, seed) for part in (first, second)]
        )

    return Recipe(name, first.depth, first.inputs, fit, (first, second))


def _crossed(
    inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return flows of which some columns come from another flow of the same class."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    sizes = np.diff(starts)[labels]
    other = order[starts[labels] + (rng.random(len(labels)) * sizes).astype(np.int64)]
    return np.where(rng.random(inputs.shape) < _CROSSED, inputs[other], inputs)


_COPIES = 4
_SMOOTHING = 3.0  # leaves of single flows would all be certain, and none surer than another
_CROSSED = 0.15  # share of the columns
_BYTES_PER_TREE = 500_000
_ANY = 1 << 40
