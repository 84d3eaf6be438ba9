"""What kind of address an address is: all that leaves the collector of it."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from flows.compiled import inlined

__all__ = ["AddressKind", "address_kind"]


class AddressKind(IntEnum):
    """Kinds of addresses (RFC 6890, 4291, 1112)."""

    UNSPECIFIED = 0  # 0.0.0.0, ::
    LOOPBACK = 1
    LINK_LOCAL = 2
    PRIVATE = 3  # RFC 1918, shared (RFC 6598) and unique local addresses
    GLOBAL = 4
    LINK_MULTICAST = 5  # 224.0.0.0/24, ff02::/16: no router lets it pass
    MULTICAST = 6
    BROADCAST = 7  # 255.255.255.255, and private addresses that end in 255


@inlined
def address_kind(hi: np.uint64, lo: np.uint64) -> int:
    """Return the :class:`AddressKind` of an address in halves, as ``ENDPOINTS_DTYPE`` has it."""
    if hi == 0 and (lo >> np.uint64(32)) == 0xFFFF:
        a = np.int64(lo & np.uint64(0xFFFFFFFF))
        # Without branches where most addresses are, as which kind comes cannot be foretold.
        inside = (a >> 24 == 10) | (a >> 20 == 0xAC1) | (a >> 16 == 0xC0A8) | (a >> 22 == 0x191)
        top = a >> 24
        if inside | ((top < 224) & (top != 127) & (top != 169) & (top != 0)):
            # The network's mask is not known; a host whose address ends so is rare.
            private = 7 if a & 0xFF == 0xFF else 3
            return private if inside else 4
        if a == 0:
            return 0
        if a == 0xFFFFFFFF:
            return 7
        if a >> 28 == 0xE:
            return 5 if a >> 8 == 0xE00000 else 6
        if top == 127:
            return 1
        return 2 if a >> 16 == 0xA9FE else 4
    if hi == 0 and lo <= 1:
        return 1 if lo else 0
    top = np.int64(hi >> np.uint64(48))
    if top >> 8 == 0xFF:
        return 5 if top & 0xF == 2 else 6
    if top & 0xFFC0 == 0xFE80:
        return 2
    return 3 if top & 0xFE00 == 0xFC00 else 4
