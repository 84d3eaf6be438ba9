"""How to capture from an interface; the filter and the ring's shape follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from collectors.bpf import accept_all, compile_filter, has_libpcap, without_own
from collectors.ring_kernels import OWN_DTYPE
from collectors.ring_socket import RingShape
from flows.errors import SettingsError
from flows.link import LinkType
from flows.packet import Records

__all__ = ["BLOCK_BYTES", "RING_BYTES", "RingSettings"]

RING_BYTES = 64 << 20
"""The size of a ring, unless told otherwise: some 200,000 packets, or two seconds of a trickle."""

BLOCK_BYTES = 1 << 17
"""A block's size. They are many and small, as one that is handed over half empty counts whole."""

_LEAST_BLOCKS = 2
_TIMEOUT_MS = 4


@dataclass(frozen=True, slots=True)
class RingSettings:
    """How to capture from an interface.

    Attributes:
        interface: Its name.
        bpf: A tcpdump expression for what to see; empty: everything.
        exclude: Addresses and ports whose TCP packets are not to be seen: the service's, as a
            collector that watches its own way to it would feed itself.
        fanout: A number that processes share which divide the interface's flows among them.
        ring_bytes: The ring's size, rounded down to whole blocks of 128 KiB.
        snaplen: How many bytes of a packet are looked at. All headers that make a record fit
            into the default by far; more only takes room in the ring.
        promiscuous: See what is not meant for this host, as on a tap.
        with_header: The packets hold their headers' bytes, see :mod:`flows.header`.
        wait_for_interface: Wait for an interface that is down or away to come back, rather than
            give up.
    """

    interface: str
    bpf: str = ""
    exclude: Sequence[tuple[str, int]] = ()
    fanout: int | None = None
    ring_bytes: int = RING_BYTES
    snaplen: int = 512
    promiscuous: bool = True
    with_header: bool = False
    wait_for_interface: bool = False

    def __post_init__(self) -> None:
        if not _LEAST_BLOCKS * BLOCK_BYTES <= self.ring_bytes < 1 << 32:
            raise SettingsError(
                f"ring_bytes: must be {_LEAST_BLOCKS * BLOCK_BYTES:,} to {(1 << 32) - 1:,}, "
                f"is {self.ring_bytes:,}"
            )
        if not 96 <= self.snaplen <= BLOCK_BYTES // 2:
            raise SettingsError(f"snaplen: must be 96 to {BLOCK_BYTES // 2:,}, is {self.snaplen:,}")
        if self.fanout is not None and not 0 <= self.fanout < 1 << 16:
            raise SettingsError(f"fanout: must be 0 to {(1 << 16) - 1}, is {self.fanout}")

    @property
    def shape(self) -> RingShape:
        """The ring's."""
        return RingShape(BLOCK_BYTES, self.ring_bytes // BLOCK_BYTES, _TIMEOUT_MS)

    def filter(self, link: LinkType) -> bytes:
        """Return the kernel's filter for an interface of this link type.

        Raises:
            SettingsError: The expression is none, or there is no libpcap to compile it.
        """
        if self.bpf.strip() or (self.exclude and has_libpcap()):
            expression = without_own(self.bpf, self.exclude)
            return compile_filter(expression, self.interface, link, self.snaplen)
        return accept_all(self.snaplen)

    def own(self) -> Records:
        """Return what to exclude, ``OWN_DTYPE``.

        Raises:
            SettingsError: An address is none.
        """
        own = np.zeros(len(self.exclude), OWN_DTYPE)
        for i, (host, port) in enumerate(self.exclude):
            try:
                address = ip_address(host)
            except ValueError:
                raise SettingsError(f"exclude: {host!r} is no IP address") from None
            number = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
            own[i] = (number >> 64, number & (1 << 64) - 1, port)
        return own
