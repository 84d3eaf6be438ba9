"""The cascade: each flow is judged by the first tier that is sure enough."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.packet import Records, packet_dtype
from flows.verdict import ANSWER_DTYPE
from models.bitvectors import FEWEST_ROWS
from models.bundle import BundleContents, TierModel, read_bundle
from models.engines import Engine
from models.gates import assurance
from models.goals import NEVER
from models.inputs import needs_header, see
from models.novelty import UNKNOWN

__all__ = ["NO_TIER", "Cascade", "Tier", "load_cascade", "look"]

_BITS_AT_ONCE = 256  # flows

NO_TIER = 255
"""Stands in an answer's ``tier`` when no tier was asked."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What others need to know of a tier: its name and how many first packets it judges."""

    name: str
    depth: int


class Cascade:
    """Tiers that judge flows, shallowest first.

    Args:
        contents: A bundle; tiers without an engine cannot be asked.

    Attributes:
        learned: Number of classes that the tiers score.
        classes: Names of the labels, by index: those classes, then ``unknown`` if the bundle gives
            that label.
        tiers: The tiers, by index.
        depth: First packets that the deepest tier judges.
        fast_tiers: Leading tiers that judge packet 1 alone.
        max_wait_s: How long a flow waits for packets after its first (capture time).
        sees_host: A tier sees what the flow's host did before.
        sees_port: A tier sees the responder's port.
        needs_header: A tier reads the packets' header bytes (:func:`flows.packet.packet_dtype`).
        model_version: Short digest of the bundle.
    """

    def __init__(self, contents: BundleContents) -> None:
        self._models = contents.tiers
        self.learned = len(contents.classes)
        self.classes = contents.classes
        self._unknown_from = NEVER if contents.unknown_from is None else contents.unknown_from
        if self._unknown_from <= 1.0:
            self.classes = (*contents.classes, UNKNOWN)
        self.tiers = tuple(Tier(tier.name, tier.depth) for tier in contents.tiers)
        self.depth = self.tiers[-1].depth
        self.fast_tiers = sum(tier.depth == 1 for tier in self.tiers)
        self.max_wait_s = contents.max_wait_s
        self.sees_host = any(tier.sight.host for tier in contents.tiers)
        self.sees_port = any(tier.sight.port for tier in contents.tiers)
        self.needs_header = any(needs_header(tier.inputs) for tier in contents.tiers)
        self.model_version = contents.model_version

    def answer(
        self,
        packets: Records,
        offsets: npt.NDArray[np.int64],
        next_tier: npt.NDArray[np.uint8],
        ended: npt.NDArray[np.uint8],
        *,
        stop_tier: int | None = None,
    ) -> Records:
        """Judge flows, each one on its own: who else is in the call changes nothing but times.

        Tier t judges a flow on exactly its first ``tiers[t].depth`` packets, if they are there.
        If they are not and no more will come, the deepest tier judges on those that are.

        Args:
            packets: ``PACKET_DTYPE [m]``, by flow, each flow's in the order of ``packet_index``.
            offsets: Where each flow's packets begin, int64 ``[n + 1]``.
            next_tier: The tier that is to judge each flow first, uint8 ``[n]``.
            ended: 1: no further packets of the flow will come, uint8 ``[n]``.
            stop_tier: This tier and those behind it are not asked; a flow that needs them is not
                final.

        Returns:
            ``ANSWER_DTYPE [n]``. ``label``, ``confidence``, ``tier`` and ``packets_used`` are of
            the last tier asked; ``tier`` is ``NO_TIER`` if none was. ``novelty`` is of the tier
            that gave the final answer, else 0. ``infer_ns`` is wall time.

        Raises:
            ValueError: A tier that is not loaded would have to be asked, or the arrays disagree.
        """
        n = len(next_tier)
        if len(offsets) != n + 1 or len(ended) != n:
            raise ValueError(f"{n} flows need {n + 1} offsets and {n} end marks")
        last = len(self._models) - 1
        stop = last + 1 if stop_tier is None else stop_tier
        answers = np.zeros(n, ANSWER_DTYPE)
        answers["tier"] = NO_TIER
        if not n:
            return answers
        sizes = np.diff(offsets)
        over = ended != 0
        turn = np.minimum(next_tier, last).astype(np.int64)
        waiting = np.zeros(n, np.bool_)
        for t in range(int(turn.min()), min(stop, last + 1)):
            at = (turn == t) & ~waiting
            short = at & (sizes < self._models[t].depth)
            turn[short & over] = last
            waiting |= short & ~over
            rows = np.flatnonzero(at & (turn == t) & ~waiting)
            if not len(rows):
                continue
            sure = self._ask(t, packets, offsets, rows, answers)
            done = sure | (t == last)
            answers["sure"][rows] = sure & (t < last)  # the deepest answers, sure or not
            answers["final"][rows] = done
            answers["packets_used"][rows] = np.minimum(sizes[rows], self._models[t].depth)
            turn[rows[~done]] = t + 1
            waiting[rows[done]] = True
        # A flow that was sent on to the deepest tier is handed over at the first one not asked.
        held_back = (turn >= stop) & (next_tier < stop)
        answers["next_tier"] = np.where(held_back, stop, turn)
        return answers

    def warm_up(self) -> None:
        """Compile and touch all that the loaded tiers may need, so that no flow waits for it."""
        for n in (1, FEWEST_ROWS):  # boosted trees are asked another way where there are more
            packets = np.zeros(n * self.depth, packet_dtype(self.needs_header))
            offsets, rows = np.arange(n + 1) * self.depth, np.arange(n)
            for t, tier in enumerate(self._models):
                if tier.engine is None:
                    continue
                self._ask(t, packets, offsets, rows, np.zeros(n, ANSWER_DTYPE))
                if tier.novelty is not None:
                    columns = see("columns", packets, offsets, tier.depth, tier.sight, rows)
                    tier.novelty(look(tier, packets, offsets, rows)[0], columns)

    def _ask(
        self,
        t: int,
        packets: Records,
        offsets: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        answers: Records,
    ) -> npt.NDArray[np.bool_]:
        """Let tier ``t`` judge the flows ``rows``; return which ones it is sure of."""
        tier = self._models[t]
        begin_ns = time.perf_counter_ns()
        scores, columns = look(tier, packets, offsets, rows)
        label = scores.argmax(axis=1)
        confidence = tier.calibration(scores)
        answers["label"][rows] = label
        answers["confidence"][rows] = confidence
        answers["tier"][rows] = t
        sure = np.zeros(len(rows), np.bool_)
        if t < len(self._models) - 1:
            if tier.gate.kind == "benefit" and columns is None:
                columns = see("columns", packets, offsets, tier.depth, tier.sight, rows)
            threshold: Any = tier.threshold
            if tier.class_thresholds is not None:
                threshold = np.array(tier.class_thresholds, np.float32)[label]
            sure = assurance(tier.gate, scores, confidence, columns) >= threshold
        # Whoever has a deeper tier asked wants to know how strange the flow is to that one.
        own = np.flatnonzero(sure | (t == len(self._models) - 1))
        if tier.novelty is not None and len(own):
            if columns is None:
                seen = see("columns", packets, offsets, tier.depth, tier.sight, rows[own])
            else:
                seen = columns[own]
            novelty = tier.novelty(scores[own], seen)
            answers["novelty"][rows[own]] = novelty
            if len(self.classes) > self.learned:
                answers["label"][rows[own[novelty >= self._unknown_from]]] = self.learned
        answers["infer_ns"][rows] += time.perf_counter_ns() - begin_ns
        return np.asarray(sure)


