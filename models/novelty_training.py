"""Learns what known flows look like to a tier; see :mod:`models.novelty`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.candidates import Candidate, Task
from models.features import flow_features
from models.novelty import FURTHEST, Novelty, Ranks, added, entropies, squared_distances

__all__ = ["fit_novelty", "novelty_of"]

_PROTOTYPES = 64  # more of them find hardly more, see docs/decisions/0010-unknown-flows.md
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
    prototypes: int = _PROTOTYPES,
    seed: int = 0,
) -> Novelty:
    """Learn what known flows look like, and how strange they are when they are not learned from.

    Args:
        columns: Of known flows at the tier's depth, float32 ``[n, columns]``.
        scores: What the tier scores them when it is not trained on their fold (captures), float32
            ``[n, classes]``.
        fold: Fold of each flow, int64 ``[n]``; at least two.
        bare: The same flows' columns as they may come too, such as without their hosts' histories;
            they are no stranger then, and get as many prototypes again.
        prototypes: How many.
        seed: Makes it repeatable.

    Raises:
        ValueError: There are not two folds of flows.
    """
    if len(np.unique(fold)) < 2:
        raise ValueError("novelty needs flows of two folds at least")
    entropy = entropies(scores)
    distance = np.empty(len(columns), np.float32)
    for one in np.unique(fold):
        rest = fold != one
        own = None if bare is None else bare[rest]
        found = _prototypes(columns[rest], own, prototypes, seed)
        distance[~rest] = squared_distances(
            columns[~rest], *found[:2], np.ascontiguousarray(found[2].T)
        )
    by_entropy, by_distance = Ranks.of(entropy), Ranks.of(distance)
    both = Ranks.of(added(entropy, distance, by_entropy, by_distance))
    return Novelty(
        *_prototypes(columns, bare, prototypes, seed),
        entropy=by_entropy,
        distance=by_distance,
        both=both,
    )


def _prototypes(
    columns: npt.NDArray[np.float32],
    bare: npt.NDArray[np.float32] | None,
    prototypes: int,
    seed: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return means, scales and the centres of clusters (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    mean = columns.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = columns.std(axis=0, dtype=np.float64)
    scale = (1.0 / (deviation + _SMALLEST)).astype(np.float32)
    centres = []
    for known in (columns,) if bare is None else (columns, bare):
        scaled = np.clip((known - mean) * scale, -FURTHEST, FURTHEST)
        model = MiniBatchKMeans(min(prototypes, len(scaled)), n_init=1, random_state=seed)
        with threadpool_limits(1):  # sums over threads differ from run to run
            centres.append(model.fit(scaled).cluster_centers_)
    clipped = np.clip(np.concatenate(centres), -FURTHEST, FURTHEST)
    return mean, scale, clipped.astype(np.float32)
