"""What waiting costs a flow: half by its logarithm, half by its length.

By the logarithm alone a flow that waits for 10 s costs three times one that waits for 20 ms, so
that a cascade keeps many of the former; by length alone only those count, and nobody asks whether
the others are answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Delay"]


@dataclass(frozen=True, slots=True)
class Delay:
    """Measures waits against those of the deepest tier alone, whose mean delay is 1.

    Attributes:
        log_ms: Mean logarithm of 1 + milliseconds that the deepest tier waits; above 0.
        mean_ms: Mean of what it waits, milliseconds; above 0.
    """

    log_ms: float
    mean_ms: float

    @classmethod
    def against(cls, wait_ms: npt.NDArray[np.float64]) -> Delay:
        """Return the measure against a tier whose flows wait so long, float64 ``[n]``.

        One that waits for nothing leaves nothing to compare with: then by a millisecond.
        """
        return cls(float(np.log1p(wait_ms).mean()) or 1.0, float(wait_ms.mean()) or 1.0)

    def mean(self, log_ms: float, mean_ms: float) -> float:
        """Return the mean delay of waits of which both means are known."""
        return (log_ms / self.log_ms + mean_ms / self.mean_ms) / 2.0

    def __call__(self, wait_ms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the delay of waits in milliseconds, float64 of the same shape; 0 of none."""
        return np.asarray((np.log1p(wait_ms) / self.log_ms + wait_ms / self.mean_ms) / 2.0)
