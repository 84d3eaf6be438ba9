"""One collector of the load generator: sends when flows are due, and notes when answers come."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.feeds import Feed, FlowState, Offered, Pace, SpreadFeed, WholeFeed
from benchmarks.template import FlowTemplate
from benchmarks.transports import Transport
from flows.errors import OverloadedError, ServiceError
from flows.ids import flow_ids, flow_numbers, slots_of
from flows.packet import Records
from flows.verdict import Reason

__all__ = ["Lane", "LoadClock", "Trial"]

_S = 1_000_000_000
_DRAIN_SPEED = 4
_IDLE_S = 0.0005


@dataclass(frozen=True, slots=True)
class Trial:
    """One load.

    Attributes:
        rate: New flows per second, of all collectors together.
        warm_up_s: How long it goes before anything is measured.
        seconds: How long it is measured.
        collectors: Collectors, each with a connection and one request in flight at most.
        batch_delay_s: Least time between two batches of a collector.
        spread: Packets come with their captured delays; else all of a flow at once.
        batch_flows: Flows in a batch when not spread.
        give_up_s: A backlog of this length ends the load: the service cannot hold it.
        keep_going: The load goes on when the service refuses batches or a backlog grows, to see
            what an overloaded service does; new flows of a refused batch are given up.
        drain_s: How long (wall clock) to wait for verdicts after the load.
    """

    rate: float
    warm_up_s: float
    seconds: float
    collectors: int = 2
    batch_delay_s: float = 0.02
    spread: bool = True
    batch_flows: int = 1_000
    give_up_s: float = 2.0
    keep_going: bool = False
    drain_s: float = 20.0

    @property
    def load_s(self) -> float:
        """How long flows begin, seconds."""
        return self.warm_up_s + self.seconds


class LoadClock:
    """The capture's clock of a load: it runs as the wall clock does, and after the load faster.

    Args:
        load_s: How long flows begin.
    """

    def __init__(self, load_s: float) -> None:
        self.load_ns = int(load_s * _S)
        self._begin_ns = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin the load now."""
        self._begin_ns = time.monotonic_ns()

    @property
    def loading(self) -> bool:
        """Whether flows still begin."""
        return self.wall_ns() < self.load_ns

    def end_load(self) -> None:
        """End the load now, as the service cannot hold it."""
        self.load_ns = min(self.load_ns, self.wall_ns())
        self._ended.set()

    @property
    def gave_up(self) -> bool:
        """Whether the load was ended before its time."""
        return self._ended.is_set()

    def wait(self, until_s: float) -> bool:
        """Wait until a time of the load; return False if it was ended before."""
        return not self._ended.wait(max(0.0, until_s - self.wall_ns() / _S))

    def wall_ns(self) -> int:
        """Return the time since the load's beginning."""
        return time.monotonic_ns() - self._begin_ns

    def capture_ns(self) -> int:
        """Return the same by the capture's clock, which says when packets are due."""
        wall_ns = self.wall_ns()
        return min(wall_ns, self.load_ns) + _DRAIN_SPEED * max(0, wall_ns - self.load_ns)

    def wall_of(self, capture_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return when, by the wall clock, the capture's clock shows these times, int64 ``[n]``."""
        over = np.maximum(0, capture_ns - self.load_ns)
        return np.asarray(np.minimum(capture_ns, self.load_ns) + over // _DRAIN_SPEED)


@dataclass(slots=True)
class Lane:
    """One collector at work; :meth:`run` in a thread of its own.

    Args:
        trial: The load.
        clock: Shared by all collectors of the load.
        number: Which of the collectors it is.
        template: The flows.
        transport: Its connection.
        trackers: How many trackers the service has.

    Attributes:
        admitted: Flows whose first packet was sent.
        packets: Packets sent within the measured time.
        batches: Batches sent.
        doubled: Final verdicts on flows that had one, and verdicts on flows that were not sent.
        resent: Flows sent again, as their tracker had lost them.
        refused: Batches that the service did not take or answer.
        refused_flows: New flows in them that were given up for it.
        held_back: How often a batch was held because the service had too much to do.
        error: What was wrong with the last of them.
    """

    trial: Trial
    clock: LoadClock
    number: int
    template: FlowTemplate
    transport: Transport
    trackers: int = 1
    admitted: int = 0
    packets: int = 0
    batches: int = 0
    doubled: int = 0
    resent: int = 0
    refused: int = 0
    refused_flows: int = 0
    held_back: int = 0
    error: str | None = None
    pace: Pace = field(init=False)
    state: npt.NDArray[np.uint8] = field(init=False)
    _seed: int = field(init=False)
    _first_ns: npt.NDArray[np.int64] = field(init=False)
    _final_ns: npt.NDArray[np.int64] = field(init=False)
    _wait_ns: npt.NDArray[np.int64] = field(init=False)
    _feed: Feed = field(init=False)
    _incarnations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        trial = self.trial
        rate = trial.rate / trial.collectors
        self.pace = Pace(rate, self.number / trial.collectors)
        room = int(rate * trial.load_s) + 2 * trial.batch_flows + 16
        self.state = np.zeros(room, np.uint8)
        self._first_ns = np.zeros(room, np.int64)
        self._final_ns = np.zeros(room, np.int64)
        self._wait_ns = np.zeros(room, np.int64)
        self._seed = secrets.randbits(63)
        name = f"bench-{self.number}#{secrets.token_hex(4)}"
        if trial.spread:
            self._feed = SpreadFeed(self.template, name, self.pace, self._seed, self.state)
        else:
            self._feed = WholeFeed(self.template, name, self.pace, self._seed, trial.batch_flows)

    def run(self) -> None:
        """Send until each flow has its final verdict, or the time for that is over."""
        trial, clock = self.trial, self.clock
        next_ns = 0
        offering = True
        while True:
            wall_ns = clock.wall_ns()
            if wall_ns < next_ns:
                time.sleep((next_ns - wall_ns) / _S)
                continue
            loading = clock.loading
            if not offering and (
                not self.open_flows or wall_ns > clock.load_ns + int(trial.drain_s * _S)
            ):
                return
            # What has begun by the load's end is still offered, unless the service could not hold
            # the load.
            at_ns = min(clock.capture_ns(), clock.load_ns) if offering else clock.capture_ns()
            offered = self._feed.next(at_ns, more=offering)
            if not loading and (
                clock.gave_up
                or trial.keep_going
                or offered is None
                or offered.until_ns >= clock.load_ns
            ):
                offering = False
            if offered is None:
                time.sleep(_IDLE_S)
                continue
            next_ns = wall_ns + int(trial.batch_delay_s * _S)
            self.admitted += offered.flows
            self.batches += 1
            if int(trial.warm_up_s * _S) <= wall_ns < int(trial.load_s * _S):
                self.packets += offered.packets
            try:
                self._submit(offered)
            except ServiceError as error:
                self._refused(offered, error)
            behind_ns = clock.wall_ns() - offered.until_ns
            if offering and not trial.keep_going and behind_ns > int(trial.give_up_s * _S):
                clock.end_load()

    def _submit(self, offered: Offered) -> None:
        """Submit a batch; one that an overloaded service did not take is held, as collectors do."""
        while True:
            try:
                for verdicts, notes in self.transport.submit(offered.body, offered.flows):
                    self._take(verdicts)
                    self._compare(notes.get("trackers", {}))
                    self._send_again(offered.numbers, notes.get("away", []))
            except OverloadedError as error:
                if self.trial.keep_going or self.clock.gave_up:
                    raise
                self.held_back += 1
                time.sleep(error.retry_after_s)
            else:
                return

    def _refused(self, offered: Offered, error: ServiceError) -> None:
        self.refused += 1
        self.error = str(error)
        if not self.trial.keep_going:
            self.clock.end_load()
            return
        state = self.state[offered.numbers]
        new = offered.numbers[state == FlowState.NEW]
        self.state[new] = FlowState.REFUSED
        self.refused_flows += len(new)
        self._feed.send_again(offered.numbers[state == FlowState.UNCERTAIN])

    @property
    def open_flows(self) -> int:
        """Flows sent that have no final verdict and were not refused."""
        return int((self.state[: self.admitted] < FlowState.FINAL).sum())

    @property
    def answered(self) -> int:
        """Flows whose final verdict came within the measured time."""
        trial = self.trial
        final_ns = self._final_ns[self.state == FlowState.FINAL]
        begin_ns, end_ns = int(trial.warm_up_s * _S), int(trial.load_s * _S)
        return int(((final_ns >= begin_ns) & (final_ns < end_ns)).sum())

    def measured(self) -> slice:
        """Return which flows begin within the measured time."""
        edges = np.searchsorted(
            self.pace.starts_ns(np.arange(self.admitted)),
            [int(self.trial.warm_up_s * _S), int(self.trial.load_s * _S)],
        )
        return slice(int(edges[0]), int(edges[1]))

    def delays_ns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what the service took of flows that have their final verdict.

        Returns:
            From when a flow's first packet was due to its first answer, of flows that begin within
            the measured time; and from when the last packet that its final verdict had to wait for
            was due to that verdict, of flows of which that is within the measured time. Int64
            ``[n]`` and ``[m]``. Both count from when packets were due, not from when they could be
            sent.
        """
        final = np.flatnonzero(self.state[: self.admitted] == FlowState.FINAL)
        starts_ns = self.pace.starts_ns(final)
        due_ns = self.clock.wall_of(starts_ns + self._wait_ns[final])
        begin_ns, end_ns = int(self.trial.warm_up_s * _S), int(self.trial.load_s * _S)
        begins = (starts_ns >= begin_ns) & (starts_ns < end_ns)
        due = (due_ns >= begin_ns) & (due_ns < end_ns)
        return (
            (self._first_ns[final] - starts_ns)[begins],
            (self._final_ns[final] - due_ns)[due],
        )

    def _take(self, verdicts: Records) -> None:
        now_ns = self.clock.wall_ns()
        numbers = flow_numbers(verdicts["flow_id"], self._seed)
        sent = numbers < self.admitted
        self.doubled += int((~sent).sum())
        verdicts, numbers = verdicts[sent], numbers[sent].astype(np.int64)
        before = self.state[numbers]
        self._first_ns[numbers[before == FlowState.NEW]] = now_ns
        is_final = verdicts["final"] == 1
        self.doubled += int((is_final & (before == FlowState.FINAL)).sum())
        self.state[numbers[before == FlowState.NEW]] = FlowState.UNCERTAIN
        is_final &= before != FlowState.FINAL
        final = numbers[is_final]
        self.state[final] = FlowState.FINAL
        self._final_ns[final] = now_ns
        wait_ns = verdicts["wait_ns"][is_final]
        if not self.trial.spread:  # its packets were all there at once; only timeouts waited
            wait_ns = np.where(verdicts["reason"][is_final] == Reason.TIMEOUT, wait_ns, 0)
        self._wait_ns[final] = wait_ns

    def _compare(self, incarnations: dict[str, str]) -> None:
        """Send flows again whose tracker is another than it was, as collectors do."""
        for tracker, incarnation in incarnations.items():
            known = self._incarnations.setdefault(tracker, incarnation)
            if known == incarnation:
                continue
            self._incarnations[tracker] = incarnation
            self._send_again(np.arange(self.admitted), [int(tracker)])

    def _send_again(self, numbers: npt.NDArray[np.int64], trackers: list[int]) -> None:
        """Send those of some flows again that are unsure and pinned to some trackers."""
        if trackers:
            unsure = numbers[self.state[numbers] == FlowState.UNCERTAIN]
            slots = slots_of(flow_ids(unsure.astype(np.uint64), self._seed))
            lost = unsure[np.isin(slots % self.trackers, trackers)]
            self.resent += len(lost)
            self._feed.send_again(lost)
