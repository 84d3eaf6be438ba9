"""What the cascade and each of its tiers alone say of labelled flows, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flows.packet import Array, Records
from flows.verdict import ANSWER_DTYPE
from models.cascade import NO_TIER, Cascade, Tier
from models.costs import CALL_FLOWS
from models.dataset import Dataset, Progress

__all__ = ["IDLE_TIMEOUTS_S", "Answers", "Study", "Way", "answer_all", "study"]

IDLE_TIMEOUTS_S = (0.0, 1.0, 5.0, 15.0)
"""Idle timeouts that waits are looked at with, seconds; 0: a flow's end is known at once."""

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Way:
    """One way of answering flows; all arrays have one row per flow.

    Latency is the capture's time from the first packet to what the answer had to wait for, plus
    the measured time of the models; what lies between them in a deployment is not in it.

    Attributes:
        said: Index into :attr:`Study.names`, int64; of no meaning where no tier was asked.
        confidence: Calibrated probability that it is right, float32.
        tier: The tier that answered, uint8; ``NO_TIER`` if none was asked.
        wait_ns: Capture time from packet 1 to what the answer waited for, int64.
        infer_ns: Measured time of the models, int64; see :func:`answer_all`.
        novelty: Share of known flows that are less strange, float32; None: nobody asked.
    """

    said: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    tier: npt.NDArray[np.uint8]
    wait_ns: npt.NDArray[np.int64]
    infer_ns: npt.NDArray[np.int64]
    novelty: npt.NDArray[np.float32] | None = None

    @property
    def wait_ms(self) -> npt.NDArray[np.float64]:
        """Capture time waited, milliseconds, float64 ``[n]``."""
        return np.asarray(self.wait_ns / 1e6)

    @property
    def latency_ms(self) -> npt.NDArray[np.float64]:
        """Wait and inference together, milliseconds, float64 ``[n]``."""
        return np.asarray((self.wait_ns + self.infer_ns) / 1e6)

    def without_inference(self) -> Way:
        """Return the same answers as if models took no time: what a machine cannot change."""
        return replace(self, infer_ns=np.zeros_like(self.infer_ns))


@dataclass(frozen=True, slots=True)
class Answers:
    """The two ways that are compared at one idle timeout.

    Attributes:
        idle_timeout_s: The idle timeout (capture time); 0 stands for its limit, see
            :meth:`models.dataset.Dataset.with_end_known`.
        cascade: The cascade.
        slow_only: Its deepest tier alone.
    """

    idle_timeout_s: float
    cascade: Way
    slow_only: Way


@dataclass(frozen=True, slots=True)
class Study:
    """All that is found out about a cascade on labelled flows before anything is summed up.

    Attributes:
        model_version: Of the bundle.
        tiers: The cascade's tiers, shallowest first.
        fast_tiers: Leading tiers that judge packet 1 alone.
        names: The cascade's classes, then labels that it does not know; but if it gives the label
            ``unknown``, flows of those count as of that one.
        true: True label of each flow, index into ``names``, int64 ``[n]``.
        groups: Capture of each flow, index into ``captures``, int64 ``[n]``.
        captures: Names of the captures that hold labelled flows.
        sizes: Packets of each flow that count, int64 ``[n]``.
        cascade: The cascade.
        alone: Each tier alone, whatever its confidence. All but the deepest are asked only of
            flows that have the packets.
        by_idle_timeout: Both ways at each of :data:`IDLE_TIMEOUTS_S`.
        learned: Leading names that the bundle was trained on; None: all.
    """

    model_version: str
    tiers: tuple[Tier, ...]
    fast_tiers: int
    names: tuple[str, ...]
    true: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    captures: tuple[str, ...]
    sizes: npt.NDArray[np.int64]
    cascade: Way
    alone: tuple[Way, ...]
    by_idle_timeout: tuple[Answers, ...]
    learned: int | None = None

    @property
    def fast_only(self) -> Way | None:
        """The last tier on packet 1; None: there is none."""
        return self.alone[self.fast_tiers - 1] if self.fast_tiers else None

    @property
    def slow_only(self) -> Way:
        """The deepest tier, at its depth or when no more packets come."""
        return self.alone[-1]

    @property
    def ways(self) -> dict[str, Way]:
        """The ways that are compared, by name."""
        fast = {} if self.fast_only is None else {"fast_only": self.fast_only}
        return {"cascade": self.cascade, **fast, "slow_only": self.slow_only}

    def escalated(self, way: Way) -> npt.NDArray[np.bool_]:
        """Return which flows a tier behind packet 1 answered, bool ``[n]``."""
        return np.asarray(way.tier >= self.fast_tiers)

    def asked(self, t: int) -> npt.NDArray[np.bool_]:
        """Return which flows tier ``t`` judges in the cascade, bool ``[n]``."""
        answered_by = self.cascade.tier
        if t == len(self.tiers) - 1:
            return np.asarray(answered_by == t)
        return np.asarray((answered_by >= t) & (self.sizes >= self.tiers[t].depth))

    def without_inference(self) -> Study:
        """Return the same study as if models took no time: the same on every machine."""
        return replace(
            self,
            cascade=self.cascade.without_inference(),
            alone=tuple(way.without_inference() for way in self.alone),
            by_idle_timeout=tuple(
                Answers(
                    a.idle_timeout_s,
                    a.cascade.without_inference(),
                    a.slow_only.without_inference(),
                )
                for a in self.by_idle_timeout
            ),
        )


