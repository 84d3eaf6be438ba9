"""A packet socket with a ring that the kernel fills and this process maps (Linux, packet(7)).

Everything is by the socket alone: no flag of the interface is changed, and ``CAP_NET_RAW`` is the
only right that it takes.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.bpf import DROP_ALL
from flows.errors import CaptureError, SettingsError
from flows.link import LinkType

__all__ = [
    "Interface",
    "RingShape",
    "RingSocket",
    "card_drops",
    "find_interface",
    "packet_socket",
]

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_PACKET_RESERVE = 12
_PACKET_FANOUT = 18
_PACKET_IGNORE_OUTGOING = 23
_TPACKET_V3 = 2
_MR_PROMISC = 1
_FANOUT_HASH = 0
_FANOUT_DEFRAG = 0x8000
_SO_ATTACH_FILTER = 26
_ETH_P_ALL = 0x0003
_SIOCGIFINDEX = 0x8933
_SIOCGIFFLAGS = 0x8913
_SIOCGIFHWADDR = 0x8927
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_TAG_BYTES = 4  # room in front of a frame for the VLAN tag that the kernel took out
_FRAME_BYTES = 2048  # of no meaning in version 3, but asked for

_SYSTEM = Path("/sys/class/net")
_CARD_COUNTERS = ("rx_missed_errors", "rx_fifo_errors")  # rx_dropped counts what is no loss too

# What frames of an interface's kind (ARPHRD_ value) begin with.
_LINKS = {
    1: LinkType.ETHERNET,
    772: LinkType.ETHERNET,  # loopback: Ethernet with addresses of zeros
    0xFFFE: LinkType.RAW,  # none: TUN
    519: LinkType.RAW,  # raw IP of modems
    768: LinkType.RAW,  # IPv4 and IPv6 tunnels
    769: LinkType.RAW,
    776: LinkType.RAW,
}


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface, as it is now.

    Attributes:
        name: Its name.
        index: Its number; another one after it was removed and made again.
        link: What its frames begin with.
        up: Whether it is up.
        loopback: Whether what is sent on it comes back as received.
    """

    name: str
    index: int
    link: LinkType
    up: bool
    loopback: bool


@dataclass(frozen=True, slots=True)
class RingShape:
    """How large a ring is, and when the kernel hands out a block of it.

    Attributes:
        block_bytes: A power of two, at least a page.
        blocks: How many.
        timeout_ms: A block that is not full is handed out after once to twice this time.
    """

    block_bytes: int
    blocks: int
    timeout_ms: int


def find_interface(asking: socket.socket, name: str) -> Interface | None:
    """Look an interface up in the network namespace of a socket; None: there is none.

    Raises:
        CaptureError: Its frames are of a kind not known here.
    """
    try:
        index = struct.unpack_from("=i", _asked(asking, _SIOCGIFINDEX, name))[0]
        kind = struct.unpack_from("=H", _asked(asking, _SIOCGIFHWADDR, name))[0]
        flags = struct.unpack_from("=H", _asked(asking, _SIOCGIFFLAGS, name))[0]
    except OSError:
        return None
    if kind not in _LINKS:
        raise CaptureError(
            name,
            f"its frames are of a kind that is not known here (ARPHRD {kind}); Ethernet, loopback "
            "and raw IP are. What tshark understands can be read with --display-filter",
        )
    return Interface(name, index, _LINKS[kind], bool(flags & _IFF_UP), bool(flags & _IFF_LOOPBACK))


def _asked(asking: socket.socket, request: int, name: str) -> bytes:
    """Return what the kernel says of an interface, from behind its name on."""
    encoded = name.encode()
    if not 0 < len(encoded) < 16:
        raise OSError
    return fcntl.ioctl(asking, request, encoded.ljust(40, b"\0"))[16:]


def card_drops(name: str) -> int:
    """Return packets that an interface's card has lost before the kernel saw them; 0: not known."""
    lost = 0
    for counter in _CARD_COUNTERS:
        with suppress(OSError, ValueError):
            lost += int((_SYSTEM / name / "statistics" / counter).read_text())
    return lost


def packet_socket(interface: str) -> socket.socket:
    """Open a packet socket that receives nothing yet.

    Raises:
        CaptureError: The right to is missing, or this system has none.
    """
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise CaptureError(
            interface,
            "capturing needs the right CAP_NET_RAW: run as root, or as a systemd service with "
            "AmbientCapabilities=CAP_NET_RAW, or give it to the interpreter, with "
            "setcap cap_net_raw+ep on a copy of its binary",
        ) from None
    except (OSError, AttributeError) as error:
        raise CaptureError(interface, f"this system has no packet sockets ({error})") from None


