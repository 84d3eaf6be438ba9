"""A gate tells where asking deeper pays, and says the same in training and in serving."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.errors import BundleError
from models import gates
from models.bundle import BundleContents, TierModel, read_bundle, write_bundle
from models.cascade import Cascade, load_cascade
from models.engines import ForestEngine
from models.features import Sight, feature_names
from models.forest import fit_tree
from models.gates import (
    BENEFIT_COLUMNS,
    GATES,
    OUTCOMES,
    Gate,
    assurance,
    benefit_inputs,
    cross_fitted,
    fit_benefit,
)
from models.manifest import manifest_text
from models.synthetic import synthetic_bundle, synthetic_dataset

DATA = synthetic_dataset(120, seed=3)
FREE = np.zeros(2_000, np.float32)  # waits that cost nothing


def judged(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores that tell nothing, and a column that tells all.

    Below .25 this tier alone is right, up to .5 both are, up to .75 the deepest alone, then none.
    """
    rng = np.random.default_rng(seed)
    column = rng.random((n, 1)).astype(np.float32)
    scores = np.tile(np.float32([0.6, 0.4]), (n, 1))
    part = (4 * column[:, 0]).astype(np.int64)
    return scores, column, part < 2, (part == 1) | (part == 2)


def test_a_benefit_gate_learns_where_the_deepest_tier_is_right_and_this_one_wrong() -> None:
    scores, column, right, deepest = judged(2_000)
    gate = fit_benefit(benefit_inputs(scores, column), right, deepest, FREE[: len(right)])
    scores, column, right, deepest = judged(500, seed=1)
    sure = assurance(gate, scores, np.full(500, 0.6, np.float32), column)
    assert sure.dtype == np.float32
    clear = np.abs(4 * column[:, 0] - np.round(4 * column[:, 0])) > 0.1  # away from the edges
    better, worse = clear & deepest & ~right, clear & right & ~deepest
    alike = clear & (right == deepest)
    assert sure[better].max() < 0.3 < sure[alike].min(), "exactly there it escalates"
    assert sure[worse].min() > 0.8 > sure[alike].max(), "asking would do harm"
    assert sure[alike].mean() == pytest.approx(0.5, abs=0.1)


def test_a_tier_that_is_as_good_as_the_deepest_has_nothing_to_gain() -> None:
    scores, column, right, _ = judged(400)
    gate = fit_benefit(benefit_inputs(scores, column), right, right, FREE[:400])
    np.testing.assert_allclose(
        assurance(gate, scores, scores[:, 0], column), 0.5, atol=0.05
    )  # fmt: skip


def test_what_asking_brings_must_be_worth_the_wait() -> None:
    """The deepest tier is better on a quarter of the flows; for half of those the wait is long."""
    scores, column, right, deepest = judged(4_000)
    long = np.random.default_rng(1).random(4_000) < 0.5
    columns = np.stack([column[:, 0], long.astype(np.float32)], axis=1)
    price = np.where(long, 2.0, 0.2).astype(np.float32)
    gate = fit_benefit(benefit_inputs(scores, columns), right, deepest, price)
    sure = assurance(gate, scores, scores[:, 0], columns)
    clear = np.abs(4 * column[:, 0] - np.round(4 * column[:, 0])) > 0.1
    better = deepest & ~right & clear
    assert (sure[better & ~long] < 0.45).all(), "a short wait is worth it"
    assert (sure[better & long] > 0.7).all(), "a long one is not"
    assert (sure[clear & ~better] > 0.45).all(), "for nothing, no wait is"
    assert ((sure >= 0.0) & (sure <= 1.0)).all()


def test_what_a_benefit_gate_looks_at() -> None:
    scores = np.float32([[0.1, 0.7, 0.2], [1.0, 0.0, 0.0]])
    inputs = benefit_inputs(scores, np.float32([[5.0, 6.0], [7.0, 8.0]]))
    assert inputs.shape == (2, BENEFIT_COLUMNS + 2)
    entropy = -sum(p * np.log(p) for p in (0.1, 0.7, 0.2))
    np.testing.assert_allclose(inputs[0], [0.7, 0.2, entropy, 1, 5, 6], rtol=1e-6)
    np.testing.assert_allclose(inputs[1], [1, 0, 0, 0, 7, 8], atol=1e-6)


def test_every_kind_of_gate_gives_an_assurance_within_0_and_1() -> None:
    scores, column, right, deepest = judged(300)
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1.0, 1.0], 300).astype(np.float32)
    for kind in GATES:
        gate = Gate(kind)
        if kind == "benefit":
            gate = fit_benefit(benefit_inputs(scores, column), right, deepest, FREE[: len(right)])
        sure = assurance(gate, scores, scores.max(axis=1), column)
        assert sure.shape == (300,)
        assert sure.dtype == np.float32
        assert ((sure >= 0.0) & (sure <= 1.0)).all()


