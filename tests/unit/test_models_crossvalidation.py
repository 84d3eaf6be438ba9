"""Training anew for each fold, and what comes of putting the folds together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flows.errors import SettingsError
from models import crossvalidation
from models.cascade import NO_TIER, load_cascade
from models.crossvalidation import cross_validate, evaluate_training, pooled
from models.dataset import Dataset
from models.evaluation import assess
from models.evaluation_answers import Study, study
from models.evaluation_without import without_host, without_port
from models.synthetic import synthetic_bundle, synthetic_dataset
from models.training import TrainSettings

QUICK = TrainSettings(effort="quick", operating_point="accurate", port=False, host=False)


def test_every_flow_is_judged_once_by_a_cascade_that_never_saw_its_capture() -> None:
    data = synthetic_dataset(240)
    steps: list[str] = []
    found, reports = cross_validate(
        data, QUICK, folds=2, progress=lambda step, done, total: steps.append(step)
    )
    assert len(found.true) == len(data)
    assert [found.names[label] for label in found.true] == data.labels.tolist()
    assert (found.groups == data.groups).all()
    assert (found.cascade.tier != NO_TIER).all()
    assert len(reports) == 2
    assert all(report.flows < len(data) for report in reports)
    assert {step.partition(":")[0] for step in steps} == {"fold 1 of 2", "fold 2 of 2"}
    result = assess(found, data).to_dict()
    assert result["flows"] == len(data)
    assert result["slow_only"]["weighted_f1"] > 0.5


def test_cascades_with_other_tiers_are_matched_from_the_deepest_on(tmp_path: Path) -> None:
    data = synthetic_dataset(60)
    short = load_cascade(synthetic_bundle(tmp_path / "short", depths=(1, 10)))
    long = load_cascade(synthetic_bundle(tmp_path / "long", depths=(1, 1, 5, 10)))
    rows = [np.arange(0, 60, 2), np.arange(1, 60, 2)]
    studies = [
        study(cascade, data.select(own)) for cascade, own in zip((short, long), rows, strict=True)
    ]
    found = pooled(studies, rows, data.group_names)
    assert [tier.depth for tier in found.tiers] == [1, 1, 5, 10]
    assert found.fast_tiers == 2
    # The short cascade has no first of two tiers on packet 1: its only one is the last of them.
    assert (found.alone[0].tier[rows[0]] == NO_TIER).all()
    assert (found.alone[1].tier == 1).all()
    assert (found.alone[2].tier[rows[0]] == NO_TIER).all()
    assert (found.slow_only.tier == 3).all()
    for own, one in zip(rows, studies, strict=True):
        names = np.array(found.names)
        assert (names[found.cascade.said[own]] == np.array(one.names)[one.cascade.said]).all()
        assert (found.cascade.wait_ns[own] == one.cascade.wait_ns).all()


def test_both_ports_are_trained_for_and_the_figures_are_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = synthetic_dataset(60)
    found = study(load_cascade(synthetic_bundle(tmp_path / "bundle")), data)
    perfect = replace(found, cascade=replace(found.cascade, said=found.true))
    trained: list[bool | None] = []

    def validated(
        data: Dataset, settings: TrainSettings, **_: object
    ) -> tuple[Study, list[SimpleNamespace]]:
        trained.append(settings.port)
        one = SimpleNamespace(with_port=settings.port)
        return (perfect if settings.port else found), [one]

    monkeypatch.setattr(crossvalidation, "cross_validate", validated)
    monkeypatch.setattr(crossvalidation, "load_dataset", lambda *_, **__: data)
    where = tmp_path / "captures", tmp_path / "labels.csv"
    either = TrainSettings(effort="quick")
    told = evaluate_training(*where, either, folds=2, both_ports=True)
    assert sorted(map(bool, trained)) == [False, True]
    assert told.ports is not None
    assert (told.ports["seen"], told.ports["with"]["cascade"]["weighted_f1"]) == (0.0, 1.0)
    assert told.ports["without"]["cascade"]["weighted_f1"] == told.cascade.weighted_f1 < 1.0
    one = evaluate_training(*where, replace(either, port=True), folds=2)
    assert one.ports is not None
    assert (one.ports["seen"], one.ports["without"]) == (1.0, None)
    with pytest.raises(SettingsError, match="leave out --port"):
        evaluate_training(*where, replace(either, port=True), folds=2, both_ports=True)


def test_flows_without_a_history_are_asked_about_only_if_histories_are_seen(
    tmp_path: Path,
) -> None:
    cascade = load_cascade(synthetic_bundle(tmp_path / "bundle"))
    assert without_host(cascade, synthetic_dataset(10)) is None
    assert without_port(cascade, synthetic_dataset(10)) is None
