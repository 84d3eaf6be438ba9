"""Networks of all architectures: what they learn, and that ONNX Runtime says the same."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import OnnxEngine, engine_from_files
from models.networks import KINDS, Epoch, Kind, NetworkSettings, fit_network
from models.networks_export import to_engine
from models.networks_layers import build
from models.networks_training import train_network

FLOWS, DEPTH, CLASSES = 300, 5, 3
QUICK = NetworkSettings(width=16, bins=8, dropout=0.0, epochs=15, batch=32, learning_rate=1e-2)


def make(rows: np.ndarray) -> torch.nn.Module:
    return build("mlp", rows, CLASSES, width=16, bins=8, dropout=0.0)


def probabilities(network: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.softmax(network(torch.from_numpy(inputs)), dim=1).numpy()


def made_up(kind: Kind, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, labels and groups; the class shows in a huge number and in the second packet."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, FLOWS)
    if kind == "mlp":
        inputs = rng.random((FLOWS, 5)).astype(np.float32)
        inputs[:, 1] = 4e9 + 1e6 * label  # such as a TCP timestamp
        inputs[:, 2] = 7.0
        inputs[rng.random(FLOWS) < 0.2, 3] = -1.0
    else:
        inputs = rng.random((FLOWS, DEPTH, 5)).astype(np.float32)
        inputs[:, 1, 2] = 1.0 + label
        sizes = rng.integers(2, DEPTH + 1, FLOWS)
        inputs[:, :, 0] = 1.0
        inputs[np.arange(DEPTH) >= sizes[:, None]] = 0.0
    return inputs, label, rng.integers(0, 6, FLOWS)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> tuple[Kind, OnnxEngine]:
    inputs, label, groups = made_up(request.param)
    return request.param, fit_network(request.param, inputs, label, groups, CLASSES, QUICK)


def test_a_network_learns(fitted: tuple[Kind, OnnxEngine]) -> None:
    kind, engine = fitted
    inputs, label, _ = made_up(kind, seed=1)
    assert (engine.scores(inputs).argmax(axis=1) == label).mean() > 0.9


def test_a_flow_scores_the_same_in_any_company(fitted: tuple[Kind, OnnxEngine]) -> None:
    kind, engine = fitted
    inputs = made_up(kind, seed=2)[0][:40]
    whole = engine.scores(inputs)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(engine.scores(inputs[::-1])[::-1], whole)
    for i in range(40):
        np.testing.assert_array_equal(engine.scores(inputs[i : i + 1]), whole[i : i + 1])


def test_whatever_comes_in_scores_stay_finite(fitted: tuple[Kind, OnnxEngine]) -> None:
    kind, engine = fitted
    shape = made_up(kind)[0].shape[1:]
    for value in (0.0, -1.0, 1.0, 2.0**32, -(2.0**32), 3e38):
        scores = engine.scores(np.full((3, *shape), value, np.float32))
        assert np.isfinite(scores).all()


def test_an_engine_is_its_files_and_names_no_path(fitted: tuple[Kind, OnnxEngine]) -> None:
    kind, engine = fitted
    inputs = made_up(kind)[0]
    files = engine.files()
    same = engine_from_files("onnx", files)
    np.testing.assert_array_equal(same.scores(inputs), engine.scores(inputs))
    for path in (Path(__file__).parents[2], Path(torch.__file__).parents[1]):
        assert str(path).encode() not in files["model.onnx"]
    assert b".py" not in files["model.onnx"]


@pytest.mark.parametrize("kind", ["cnn", "gru", "transformer"])
def test_what_absent_packets_hold_does_not_matter(kind: Kind) -> None:
    inputs = made_up(kind)[0]
    network = build(kind, inputs, CLASSES, width=16, bins=8, dropout=0.1).eval()
    other = inputs.copy()
    other[:, :, 1:][inputs[:, :, 0] == 0] = 5.0
    with torch.inference_mode():
        one, two = (network(torch.from_numpy(x)).numpy() for x in (inputs, other))
    np.testing.assert_array_equal(one, two)


def test_the_same_seed_gives_the_same_network_and_leaves_torch_alone() -> None:
    inputs, label, groups = made_up("mlp")
    settings = dataclasses.replace(QUICK, epochs=2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    one, same = (
        fit_network("mlp", inputs, label, groups, CLASSES, settings).files() for _ in range(2)
    )
    assert one == same
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_training_ends_when_it_no_longer_pays_and_then_uses_all_groups() -> None:
    inputs, label, groups = made_up("mlp")
    told: list[Epoch] = []
    settings = dataclasses.replace(QUICK, epochs=100, patience=2)
    noise = np.random.default_rng(1).permutation(label)  # nothing to learn: it ends at once
    train_network(make, inputs, noise, groups, CLASSES, settings, progress=told.append)
    choosing = [epoch for epoch in told if not math.isnan(epoch.loss_aside)]
    training = [epoch for epoch in told if math.isnan(epoch.loss_aside)]
    best = int(np.argmin([epoch.loss_aside for epoch in choosing])) + 1
    assert [epoch.number for epoch in choosing] == list(range(1, best + 3))
    assert [epoch.number for epoch in training] == list(range(1, best + 1))
    assert training[0].of == best
    assert all(0.0 <= epoch.right_aside <= 1.0 for epoch in choosing)


def test_training_ends_with_its_time_and_keeps_what_there_is() -> None:
    inputs, label, groups = made_up("mlp")
    told: list[Epoch] = []
    settings = dataclasses.replace(QUICK, epochs=10_000, seconds=0.0)
    network = train_network(make, inputs, label, groups, CLASSES, settings, progress=told.append)
    assert len(told) == 2  # at least one pass without some groups, and one with all
    assert np.isfinite(probabilities(network, inputs)).all()


def test_a_single_group_and_flows_all_alike_will_do() -> None:
    told: list[Epoch] = []
    settings = dataclasses.replace(QUICK, epochs=2)
    engine = fit_network(
        "mlp", np.ones((5, 3), np.float32), np.zeros(5, np.int64), np.zeros(5, np.int64), 2,
        settings, progress=told.append,
    )  # fmt: skip
    assert [epoch.number for epoch in told] == [1, 2]
    assert engine.scores(np.ones((1, 3), np.float32))[0, 0] > 0.5


def test_epochs_learn_from_what_is_drawn_for_them() -> None:
    inputs, label, groups = made_up("mlp")
    states: list[float] = []

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        states.append(rng.random())
        return np.concatenate([inputs, inputs]), np.tile(np.arange(FLOWS), 2)

    # Of its own inputs it learns nothing but how they are scaled.
    own = inputs[np.random.default_rng(1).permutation(FLOWS)]
    network = train_network(make, own, label, np.zeros_like(groups), CLASSES, QUICK, draw)
    assert len(states) == len(set(states)) == QUICK.epochs
    assert (probabilities(network, inputs).argmax(axis=1) == label).mean() > 0.9


def test_rare_classes_are_not_lost() -> None:
    """Nothing tells the classes apart, so the weights alone decide how likely each is."""
    label = np.array([0] * 90 + [1] * 10)
    inputs, group = np.zeros((100, 2), np.float32), np.zeros(100, np.int64)
    share = {}
    for power in (0.0, 0.5, 1.0):
        settings = NetworkSettings(
            epochs=100, batch=100, learning_rate=0.05, label_smoothing=0.0, class_power=power
        )
        network = train_network(make, inputs, label, group, CLASSES, settings)
        share[power] = float(probabilities(network, inputs)[0, 1])
    assert share == pytest.approx({0.0: 0.1, 0.5: 0.25, 1.0: 0.5}, abs=0.02)


def test_a_network_that_export_changes_is_refused() -> None:
    class Unsteady(torch.nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(RuntimeError, match="off by"):
        to_engine(Unsteady(), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_settings_that_learn_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        NetworkSettings(width=10)
    with pytest.raises(ValueError, match="at least 1"):
        NetworkSettings(epochs=0)


def test_wrong_inputs_are_refused() -> None:
    inputs, label, groups = made_up("mlp")
    with pytest.raises(ValueError, match="known are mlp, cnn"):
        fit_network("lstm", inputs, label, groups, CLASSES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not what cnn takes"):
        fit_network("cnn", inputs, label, groups, CLASSES)
    with pytest.raises(ValueError, match="at least one flow"):
        fit_network("mlp", inputs[:0], label[:0], groups[:0], CLASSES)
    inputs[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit_network("mlp", inputs, label, groups, CLASSES)
