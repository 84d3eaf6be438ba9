"""The load generator: a process of its own, so that its CPU is not taken for the service's."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lane import Lane, LoadClock, Trial
from benchmarks.recorded import read_captures
from benchmarks.results import percentiles
from benchmarks.template import FlowTemplate, flow_template
from benchmarks.transports import HttpTransport, Transport, open_transport
from flows.errors import ServeFlowError

__all__ = ["Generator", "Outcome", "run_trial"]

_BEGIN, _END = "begin", "end"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one load.

    Attributes:
        trial: The load.
        flows: Flows that began within the measured time.
        new_flows_per_second: Those that got their final verdict, by the measured time.
        answered_per_second: Final verdicts that came within the measured time, whenever their
            flows began: what an overloaded service still does.
        packets_per_second: Packets sent within the measured time.
        batches: Batches sent in all.
        batches_per_second: Batches sent within the measured time.
        sent_bytes_per_flow: Bytes of batches within the measured time, by flows begun in it; NaN
            where the transport does not count them, here and below.
        received_bytes_per_flow: The same of answers.
        admitted: Flows sent in all.
        lost_flows: Of those, without a final verdict after the drain.
        doubled: Final verdicts beyond one a flow, and verdicts on flows that were not sent.
        resent: Flows sent again, as their tracker had lost them.
        refused: Batches that the service did not take or answer.
        refused_flows: New flows in them that were given up for it.
        held_back: How often a batch was held because the service had too much to do.
        unsent_flows: Flows that began but were not sent by the load's end, behind a backlog.
        gave_up: The load was ended early, as its backlog grew too long.
        queue_ms: p50, p90, p99 of the time from when the last packet that a final verdict waits
            for was due to that verdict.
        first_ms: The same from when a flow's first packet was due to its first answer.
        error: What the service said when it refused.
    """

    trial: dict[str, Any]
    flows: int
    new_flows_per_second: float
    answered_per_second: float
    packets_per_second: float
    batches: int
    batches_per_second: float
    sent_bytes_per_flow: float
    received_bytes_per_flow: float
    admitted: int
    lost_flows: int
    doubled: int
    resent: int
    refused: int
    refused_flows: int
    held_back: int
    unsent_flows: int
    gave_up: bool
    queue_ms: dict[str, float]
    first_ms: dict[str, float]
    error: str | None = None

    def holds(self, limit_ms: float) -> bool:
        """Tell whether the service held this load, with p99 of queueing below ``limit_ms``."""
        # What was sent again may be answered again; nothing else may.
        doubled = self.doubled and not self.resent
        whole = not (self.gave_up or self.lost_flows or self.refused or doubled)
        return (
            whole and self.flows > 0 and max(self.queue_ms["p99"], self.first_ms["p99"]) < limit_ms
        )


def run_trial(
    trial: Trial,
    template: FlowTemplate,
    transport: str,
    url: str,
    on_phase: Callable[[str], None] = lambda _: None,
    trackers: int = 1,
) -> Outcome:
    """Put one load on the service.

    Args:
        trial: The load.
        template: The flows.
        transport: Name of the transport.
        url: The service.
        on_phase: Called with ``begin`` and ``end`` when measuring begins and ends.
        trackers: How many trackers the service has.
    """
    connections = [open_transport(transport, url) for _ in range(trial.collectors)]
    clock = LoadClock(trial.load_s)
    lanes = [Lane(trial, clock, i, template, c, trackers) for i, c in enumerate(connections)]
    threads = [threading.Thread(target=lane.run, name=f"lane-{lane.number}") for lane in lanes]
    clock.start()
    for thread in threads:
        thread.start()
    whole = clock.wait(trial.warm_up_s)
    before = _traffic(lanes, connections)
    on_phase(_BEGIN)
    whole = clock.wait(trial.load_s) and whole
    on_phase(_END)
    traffic = _traffic(lanes, connections) - before
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    return _outcome(trial, lanes, traffic, gave_up=not whole)


