"""Neural networks of four architectures, trained with torch, kept as ONNX.

They see columns (``mlp``) or packets (``cnn``, ``gru``, ``transformer``) as
:mod:`models.features` gives them, and need nothing but ONNX Runtime once they are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import nn

from models.engines import OnnxEngine
from models.networks_export import to_engine
from models.networks_layers import KINDS, Kind, build
from models.networks_training import Draw, Epoch, NetworkSettings, train_network

__all__ = ["KINDS", "Draw", "Epoch", "Kind", "NetworkSettings", "fit_network"]

_CHECKED = 256  # flows on which the exported network must agree with torch's


def fit_network(
    kind: Kind,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: NetworkSettings | None = None,
    *,
    draw: Draw | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> OnnxEngine:
    """Train a network; see :func:`models.networks_training.train_network` for how.

    The same input, settings and draws give the same network on a machine, as long as the time
    does not run out.

    Args:
        kind: ``mlp``, ``cnn``, ``gru`` or ``transformer``.
        inputs: float32 ``[n, features]`` for ``mlp`` (-1: absent), else
            ``[n, depth, channels]`` with 1 in the first channel of packets that are there and 0 in
            that of the others, which come last; of any magnitude, but finite; at least one flow.
        labels: Class of each flow, int64 ``[n]``.
        groups: Group of each flow, int64 ``[n]``; a sixth of them is kept aside at first. With
            a single group there is nothing to keep aside: all epochs are made.
        classes: Number of classes.
        settings: How; the defaults when left out.
        draw: Called in each epoch for what is learnt from in it, such as features of what
            :func:`models.augmentation.augment` returns; ``inputs`` when left out.
        progress: Told of each epoch.

    Returns:
        The network, exported to ONNX and checked against torch.

    Raises:
        ValueError: There is no such architecture, or the inputs are not what it takes.
        RuntimeError: The exported network does not say what torch's says.
    """
    chosen = settings or NetworkSettings()
    if not len(inputs) or not np.isfinite(inputs).all():
        raise ValueError("a network learns from at least one flow and finite inputs")

    def make(rows: npt.NDArray[np.float32]) -> nn.Module:
        return build(
            kind, rows, classes, width=chosen.width, bins=chosen.bins, dropout=chosen.dropout
        )

    network = train_network(make, inputs, labels, groups, classes, chosen, draw, progress)
    # From all over the data: flows of a class often lie together.
    sample = np.linspace(0, len(inputs) - 1, min(len(inputs), _CHECKED)).astype(np.int64)
    return to_engine(network, inputs[sample])
