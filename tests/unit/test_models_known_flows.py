"""The distance to the nearest known flow, by groups and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flows.errors import BundleError
from models.bundle import read_bundle, rewrite_bundle, write_bundle
from models.cascade import load_cascade
from models.known_flows import FURTHEST, MOST_FLOWS, KnownFlows, scaled, shortened
from models.novelty import Novelty, Ranks
from models.novelty_files import (
    NOVELTY_FILES,
    UNGROUPED_NOVELTY_FILES,
    novelty_files,
    novelty_from_files,
)
from models.novelty_training import fit_novelty


def drawn(n: int, columns: int = 6, seed: int = 0) -> np.ndarray:
    """Draw flows of three kinds, whose columns differ by factors."""
    rng = np.random.default_rng(seed)
    middle = np.repeat(np.eye(columns)[:3] * 8.0, -(-n // 3), axis=0)[:n]
    return np.exp(middle + 0.3 * rng.normal(size=(n, columns))).astype(np.float32)


def learned(columns: np.ndarray, kept: int = 4_096) -> KnownFlows:
    scores = np.full((len(columns), 2), 0.5, np.float32)
    return fit_novelty(columns, scores, np.arange(len(columns)) % 3, kept=kept).known


@given(arrays(np.float32, (5, 7), elements=st.floats(-1e9, 1e9, width=32)))
def test_logarithms_are_near_the_true_ones(columns: np.ndarray) -> None:
    true = np.sign(columns) * np.log2(1.0 + np.abs(columns.astype(np.float64)))
    found = shortened(columns)
    np.testing.assert_allclose(found, true, atol=0.09)
    order = np.argsort(columns.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order]) >= 0).all(), "more stays more"
    assert shortened(np.zeros((1, 1), np.float32))[0, 0] == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 11), st.integers(1, 9))
def test_without_groups_all_flows_are_compared(columns: int, flows: int) -> None:
    rng = np.random.default_rng(columns * flows)
    mean, scale = rng.normal(size=columns), rng.uniform(0.1, 2.0, columns)
    own = rng.uniform(-FURTHEST, FURTHEST, (flows, columns)).astype(np.float32)
    known = KnownFlows(mean.astype(np.float32), scale.astype(np.float32), own)
    asked = rng.normal(scale=20.0, size=(30, columns)).astype(np.float32)
    at = scaled(asked, known.mean, known.scale)
    assert np.abs(at).max() <= FURTHEST
    expected = ((at[:, None].astype(np.float64) - own[None]) ** 2).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(known.squared_distances(asked), expected, rtol=1e-4)


def test_with_groups_the_nearest_one_is_looked_through() -> None:
    known = learned(drawn(900))
    assert known.centres is not None
    assert known.starts is not None
    assert len(known.centres) > 3
    asked = drawn(200, seed=1)
    at = scaled(shortened(asked), known.mean, known.scale)
    group = ((at[:, None] - known.centres[None]) ** 2).sum(axis=2).argmin(axis=1)
    found = known.squared_distances(asked)
    for i in range(len(asked)):
        own = known.flows[known.starts[group[i]] : known.starts[group[i] + 1]]
        assert found[i] == pytest.approx(((at[i] - own) ** 2).sum(axis=1).min(), rel=1e-3)
    everywhere = ((at[:, None] - known.flows[None]) ** 2).sum(axis=2).min(axis=1)
    assert (found >= everywhere * 0.999).all()
    assert np.isclose(found, everywhere, rtol=1e-3).mean() > 0.6, "mostly the nearest of all"


def test_a_distance_rests_on_the_flow_alone() -> None:
    known = learned(drawn(300))
    asked = drawn(40, seed=2)
    whole = known.squared_distances(asked)
    for i in range(len(asked)):
        assert known.squared_distances(asked[i : i + 1])[0] == whole[i]


def test_as_many_flows_are_kept_as_ranks_were_made_with_and_no_two_alike() -> None:
    columns = drawn(120)
    known = learned(np.tile(columns, (2, 1)))
    assert len(known.flows) == 80, "two of three folds"
    assert len(np.unique(known.flows, axis=0)) == 80
    assert (known.squared_distances(columns) < 1e-6).sum() == pytest.approx(80, abs=2)
    few = learned(columns, kept=30)
    assert len(few.flows) == 30
    assert novelty_bytes(few) == novelty_bytes(learned(columns, kept=30)), "drawn alike each time"


def novelty_bytes(known: KnownFlows) -> dict[str, bytes]:
    ranks = Ranks(np.zeros(1, np.float32), np.zeros(1, np.float32))
    return novelty_files(Novelty(known, ranks, ranks, ranks))


def test_bundles_of_before_are_read_as_they_were() -> None:
    known = learned(drawn(100))
    ungrouped = KnownFlows(known.mean, known.scale, known.flows)
    files = novelty_bytes(ungrouped)
    assert tuple(sorted(files)) == UNGROUPED_NOVELTY_FILES
    again = novelty_from_files(files, known.columns).known
    assert again.centres is None
    asked = drawn(50, seed=3)
    assert (again.squared_distances(asked) == ungrouped.squared_distances(asked)).all()
    files = novelty_bytes(known)
    assert tuple(sorted(files)) == NOVELTY_FILES
    for name in ("centres.npy", "starts.npy"):
        with pytest.raises(BundleError, match=name):
            novelty_from_files({k: v for k, v in files.items() if k != name}, known.columns)


def test_a_bundle_of_before_serves_and_can_be_tuned(tmp_path: Path, bundle: Path) -> None:
    contents = read_bundle(bundle)
    tiers = []
    for tier in contents.tiers:
        assert tier.novelty is not None
        known = tier.novelty.known
        bare = KnownFlows(known.mean, known.scale, known.flows)
        ranks = tier.novelty.entropy, tier.novelty.distance, tier.novelty.both
        tiers.append(replace(tier, novelty=Novelty(bare, *ranks)))
    before, other = tmp_path / "before", tmp_path / "other"
    write_bundle(replace(contents, tiers=tuple(tiers)), before)
    assert {path.name for path in (before / "novelty0").iterdir()} == {*UNGROUPED_NOVELTY_FILES}
    cascade = load_cascade(before)
    rewrite_bundle(before, other, [0.9] * (len(cascade.tiers) - 1), "# Card\n")
    assert load_cascade(other).tiers == cascade.tiers
    assert {path.name for path in (other / "novelty0").iterdir()} == {*UNGROUPED_NOVELTY_FILES}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": None}, "both centres and starts"),
        ({"centres": np.zeros((2, 6), np.float32)}, "do not fit"),
        ({"centres": np.zeros((1, 5), np.float32)}, "none of these"),
        ({"centres": np.zeros((0, 6), np.float32)}, "none of these"),
        ({"centres": np.full((1, 6), np.nan, np.float32)}, "finite"),
        ({"centres": np.full((1, 6), 9.0, np.float32)}, "near the mean"),
        ({"starts": np.array([0, 3])}, "do not fit"),
        ({"starts": np.array([1, 4])}, "do not fit"),
        (
            {"centres": np.zeros((2, 6), np.float32), "starts": np.array([0, 4, 4])},
            "every group needs",
        ),
        (
            {"centres": np.zeros((3, 6), np.float32), "starts": np.array([0, 9, 2, 4])},
            "every group needs",
        ),
        ({"flows": np.zeros((MOST_FLOWS + 1, 6), np.float32)}, "prototypes"),
        ({"scale": np.zeros(6, np.float32)}, "scales must be above 0"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(
    change: dict[str, np.ndarray | None], message: str
) -> None:
    good: dict[str, np.ndarray | None] = {
        "mean": np.zeros(6, np.float32),
        "scale": np.ones(6, np.float32),
        "flows": np.zeros((4, 6), np.float32),
        "centres": np.zeros((1, 6), np.float32),
        "starts": np.array([0, 4]),
    }
    KnownFlows(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        KnownFlows(**{**good, **change})  # type: ignore[arg-type]


def test_columns_of_other_flows_are_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        learned(drawn(60)).squared_distances(np.zeros((2, 5), np.float32))
