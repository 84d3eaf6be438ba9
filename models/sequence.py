"""The former name of the convolutional network of :mod:`models.networks`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.engines import OnnxEngine
from models.networks import NetworkSettings, fit_network

__all__ = ["SequenceSettings", "fit_sequence"]

SequenceSettings = NetworkSettings


def fit_sequence(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    classes: int,
    settings: NetworkSettings | None = None,
) -> OnnxEngine:
    """Train a ``cnn``; see :func:`models.networks.fit_network`."""
    return fit_network("cnn", inputs, labels, groups, classes, settings)
