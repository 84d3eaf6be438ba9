"""What ``serveflow doctor`` asks of the machine and of the service; a fake stands in for tests."""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import os
import resource
import shutil
import socket
import struct
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from collectors.connections import Connections
from collectors.credentials import Credentials
from collectors.ring_socket import find_interface
from collectors.sender import HttpSender
from flows.errors import ServeFlowError
from flows.link import LinkType
from flows.service_schema import ServiceSchema

__all__ = ["FakeSystem", "InterfaceFacts", "LinuxSystem", "System"]

_CAP_NET_RAW = 13
_SIOCGIFMTU, _SIOCETHTOOL = 0x8921, 0x8946
_ETHTOOL_GGRO, _ETHTOOL_GFLAGS, _FLAG_LRO = 0x2B, 0x25, 1 << 15
_TIME_ERROR = 5
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """An interface as it is now.

    Attributes:
        link: What its frames begin with.
        up: Whether it is up.
        loopback: Whether what is sent on it comes back as received.
        mtu: Bytes of its packets at most.
        merges: Offloads that are on and merge packets before they are seen: ``gro``, ``lro``.
    """

    link: LinkType = LinkType.ETHERNET
    up: bool = True
    loopback: bool = False
    mtu: int = 1500
    merges: tuple[str, ...] = ()


class System(Protocol):
    """A machine, as far as a collector depends on it."""

    def may_capture(self) -> bool:
        """Whether this process has the right CAP_NET_RAW."""

    def interface(self, name: str) -> InterfaceFacts | None:
        """Look an interface up; None: there is none.

        Raises:
            CaptureError: Its frames are of a kind not known here.
        """

    def interfaces(self) -> tuple[str, ...]:
        """Names of the interfaces that there are."""

    def has_program(self, name: str) -> bool:
        """Whether a program is there to be started."""

    def clock_synchronised(self) -> bool | None:
        """Whether the kernel takes its clock for right; None: it does not say."""

    def service_schema(self, url: str, credentials: Credentials) -> ServiceSchema:
        """Ask the service what it wants.

        Raises:
            ServeFlowError: It does not answer, or not as it should.
        """

    def service_clock_ahead_s(self, url: str, credentials: Credentials) -> float | None:
        """By how much the service's clock is ahead of this one; None: it does not say."""

    def answers(self, host: str, port: int) -> bool:
        """Whether somebody takes TCP connections there."""

    def writable(self, folder: Path) -> str:
        """Why nothing can be written in a folder, or in where it would be made; empty: it can."""

    def free_bytes(self, folder: Path) -> int:
        """What the disk of a folder, or of where it would be made, has left."""

    def used_bytes(self, folder: Path) -> int:
        """What the files in a folder take."""

    def lock_holder(self, file: Path) -> str | None:
        """Who holds a file's lock, in words; None: nobody does."""

    def available_bytes(self) -> int | None:
        """Memory that can still be had, by machine and container; None: not known."""

    def open_files_limit(self) -> int:
        """Files that this process may have open at a time."""

    def port_free(self, host: str, port: int) -> str:
        """Why nobody can listen there; empty: one can."""

    def file_mode(self, file: Path) -> int:
        """Who may do what with a file.

        Raises:
            OSError: There is none, or it is out of reach.
        """