def test_a_benefit_gate_without_its_engine_or_columns_is_refused() -> None:
    scores, column, right, deepest = judged(100)
    gate = fit_benefit(benefit_inputs(scores, column), right, deepest, FREE[: len(right)])
    for one, columns in ((Gate("benefit"), column), (gate, None)):
        with pytest.raises(ValueError, match="needs its engine and the flows' columns"):
            assurance(one, scores, scores[:, 0], columns)


def test_cross_fitting_leaves_a_flows_whole_group_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, _, right, deepest = judged(300)
    groups = np.arange(300) % 7
    learned: list[set[int]] = []

    def spy(inputs: Any, *rest: Any) -> Gate:
        rows = inputs[:, BENEFIT_COLUMNS].astype(int)
        seen = {int(group) for group in groups[rows]}
        assert len(rows) == np.isin(groups, list(seen)).sum(), "whole groups only"
        learned.append(seen)
        return fit_benefit(inputs, *rest)

    monkeypatch.setattr(gates, "fit_benefit", spy)
    inputs = benefit_inputs(scores, np.arange(300, dtype=np.float32)[:, None])
    cross_fitted(inputs, right, deepest, FREE[: len(right)], groups)
    for group in range(7):
        assert sum(group not in seen for seen in learned) == 1, "it is judged by that one"


def test_what_is_known_of_a_group_by_heart_is_worth_nothing_to_others() -> None:
    """The one column names the group, and chance decided what pays in each."""
    rng = np.random.default_rng(0)
    groups = np.arange(1_200) % 20
    deepest = rng.random(20)[groups] < 0.5
    right = ~deepest
    inputs = benefit_inputs(
        np.tile(np.float32([0.6, 0.4]), (1_200, 1)), groups[:, None].astype(np.float32)
    )
    by_heart = assurance_of(fit_benefit(inputs, right, deepest, FREE[: len(right)]), inputs)
    honest = cross_fitted(inputs, right, deepest, FREE[: len(right)], groups)
    assert ((by_heart < 0.5) == deepest).mean() >= 0.95
    assert ((honest < 0.5) == deepest).mean() < 0.7


def assurance_of(gate: Gate, inputs: np.ndarray) -> np.ndarray:
    assert gate.engine is not None
    return gate.engine.scores(inputs)[:, 0]


class Fake:
    """An engine that is sure of class 0 and remembers what it was shown."""

    kind = "forest"
    columns = 0

    def __init__(self, scores: list[float]) -> None:
        self.classes = len(scores)
        self.shapes: list[tuple[int, ...]] = []
        self._scores = np.float32(scores)

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        self.shapes.append(inputs.shape)
        return np.tile(self._scores, (len(inputs), 1))

    def files(self) -> dict[str, bytes]:
        return {}


@pytest.mark.parametrize("form", ["columns", "sequence"])
@pytest.mark.parametrize("sight", [Sight(), Sight(port=True, host=True)])
def test_a_gate_is_shown_columns_whatever_its_tier_sees(
    form: str, sight: Sight, tmp_path: Path
) -> None:
    gate, deepest = Fake([0.0, 0.1, 0.9]), Fake([0.1, 0.9])
    keep = read_bundle(synthetic_bundle(tmp_path / "made")).tiers[0].calibration
    tiers = (
        TierModel("first@2", 2, 0.5, form, sight, keep, Fake([0.8, 0.2]), Gate("benefit", gate)),
        TierModel("last@10", 10, 2.0, "columns", sight, keep, deepest),
    )
    cascade = Cascade(BundleContents(("a", "b"), tiers, "", "", {}))
    n = len(DATA)
    answers = cascade.answer(
        DATA.packets, DATA.offsets, np.zeros(n, np.uint8), np.ones(n, np.uint8)
    )
    asked = int((DATA.sizes >= 2).sum())
    assert gate.shapes == [(asked, BENEFIT_COLUMNS + len(feature_names(2, sight)))]
    assert (answers["tier"] == 1).all(), "by the gate, all are better off with the deepest"


@pytest.fixture
def gated(tmp_path: Path) -> BundleContents:
    """A bundle in memory whose first two tiers have benefit gates."""
    made = read_bundle(synthetic_bundle(tmp_path / "made"))
    rng = np.random.default_rng(0)
    tiers = []
    for tier in made.tiers[:-1]:
        columns = rng.random((300, len(feature_names(tier.depth, Sight())))).astype(np.float32)
        columns *= 200
        inputs = benefit_inputs(np.tile(np.float32([0.6, 0.4]), (300, 1)), columns)
        size = inputs[:, BENEFIT_COLUMNS + feature_names(1, Sight()).index("ip_bytes")]
        gate = fit_benefit(inputs, size < 100, size > 60, FREE[:300])
        tiers.append(replace(tier, gate=gate, threshold=0.45))
    return replace(made, tiers=(*tiers, made.tiers[-1]))


