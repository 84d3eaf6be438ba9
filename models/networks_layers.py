"""The networks: what they are made of, from a flow's numbers to a logit per class.

Each holds how its inputs are scaled, so that it takes them as :mod:`models.features` gives them.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

__all__ = ["KINDS", "Kind", "build"]

Kind = Literal["mlp", "cnn", "gru", "transformer"]
"""The architectures."""

KINDS: tuple[Kind, ...] = ("mlp", "cnn", "gru", "transformer")
"""All of them; the first takes columns, the others packets."""

_ABSENT = -1.0  # what columns hold of what is not there, see flow_features
_HEADS = 4
_FAR = -1e9  # added to the attention that packets which are not there get: 0 after the softmax


def build(
    kind: Kind,
    inputs: npt.NDArray[np.float32],
    classes: int,
    *,
    width: int,
    bins: int,
    dropout: float,
) -> nn.Module:
    """Make a network, untrained, that fits the inputs.

    Args:
        kind: Its architecture.
        inputs: Of the flows that it is going to be trained on, float32 ``[n, features]`` for
            ``mlp``, else ``[n, depth, channels]`` with 1 in the first channel of packets that are
            there and 0 in that of the others; its scaling is fitted on them.
        classes: Number of classes.
        width: Channels of its hidden layers, a multiple of 4.
        bins: Steps that the range of each column or channel is cut into, at most.
        dropout: Share of hidden values that training leaves out.

    Returns:
        A module from a float32 tensor of that shape to logits, ``[n, classes]``.

    Raises:
        ValueError: There is no such architecture, or the inputs are not of its shape.
    """
    if kind not in KINDS:
        raise ValueError(f"network {kind!r} is unknown; known are {', '.join(KINDS)}")
    if inputs.ndim != (2 if kind == "mlp" else 3):
        raise ValueError(f"inputs {inputs.shape}: not what {kind} takes")
    if kind == "mlp":
        return _Mlp(_Encoding(inputs, bins), classes, width, dropout)
    there = inputs[inputs[:, :, 0] > 0]
    packets = _Packets(_Encoding(there, bins), width, dropout)
    depth = inputs.shape[1]
    if kind == "cnn":
        return _Cnn(packets, depth, classes, width, dropout)
    if kind == "gru":
        return _Gru(packets, classes, width, dropout)
    return _Transformer(packets, depth, classes, width, dropout)


class _Encoding(nn.Module):
    """Piecewise linear encoding of numbers (Gorishniy et al. 2022, arXiv 2203.05556).

    A column's range is cut at some of its values; each step in between becomes one output, which
    goes from 0 to 1 along it. So magnitudes do not matter, nothing leaves [0, 1] whatever comes in
    later, and a value that many flows share (a port, a time to live, "absent") is told from its
    neighbours.
    """

    column: torch.Tensor
    low: torch.Tensor
    scale: torch.Tensor

    def __init__(self, rows: npt.NDArray[np.float32], bins: int) -> None:
        super().__init__()
        cuts = [_cuts(rows[:, i], bins) for i in range(rows.shape[1])]
        column = np.repeat(np.arange(len(cuts)), [len(c) - 1 for c in cuts])
        low = np.concatenate([c[:-1] for c in cuts])
        step = np.concatenate([np.diff(c) for c in cuts])
        if not len(column):  # nothing differs between the flows; a layer needs an input, though
            column, low, step = np.zeros(1, np.int64), np.zeros(1), np.ones(1)
        self.width = len(column)
        self.register_buffer("column", torch.from_numpy(column))
        self.register_buffer("low", torch.from_numpy(low.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy((1.0 / step).astype(np.float32)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = (x.index_select(-1, self.column) - self.low) * self.scale
        return steps.clamp(0.0, 1.0)


def _cuts(values: npt.NDArray[np.float32], bins: int) -> npt.NDArray[np.float64]:
    """Return at most about ``bins + 1`` of a column's values, float64, in order."""
    found, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(found) > bins + 1:
        # By the root of how often values occur: quantiles would all fall on the few common ones.
        share = np.cumsum(np.sqrt(counts))
        at = np.searchsorted(share, np.linspace(share[0], share[-1] * (1 - 1e-12), bins + 1))
        absent = int(np.searchsorted(found, _ABSENT))
        # One step from "absent" to the least that is there: an indicator that it is.
        if absent < len(found) - 1 and found[absent] == _ABSENT:
            at = np.append(at, (absent, absent + 1))
        found = found[np.unique(at)]
    return found


