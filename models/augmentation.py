"""Copies of flows as another network would have shown them: with losses, other gaps, cut short.

Loss and jitter act on packets, so packets are changed, before anything is computed from them.
Copies are for training alone; nothing is judged on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.packet import Records

__all__ = ["AugmentationSettings", "augment"]

_LONGEST_GAP_NS = 2.0**62  # what a longer one becomes: int64 holds no more


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """How much is changed; with 0 for the three, flows stay as they are.

    Attributes:
        loss: Share of the packets behind the first that get lost, from 0 to 1.
        jitter: Standard deviation of the logarithm of what gaps are multiplied with, at least 0.
        cut: Share of the flows that end early, from 0 to 1: of ``s`` packets they keep the first
            1 to ``s - 1``, each number as likely.
        copies: Copies made of each flow.

    Raises:
        ValueError: One of them is out of range.
    """

    loss: float = 0.02
    jitter: float = 0.2
    cut: float = 0.2
    copies: int = 1

    def __post_init__(self) -> None:
        for name in ("loss", "cut"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: {getattr(self, name)} is not between 0 and 1")
        if not 0.0 <= self.jitter < np.inf:
            raise ValueError(f"jitter: {self.jitter} is no standard deviation")
        if self.copies < 1:
            raise ValueError(f"copies: {self.copies} is less than 1")


def augment(
    packets: Records,
    offsets: npt.NDArray[np.int64],
    rng: np.random.Generator,
    settings: AugmentationSettings | None = None,
) -> tuple[Records, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Copy flows with packets lost, gaps stretched and ends cut off.

    Such copies make models hold in other networks (Xie et al. 2023, *Rosetta*, who follow TCP more
    closely). A lost packet is not sent again, as if the capture had missed it; what lies behind it
    moves up. If only the packets that models judge were read, none moves up into the last place;
    where that matters, read a few more.

    Args:
        packets: ``PACKET_DTYPE [m]``, by flow, each flow's in the order of ``packet_index``, of
            at most 256 packets; not changed.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``, from 0 to ``m``.
        rng: Draws everything; the same state gives the same copies.
        settings: How much; the defaults when left out.

    Returns:
        ``PACKET_DTYPE [k]``; where each copy's packets begin in it, int64 ``[c + 1]``; and the flow
        that each copy comes from, int64 ``[c]``, ``c = settings.copies * n``: all flows once,
        then all again. A flow's first packet is in every copy of it, with its time; times do not
        decrease if they did not before; ``packet_index`` counts from 0; the rest is unchanged.
    """
    chosen = settings or AugmentationSettings()
    row = np.tile(np.arange(len(offsets) - 1), chosen.copies)
    sizes = np.diff(offsets)[row]
    begins = _offsets(sizes)
    copy = np.repeat(np.arange(len(row)), sizes)
    index = np.arange(begins[-1]) - begins[copy]
    out = packets[offsets[row][copy] + index]
    if chosen.jitter > 0.0:
        factor = np.exp(chosen.jitter * rng.standard_normal(len(out)))
        out["time_ns"] = _stretched(out["time_ns"], begins[copy], index, factor)
    keep = rng.random(len(out)) >= chosen.loss
    # A flow of one packet cannot be cut: integers() wants a range that is not empty.
    end = rng.integers(1, np.maximum(sizes, 2))
    end = np.where(rng.random(len(row)) < chosen.cut, end, sizes)
    keep = (index == 0) | (keep & (index < end[copy]))
    kept = _offsets(np.bincount(copy[keep], minlength=len(row)))
    out = out[keep]
    out["packet_index"] = np.arange(len(out)) - kept[copy[keep]]
    return out, kept, row


def _stretched(
    times: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    factor: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Return times whose gaps are multiplied; ``first`` is where each packet's flow begins."""
    gaps = np.where(index == 0, 0, np.diff(times, prepend=times[:1]))
    gaps = np.minimum(np.rint(gaps * factor), _LONGEST_GAP_NS).astype(np.int64)
    since = np.cumsum(gaps)
    return np.asarray(times[first] + since - since[first])


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    out = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=out[1:])
    return out