class LinuxSystem:
    """This machine."""

    def may_capture(self) -> bool:
        """See :class:`System`."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_NET_RAW & 1)
        return False

    def interface(self, name: str) -> InterfaceFacts | None:
        """See :class:`System`."""
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            found = find_interface(asking, name)
            if found is None:
                return None
            mtu = struct.unpack_from("=i", fcntl.ioctl(asking, _SIOCGIFMTU, _request(name)), 16)[0]
            merges = []
            for word, command, mask in (
                ("gro", _ETHTOOL_GGRO, 1), ("lro", _ETHTOOL_GFLAGS, _FLAG_LRO)
            ):  # fmt: skip
                if _ethtool(asking, name, command) & mask:
                    merges.append(word)
        return InterfaceFacts(found.link, found.up, found.loopback, mtu, tuple(merges))

    def interfaces(self) -> tuple[str, ...]:
        """See :class:`System`."""
        return tuple(name for _, name in socket.if_nameindex())

    def has_program(self, name: str) -> bool:
        """See :class:`System`."""
        return shutil.which(name) is not None

    def clock_synchronised(self) -> bool | None:
        """See :class:`System`."""
        # All modes 0: it is only asked. Larger than struct timex of any machine.
        asked = ctypes.create_string_buffer(512)
        with suppress(OSError, AttributeError):
            state = ctypes.CDLL(None).adjtimex(asked)
            return None if state < 0 else bool(state != _TIME_ERROR)
        return None

    def service_schema(self, url: str, credentials: Credentials) -> ServiceSchema:
        """See :class:`System`."""
        if url.startswith("grpc"):
            from collectors.grpc_sender import GrpcSender

            with GrpcSender(url, timeout_s=_ASK_S, credentials=credentials) as caller:
                return caller.schema()
        with HttpSender(url, timeout_s=_ASK_S, credentials=credentials) as sender:
            return sender.schema()

    def service_clock_ahead_s(self, url: str, credentials: Credentials) -> float | None:
        """See :class:`System`."""
        if urlsplit(url).scheme not in ("http", "https"):
            return None
        try:
            asked = Connections(url, timeout_s=_ASK_S, idle=0, credentials=credentials)
            began_s = time.time()
            with asked.request("GET", "/healthz") as response:
                told = parsedate_to_datetime(response.headers.get("date", ""))
            # It tells whole seconds, and told them somewhere between.
            return told.timestamp() + 0.5 - (began_s + time.time()) / 2
        except (OSError, http.client.HTTPException, ServeFlowError, ValueError, TypeError):
            return None

    def answers(self, host: str, port: int) -> bool:
        """See :class:`System`."""
        try:
            socket.create_connection((host, port), timeout=_ASK_S).close()
        except OSError:
            return False
        return True

    def writable(self, folder: Path) -> str:
        """See :class:`System`."""
        there = _existing(folder)
        if not there.is_dir():
            return f"{there} is no folder"
        if os.access(there, os.W_OK | os.X_OK):
            return ""
        return f"this user may not write in {there}"

    def free_bytes(self, folder: Path) -> int:
        """See :class:`System`."""
        return shutil.disk_usage(_existing(folder)).free

    def used_bytes(self, folder: Path) -> int:
        """See :class:`System`."""
        used = 0
        with suppress(OSError):
            for file in folder.iterdir():
                with suppress(OSError):
                    used += file.stat().st_size
        return used

    def lock_holder(self, file: Path) -> str | None:
        """See :class:`System`."""
        try:
            inode = file.stat().st_ino
            locks = Path("/proc/locks").read_text().splitlines()
        except OSError:
            return None
        for line in locks:
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                with suppress(OSError):
                    name = Path(f"/proc/{words[4]}/comm").read_text().strip()
                    return f"process {words[4]} ({name})"
                return f"process {words[4]}"
        return None

    def available_bytes(self) -> int | None:
        """See :class:`System`."""
        found: list[int] = []
        with suppress(OSError, ValueError, IndexError):
            told = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
            found.append(int(told.split()[0]) * 1024)
        for most, used in (
            ("memory.max", "memory.current"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):  # "max" is no number, and no limit
                group = Path("/sys/fs/cgroup")
                found.append(int((group / most).read_text()) - int((group / used).read_text()))
        return max(min(found), 0) if found else None

    def open_files_limit(self) -> int:
        """See :class:`System`."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return 1 << 30 if soft == resource.RLIM_INFINITY else soft

    def port_free(self, host: str, port: int) -> str:
        """See :class:`System`."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def file_mode(self, file: Path) -> int:
        """See :class:`System`."""
        return file.stat().st_mode & 0o777


def _request(name: str) -> bytes:
    return name.encode().ljust(40, b"\0")


def _ethtool(asking: socket.socket, name: str, command: int) -> int:
    """Return what ethtool says of an interface; 0: nothing."""
    asked = ctypes.create_string_buffer(struct.pack("=II", command, 0), 8)
    request = struct.pack("16sP", name.encode(), ctypes.addressof(asked)).ljust(40, b"\0")
    with suppress(OSError):
        fcntl.ioctl(asking, _SIOCETHTOOL, request)
        return int(struct.unpack_from("=I", asked, 4)[0])
    return 0


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


@dataclass
class FakeSystem:
    """A machine made up for tests, all well by default; each attribute is one answer."""

    capture: bool = True
    links: dict[str, InterfaceFacts] = field(default_factory=lambda: {"eth0": InterfaceFacts()})
    programs: tuple[str, ...] = ("tshark",)
    synchronised: bool | None = True
    schema: ServiceSchema | ServeFlowError | None = None
    ahead_s: float | None = 0.0
    listening: tuple[tuple[str, int], ...] = ()
    unwritable: dict[Path, str] = field(default_factory=dict)
    free: int = 1 << 40
    used: int = 0
    holder: str | None = None
    available: int | None = 1 << 36
    open_files: int = 1 << 16
    busy: str = ""
    modes: dict[Path, int] = field(default_factory=dict)

    def may_capture(self) -> bool:
        """See :class:`System`."""
        return self.capture

    def interface(self, name: str) -> InterfaceFacts | None:
        """See :class:`System`."""
        return self.links.get(name)

    def interfaces(self) -> tuple[str, ...]:
        """See :class:`System`."""
        return tuple(self.links)

    def has_program(self, name: str) -> bool:
        """See :class:`System`."""
        return name in self.programs

    def clock_synchronised(self) -> bool | None:
        """See :class:`System`."""
        return self.synchronised

    def service_schema(self, url: str, credentials: Credentials) -> ServiceSchema:
        """See :class:`System`."""
        if isinstance(self.schema, ServiceSchema):
            return self.schema
        raise self.schema or ServeFlowError(f"{url}: nobody answers")

    def service_clock_ahead_s(self, url: str, credentials: Credentials) -> float | None:
        """See :class:`System`."""
        return self.ahead_s

    def answers(self, host: str, port: int) -> bool:
        """See :class:`System`."""
        return (host, port) in self.listening

    def writable(self, folder: Path) -> str:
        """See :class:`System`."""
        return self.unwritable.get(folder, "")

    def free_bytes(self, folder: Path) -> int:
        """See :class:`System`."""
        return self.free

    def used_bytes(self, folder: Path) -> int:
        """See :class:`System`."""
        return self.used

    def lock_holder(self, file: Path) -> str | None:
        """See :class:`System`."""
        return self.holder

    def available_bytes(self) -> int | None:
        """See :class:`System`."""
        return self.available

    def open_files_limit(self) -> int:
        """See :class:`System`."""
        return self.open_files

    def port_free(self, host: str, port: int) -> str:
        """See :class:`System`."""
        return self.busy

    def file_mode(self, file: Path) -> int:
        """See :class:`System`."""
        if file not in self.modes:
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return self.modes[file]
