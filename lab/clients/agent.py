"""One client host's programs: draws sessions, and runs many at a time until the run ends.

``python -m lab.clients.agent CONFIG`` runs inside the host's namespace; the orchestrator starts it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from lab.clients import databases, files, mail, messaging, names, web
from lab.clients.base import Session
from lab.plan import Endpoint, Host, RunPlan, plan_from_dict

__all__ = ["SESSIONS", "main"]

SESSIONS: dict[str, Callable[[Session], None]] = {
    **web.SESSIONS,
    **names.SESSIONS,
    **databases.SESSIONS,
    **mail.SESSIONS,
    **files.SESSIONS,
    **messaging.SESSIONS,
}
_AT_ONCE = 40
_TAIL = 4.0
"""No session starts in the run's last seconds: what is begun should mostly also end."""
_PROBE = 0.015
"""The share of sessions that meet a closed port next to the service's."""


class _Agent:
    """Runs the sessions of one host."""

    def __init__(self, plan: RunPlan, host: Host, shared: Path, work: Path) -> None:
        self._plan = plan
        self._host = host
        self._shared = shared
        self._work = work
        self._slots = threading.Semaphore(_AT_ONCE)
        self._tally: dict[str, list[int]] = {name: [0, 0] for name in SESSIONS}
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()

    def play(self, sessions: list[str], seconds: float) -> None:
        """Start the sessions at drawn moments; return when the run is over."""
        rng = random.Random(f"{self._plan.seed}/{self._host.name}")
        start = time.monotonic()
        until = start + seconds
        moments = sorted(rng.uniform(0, seconds - _TAIL) for _ in sessions)
        for index, (service, moment) in enumerate(zip(sessions, moments, strict=True)):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            self._slots.acquire(timeout=max(0.1, until - time.monotonic()))
            if time.monotonic() > until - 1:
                break
            seed = rng.getrandbits(48)
            thread = threading.Thread(
                target=self._one, args=(service, index, seed, until), daemon=True
            )
            thread.start()
        time.sleep(max(0.0, until - time.monotonic()))

    def _one(self, service: str, index: int, seed: int, until: float) -> None:
        rng = random.Random(seed)
        end = next(e for e in self._plan.endpoints if e.service == service)
        old = rng.random() < 0.62
        peer = service == "bittorrent"
        own4 = self._host.peer_ipv4 if peer else self._host.ipv4
        own6 = self._host.peer_ipv6 if peer else self._host.ipv6
        work = self._work / f"{index}-{service}"
        work.mkdir()
        if rng.random() < _PROBE and service not in ("bittorrent", "ftp"):
            end = Endpoint(**{**vars(end), "port": end.port + 7})
        session = Session(
            rng=rng,
            end=end,
            address=end.ipv4 if old else end.ipv6,
            own=own4 if old else own6,
            shared=self._shared,
            work=work,
            until=until,
        )
        try:
            SESSIONS[service](session)
            failed = 0
        except Exception as error:  # whatever a client library raises, the run goes on
            failed = 1
            with self._lock:
                self._errors[service] = f"{type(error).__name__}: {error}"[:200]
        finally:
            self._slots.release()
            shutil.rmtree(work, ignore_errors=True)
        with self._lock:
            self._tally[service][failed] += 1

    def report(self) -> str:
        """Sessions that ended well or not, and one error per service, for the log."""
        with self._lock:
            return json.dumps({"tally": self._tally, "errors": self._errors}, indent=1)


def main(argv: list[str]) -> int:
    """Play one host's part of a run."""
    config = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    plan = plan_from_dict(config["plan"])
    work = Path(config["work"])
    work.mkdir(parents=True, exist_ok=True)
    agent = _Agent(plan, plan.host(config["host"]), Path(config["shared"]), work)
    Path(config["ready"]).touch()
    while not Path(config["go"]).exists():
        time.sleep(0.02)
    agent.play(config["sessions"], plan.seconds)
    print(agent.report(), flush=True)
    # Threads may hang in a library's call; the host's day is over all the same.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
