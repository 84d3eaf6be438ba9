"""A cascade keeps to its limits with tiers that take what they take when they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest
from test_models_composition import CLASSES, TASK, N, candidate

from models import composition_book, tier_training
from models.candidates import Candidate
from models.composition import Plan
from models.costs import BATCHES
from models.engines import Engine
from models.tier_training import composed
from models.train_settings import BALANCED_COST_US, TrainSettings

SETTINGS = TrainSettings(max_f1_loss=0.01, gate="confidence")


@dataclass
class Factory:
    """Makes candidates; once trained they take ``dearer`` times what they took as candidates."""

    dearer: float
    trained: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    last_us: float = 0.0

    def knows(self, name: str, depth: int, cost_us: float, share: float) -> Candidate:
        """Right and sure of it for a share of the flows, wrong about the others and says so."""
        right = np.random.default_rng(0).random(N) < share
        one = candidate(name, depth, cost_us, right, np.where(right, 0.95, 0.4))

        def fit(*_: object) -> Engine:
            self.trained.append(one.name)
            return _Takes(self, cost_us)

        return replace(one, recipe=replace(one.recipe, fit=fit))

    def cost_us(self, ask: Callable[[int, int], object], _flows: int) -> dict[int, float]:
        """Stand for the clock."""
        ask(0, 1)
        return dict.fromkeys(BATCHES, self.dearer * self.last_us)

    def compose(self, monkeypatch: pytest.MonkeyPatch) -> Plan:
        """Compose a cascade of two tiers for packet 1, one between, and the best."""
        monkeypatch.setattr(tier_training, "cost_us", self.cost_us)
        monkeypatch.setattr(composition_book, "cost_us", lambda *_: dict.fromkeys(BATCHES, 0.0))
        usable = [
            self.knows("cheap", 1, 0.2, 0.45),
            self.knows("early", 1, 2.0, 0.55),
            self.knows("middle", 3, 5.0, 0.8),
            self.knows("deepest", 10, 4.0, 0.97),
        ]
        plan, models = composed(TASK, usable, SETTINGS, self.steps.append)
        assert [model.name for model in models] == [
            tier.candidate.recipe.name for tier in plan.tiers
        ]
        assert [model.threshold for model in models[:-1]] == list(plan.assignment.thresholds)
        return plan


class _Takes:
    """An engine that notes what it takes when it is asked."""

    def __init__(self, factory: Factory, cost_us: float) -> None:
        self._factory, self._cost_us = factory, cost_us

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self._factory.last_us = self._cost_us
        return np.full((len(inputs), CLASSES), 1.0 / CLASSES, np.float32)

    def files(self) -> dict[str, bytes]:
        return {}


def test_what_keeps_to_its_limits_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Factory(dearer=1.0)
    plan = factory.compose(monkeypatch)
    assert SETTINGS.goal.met(plan.assignment)
    assert "early@1" in factory.trained, "there is room for the better one"
    assert factory.steps.count("composing the cascade") == 1


def test_tiers_that_take_more_when_trained_give_way_to_cheaper_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factory = Factory(dearer=2.0)
    plan = factory.compose(monkeypatch)
    assert factory.steps.count("composing the cascade") > 1
    assert SETTINGS.goal.met(plan.assignment), "half a point is kept to, and so is the cost"
    assert plan.assignment.cost_us <= BALANCED_COST_US
    assert plan.tiers[0].candidate.recipe.name == "cheap@1"
    assert len(set(factory.trained)) == len(factory.trained), "each one is trained once"


def test_limits_out_of_reach_end_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Factory(dearer=100.0)
    plan = factory.compose(monkeypatch)
    assert not SETTINGS.goal.met(plan.assignment)
    assert factory.steps.count("composing the cascade") <= 3