class RingSocket:
    """One socket and its ring.

    Args:
        interface: What to capture from.
        shape: The ring's.
        code: The filter's instructions.
        promiscuous: Whether to see what is not meant for this host.
        fanout: The group of sockets that share an interface's flows; None: none.

    Raises:
        CaptureError: The interface or the right to capture from it is missing.
        SettingsError: The ring is too large, or the group is another's.
    """

    def __init__(
        self,
        interface: Interface,
        shape: RingShape,
        code: bytes,
        *,
        promiscuous: bool,
        fanout: int | None,
    ) -> None:
        self.interface = interface
        self._socket = packet_socket(interface.name)
        self._map: mmap.mmap | None = None
        try:
            self._set_up(shape, code, promiscuous, fanout)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN | select.POLLERR)

    def _set_up(self, shape: RingShape, code: bytes, promiscuous: bool, fanout: int | None) -> None:
        # The socket has no protocol yet, so nothing arrives before it is bound, filter and all.
        self._option(_PACKET_VERSION, struct.pack("=i", _TPACKET_V3))
        self._option(_PACKET_RESERVE, struct.pack("=I", _TAG_BYTES))
        frames = shape.block_bytes // _FRAME_BYTES * shape.blocks
        wanted = struct.pack(
            "=7I", shape.block_bytes, shape.blocks, _FRAME_BYTES, frames, shape.timeout_ms, 0, 0
        )
        size = shape.block_bytes * shape.blocks
        try:
            self._option(_PACKET_RX_RING, wanted)
            self._map = mmap.mmap(self._socket.fileno(), size)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise SettingsError(
                f"ring_bytes: the kernel gives no ring of {size:,} bytes ({reason}); ask for less"
            ) from None
        if self.interface.loopback:
            # Kernels before 4.20 do not know it; their ring's reader leaves these packets out.
            with suppress(OSError):
                self._option(_PACKET_IGNORE_OUTGOING, struct.pack("=i", 1))
        # A group is joined after binding, before which all flows are this socket's: drop them.
        self._attach(code if fanout is None else DROP_ALL)
        try:
            self._socket.bind((self.interface.name, _ETH_P_ALL))
        except OSError as error:
            reason = error.strerror or str(error)
            raise CaptureError(self.interface.name, f"cannot capture from it: {reason}") from None
        if promiscuous:
            mine = struct.pack("=iHH8x", self.interface.index, _MR_PROMISC, 0)
            self._option(_PACKET_ADD_MEMBERSHIP, mine)
        if fanout is not None:
            self._join(fanout)
            self._attach(code)

    def _join(self, fanout: int) -> None:
        try:
            self._option(_PACKET_FANOUT, struct.pack("=HH", fanout, _FANOUT_HASH | _FANOUT_DEFRAG))
        except OSError as error:
            raise SettingsError(
                f"fanout: group {fanout} cannot be joined ({error.strerror}); another interface's "
                "or another program's sockets may have it, so choose another number; and the "
                "interface must be up"
            ) from None

    def _attach(self, code: bytes) -> None:
        held = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HP", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as error:
            raise SettingsError(f"bpf: the kernel refuses the filter ({error.strerror})") from None

    def _option(self, option: int, value: bytes) -> None:
        self._socket.setsockopt(_SOL_PACKET, option, value)

    @property
    def memory(self) -> npt.NDArray[np.uint8]:
        """The ring, uint8 ``[blocks * block_bytes]``; let go of all views before closing."""
        if self._map is None:
            return np.zeros(0, np.uint8)
        return np.frombuffer(self._map, np.uint8)

    def wait(self, timeout_s: float) -> None:
        """Wait until there is a block to read, something is wrong, or the time is over."""
        self._poll.poll(timeout_s * 1000.0)

    def error(self) -> int:
        """Return what has gone wrong since the last call, as an errno; 0: nothing."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def state(self) -> Interface | None:
        """Return the interface as it is now; None: it is away, or another one has its name."""
        found = find_interface(self._socket, self.interface.name)
        return found if found is not None and found.index == self.interface.index else None

    def statistics(self) -> tuple[int, int]:
        """Return packets put into the ring, and dropped, since the last call."""
        told = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        packets, drops, _ = struct.unpack("=3I", told)
        return packets - drops, drops

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
        if self._map is not None:
            with suppress(BufferError):  # a view is left; the mapping goes with it
                self._map.close()
            self._map = None
