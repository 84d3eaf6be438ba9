"""A network namespace with a pair of virtual cables in it (root, Linux).

What is sent into one end comes out of the other, and nothing else is on it: no address, no IPv6
autoconfiguration, no offloading that would change frames on the way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.errors import SettingsError

__all__ = ["Namespace"]

_CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace of one's own, removed on leaving together with what runs in it.

    Raises:
        SettingsError: On entering: it cannot be made, for want of rights or of the program ``ip``.
    """

    def __init__(self) -> None:
        self.name = f"serveflow-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Namespace:
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        for pid in pids.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def ip(self, *words: str) -> None:
        """Run ``ip`` in it."""
        _ip("-n", self.name, *words)

    def add_veth(self, one: str = "sf0", other: str = "sf1", mtu: int = 9_000) -> None:
        """Make two interfaces that are joined, and take them up."""
        self.ip("link", "add", one, "mtu", str(mtu), "type", "veth", "peer", "name", other,
                "mtu", str(mtu))  # fmt: skip
        for name in (one, other):
            self.sysctl(f"net.ipv6.conf.{name}.disable_ipv6=1")
            self.ip("link", "set", name, "up")

    def sysctl(self, setting: str) -> None:
        """Set a kernel's setting in it, such as ``net.ipv4.ip_forward=1``."""
        key, _, value = setting.partition("=")
        with self.entered():
            Path("/proc/sys", *key.split(".")).write_text(value)

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """Return the command that runs ``command`` in it."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calling thread be in it; sockets stay in the one in which they were opened."""
        with Path("/proc/thread-self/ns/net").open() as before:
            with Path("/run/netns", self.name).open() as here:
                _set_namespace(here.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())


def _set_namespace(descriptor: int) -> None:
    # Python has it from 3.12 on.
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SettingsError(f"cannot enter a network namespace ({reason}): this needs root")


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SettingsError(
            "there is no program `ip` here; install it (Debian: apt-get install iproute2)"
        ) from None
    if done.returncode != 0:
        raise SettingsError(f"ip {' '.join(words)}: {done.stderr.strip()}; this needs root")
