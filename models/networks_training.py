"""How networks learn: in batches, until flows of groups they never saw are judged no better."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.folds import grouped_folds

__all__ = ["Draw", "Epoch", "NetworkSettings", "train_network"]

_ASIDE = 6  # one group in so many is kept aside
_FIRST = 0.45  # share of the time for the passes without them

Draw = Callable[[np.random.Generator], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
"""Gives other inputs for an epoch, ``[k, ...]``, and the flow that each is of, int64 ``[k]``."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How a network is built and trained; the defaults serve all architectures.

    Attributes:
        width: Channels of the hidden layers, a multiple of 4.
        bins: Steps that the range of each input is cut into, at most.
        dropout: Share of hidden values that training leaves out.
        epochs: Most passes over the data; the learning rate falls to 0 over so many.
        patience: Passes without a better loss aside after which training ends.
        seconds: How long training may take; looked at after each pass, the best so far is kept.
            What is learnt then depends on the machine; else the same input gives the same network.
        batch: Flows per step.
        learning_rate: Of AdamW, at its peak.
        weight_decay: Of AdamW.
        label_smoothing: Share of the probability that is spread over all classes.
        class_power: A class with ``c`` flows weighs ``c ** -class_power``: 0 is by flow, 1 each
            class alike.
        clip: Most that a step's gradient may measure.
        seed: Of everything that is drawn.

    Raises:
        ValueError: The width is no multiple of 4, or nothing would be learnt.
    """

    width: int = 64
    bins: int = 32
    dropout: float = 0.1
    epochs: int = 30
    patience: int = 8
    seconds: float = 300.0
    batch: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    class_power: float = 0.5
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise ValueError(f"width: {self.width} is no multiple of 4")
        if min(self.bins, self.epochs, self.patience, self.batch) < 1:
            raise ValueError("bins, epochs, patience and batch must be at least 1")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a pass over the data came to.

    Attributes:
        number: Which, from 1.
        of: How many there are, if it does not end early.
        loss: Mean loss while training.
        loss_aside: Of the flows aside; NaN if there are none, as in the second training.
        right_aside: Share of them that are judged right; NaN if there are none.
    """

    number: int
    of: int
    loss: float
    loss_aside: float
    right_aside: float


def train_network(
    make: Callable[[npt.NDArray[np.float32]], nn.Module],
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: NetworkSettings,
    draw: Draw | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> nn.Module:
    """Train a network twice: without some groups, to see for how long it pays, then with all.

    The second time matters where captures are few: what is aside is as much worth to learn from.
    The first may take somewhat less than half of the time, so that the second, with more flows,
    comes to its end; should it not, the first network is returned.

    Args:
        make: Makes an untrained network that is fitted to the inputs it is given.
        inputs: float32 ``[n, ...]``.
        labels: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``.
        classes: Number of classes.
        settings: How.
        draw: Gives the inputs of an epoch; when left out, ``inputs`` are those of all epochs.
        progress: Told of every epoch.

    Returns:
        The network, in evaluation mode.
    """
    begin = time.monotonic()
    aside = np.zeros(len(labels), np.bool_)
    if len(np.unique(groups)) > 1:
        aside = grouped_folds(labels, groups, _ASIDE, settings.seed) == 0
    run = _Run(make, inputs, labels, classes, settings, draw, progress)
    deadline = begin + settings.seconds
    epochs = settings.epochs
    first = None
    with _repeatable():
        if aside.any() and not aside.all():
            first, epochs = run.train(aside, epochs, begin + _FIRST * settings.seconds)
        network, reached = run.train(np.zeros_like(aside), epochs, deadline)
    return (network if first is None or reached == epochs else first).eval()


@contextmanager
def _repeatable() -> Iterator[None]:
    """Leave the caller's random state alone, and use one thread: sums over more differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class _Run:
    make: Callable[[npt.NDArray[np.float32]], nn.Module]
    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: int
    settings: NetworkSettings
    draw: Draw | None
    progress: Callable[[Epoch], None] | None

    def train(
        self, aside: npt.NDArray[np.bool_], epochs: int, deadline: float
    ) -> tuple[nn.Module, int]:
        """Train without the flows aside; return the best network, and after how many epochs."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        rng = np.random.default_rng(settings.seed)
        inputs, labels = self.inputs[~aside], torch.from_numpy(self.labels)
        network = self.make(inputs)
        x, y = torch.from_numpy(inputs), labels[torch.from_numpy(~aside)]
        judged = torch.from_numpy(self.inputs[aside]), labels[torch.from_numpy(aside)]
        loss_of = nn.CrossEntropyLoss(
            _class_weights(y, self.classes, settings.class_power),
            label_smoothing=settings.label_smoothing,
        )
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        best_loss, best, at = math.inf, copy.deepcopy(network.state_dict()), 0
        for epoch in range(1, epochs + 1):
            if self.draw is not None:
                drawn, row = self.draw(rng)
                use = ~aside[row]
                x, y = torch.from_numpy(drawn[use]), labels[torch.from_numpy(row[use])]
            loss = _pass(network, x, y, loss_of, optimizer, (epoch - 1, epochs), settings)
            loss_aside, right = _judge(network, *judged, loss_of)
            if self.progress is not None:
                self.progress(Epoch(epoch, epochs, loss, loss_aside, right))
            if not loss_aside >= best_loss:  # NaN without flows aside: the last is the best
                best_loss, best, at = loss_aside, copy.deepcopy(network.state_dict()), epoch
            if epoch - at >= settings.patience or time.monotonic() >= deadline:
                break
        network.load_state_dict(best)
        return network, at


def _pass(
    network: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    place: tuple[int, int],
    settings: NetworkSettings,
) -> float:
    """Pass over the data once; ``place`` is how many epochs are done, and of how many."""
    network.train()
    batches = torch.split(torch.randperm(len(y)), settings.batch)
    total = 0.0
    for i, rows in enumerate(batches):
        done = place[0] + i / len(batches)
        # Up during the first epoch, then down along a cosine (Loshchilov and Hutter 2017).
        rate = min(1.0, (i + 1) / len(batches) + place[0])
        rate *= 0.5 * (1.0 + math.cos(math.pi * done / place[1]))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        optimizer.zero_grad()
        loss = loss_of(network(x[rows]), y[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / max(len(y), 1)


def _judge(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, loss_of: nn.Module
) -> tuple[float, float]:
    """Return the loss and the share judged right; NaN of no flows."""
    if not len(y):
        return math.nan, math.nan
    network.eval()
    with torch.inference_mode():
        logits = network(x)
        right = (logits.argmax(dim=1) == y).to(torch.float32).mean()
        return float(loss_of(logits, y)), float(right)


def _class_weights(labels: torch.Tensor, classes: int, power: float) -> torch.Tensor:
    """Return a weight per class, 1 on the mean over flows."""
    counts = torch.bincount(labels, minlength=classes).to(torch.float32)
    weights = counts.clamp(min=1.0) ** -power
    return weights * (counts.sum() / (weights * counts).sum().clamp(min=1e-9))
