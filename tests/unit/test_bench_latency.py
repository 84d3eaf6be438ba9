"""Overlaid captures come at the rate asked for, and each contender is what it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency import FlowTimes, TimedSender, contenders
from benchmarks.overlay import Overlay, play
from benchmarks.recorded import Recorded, read_captures
from collectors.delivery import DeliverySettings
from collectors.replay import ReplaySettings
from flows.table import FlowTable
from models.bundle import read_bundle
from models.cascade import load_cascade
from serveflow_app.local_sender import LocalSender
from serveflow_app.serve_config import default_config, load_config, override


@pytest.fixture(scope="module")
def recorded(test_runs: Path) -> Recorded:
    return read_captures([test_runs / "run-01.pcap", test_runs / "run-02.pcap"])


@pytest.mark.parametrize("rate", [100.0, 2_000.0])
def test_overlaid_flows_begin_at_the_rate_asked_for(recorded: Recorded, rate: float) -> None:
    """Evenly from the first second on, though the captures' own rate is another."""
    overlay = Overlay(recorded, rate, 4.0, 1.0)
    table = FlowTable(first_packets=1)
    starts_ns = []
    latest_ns = 0
    for chunk in overlay.chunks():
        times = chunk.packets["time_ns"]
        assert times[0] >= latest_ns
        assert (np.diff(times) >= 0).all()
        latest_ns = int(times[-1])
        starts_ns.append(table.update(chunk.packets, chunk.endpoints).new_flows["start_time_ns"])
    starts_s = np.concatenate(starts_ns) / 1e9
    assert len(starts_s) == pytest.approx(overlay.flows, rel=0.01)
    assert overlay.flows == pytest.approx(4.0 * rate, rel=0.15)
    assert latest_ns <= 5.0e9 + 1
    by_second = np.histogram(starts_s, [0, 1, 2, 3, 4])[0]
    assert by_second.sum() >= 0.99 * len(starts_s)
    assert by_second == pytest.approx(np.full(4, rate), rel=0.5)


def test_the_contenders_are_the_cascade_and_its_two_ends(
    recorded: Recorded, bundle: Path, tmp_path: Path
) -> None:
    """One tier each, in services of their own; each answers every flow."""
    base = override(load_config(default_config()), args={})
    configs = contenders(base, read_bundle(bundle), tmp_path)
    assert list(configs) == ["cascade", "slow_only", "fast_only"]
    assert configs["cascade"] == base
    depths = {}
    for name in ("slow_only", "fast_only"):
        (app,) = configs[name]["applications"]
        cascade = load_cascade(Path(app["args"]["bundle"]))
        depths[name] = cascade.depth
        assert len(cascade.tiers) == 1
        sender = LocalSender(cascade)
        times = FlowTimes(round_trip_ms=0.0)
        overlay = Overlay(recorded, 500.0, 1.0, 1.0)
        settings = ReplaySettings(delivery=DeliverySettings(max_open=1, batch_delay_s=0.0))
        flows = play(overlay, TimedSender(sender), settings, times.add)
        sender.close()
        figures = times.figures()
        assert figures["flows"] == flows > 400
        assert set(figures["split"]) == {"wait", "batch", "transport", "queue", "infer"}
        assert 0.0 <= figures["within_16ms"] <= 1.0
        assert figures["sure_share"] == (1.0 if name == "fast_only" else 0.0)
        assert (figures["split"]["wait"]["p90"] == 0.0) == (name == "fast_only")
    assert depths == {"slow_only": load_cascade(bundle).depth, "fast_only": 1}
