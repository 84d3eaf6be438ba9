"""The engines that score flows: forests walked by numba, networks run by ONNX Runtime, and means.

An engine is made from bytes and gives the same bytes back; no form of it can carry code. What a
flow scores does not depend on which other flows are in the call.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flows.errors import BundleError
from models.ensemble import BoostedEngine, ForestEngine

__all__ = [
    "ENGINES",
    "BoostedEngine",
    "Engine",
    "ForestEngine",
    "MeanEngine",
    "OnnxEngine",
    "engine_from_files",
]

_BLOCK = 16  # flows per call of ONNX Runtime, see OnnxEngine.scores


class Engine(Protocol):
    """Scores flows."""

    @property
    def kind(self) -> str:
        """Which engine: a key of :data:`ENGINES`."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def columns(self) -> int:
        """Columns that its inputs must have at least; 0: they are sequences of packets."""

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class, float32 ``[n, classes]``; rows sum to 1.

        Args:
            inputs: float32 ``[n, features]`` or ``[n, depth, channels]``; not changed.

        Raises:
            ValueError: The engine does not read inputs of this shape.
        """

    def files(self) -> dict[str, bytes]:
        """Return what the engine is made of, by file name."""


class OnnxEngine:
    """A network that ONNX Runtime runs on one thread.

    Args:
        model: The ONNX file; one input, float32 ``[n, depth, channels]`` or ``[n, features]``, one
            output of logits, float32 ``[n, classes]``, ``n`` free.

    Attributes:
        classes: Number of classes.
        columns: Columns of its inputs; 0 if they are sequences.

    Raises:
        BundleError: ONNX Runtime cannot read the model.
    """

    kind = "onnx"

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # replicas scale by process; threads would contend
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            (input_,) = self._session.get_inputs()
            (output,) = self._session.get_outputs()
            self._input = input_.name
            self._shape = tuple(int(size) for size in input_.shape[1:])
            self.classes = int(output.shape[1])
        except Exception as error:  # its own error types share no public base
            raise BundleError(f"model.onnx: {error}; make the bundle anew") from None
        self.columns = self._shape[0] if len(self._shape) == 1 else 0
        self._model = model

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> OnnxEngine:
        """Make an engine of what :meth:`files` gave."""
        if "model.onnx" not in files:
            raise BundleError("model.onnx: a network needs it; make the bundle anew")
        return cls(files["model.onnx"])

    def files(self) -> dict[str, bytes]:
        """Return the model by file name."""
        return {"model.onnx": self._model}

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class; see :class:`Engine`.

        ONNX Runtime may pick its matrix kernels by the number of rows, and promises no equality
        to the last bit between them. So every call has the same number of rows, the last one
        filled up with zeros: what a flow scores then rests on the flow alone.
        """
        if inputs.shape[1:] != self._shape:
            raise ValueError(f"inputs {inputs.shape}: the network reads [n, {self._shape}]")
        n = len(inputs)
        logits = np.empty((n, self.classes), np.float32)
        for start in range(0, n, _BLOCK):
            block = inputs[start : start + _BLOCK]
            rows = len(block)
            if rows < _BLOCK:
                filled = np.zeros((_BLOCK, *inputs.shape[1:]), np.float32)
                filled[:rows] = block
                block = filled
            logits[start : start + rows] = self._session.run(None, {self._input: block})[0][:rows]
        logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
        scores = np.exp(logits, dtype=np.float32)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores


class MeanEngine:
    """Says the weighted mean of what other engines say of the same inputs.

    Its files are theirs, the name of each with ``part0``, ``part1``, … before it, and mean.json.

    Args:
        parts: Two engines or more.
        weights: What each one counts for, above 0; equal when left out.

    Attributes:
        classes: Number of classes.
        columns: Columns that its inputs must have at least; 0 if they are sequences.

    Raises:
        BundleError: The engines differ in classes, some read columns and others sequences, or the
            weights are not as many as them or not above 0.
    """

    kind = "mean"
    _FILE = "mean.json"

    def __init__(self, parts: Sequence[Engine], weights: Sequence[float] | None = None) -> None:
        chosen = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
        if len(parts) < 2 or len(chosen) != len(parts):
            raise BundleError(f"a mean of {len(parts)} engines with {len(chosen)} weights is none")
        if not math.isfinite(sum(chosen)) or not all(weight > 0 for weight in chosen):
            raise BundleError(f"the weights of a mean, {chosen}, are not all above 0")
        if len({part.classes for part in parts}) > 1:
            numbers = ", ".join(str(part.classes) for part in parts)
            raise BundleError(f"a mean of engines of {numbers} classes is none")
        if len({part.columns > 0 for part in parts}) > 1:
            raise BundleError("a mean of engines that read columns and sequences is none")
        self._parts = tuple(parts)
        self._weights = tuple(chosen)
        self._shares = [np.float32(weight / sum(chosen)) for weight in chosen]
        self.classes = parts[0].classes
        self.columns = max(part.columns for part in parts)

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> MeanEngine:
        """Make an engine of what :meth:`files` gave.

        Raises:
            BundleError: mean.json or a part is missing or damaged, or the parts make no mean.
        """
        try:
            fields = json.loads(files[cls._FILE])
            kinds = [str(kind) for kind in fields["kinds"]]
            weights = [float(weight) for weight in fields["weights"]]
        except KeyError as error:
            raise BundleError(f"{cls._FILE}: {error} is missing; make the bundle anew") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise BundleError(f"{cls._FILE}: damaged ({error}); make the bundle anew") from None
        parts = []
        for i, kind in enumerate(kinds):
            mark = f"part{i}"
            own = {k.removeprefix(mark): v for k, v in files.items() if k.startswith(mark)}
            try:
                parts.append(engine_from_files(kind, own))
            except BundleError as error:
                raise BundleError(f"{mark}: {error}") from None
        return cls(parts, weights)

    def files(self) -> dict[str, bytes]:
        """Return the parts' files and what joins them, by file name."""
        fields = {"kinds": [part.kind for part in self._parts], "weights": self._weights}
        out = {self._FILE: json.dumps(fields).encode()}
        for i, part in enumerate(self._parts):
            out |= {f"part{i}{name}": data for name, data in part.files().items()}
        return out

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class; see :class:`Engine`."""
        scores = np.zeros((len(inputs), self.classes), np.float32)
        for part, share in zip(self._parts, self._shares, strict=True):
            scores += part.scores(inputs) * share
        return scores


ENGINES: dict[str, Callable[[dict[str, bytes]], Engine]] = {
    ForestEngine.kind: ForestEngine.from_files,
    BoostedEngine.kind: BoostedEngine.from_files,
    OnnxEngine.kind: OnnxEngine.from_files,
    MeanEngine.kind: MeanEngine.from_files,
}
"""What makes each engine that a bundle may name."""


def engine_from_files(kind: str, files: dict[str, bytes]) -> Engine:
    """Make an engine of the files that a bundle holds.

    Raises:
        BundleError: There is no such engine, or the files do not make one.
    """
    if kind not in ENGINES:
        raise BundleError(f"engine {kind!r} is unknown; known are {', '.join(ENGINES)}")
    return ENGINES[kind](files)