def test_a_gate_that_was_written_and_read_gives_the_same_verdicts(
    gated: BundleContents, tmp_path: Path
) -> None:
    write_bundle(gated, tmp_path / "bundle")
    n = len(DATA)
    args = (DATA.packets, DATA.offsets, np.zeros(n, np.uint8), np.ones(n, np.uint8))
    here, there = Cascade(gated).answer(*args), load_cascade(tmp_path / "bundle").answer(*args)
    for name in set(here.dtype.names) - {"infer_ns"}:
        np.testing.assert_array_equal(here[name], there[name])
    assert len(set(here["tier"])) > 1, "some are sent on, some are not"
    again = read_bundle(tmp_path / "bundle")
    assert [tier.gate.kind for tier in again.tiers] == ["benefit", "benefit", "confidence"]
    write_bundle(again, tmp_path / "again")
    for path in (tmp_path / "bundle").rglob("*.npy"):
        copy = tmp_path / "again" / path.relative_to(tmp_path / "bundle")
        assert copy.read_bytes() == path.read_bytes()


def test_only_the_wanted_gates_are_loaded(gated: BundleContents, tmp_path: Path) -> None:
    write_bundle(gated, tmp_path / "bundle")
    tiers = read_bundle(tmp_path / "bundle", tiers=(1,)).tiers
    assert [tier.gate.engine is not None for tier in tiers] == [False, True, False]
    assert tiers[0].gate.kind == "benefit"


def test_a_damaged_or_missing_gate_is_refused(gated: BundleContents, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(gated, bundle)
    for path in sorted((bundle / "gate1").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"gate1/{path.name}: damaged"):
            load_cascade(bundle)
        path.unlink()
        with pytest.raises(BundleError, match=f"gate1/{path.name}.*missing"):
            load_cascade(bundle)
        path.write_bytes(whole)
    load_cascade(bundle)


def swap_gate(bundle: Path, engine: ForestEngine | None, **changes: Any) -> None:
    """Put another engine in the place of gate 0 and sign it anew."""
    path = bundle / "manifest.json"
    fields = json.loads(path.read_text())
    tier = fields["tiers"][0]
    if engine is not None:
        for name in tier["gate_files"]:
            (bundle / "gate0" / name).unlink()
            del fields["files"][f"gate0/{name}"]
        files = engine.files()
        for name, data in files.items():
            (bundle / "gate0" / name).write_bytes(data)
            fields["files"][f"gate0/{name}"] = hashlib.sha256(data).hexdigest()
        tier["gate_files"] = sorted(files)
        tier.pop("gate_engine", None)  # as in bundles of before: a forest
    tier.update(changes)
    path.write_bytes(manifest_text(fields))


def test_a_gate_of_before_is_a_forest(gated: BundleContents, tmp_path: Path) -> None:
    columns = BENEFIT_COLUMNS + len(feature_names(1, Sight()))
    inputs = np.random.default_rng(0).random((60, columns)).astype(np.float32)
    forest = fit_tree(inputs, (inputs[:, 0] > 0.5).astype(np.int64), OUTCOMES)
    bundle = tmp_path / "bundle"
    write_bundle(gated, bundle)
    swap_gate(bundle, forest)
    gate = read_bundle(bundle).tiers[0].gate
    assert gate.engine is not None
    np.testing.assert_array_equal(gate.engine.scores(inputs), forest.scores(inputs))


def test_what_is_no_gate_of_this_tier_is_refused(gated: BundleContents, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = BENEFIT_COLUMNS + len(feature_names(1, Sight()))
    wide = np.zeros((60, columns + 1), np.float32)
    wide[:, -1] = rng.random(60)
    parts = (4 * wide[:, -1]).astype(np.int64) % OUTCOMES
    bundle = tmp_path / "bundle"
    write_bundle(gated, bundle)
    swap_gate(bundle, fit_tree(wide[:, -2:], (6 * wide[:, -1]).astype(np.int64) % 3, 3))
    with pytest.raises(BundleError, match="gate0: is no gate; make the bundle anew"):
        load_cascade(bundle)
    swap_gate(bundle, fit_tree(wide, parts, OUTCOMES))
    with pytest.raises(BundleError, match=f"gate0: reads {columns + 1} columns, .* {columns};"):
        load_cascade(bundle)
    swap_gate(bundle, None, gate="confidence")
    with pytest.raises(BundleError, match="a confidence gate with files"):
        load_cascade(bundle)