def look(
    tier: TierModel, packets: Records, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Let a tier score flows on the packets that it may see.

    Bits take 40 KB a flow: only few flows' are ever there at once.

    Args:
        tier: A loaded tier.
        packets: As for :meth:`Cascade.answer`, and so is ``offsets``.
        offsets: Where each flow's packets begin.
        rows: Which flows, int64 ``[k]``.

    Returns:
        The scores, float32 ``[k, classes]``, and what the tier sees of the flows if that is
        columns, float32 ``[k, columns]``.

    Raises:
        ValueError: The tier is not loaded.
    """
    engine = _loaded(tier)
    if tier.inputs != "bits":
        inputs = see(tier.inputs, packets, offsets, tier.depth, tier.sight, rows)
        return engine.scores(inputs), inputs if tier.inputs == "columns" else None
    parts = [
        engine.scores(
            see("bits", packets, offsets, tier.depth, tier.sight, rows[at : at + _BITS_AT_ONCE])
        )
        for at in range(0, len(rows), _BITS_AT_ONCE)
    ]
    return np.concatenate(parts), None


def _loaded(tier: TierModel) -> Engine:
    if tier.engine is None:
        raise ValueError(f"tier {tier.name} is not loaded here; see load_cascade's tiers")
    return tier.engine


def load_cascade(path: Path, tiers: Iterable[int] | None = None) -> Cascade:
    """Load a cascade from a bundle.

    Args:
        path: The bundle's folder.
        tiers: Indices of the tiers that will be asked; all when left out. Only their engines are
            loaded, but every file is checked.

    Raises:
        BundleError: The bundle is damaged, incomplete or of another version.
    """
    return Cascade(read_bundle(Path(path), None if tiers is None else frozenset(tiers)))