class _Mlp(nn.Module):
    def __init__(self, encoding: _Encoding, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            encoding,
            nn.Linear(encoding.width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, classes),
        )

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(columns)
        return out


class _Packets(nn.Module):
    """Each packet by itself: ``[n, depth, channels]`` to ``[n, depth, width]``, and the mask."""

    def __init__(self, encoding: _Encoding, width: int, dropout: float) -> None:
        super().__init__()
        self.encoding = encoding
        self.project = nn.Linear(encoding.width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, packets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        there = (packets[:, :, :1] > 0).to(packets.dtype)
        hidden = self.dropout(torch.relu(self.project(self.encoding(packets))))
        return hidden * there, there


def _head(inputs: int, classes: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, classes)
    )


class _Cnn(nn.Module):
    """Convolutions along the packets; the place of a packet tells (a handshake), so no pooling."""

    def __init__(
        self, packets: _Packets, depth: int, classes: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.packets = packets
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = _head(width * depth, classes, width, dropout)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        hidden, there = self.packets(packets)
        hidden, there = hidden.transpose(1, 2), there.transpose(1, 2)
        # Biases would leak into places without a packet, and from there into its neighbours.
        hidden = hidden + torch.relu(self.first(hidden)) * there
        hidden = hidden + torch.relu(self.second(hidden)) * there
        out: torch.Tensor = self.head(self.dropout(hidden.flatten(1)))
        return out


class _Gru(nn.Module):
    """A gated recurrent unit (Cho et al. 2014); judged by its last state and its mean."""

    def __init__(self, packets: _Packets, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.packets = packets
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = _head(2 * width, classes, width, dropout)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        hidden, there = self.packets(packets)
        states, _ = self.gru(hidden)
        # Absent packets come last; what the state does there is never looked at.
        last = there - torch.cat([there[:, 1:], torch.zeros_like(there[:, :1])], dim=1)
        seen = torch.cat([(states * last).sum(1), _mean(states, there)], dim=1)
        out: torch.Tensor = self.head(self.dropout(seen))
        return out


class _Transformer(nn.Module):
    """A transformer encoder (Vaswani et al. 2017), norm first, with learned places."""

    def __init__(
        self, packets: _Packets, depth: int, classes: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.packets = packets
        self.place = nn.Parameter(0.02 * torch.randn(depth, width))
        # A second layer was no better and twice as slow.
        self.layer = _Layer(width, dropout)
        self.norm = nn.LayerNorm(width)
        self.head = _head(2 * width, classes, width, dropout)

    def forward(self, packets: torch.Tensor) -> torch.Tensor:
        hidden, there = self.packets(packets)
        hidden = hidden + self.place
        away = (1.0 - there).transpose(1, 2).unsqueeze(1) * _FAR  # [n, 1, 1, depth]
        hidden = self.norm(self.layer(hidden, away))
        out: torch.Tensor = self.head(torch.cat([hidden[:, 0], _mean(hidden, there)], dim=1))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.before_dense = nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        _, depth, width = hidden.shape
        parts = self.query_key_value(self.before_attention(hidden))
        parts = parts.reshape(-1, depth, 3 * _HEADS, width // _HEADS).transpose(1, 2)
        query, key, value = parts.split(_HEADS, dim=1)  # each [n, heads, depth, width / heads]
        weights = query @ key.transpose(2, 3) / math.sqrt(width // _HEADS) + away
        seen = (torch.softmax(weights, dim=-1) @ value).transpose(1, 2)
        hidden = hidden + self.dropout(self.join(seen.reshape(-1, depth, width)))
        out: torch.Tensor = hidden + self.dropout(self.dense(self.before_dense(hidden)))
        return out


def _mean(hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return (hidden * there).sum(1) / there.sum(1).clamp(min=1.0)
