"""What a collector serves of itself: ``/metrics``, ``/healthz``, ``/readyz`` and ``/status``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any

from collectors.agent_metrics import AgentMetrics
from collectors.bounded_http import Answer, BoundedServer, HttpLimits
from collectors.losses import losses
from collectors.status import AgentStatus

__all__ = ["AgentHttp", "status_to_dict"]

_MOST_STILL_S = 10.0

_log = logging.getLogger(__name__)


def status_to_dict(status: AgentStatus) -> dict[str, Any]:
    """Return a status as JSON has it, with all losses by hop and reason."""
    found = asdict(status)
    found["latency_counts"] = {
        part: {f"{most_ms:.6g}": count for most_ms, count in counts.items()}
        for part, counts in status.latency_counts.items()
    }
    found["lost"] = [asdict(loss) for loss in losses(status)]
    return found


class AgentHttp:
    """Serves a collector's state over HTTP, from threads of its own.

    Args:
        address: Host and port to listen on; port 0: any.
        status: Tells how the collector is; called from other threads.
        heartbeat_age_s: Tells how long ago its loop was last seen at work.
        most_still_s: The loop counts as alive for so long after that.
        limits: What strangers may take.

    Raises:
        SettingsError: It cannot listen there.
    """

    def __init__(
        self,
        address: tuple[str, int],
        status: Callable[[], AgentStatus],
        heartbeat_age_s: Callable[[], float],
        *,
        most_still_s: float = _MOST_STILL_S,
        limits: HttpLimits | None = None,
    ) -> None:
        self._status = status
        self._heartbeat_age_s = heartbeat_age_s
        self._most_still_s = most_still_s
        self._metrics = AgentMetrics(status)
        self._server = BoundedServer(*address, self._answer, limits)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{self._server.port}"
        if not self._server.loopback:
            _log.warning(
                "metrics are served beyond this machine, to whoever asks; a firewall should let "
                "pass only those who may know",
                extra={"address": self.url},
            )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def open_connections(self) -> int:
        """Connections that are being seen to."""
        return self._server.open_connections

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.close()

    def __enter__(self) -> AgentHttp:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, path: str, accept: str) -> Answer | None:
        if path == "/metrics":
            return Answer(*self._metrics.text(accept))
        if path == "/status":
            return _json(status_to_dict(self._status()))
        if path == "/healthz":
            return self._verdict(self._why_dead())
        if path == "/readyz":
            return self._verdict(self._why_dead() or _why_not_ready(self._status()))
        return None

    def _verdict(self, why_not: str) -> Answer:
        age_s = round(self._heartbeat_age_s(), 3)
        if why_not:
            said = {"status": "failing", "reason": why_not, "heartbeat_age_s": age_s}
            return _json(said, 503)
        return _json({"status": "ok", "heartbeat_age_s": age_s})

    def _why_dead(self) -> str:
        age_s = self._heartbeat_age_s()
        if age_s <= self._most_still_s:
            return ""
        return f"the loop has not been seen at work for {age_s:.0f} s"


def _why_not_ready(status: AgentStatus) -> str:
    if not status.connected:
        return "the service has not told yet what it wants"
    delivery = status.delivery
    if delivery.away_s or delivery.last_error:
        return f"the service has not answered for {delivery.away_s:.0f} s: {delivery.last_error}"
    return ""


def _json(found: dict[str, Any], status: int = 200) -> Answer:
    return Answer(json.dumps(found).encode(), status=status)
