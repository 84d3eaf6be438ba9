"""Candidates for tiers: what they say of captures they were not trained on, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flows.errors import LabelsError
from models.augmentation import augment
from models.costs import COST_BATCH, cost_us
from models.dataset import Dataset
from models.engines import Engine
from models.features import Sight
from models.folds import grouped_folds
from models.inputs import see
from models.metrics import f1_scores
from models.zoo import Recipe

__all__ = ["Candidate", "Task", "judge_candidate", "mean_candidate", "pareto", "task_of"]

_Draw = Callable[[np.random.Generator], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]

_FEWEST_FLOWS = 10  # of a class
_FEWEST_GROUPS = 2  # that hold a class: one to learn from, one to check with


@dataclass(frozen=True, slots=True)
class Task:
    """Flows to learn from, with the classes as numbers.

    Attributes:
        data: The flows.
        classes: Names of the classes.
        true: Class of each flow, int64 ``[n]``.
        fold: Fold of each flow, int64 ``[n]``; a group is in one fold only.
        seed: Of all that is drawn.
        max_wait_s: How long after its first packet a flow waits for more (capture time).
        dropped: Flows of classes too rare to be learned and checked, by class.
    """

    data: Dataset
    classes: tuple[str, ...]
    true: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    seed: int
    max_wait_s: float
    dropped: dict[str, int]

    def inputs(self, recipe: Recipe, sight: Sight) -> npt.NDArray[np.float32]:
        """Return what a recipe sees of all flows."""
        return see(recipe.inputs, self.data.packets, self.data.offsets, recipe.depth, sight)

    def fit(
        self,
        recipe: Recipe,
        sight: Sight,
        rows: npt.NDArray[np.bool_] | slice = slice(None),
    ) -> Engine:
        """Train a recipe on some of the flows.

        One that sees the hosts' histories learns from each flow twice, the second time without:
        so it does as well without them as if it had never seen any.
        """
        inputs, true = self.inputs(recipe, sight)[rows], self.true[rows]
        groups = self.data.groups[rows]
        if sight.host:
            bare = replace(self, data=self.data.without_host()).inputs(recipe, sight)[rows]
            inputs = np.concatenate([inputs, bare])
            true, groups = np.tile(true, 2), np.tile(groups, 2)
        task = inputs, true, groups, len(self.classes), self.seed
        if recipe.fit_drawn is None:
            return recipe.fit(*task)
        return recipe.fit_drawn(*task, self._draw(recipe, sight, rows))

    def _draw(self, recipe: Recipe, sight: Sight, rows: npt.NDArray[np.bool_] | slice) -> _Draw:
        """Return what changes the flows anew for each pass, in the order that ``fit`` has."""
        data = self.data.select(np.arange(len(self.data))[rows])
        seen = [data, data.without_host()] if sight.host else [data]

        def draw(
            rng: np.random.Generator,
        ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
            changed = [augment(own.packets, own.offsets, rng) for own in seen]
            inputs = [
                see(recipe.inputs, packets, offsets, recipe.depth, sight)
                for packets, offsets, _ in changed
            ]
            at = [row + i * len(data) for i, (_, _, row) in enumerate(changed)]
            return np.concatenate(inputs), np.concatenate(at)

        return draw


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A recipe, judged.

    Attributes:
        recipe: How it is made.
        sight: What it sees beyond the flow's headers.
        scores: Of flows that it was not trained on, float32 ``[n, classes]``.
        weighted_f1: Of those, on all flows.
        macro_f1: The same, all classes weighing the same.
        cost_us: What it takes a flow, features included, microseconds, by flows in a call.
    """

    recipe: Recipe
    sight: Sight
    scores: npt.NDArray[np.float32]
    weighted_f1: float
    macro_f1: float
    cost_us: dict[int, float]

    @property
    def name(self) -> str:
        """The recipe's name, with what it sees."""
        return f"{self.recipe.name}{'+host' * self.sight.host}{'+port' * self.sight.port}"


