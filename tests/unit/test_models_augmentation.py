"""Copies of flows for training: what may change in them and what may not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.packet import PACKET_DTYPE
from models.augmentation import AugmentationSettings, augment
from models.synthetic import synthetic_dataset

NOTHING = AugmentationSettings(loss=0.0, jitter=0.0, cut=0.0)

SETTINGS = st.builds(
    AugmentationSettings,
    loss=st.floats(0, 1),
    jitter=st.floats(0, 3),
    cut=st.floats(0, 1),
    copies=st.integers(1, 3),
)


def flows(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Flows whose packets are told apart by their size, some of them at the same time."""
    offsets = np.cumsum([0, *sizes])
    packets = np.zeros(offsets[-1], PACKET_DTYPE)
    rng = np.random.default_rng(seed)
    packets["ip_bytes"] = np.arange(len(packets))
    for begin, end in pairwise(offsets):
        gaps_ns = rng.integers(0, 5, end - begin) * rng.integers(0, 10**9)
        packets["time_ns"][begin:end] = 1_700_000_000_000_000_000 + np.cumsum(gaps_ns)
        packets["packet_index"][begin:end] = np.arange(end - begin)
    return packets, offsets


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=12), st.integers(0, 9), SETTINGS)
def test_copies_are_flows(sizes: list[int], seed: int, chosen: AugmentationSettings) -> None:
    packets, offsets = flows(sizes, seed)
    before = packets.copy()
    found, begins, row = augment(packets, offsets, np.random.default_rng(seed), chosen)
    np.testing.assert_array_equal(packets, before)
    np.testing.assert_array_equal(row, list(range(len(sizes))) * chosen.copies)
    assert found.dtype == PACKET_DTYPE
    assert begins.dtype == np.int64
    assert begins[0] == 0
    assert begins[-1] == len(found)
    assert len(begins) == len(row) + 1
    for i, flow in enumerate(row):
        copy = found[begins[i] : begins[i + 1]]
        whole = packets[offsets[flow] : offsets[flow + 1]]
        assert min(len(whole), 1) <= len(copy) <= len(whole)
        np.testing.assert_array_equal(copy["packet_index"], np.arange(len(copy)))
        assert (np.diff(copy["time_ns"]) >= 0).all()
        np.testing.assert_array_equal(copy[:1], whole[:1])
        # Those that are left are the flow's own, in their order; nothing else about them changes.
        origin = copy["ip_bytes"].astype(np.int64) - offsets[flow]
        assert (np.diff(origin) > 0).all()
        for name in set(PACKET_DTYPE.names or ()) - {"time_ns", "packet_index"}:
            np.testing.assert_array_equal(copy[name], whole[origin][name])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=12), st.integers(0, 9))
def test_without_settings_flows_stay_as_they_are(sizes: list[int], seed: int) -> None:
    packets, offsets = flows(sizes, seed)
    found, begins, row = augment(packets, offsets, np.random.default_rng(seed), NOTHING)
    np.testing.assert_array_equal(found, packets)
    np.testing.assert_array_equal(begins, offsets)
    np.testing.assert_array_equal(row, np.arange(len(sizes)))


def test_the_same_seed_gives_the_same_copies() -> None:
    packets, offsets = flows([10] * 50, 1)
    one, again, other = (augment(packets, offsets, np.random.default_rng(s)) for s in (1, 1, 2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[0].tobytes() != other[0].tobytes()


def test_each_setting_changes_as_much_as_it_says() -> None:
    packets, offsets = flows([10] * 5_000, 2)
    rng = np.random.default_rng(3)

    def copies(**change: float) -> tuple[np.ndarray, np.ndarray]:
        values: dict[str, float] = {"loss": 0.0, "jitter": 0.0, "cut": 0.0, **change}
        return augment(packets, offsets, rng, AugmentationSettings(**values))[:2]  # type: ignore[arg-type]

    _, begins = copies(loss=0.1)
    assert np.diff(begins).mean() == pytest.approx(1 + 9 * 0.9, rel=0.01)
    assert np.bincount(np.diff(copies(loss=1.0)[1])).tolist() == [0, 5_000]

    sizes = np.diff(copies(cut=0.3)[1])
    assert (sizes < 10).mean() == pytest.approx(0.3, abs=0.02)
    assert set(sizes.tolist()) == set(range(1, 11))

    found, begins = copies(jitter=0.5)
    np.testing.assert_array_equal(begins, offsets)
    gaps, before = np.diff(found["time_ns"]), np.diff(packets["time_ns"])
    within = np.diff(np.repeat(np.arange(5_000), 10)) == 0
    factor = np.log(gaps[within & (before > 10**6)] / before[within & (before > 10**6)])
    assert factor.std() == pytest.approx(0.5, rel=0.02)
    assert factor.mean() == pytest.approx(0.0, abs=0.02)


def test_flows_of_a_dataset_can_be_copied() -> None:
    data = synthetic_dataset(200, seed=1)
    found, begins, row = augment(data.packets, data.offsets, np.random.default_rng(0))
    assert len(row) == len(data)
    assert len(found) < len(data.packets)
    assert (np.diff(begins) >= 1).all()


@pytest.mark.parametrize(
    "values", [{"loss": -0.1}, {"cut": 1.5}, {"jitter": -1.0}, {"jitter": np.nan}, {"copies": 0}]
)
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AugmentationSettings(**values)  # type: ignore[arg-type]
