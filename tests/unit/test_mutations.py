"""Broken packets and captures are skipped and counted, or end with a clear error; never more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.mutations import Findings, feed, measure_mutations, mutated

CORPUS = Path(__file__).resolve().parent.parent / "corpus"


def test_twenty_thousand_broken_packets_and_a_thousand_broken_captures(test_runs: Path) -> None:
    found = measure_mutations(sorted(test_runs.glob("*.pcap")), 20_000, 1_000, 7, None)
    assert found["uncaught"] == {}
    assert found["packets"] >= 20_000
    assert found["malformed"] > 1_000, "they are broken"
    assert sum(found["ended"].values()) > 300
    assert found["grown_mib"] <= 64


def test_the_same_seed_breaks_the_same() -> None:
    data = bytes(range(200))
    one, other = (mutated(data, random.Random(3), 5) for _ in range(2))
    assert one == other != data


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.pcap")), ids=lambda path: path.stem)
def test_what_was_once_found_or_is_known_to_be_hard_does_no_harm(path: Path) -> None:
    found = Findings()
    feed(path.read_bytes(), found)
    assert found.uncaught == []