def task_of(data: Dataset, folds: int, seed: int, max_wait_s: float) -> Task:
    """Leave out classes too rare to learn and to check; number the others.

    Args:
        data: Labelled flows.
        folds: Of cross-validation.
        seed: Of all that is drawn.
        max_wait_s: How long after its first packet a flow waits for more (capture time).

    Raises:
        LabelsError: Fewer than two classes are left.
    """
    names, at, counts = np.unique(data.labels, return_inverse=True, return_counts=True)
    groups = np.array([len(np.unique(data.groups[at == c])) for c in range(len(names))])
    kept = (counts >= _FEWEST_FLOWS) & (groups >= _FEWEST_GROUPS)
    dropped = {str(names[c]): int(counts[c]) for c in np.flatnonzero(~kept)}
    if kept.sum() < 2:
        raise LabelsError(
            f"{int(kept.sum())} of the {len(names)} classes have {_FEWEST_FLOWS} flows in "
            f"{_FEWEST_GROUPS} captures or more; at least 2 such classes are needed"
        )
    chosen = data.select(kept[at])
    classes, true = np.unique(chosen.labels, return_inverse=True)
    true = true.astype(np.int64)
    fold = grouped_folds(true, chosen.groups, folds, seed)
    return Task(chosen, tuple(map(str, classes)), true, fold, seed, max_wait_s, dropped)


def judge_candidate(task: Task, recipe: Recipe, sight: Sight) -> Candidate:
    """Train a recipe once for each fold, on the others, and let it judge that one."""
    inputs = task.inputs(recipe, sight)
    scores = np.zeros((len(inputs), len(task.classes)), np.float32)

    def judge(fold: int) -> Engine:
        rest = task.fold != fold
        engine = task.fit(recipe, sight, rest)
        scores[~rest] = engine.scores(inputs[~rest])
        return engine

    threads = 1 if recipe.alone else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        *_, engine = pool.map(judge, np.unique(task.fold).tolist())
    return _candidate(task, recipe, sight, scores, measured(task, recipe, sight, engine))


def mean_candidate(task: Task, recipe: Recipe, parts: list[Candidate]) -> Candidate:
    """Return the mean of candidates that have been judged already, without training."""
    scores = np.asarray(np.mean([part.scores for part in parts], axis=0, dtype=np.float32))
    cost = {batch: sum(part.cost_us[batch] for part in parts) for batch in parts[0].cost_us}
    return _candidate(task, recipe, parts[0].sight, scores, cost)


def measured(task: Task, recipe: Recipe, sight: Sight, engine: Engine) -> dict[int, float]:
    """Measure what a model takes a flow, features included; see :func:`models.costs.cost_us`."""
    data = task.data

    def ask(begin: int, end: int) -> object:
        rows = np.arange(begin, end)
        return engine.scores(
            see(recipe.inputs, data.packets, data.offsets, recipe.depth, sight, rows)
        )

    return cost_us(ask, len(data))


def pareto(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out those that another one of the same depth or less beats in both F1 and cost.

    Of equals the first one stays.
    """

    def worth(one: Candidate) -> tuple[float, float, float]:
        return one.recipe.depth, one.cost_us[COST_BATCH], -one.weighted_f1

    def beaten(i: int) -> bool:
        own = worth(candidates[i])
        return any(
            all(a <= b for a, b in zip(other, own, strict=True)) and (other != own or j < i)
            for j, other in enumerate(map(worth, candidates))
        )

    return [one for i, one in enumerate(candidates) if not beaten(i)]


def _candidate(
    task: Task,
    recipe: Recipe,
    sight: Sight,
    scores: npt.NDArray[np.float32],
    cost: dict[int, float],
) -> Candidate:
    found = f1_scores(task.true, scores.argmax(axis=1))
    return Candidate(recipe, sight, scores, found["weighted_f1"], found["macro_f1"], cost)
