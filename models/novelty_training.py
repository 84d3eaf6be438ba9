"""Learns what known flows look like to a tier; see :mod:`models.novelty`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.candidates import Candidate, Task
from models.features import flow_features
from models.known_flows import FURTHEST, KnownFlows, scaled, shortened
from models.novelty import Novelty, Ranks, added, entropies

__all__ = ["fit_novelty", "novelty_of"]

_KEPT = 4_096  # known flows, and as many again without histories
_GROUPS = 64
_SMALLEST = 1e-6  # standard deviation, of columns that are always the same


def novelty_of(task: Task, one: Candidate) -> Novelty:
    """Learn what a task's flows look like to a candidate, by what it said of them."""
    depth, sight = one.recipe.depth, one.sight
    data = task.data
    columns = flow_features(data.packets, data.offsets, depth, sight)
    bare = None
    if sight.host:
        without = data.without_host()
        bare = flow_features(without.packets, without.offsets, depth, sight)
    return fit_novelty(columns, one.scores, task.fold, bare=bare, seed=task.seed)


def fit_novelty(
    columns: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    fold: npt.NDArray[np.int64],
    *,
    bare: npt.NDArray[np.float32] | None = None,
    kept: int = _KEPT,
    seed: int = 0,
) -> Novelty:
    """Learn what known flows look like, and how strange they are when they are not learned from.

    Args:
        columns: Of known flows at the tier's depth, float32 ``[n, columns]``.
        scores: What the tier scores them when it is not trained on their fold (captures), float32
            ``[n, classes]``.
        fold: Fold of each flow, int64 ``[n]``; at least two.
        bare: The same flows' columns as they may come too, such as without their hosts' histories;
            they are no stranger then, and as many of them are kept.
        kept: Most known flows to keep; which ones is drawn.
        seed: Makes it repeatable.

    Raises:
        ValueError: There are not two folds of flows.
    """
    if len(np.unique(fold)) < 2:
        raise ValueError("novelty needs flows of two folds at least")
    entropy = entropies(scores)
    distance = np.empty(len(columns), np.float32)
    fewest = kept
    for one in np.unique(fold):
        rest = fold != one
        own = None if bare is None else bare[rest]
        known = _known(columns[rest], own, kept, seed)
        distance[~rest] = known.squared_distances(columns[~rest])
        fewest = min(fewest, len(known.flows) // (1 if bare is None else 2))
    by_entropy, by_distance = Ranks.of(entropy), Ranks.of(distance)
    both = Ranks.of(added(entropy, distance, by_entropy, by_distance))
    # Among more flows the nearest one would be nearer than the ranks have it.
    return Novelty(_known(columns, bare, max(fewest, 1), seed), by_entropy, by_distance, both)


def _known(
    columns: npt.NDArray[np.float32], bare: npt.NDArray[np.float32] | None, kept: int, seed: int
) -> KnownFlows:
    """Choose flows to keep, no two alike, and put them into groups (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    short = shortened(columns)
    mean = short.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = short.std(axis=0, dtype=np.float64)
    scale = (1.0 / (deviation + _SMALLEST)).astype(np.float32)
    rng = np.random.default_rng(seed)
    parts = []
    for known in (short,) if bare is None else (short, shortened(bare)):
        different = np.unique(scaled(known, mean, scale), axis=0)
        parts.append(rng.permutation(different)[:kept])
    # What half a float tells is enough, and a bundle of half the size.
    rounded = np.concatenate(parts).astype(np.float16).astype(np.float32)
    flows = np.unique(rounded, axis=0)
    groups = min(_GROUPS, int(np.ceil(np.sqrt(len(flows)))))
    model = MiniBatchKMeans(groups, n_init=1, random_state=seed)
    with threadpool_limits(1):  # sums over threads differ from run to run
        model.fit(flows)
    centres = np.clip(model.cluster_centers_, -FURTHEST, FURTHEST).astype(np.float32)
    group = _group_of(flows, centres)
    held, group = np.unique(group, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(held) + 1)).astype(np.int64)
    return KnownFlows(mean, scale, flows[order], centres[held], starts)


def _group_of(
    flows: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Return the nearest centre of each flow, int64 ``[n]``."""
    best = np.full(len(flows), np.inf)
    group = np.zeros(len(flows), np.int64)
    for g, centre in enumerate(centres):
        distance = ((flows - centre).astype(np.float64) ** 2).sum(axis=1)
        group[distance < best] = g
        best = np.minimum(best, distance)
    return group
