"""From a torch module to an engine that needs no torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.engines import OnnxEngine

__all__ = ["to_engine"]

_AGREE = 1e-5  # most that ONNX Runtime's probabilities may differ from torch's


def to_engine(network: nn.Module, inputs: npt.NDArray[np.float32]) -> OnnxEngine:
    """Export a network to ONNX and check that it still says the same.

    Args:
        network: A module from inputs to logits, in evaluation mode.
        inputs: Some of its inputs, at least one: for their shape, and to check with.

    Raises:
        RuntimeError: The exported network does not say what torch's says.
    """
    # Two at least: of a single row the exporter would take the number for a constant.
    engine = OnnxEngine(_export(network, np.repeat(inputs[:1], 2, axis=0)))
    with torch.inference_mode():
        theirs = torch.softmax(network(torch.from_numpy(inputs)), dim=1).numpy()
    ours = engine.scores(inputs)
    gap = float(np.abs(ours - theirs).max())
    if not gap <= _AGREE:
        raise RuntimeError(f"the exported network is off by {gap:.2g} in probability")
    # Two classes nearer to each other than the gap may change places without anything being wrong.
    best = theirs.max(axis=1)
    if (best - theirs[np.arange(len(theirs)), ours.argmax(axis=1)] > 2 * _AGREE).any():
        raise RuntimeError("the exported network answers other classes")
    return engine


def _export(network: nn.Module, example: npt.NDArray[np.float32]) -> bytes:
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
                input_names=["flows"],
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
