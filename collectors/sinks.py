"""Where final verdicts go: the protocol of sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from collectors.exchange import Settled
from flows.records import joined, taken

__all__ = ["Sink", "Verdicts"]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Final verdicts and all that a reader needs to understand them.

    Attributes:
        settled: The flows and their verdicts.
        classes: Names of the labels.
        tiers: Names of the tiers.
        model_version: The bundle that judged.
        collector: Whose flow ids these are.
        interface: Where the packets were seen; None: not on an interface.
    """

    settled: Settled
    classes: tuple[str, ...]
    tiers: tuple[str, ...]
    model_version: str
    collector: str
    interface: str | None = None

    def __len__(self) -> int:
        return len(self.settled.flows)

    def rows(self, rows: npt.ArrayLike) -> Verdicts:
        """Return some of them, by their indices ``[k]``."""
        at = np.asarray(rows, np.intp)
        own = self.settled
        settled = Settled(
            taken(own.flows, at),
            taken(own.verdicts, at),
            own.queue_ns[at],
            own.infer_ns[at],
            own.ends[at],
        )
        return replace(self, settled=settled)

    def goes_with(self, other: Verdicts) -> bool:
        """Tell whether all but the flows is the same as with ``other``."""
        return (
            self.model_version == other.model_version
            and self.classes == other.classes
            and self.tiers == other.tiers
            and self.collector == other.collector
            and self.interface == other.interface
        )

    @staticmethod
    def joined(parts: Sequence[Verdicts]) -> Verdicts:
        """Return one or more that go with each other as one."""
        if len(parts) == 1:
            return parts[0]
        every = [part.settled for part in parts]
        settled = Settled(
            joined([np.ascontiguousarray(one.flows) for one in every]),
            joined([np.ascontiguousarray(one.verdicts) for one in every]),
            np.concatenate([one.queue_ns for one in every]),
            np.concatenate([one.infer_ns for one in every]),
            np.concatenate([one.ends for one in every]),
        )
        return replace(parts[0], settled=settled)


class Sink(Protocol):
    """Takes final verdicts; used by one thread at a time, and may block.

    :class:`collectors.queued_sink.QueuedSink` keeps the waiting away from who has the verdicts.
    """

    def write(self, found: Verdicts) -> None:
        """Write verdicts.

        Raises:
            SinkError: They are not written, or only those that are not in its ``left``.
        """

    def flush(self) -> None:
        """Do what is due by time; called after writing, and about once a second when idle.

        Raises:
            SinkError: It could not be done.
        """

    def reopen(self) -> None:
        """Open anew by name what may have been renamed or removed since.

        Raises:
            SinkError: It cannot be opened.
        """

    def sync(self) -> None:
        """Have the disk keep what is written; unlike all else, from any thread, also while writing.

        Raises:
            OSError: The disk fails.
        """

    def close(self) -> None:
        """Write what is left and let go of everything; the second time, do nothing.

        Raises:
            SinkError: Something could not be written.
        """
