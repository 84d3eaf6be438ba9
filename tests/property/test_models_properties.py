"""Verdicts rest on a flow's own packets, however flows come together in calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.packet import PACKET_DTYPE
from models.bundle import BundleContents, TierModel
from models.calibration import Isotonic, fit_calibration, pool_adjacent
from models.cascade import Cascade
from models.features import Sight, flow_features, packet_sequence
from models.forest import fit_extra_trees, fit_tree
from models.metrics import f1_scores
from models.sequence import SequenceSettings, fit_sequence
from models.synthetic import synthetic_dataset

VERDICT = ("label", "confidence", "tier", "next_tier", "packets_used", "final", "sure")
FLOWS = 40


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    """A tree, a forest and a network, so that both engines are in it."""
    data = synthetic_dataset(400, seed=5)
    names, label = np.unique(data.labels, return_inverse=True)
    first = flow_features(data.packets, data.offsets, 1, sight=Sight())
    third = flow_features(data.packets, data.offsets, 3, sight=Sight(port=True))
    tenth = packet_sequence(data.packets, data.offsets, 10, sight=Sight())
    network = fit_sequence(tenth, label, data.groups, 4, SequenceSettings(width=8, epochs=3))
    plain = Isotonic((0.0, 1.0), (0.0, 1.0))
    tiers = (
        TierModel("tree@1", 1, 0.8, "columns", Sight(), plain, fit_tree(first, label, 4)),
        TierModel("trees@3", 3, 0.9, "columns", Sight(port=True), plain,
                  fit_extra_trees(third, label, 4, trees=5)),
        TierModel("network@10", 10, 2.0, "sequence", Sight(), plain, network),
    )  # fmt: skip
    return Cascade(BundleContents(tuple(names), tiers, "", "", {}))


class Flows:
    """Flows as ``Cascade.answer`` takes them."""

    def __init__(self, seed: int) -> None:
        data = synthetic_dataset(FLOWS, seed=seed)
        rng = np.random.default_rng(seed)
        self.each = [data.packets[data.offsets[i] : data.offsets[i + 1]] for i in range(FLOWS)]
        self.next_tier = rng.integers(0, 3, FLOWS).astype(np.uint8)
        self.ended = rng.integers(0, 2, FLOWS).astype(np.uint8)

    def answer(self, cascade: Cascade, rows: list[int], stop_tier: int | None = None) -> np.ndarray:
        packets = [self.each[i] for i in rows]
        return cascade.answer(
            np.concatenate([np.zeros(0, PACKET_DTYPE), *packets]),
            np.cumsum([0, *map(len, packets)]),
            self.next_tier[rows],
            self.ended[rows],
            stop_tier=stop_tier,
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 5),
    order=st.permutations(range(FLOWS)),
    cuts=st.sets(st.integers(1, FLOWS - 1)),
    stop_tier=st.sampled_from([None, 1, 2]),
)
def test_shuffling_and_splitting_calls_changes_no_verdict(
    cascade: Cascade, seed: int, order: list[int], cuts: set[int], stop_tier: int | None
) -> None:
    flows = Flows(seed)
    whole = flows.answer(cascade, list(range(FLOWS)), stop_tier)
    ends = [*sorted(cuts), FLOWS]
    parts = [
        flows.answer(cascade, list(order[begin:end]), stop_tier)
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    split = np.concatenate(parts)
    for name in VERDICT:
        np.testing.assert_array_equal(split[name], whole[name][list(order)], err_msg=name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), stop_tier=st.sampled_from([1, 2]))
def test_stopping_and_going_on_gives_what_one_call_gives(
    cascade: Cascade, seed: int, stop_tier: int
) -> None:
    flows = Flows(seed)
    flows.next_tier[:] = 0
    rows = list(range(FLOWS))
    whole = flows.answer(cascade, rows)
    first = flows.answer(cascade, rows, stop_tier)
    flows.next_tier = np.ascontiguousarray(first["next_tier"])
    open_rows = np.flatnonzero(first["final"] == 0)
    then = flows.answer(cascade, open_rows.tolist())
    for name in VERDICT:
        joined = first[name].copy()
        asked = then["tier"] != 255
        joined[open_rows[asked]] = then[name][asked]
        np.testing.assert_array_equal(
            joined[whole["final"] == 1], whole[name][whole["final"] == 1], err_msg=name
        )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), cut=st.lists(st.integers(1, 10), min_size=FLOWS, max_size=FLOWS))
def test_packets_that_come_late_lead_to_the_verdict_of_all_at_once(
    cascade: Cascade, seed: int, cut: list[int]
) -> None:
    flows = Flows(seed)
    flows.next_tier[:] = 0
    flows.ended[:] = 1
    rows = list(range(FLOWS))
    whole = flows.answer(cascade, rows)
    each = flows.each
    flows.each = [packets[:n] for packets, n in zip(each, cut, strict=True)]
    flows.ended[:] = [n >= len(packets) for packets, n in zip(each, cut, strict=True)]
    early = flows.answer(cascade, rows)
    flows.each = each
    flows.ended[:] = 1
    flows.next_tier = np.ascontiguousarray(early["next_tier"])
    waiting = np.flatnonzero(early["final"] == 0)
    late = flows.answer(cascade, waiting.tolist())
    for name in VERDICT:
        joined = early[name].copy()
        joined[waiting] = late[name]
        np.testing.assert_array_equal(joined, whole[name], err_msg=name)


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60),
    st.floats(0, 1, width=32),
    st.floats(0, 1, width=32),
)
def test_a_calibration_is_monotone_and_a_probability(
    seen: list[tuple[float, bool]], a: float, b: float
) -> None:
    score = np.array([s for s, _ in seen], np.float32)
    calibration = fit_calibration(score, np.array([r for _, r in seen]))
    low, high = calibration(np.array(sorted((a, b)), np.float32)[:, None])
    assert 0.0 < low <= high < 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_pooling_keeps_the_mean(values: list[float]) -> None:
    level, block = pool_adjacent(np.array(values), np.ones(len(values)))
    assert (np.diff(level) > 0).all()
    assert level[block].mean() == pytest.approx(np.mean(values))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_f1_lies_within_0_and_1_and_does_not_care_for_order(
    pairs: list[tuple[int, int]],
) -> None:
    true, said = np.array(pairs).T
    found = f1_scores(true, said)
    assert all(0.0 <= value <= 1.0 for value in found.values())
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    assert f1_scores(true[order], said[order]) == pytest.approx(found)
