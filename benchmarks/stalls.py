"""What the death of one tracker means for the flows of the others, seen by who watches verdicts.

A watcher of ``StreamVerdicts`` notes when final verdicts come that a tracker had a part in, and
which one; silence of a tracker is the longest time between two of them.
"""

from __future__ import annotations

import io
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np

from collectors.sender import HttpSender
from flows.errors import ServeFlowError
from flows.ids import slots_of
from flows.rpc.flow_classifier_pb2 import StreamVerdictsRequest
from flows.rpc.flow_classifier_pb2_grpc import FlowClassifierServiceStub
from flows.verdict_wire import VerdictReader

__all__ = ["Seen", "TrackerWatch", "silences"]

_TITLE = re.compile(r":FlowTracker-(\d+)")
_AGAIN_S = 0.1
_AFTER_S = 2.0


@dataclass(slots=True)
class Seen:
    """What a watcher has seen.

    Attributes:
        verdicts: By tracker, when final verdicts of its flows came (monotonic seconds).
        deaths: When a tracker was killed, and which.
    """

    verdicts: dict[int, list[float]] = field(default_factory=dict)
    deaths: list[tuple[float, int]] = field(default_factory=list)


class TrackerWatch:
    """Watches from entering to leaving.

    Args:
        url: The service's address over HTTP.
        grpc_url: The same over gRPC, with the application.
    """

    def __init__(self, url: str, grpc_url: str) -> None:
        self._url = url
        parts = urlsplit(grpc_url)
        self._target, self._application = parts.netloc, parts.path.strip("/")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._seen = Seen()
        self._channel: grpc.Channel | None = None
        with HttpSender(url) as sender:
            schema = sender.schema()
            self._before = _incarnations(sender)
        self._trackers = schema.trackers
        # A tier on packet 1 needs no tracker.
        self._deep = np.array([depth > 1 for depth in schema.depths])

    def __enter__(self) -> TrackerWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._channel is not None:
            self._channel.close()
        self._thread.join()

    def note_death(self, title: str) -> None:
        """Note that the tracker of this process title is being killed.

        Raises:
            ServeFlowError: It is no tracker's.
        """
        found = _TITLE.search(title)
        if found is None:
            raise ServeFlowError(f"{title}: is no tracker")
        self._seen.deaths.append((time.monotonic(), int(found[1])))

    def told(self) -> dict[str, Any]:
        """Return how long trackers were silent, and which of them lost what they held."""
        with HttpSender(self._url) as sender:
            after = _incarnations(sender)
        changed = sorted(k for k in after if after[k] != self._before.get(k))
        killed = sorted({tracker for _, tracker in self._seen.deaths})
        return {
            "killed": killed,
            "others_that_lost_their_state": sorted(set(changed) - set(killed)),
            **silences(self._seen, self._trackers),
        }

    def _run(self) -> None:
        while not self._over.is_set():
            with grpc.insecure_channel(
                self._target, options=[("grpc.enable_http_proxy", 0)]
            ) as self._channel:
                stub = FlowClassifierServiceStub(self._channel)  # type: ignore[no-untyped-call]
                watch = stub.StreamVerdicts(
                    StreamVerdictsRequest(only_final=True),
                    metadata=(("application", self._application),),
                )
                try:
                    for message in watch:
                        self._note(message.verdicts)
                except (grpc.RpcError, ValueError):  # a ValueError where the channel was closed
                    self._over.wait(_AGAIN_S)

    def _note(self, stream: bytes) -> None:
        if not stream:
            return
        now_s = time.monotonic()
        for verdicts, _ in VerdictReader(io.BytesIO(stream)):
            deep = verdicts[self._deep[verdicts["tier"]]]
            owners = slots_of(np.ascontiguousarray(deep["flow_id"])) % self._trackers
            for tracker in np.unique(owners).tolist():
                self._seen.verdicts.setdefault(tracker, []).append(now_s)


def silences(seen: Seen, trackers: int) -> dict[str, Any]:
    """Return the longest silences around deaths, in seconds.

    Args:
        seen: What a watcher has seen.
        trackers: How many there are.

    Returns:
        ``others_s``: of any tracker but the one that was killed, if they end after its death and
        begin no later than 2 s after it; ``owner_s``: of that one; ``usual_s``: of any, before the
        first death.
    """
    others, owner = [0.0], [0.0]
    for death_s, killed in seen.deaths:
        for tracker in range(trackers):
            came = np.array(seen.verdicts.get(tracker, []))
            around = (came[1:] > death_s) & (came[:-1] < death_s + _AFTER_S)
            longest = float(np.diff(came)[around].max(initial=0.0))
            (owner if tracker == killed else others).append(longest)
    first_s = seen.deaths[0][0] if seen.deaths else float("inf")
    before = (np.array(came) for came in seen.verdicts.values())
    usual = [float(np.diff(came[came < first_s]).max(initial=0.0)) for came in before]
    return {"others_s": max(others), "owner_s": max(owner), "usual_s": max(usual, default=0.0)}


def _incarnations(sender: HttpSender) -> dict[int, str]:
    found = sender.status()["trackers"]
    return {number: str(one["incarnation"]) for number, one in enumerate(found)}
