"""The two engines that score flows: forests compiled by numba, networks by ONNX Runtime.

An engine is made from bytes and gives the same bytes back; no form of it can carry code. What a
flow scores does not depend on which other flows are in the call.
"""

from __future__ import annotations

import io
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flows.compiled import compiled
from flows.errors import BundleError
from flows.packet import Array

__all__ = ["ENGINES", "Engine", "ForestEngine", "OnnxEngine", "engine_from_files"]

_LEAF = -1
_BLOCK = 16  # flows per call of ONNX Runtime, see OnnxEngine.scores


class Engine(Protocol):
    """Scores flows."""

    @property
    def kind(self) -> str:
        """Which engine: a key of :data:`ENGINES`."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class, float32 ``[n, classes]``; rows sum to 1.

        Args:
            inputs: float32 ``[n, features]`` or ``[n, depth, channels]``; not changed.
        """

    def files(self) -> dict[str, bytes]:
        """Return what the engine is made of, by file name."""


class ForestEngine:
    """A forest of decision trees as plain arrays.

    A row goes left at a node if ``row[feature] <= threshold``, both float32; a threshold that is
    the greatest float32 below or at scikit-learn's float64 one decides every float32 row alike.

    Args:
        feature: Column that each node looks at, int16 ``[nodes]``; -1 at leaves.
        threshold: float32 ``[nodes]``.
        left: Index of the next node, int32 ``[nodes]``; at leaves the row of ``values``.
        right: Index of the next node, int32 ``[nodes]``.
        roots: Index of each tree's first node, int32 ``[trees]``.
        values: Each leaf's probabilities, float32 ``[leaves, classes]``.

    Attributes:
        classes: Number of classes.
        columns: Columns that its inputs must have at least.

    Raises:
        BundleError: The arrays are no forest; walking them could leave their bounds.
    """

    kind = "forest"
    _NAMES = ("feature", "threshold", "left", "right", "roots", "values")
    _TYPES = ("<i2", "<f4", "<i4", "<i4", "<i4", "<f4")

    def __init__(
        self,
        feature: npt.NDArray[np.int16],
        threshold: npt.NDArray[np.float32],
        left: npt.NDArray[np.int32],
        right: npt.NDArray[np.int32],
        roots: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
    ) -> None:
        self._arrays: tuple[Array, ...] = (feature, threshold, left, right, roots, values)
        self._check()
        self.classes = int(values.shape[1])
        self.columns = int(feature.max(initial=_LEAF)) + 1

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> ForestEngine:
        """Make an engine of what :meth:`files` gave."""
        arrays = []
        for name in cls._NAMES:
            try:
                arrays.append(np.load(io.BytesIO(files[f"{name}.npy"]), allow_pickle=False))
            except KeyError:
                raise BundleError(f"{name}.npy: a forest needs it; make the bundle anew") from None
            except (ValueError, EOFError, OSError) as error:
                raise BundleError(f"{name}.npy: no array ({error}); make the bundle anew") from None
        return cls(*arrays)

    def files(self) -> dict[str, bytes]:
        """Return the arrays by file name."""
        out = {}
        for name, array in zip(self._NAMES, self._arrays, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            out[f"{name}.npy"] = buffer.getvalue()
        return out

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return each flow's probability per class; see :class:`Engine`."""
        if inputs.ndim != 2 or inputs.shape[1] < self.columns:
            raise ValueError(f"inputs {inputs.shape}: the forest reads {self.columns} columns")
        out = np.zeros((len(inputs), self.classes), np.float32)
        feature, threshold, left, right, roots, values = self._arrays
        rows = np.ascontiguousarray(inputs, np.float32)
        _walk(rows, feature, threshold, left, right, roots, values, out)
        return out

    def _check(self) -> None:
        feature, _, left, right, roots, values = self._arrays
        for name, array, dtype in zip(self._NAMES, self._arrays, self._TYPES, strict=True):
            if array.dtype != np.dtype(dtype) or array.ndim != (2 if name == "values" else 1):
                raise BundleError(
                    f"{name}.npy: {array.dtype} {array.shape} is not what a forest is made of"
                )
        nodes = np.arange(len(feature))
        even = len({len(array) for array in self._arrays[:4]}) == 1
        inner = feature != _LEAF
        if (
            not even
            or not len(roots)
            or feature.min(initial=0) < _LEAF
            # Children behind their parent: so a walk comes to an end.
            or _outside(left[inner], nodes[inner] + 1, len(nodes))
            or _outside(right[inner], nodes[inner] + 1, len(nodes))
            or _outside(left[~inner], np.int64(0), len(values))
            or _outside(roots, np.int64(0), len(nodes))
            or not np.isfinite(values).all()
        ):
            raise BundleError("the forest's arrays contradict each other; make the bundle anew")


def _outside(indices: Array, least: Array | np.int64, stop: int) -> bool:
    return bool(((indices < least) | (indices >= stop)).any())


@compiled
def _walk(
    inputs: Array,
    feature: Array,
    threshold: Array,
    left: Array,
    right: Array,
    roots: Array,
    values: Array,
    out: Array,
) -> None:
    # Tree by tree, so that one tree's nodes stay in the cache for all rows.
    for root in roots:
        for i in range(len(inputs)):
            node = root
            while feature[node] != _LEAF:
                went_left = inputs[i, feature[node]] <= threshold[node]
                node = left[node] if went_left else right[node]
            leaf = left[node]
            for c in range(values.shape[1]):
                out[i, c] += values[leaf, c]
    share = np.float32(1.0 / len(roots))
    for i in range(len(inputs)):
        for c in range(values.shape[1]):
            out[i, c] *= share


class OnnxEngine:
    """A network that ONNX Runtime runs on one thread.

    Args:
        model: The ONNX file; one input, float32 ``[n, depth, channels]``, one output of logits,
            float32 ``[n, classes]``, ``n`` free.

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
            (self._input,) = (i.name for i in self._session.get_inputs())
            (output,) = self._session.get_outputs()
            self.classes = int(output.shape[1])
        except Exception as error:  # its own error types share no public base
            raise BundleError(f"model.onnx: {error}; make the bundle anew") from None
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


ENGINES: dict[str, type[ForestEngine] | type[OnnxEngine]] = {
    ForestEngine.kind: ForestEngine,
    OnnxEngine.kind: OnnxEngine,
}
"""The engines that a bundle may name."""


def engine_from_files(kind: str, files: dict[str, bytes]) -> Engine:
    """Make an engine of the files that a bundle holds.

    Raises:
        BundleError: There is no such engine, or the files do not make one.
    """
    if kind not in ENGINES:
        raise BundleError(f"engine {kind!r} is unknown; known are {', '.join(ENGINES)}")
    return ENGINES[kind].from_files(files)
