"""Whole classes are left out of training, and told by how strange they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from flows.errors import LabelsError
from models import crossvalidation_unknown
from models.crossvalidation_unknown import UnknownEvaluation, leave_classes_out
from models.dataset import Dataset
from models.synthetic import synthetic_dataset
from models.train_report import TrainReport
from models.training import TrainSettings, train_on

QUICK = TrainSettings(effort="quick", operating_point="accurate", port=False, host=False)


def by_class(flows: int, captures: int = 4) -> Dataset:
    """Flows whose captures hold one class each, but for one that holds two."""
    data = synthetic_dataset(flows, classes=6, seed=2)
    label = np.array([int(name[-1]) for name in data.labels])
    turn = np.arange(flows) % captures
    groups = captures * label + turn
    groups[(label == 5) & (turn == 0)] = captures * 4
    found, groups = np.unique(groups, return_inverse=True)
    names = tuple(f"{i}.pcap" for i in found)
    return replace(data, groups=groups, group_names=names, captures=len(names))


@dataclass(frozen=True)
class Left:
    """What came of leaving classes out, in three folds."""

    data: Dataset
    trained_on: list[Dataset]
    steps: list[str]
    found: UnknownEvaluation


@pytest.fixture(scope="module")
def left() -> Left:
    trained_on: list[Dataset] = []
    steps: list[str] = []

    def spy(own: Dataset, *rest: Any, **options: Any) -> TrainReport:
        trained_on.append(own)
        return train_on(own, *rest, **options)

    data = by_class(900)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(crossvalidation_unknown, "train_on", spy)
        found = leave_classes_out(
            data, QUICK, folds=3, progress=lambda step, done, total: steps.append(step)
        )
    return Left(data, trained_on, steps, found)


def test_neither_left_out_classes_nor_their_captures_nor_judged_ones_are_trained_on(
    left: Left,
) -> None:
    data, found = left.data, left.found
    assert {step.partition(":")[0] for step in left.steps} == {f"fold {i} of 3" for i in (1, 2, 3)}
    out = [name for fold in found.folds for name in fold.classes]
    assert sorted(out) == sorted(set(data.labels)), "each class is left out once"
    everywhere = set(range(len(data.group_names)))
    for fold, own in zip(found.folds, left.trained_on, strict=True):
        assert fold.trained_on == len(own)
        assert not set(own.labels) & set(fold.classes)
        holding = set(data.groups[np.isin(data.labels, fold.classes)].tolist())
        trained = set(own.groups.tolist())
        assert not trained & holding
        assert everywhere - trained > holding, "known flows are judged on other captures too"
        assert fold.unknown == np.isin(data.labels, fold.classes).sum()
        assert 0 < fold.known < len(data) - len(own)
    assert found.unknown["flows"] == len(data)
    assert found.unknown["classes"] == sorted(set(data.labels))
    assert found.to_dict()["folds"][0]["classes"] == found.folds[0].classes


def test_a_class_unlike_all_others_is_told_and_twins_are_not(left: Left) -> None:
    data, plain = left.data, left.found
    packets = data.packets.copy()
    flow = np.repeat(np.arange(len(data)), data.sizes)
    odd = (data.labels == "class-0")[flow]
    packets["ttl"][odd] = 250
    packets["ip_bytes"][odd] += 9_000
    strange = leave_classes_out(replace(data, packets=packets), QUICK, folds=3)
    for found in (strange, plain):
        assert 0.0 <= found.unknown["auroc_by_flow"] <= 1.0
        assert set(found.unknown["flagged"]) == {"0.01", "0.05"}
        assert set(found.unknown) - set(found.unknown["slow_only"]) == {
            "classes",
            "flows",
            "captures",
            "slow_only",
        }
    assert strange.unknown["flagged"]["0.05"] > plain.unknown["flagged"]["0.05"] + 0.05


def test_captures_that_hold_all_classes_leave_nothing_to_train_on() -> None:
    with pytest.raises(LabelsError, match=r"every capture holds flows of .*captures of few"):
        leave_classes_out(synthetic_dataset(200), QUICK, folds=2)
