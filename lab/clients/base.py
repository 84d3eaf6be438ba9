"""What a client session has at hand: chance, the server's address, and tools that end in time."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.plan import Endpoint

__all__ = ["PASSWORD", "Session"]

PASSWORD = "lab"  # noqa: S105 - every account of the lab's throw-away servers has it
_ABORT = 0.05
"""The share of client programs that are killed while they work."""


@dataclass(frozen=True)
class Session:
    """One client's visit to one service.

    Attributes:
        rng: this session's own chance.
        end: the service's endpoint.
        address: the server address to use, IPv4 or IPv6.
        own: this host's own address of the same version.
        shared: files that the servers' preparation made (keys, torrents).
        work: a folder that only this session uses.
        until: when the run's traffic ends, in monotonic seconds.
    """

    rng: random.Random
    end: Endpoint
    address: str
    own: str
    shared: Path
    work: Path
    until: float

    @property
    def port(self) -> int:
        """The service's main port."""
        return self.end.port

    @property
    def host(self) -> str:
        """The address as it stands in a URL."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def at(self) -> str:
        """``address:port`` as it stands in a URL."""
        return f"{self.host}:{self.port}"

    @property
    def remaining(self) -> float:
        """Seconds that are left of the run, at least one."""
        return max(1.0, self.until - time.monotonic())

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.rng.random() < probability

    def count(self, *choices: int) -> int:
        """One of the choices, each as likely."""
        return self.rng.choice(choices)

    def size(self, low: int = 1, high: int = 200_000) -> int:
        """A size, spread evenly over the orders of magnitude."""
        return int(low * (high / low) ** self.rng.random())

    def data(self, low: int = 1, high: int = 200_000) -> bytes:
        """Bytes of a drawn size; some compress well and some do not."""
        size = self.size(low, high)
        if self.chance(0.5):
            return self.rng.randbytes(size)
        return (b"all work and no play " * (size // 21 + 1))[:size]

    def word(self, length: int = 8) -> str:
        """A drawn name."""
        return "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=length))

    def file(self) -> str:
        """The name of a file that web and file servers have."""
        return f"f{self.rng.randrange(48):02d}.bin"

    def think(self, mean: float = 0.15) -> None:
        """Pause as a user or program does: mostly short, sometimes long, often not at all."""
        if self.chance(0.4):
            return
        pause = self.rng.expovariate(1 / mean)
        if self.chance(0.06):
            pause += self.rng.uniform(1, 6)
        time.sleep(min(pause, self.remaining))

    def run(
        self,
        argv: Sequence[str],
        data: bytes = b"",
        limit: float = 20.0,
        env: dict[str, str] | None = None,
    ) -> bytes:
        """Run a client program; now and then kill it midway.

        Returns:
            What it printed.
        """
        limit = min(limit, self.remaining)
        if self.chance(_ABORT):
            limit = min(limit, self.rng.uniform(0.02, 0.6))
        # stdin always comes from a file: a killed parent must not leave a pipe that blocks.
        source = self.work / f"in{self.rng.getrandbits(32):x}"
        source.write_bytes(data)
        with source.open("rb") as handle:
            process = subprocess.Popen(
                list(argv),
                stdin=handle,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.work,
                env={**self._environment(), **(env or {})},
            )
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                output, _ = process.communicate()
        source.unlink(missing_ok=True)
        return output

    def _environment(self) -> dict[str, str]:
        """Nothing of the user's: neither dot files nor proxies may change the traffic."""
        return {
            "HOME": str(self.work),
            "LANG": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    def connect(self, timeout: float = 8.0) -> socket.socket:
        """A plain TCP connection to the service."""
        made = socket.create_connection((self.address, self.port), timeout=timeout)
        if self.chance(0.5):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def datagram(self) -> socket.socket:
        """A UDP socket that is connected to the service."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(2.0)
        made.connect((self.address, self.port))
        return made

    @staticmethod
    def reset(made: socket.socket) -> None:
        """Close with a reset instead of an orderly end."""
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.close()