def _traffic(lanes: list[Lane], connections: list[Transport]) -> npt.NDArray[np.float64]:
    """Return batches sent, and bytes sent and received, so far."""
    counted = [(c.sent_bytes, c.received_bytes) if isinstance(c, HttpTransport) else (np.nan,) * 2
               for c in connections]  # fmt: skip
    return np.array([sum(lane.batches for lane in lanes), *np.sum(counted, axis=0)])


def _outcome(
    trial: Trial, lanes: list[Lane], traffic: npt.NDArray[np.float64], *, gave_up: bool
) -> Outcome:
    batches, sent, received = traffic.tolist()
    flows = sum(s.stop - s.start for s in (lane.measured() for lane in lanes))
    delays = [lane.delays_ns() for lane in lanes]
    first, queue = (np.concatenate([d[k] for d in delays]) / 1e6 for k in (0, 1))
    return Outcome(
        trial=asdict(trial),
        flows=flows,
        new_flows_per_second=len(first) / trial.seconds,
        answered_per_second=sum(lane.answered for lane in lanes) / trial.seconds,
        packets_per_second=sum(lane.packets for lane in lanes) / trial.seconds,
        batches=sum(lane.batches for lane in lanes),
        batches_per_second=batches / trial.seconds,
        sent_bytes_per_flow=sent / max(flows, 1),
        received_bytes_per_flow=received / max(flows, 1),
        admitted=sum(lane.admitted for lane in lanes),
        lost_flows=sum(lane.open_flows for lane in lanes),
        doubled=sum(lane.doubled for lane in lanes),
        resent=sum(lane.resent for lane in lanes),
        refused=sum(lane.refused for lane in lanes),
        refused_flows=sum(lane.refused_flows for lane in lanes),
        held_back=sum(lane.held_back for lane in lanes),
        unsent_flows=max(0, int(trial.rate * trial.load_s) - sum(lane.admitted for lane in lanes)),
        gave_up=gave_up,
        queue_ms=percentiles(queue),
        first_ms=percentiles(first),
        error=next((lane.error for lane in lanes if lane.error), None),
    )


class Generator:
    """The generator's process, seen from the one that measures.

    Args:
        captures: Where the flows come from.
        transport: Name of the transport.
        url: The service.

    Raises:
        ServeFlowError: A capture cannot be read, or the service cannot be reached.
    """

    def __init__(self, captures: list[Path], transport: str, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, captures, transport, url), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self.flows: int = self._hear()  # in the captures
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process.pid is not None  # noqa: S101 (it has been started)
        return self._process.pid

    def run(self, trial: Trial, on_phase: Callable[[str], None] = lambda _: None) -> Outcome:
        """Put one load on the service; see :func:`run_trial`.

        Raises:
            ServeFlowError: The service cannot be reached.
        """
        self._pipe.send(trial)
        while True:
            said = self._hear()
            if isinstance(said, Outcome):
                return said
            on_phase(said)

    def _hear(self) -> Any:
        try:
            said = self._pipe.recv()
        except EOFError:
            raise ServeFlowError(
                "the load generator ended by itself: see what it printed"
            ) from None
        if isinstance(said, ServeFlowError):
            raise said
        return said

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _work(pipe: Connection, captures: list[Path], transport: str, url: str) -> None:
    """Do what the other process asks for, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that measures
    try:
        connection = open_transport(transport, url)
        schema = connection.schema()
        connection.close()
        recorded = read_captures(captures, with_header=schema.header)
        template = flow_template(recorded, schema.depth, schema.max_wait_s)
        del recorded
        pipe.send(len(template))
        while True:
            trial = pipe.recv()
            pipe.send(run_trial(trial, template, transport, url, pipe.send, schema.trackers))
    except EOFError:
        return
    except ServeFlowError as error:
        # As text: what an error holds besides need not survive the way.
        pipe.send(ServeFlowError(str(error)))