def study(cascade: Cascade, data: Dataset, progress: Progress | None = None) -> Study:
    """Let a cascade and each of its tiers alone answer all flows.

    Args:
        cascade: With all tiers loaded.
        data: Labelled flows, at least as deep as the cascade and cut off at its longest wait.
        progress: Told of each step.
    """
    last = len(cascade.tiers) - 1
    total = len(cascade.tiers) + 1 + len(IDLE_TIMEOUTS_S)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        if progress is not None:
            progress(f"judging: {name}", done, total)
        done += 1

    step("cascade")
    whole = answer_all(cascade, data, 0)
    alone = []
    for t, tier in enumerate(cascade.tiers):
        step(tier.name)
        alone.append(answer_all(cascade, data, t, None if t == last else t + 1, ended=t == last))
    timeouts = []
    for idle_s in IDLE_TIMEOUTS_S:
        step(f"idle timeout {idle_s:g} s")
        seen = data.with_idle_timeout(idle_s) if idle_s else data.with_end_known()
        both = answer_all(cascade, seen, 0), answer_all(cascade, seen, last)
        timeouts.append(Answers(idle_s, *both))
    known = {name: i for i, name in enumerate(cascade.classes)}
    labels, at = np.unique(data.labels, return_inverse=True)
    others = [str(name) for name in labels if str(name) not in known]
    if len(cascade.classes) > cascade.learned:
        known |= dict.fromkeys(others, cascade.learned)
        others = []
    known |= {name: len(known) + i for i, name in enumerate(others)}
    codes = np.array([known[str(name)] for name in labels], np.int64)
    return Study(
        model_version=cascade.model_version,
        tiers=cascade.tiers,
        fast_tiers=cascade.fast_tiers,
        names=(*cascade.classes, *others),
        true=codes[at],
        groups=data.groups,
        captures=data.group_names,
        sizes=data.sizes,
        cascade=whole,
        alone=tuple(alone),
        by_idle_timeout=tuple(timeouts),
        learned=cascade.learned,
    )


def answer_all(
    cascade: Cascade,
    data: Dataset,
    first: int,
    stop: int | None = None,
    *,
    ended: bool = True,
) -> Way:
    """Judge all flows from one tier on, in calls of the size that a service makes.

    What calls take is the least of :data:`_ROUNDS` times through all of them: what else the machine
    does, and code and models that are not in its caches yet, can only add to it. No call is
    repeated at once, as then its own flows' way through the trees would be in the caches too.

    Args:
        cascade: With the tiers that are asked loaded.
        data: Labelled flows, at least one.
        first: The first tier that is asked.
        stop: This tier and those behind it are not asked.
        ended: Whether flows short of packets go to the deepest tier; if not, none judges them.
    """
    answers = np.empty(len(data), ANSWER_DTYPE)
    parts = [slice(at, min(at + CALL_FLOWS, len(data))) for at in range(0, len(data), CALL_FLOWS)]
    least_ns = np.full(len(data), np.iinfo(np.int64).max)
    for _ in range(_ROUNDS):
        for part in parts:
            offsets = data.offsets[part.start : part.stop + 1]
            n = part.stop - part.start
            answers[part] = cascade.answer(
                data.packets[offsets[0] : offsets[-1]],
                offsets - offsets[0],
                np.full(n, first, np.uint8),
                # No packet comes after those of the dataset, as deep as the deepest tier looks.
                np.full(n, ended, np.uint8),
                stop_tier=stop,
            )
        least_ns = np.minimum(least_ns, answers["infer_ns"])
    answers["infer_ns"] = least_ns
    return _way(cascade, data, answers)


def _way(cascade: Cascade, data: Dataset, answers: Records) -> Way:
    asked = answers["tier"] != NO_TIER
    return Way(
        said=np.where(asked, answers["label"], 0).astype(np.int64),
        confidence=np.where(asked, answers["confidence"], 0).astype(np.float32),
        tier=answers["tier"].copy(),
        wait_ns=_wait_ns(cascade, data, answers["tier"]),
        infer_ns=answers["infer_ns"].copy(),
        novelty=np.where(asked, answers["novelty"], 0).astype(np.float32),
    )


def _wait_ns(cascade: Cascade, data: Dataset, tier: Array) -> npt.NDArray[np.int64]:
    """Return how long each flow waited for the packets of the tier that answered it."""
    wait_ns = np.zeros(len(data), np.int64)
    for t, own in enumerate(cascade.tiers):
        wait_ns = np.where(tier == t, data.wait_ns(own.depth), wait_ns)
    return wait_ns
