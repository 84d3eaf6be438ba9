"""A small convolutional network over a flow's first packets, trained with torch, kept as ONNX."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.engines import OnnxEngine
from models.features import SEQUENCE_CHANNELS
from models.folds import grouped_folds

__all__ = ["SequenceSettings", "fit_sequence"]

_AGREE = 1e-4  # most that ONNX Runtime's probabilities may differ from torch's


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """How the network is built and trained.

    Attributes:
        width: Channels of the convolutions.
        epochs: Most passes over the data.
        patience: Passes without a better validation loss after which training ends.
        batch: Flows per step.
        learning_rate: Of Adam, at its peak.
        seed: Makes it repeatable.
    """

    width: int = 48
    epochs: int = 40
    patience: int = 6
    batch: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


class _Network(nn.Module):
    def __init__(self, depth: int, classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(SEQUENCE_CHANNELS, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(width * depth, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(2 * width, classes),
        )

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(packets.transpose(1, 2))
        return out


def fit_sequence(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: SequenceSettings | None = None,
) -> OnnxEngine:
    """Train a network; stop when flows of groups kept aside are no longer judged better.

    Args:
        inputs: float32 ``[n, depth, SEQUENCE_CHANNELS]``.
        labels: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``; a sixth of them is kept aside.
        classes: Number of classes.
        settings: How; the defaults when left out.

    Returns:
        The network, exported to ONNX and checked against torch.

    Raises:
        RuntimeError: The exported network does not say what torch's says.
    """
    chosen = settings or SequenceSettings()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads differ from run to run
    try:
        with torch.random.fork_rng():
            torch.manual_seed(chosen.seed)
            network = _train(inputs, labels, groups, classes, chosen)
        engine = OnnxEngine(_export(network, inputs[:2]))
        _check(network, engine, inputs[:64])
        return engine
    finally:
        torch.set_num_threads(threads)


def _train(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: SequenceSettings,
) -> _Network:
    network = _Network(inputs.shape[1], classes, settings.width)
    aside = np.zeros(len(labels), np.bool_)
    if len(np.unique(groups)) > 1:
        aside = grouped_folds(labels, groups, 6, settings.seed) == 0
    train_x, train_y = torch.from_numpy(inputs[~aside]), torch.from_numpy(labels[~aside])
    # With a single group there is nothing to keep aside: all passes are made.
    val_x, val_y = torch.from_numpy(inputs[aside]), torch.from_numpy(labels[aside])
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.02)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    best_loss = float("inf")
    best = {name: value.clone() for name, value in network.state_dict().items()}
    since = 0
    for _ in range(settings.epochs):
        network.train()
        for rows in torch.split(torch.randperm(len(train_y)), settings.batch):
            optimizer.zero_grad()
            loss_of(network(train_x[rows]), train_y[rows]).backward()
            optimizer.step()
        schedule.step()
        network.eval()
        with torch.inference_mode():
            loss = float(loss_of(network(val_x), val_y)) if len(val_y) else 0.0
        if loss < best_loss or not len(val_y):
            best_loss, since = loss, 0
            best = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            since += 1
            if since >= settings.patience:
                break
    network.load_state_dict(best)
    return network.eval()


def _export(network: _Network, example: npt.NDArray[np.float32]) -> bytes:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists optional packages that are not needed here
    try:
        with warnings.catch_warnings():
            # The exporter warns of deprecations within torch and onnxscript themselves.
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (torch.from_numpy(example),),
                input_names=["packets"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("flows")},),
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    model = program.model_proto
    # Stack traces with paths of this machine: no business of who gets the bundle.
    _strip(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _strip(model: Any) -> None:
    graphs = [model.graph, *model.functions]
    for part in (model, *graphs):
        del part.metadata_props[:]
        part.doc_string = ""
    for graph in graphs:
        for name in ("node", "value_info", "input", "output", "initializer"):
            for item in getattr(graph, name, ()):
                if hasattr(item, "metadata_props"):
                    del item.metadata_props[:]
                if hasattr(item, "doc_string"):
                    item.doc_string = ""


def _check(network: _Network, engine: OnnxEngine, inputs: npt.NDArray[np.float32]) -> None:
    with torch.inference_mode():
        theirs = torch.softmax(network(torch.from_numpy(inputs)), dim=1).numpy()
    gap = float(np.abs(engine.scores(inputs) - theirs).max())
    if gap > _AGREE:
        raise RuntimeError(f"the exported network is off by {gap:.2g} in probability")
