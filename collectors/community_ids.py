"""Community ID v1 of many flows at once; :func:`flows.keys.community_id` says it of one."""

from __future__ import annotations

import numpy as np

from collectors.text_columns import Bytes, Texts
from flows.compiled import inlined, kernel
from flows.keys import ICMP_PAIRS
from flows.packet import Array, Records

__all__ = ["community_ids"]

_SIZE = 30  # "1:" and 28 characters of base64
_BASE64 = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8
).copy()
_PAIRS = np.array(
    [(protocol, *pair) for protocol, pairs in ICMP_PAIRS.items() for pair in pairs], np.int64
)


def community_ids(flows: Records) -> Texts:
    """Return the Community ID v1, seed 0, of ``FLOW_DTYPE [n]``."""
    n = len(flows)
    out = np.empty((n, _SIZE), np.uint8)
    _community_ids(
        np.ascontiguousarray(flows), _PAIRS, _BASE64, np.empty(16, np.uint32), _room(24), out
    )
    return Texts(out.reshape(-1), np.arange(n, dtype=np.int64) * _SIZE, np.full(n, _SIZE, np.int64))


def _room(size: int) -> Bytes:
    return np.zeros(size, np.uint8)


@kernel
def _community_ids(
    flows: Records, pairs: Array, base64: Bytes, words: Array, digest: Bytes, out: Bytes
) -> None:
    for i in range(len(flows)):
        flow = flows[i]
        src_hi, src_lo, dst_hi, dst_lo = flow.src_hi, flow.src_lo, flow.dst_hi, flow.dst_lo
        src_port, dst_port = np.uint64(flow.src_port), np.uint64(flow.dst_port)
        if flow.ip_version == 4:
            src_hi = dst_hi = np.uint64(0)
            src_lo &= np.uint64(0xFFFFFFFF)
            dst_lo &= np.uint64(0xFFFFFFFF)
        swap = dst_hi < src_hi
        if dst_hi == src_hi:
            swap = dst_lo < src_lo or (dst_lo == src_lo and dst_port < src_port)
        if swap and not _one_way(pairs, flow.protocol, flow.src_port, flow.dst_port):
            src_hi, dst_hi = dst_hi, src_hi
            src_lo, dst_lo = dst_lo, src_lo
            src_port, dst_port = dst_port, src_port
        # Seed (0), addresses, protocol, a zero, ports: one block of SHA-1, in 16-bit units.
        for k in range(16):
            words[k] = 0
        at = 1
        if flow.ip_version == 4:
            at = _put(words, at, src_lo, 2)
            at = _put(words, at, dst_lo, 2)
        else:
            at = _put(words, at, src_hi, 4)
            at = _put(words, at, src_lo, 4)
            at = _put(words, at, dst_hi, 4)
            at = _put(words, at, dst_lo, 4)
        at = _put(words, at, np.uint64(flow.protocol) << np.uint64(8), 1)
        at = _put(words, at, src_port, 1)
        at = _put(words, at, dst_port, 1)
        _put(words, at, np.uint64(0x8000), 1)
        words[15] = at * 16
        _sha1(words, digest)
        out[i, 0], out[i, 1] = 49, 58
        for k in range(7):
            three = np.int64(0)
            for b in range(3):
                three = three << 8 | np.int64(digest[3 * k + b])
            for b in range(4):
                out[i, 2 + 4 * k + b] = base64[three >> (18 - 6 * b) & 63]
        out[i, _SIZE - 1] = 61  # 20 bytes leave one sign over


@inlined
def _put(words: Array, at: int, value: np.uint64, units: int) -> int:
    """Write the last ``units`` 16-bit units of a number; return where they end."""
    for k in range(units - 1, -1, -1):
        unit = np.uint32((value >> np.uint64(16 * k)) & np.uint64(0xFFFF))
        words[at >> 1] |= unit if at & 1 else unit << np.uint32(16)
        at += 1
    return at


@inlined
def _one_way(pairs: Array, protocol: int, src_port: int, dst_port: int) -> bool:
    """Tell whether it is an ICMP message that has no answer."""
    icmp = False
    for k in range(len(pairs)):
        if pairs[k, 0] == protocol:
            icmp = True
            one, other = pairs[k, 1], pairs[k, 2]
            if (one == src_port and other == dst_port) or (other == src_port and one == dst_port):
                return False
    return icmp


@inlined
def _rotated(x: np.uint32, bits: int) -> np.uint32:
    return np.uint32((np.uint64(x) << np.uint64(bits)) | (np.uint64(x) >> np.uint64(32 - bits)))


@inlined
def _sha1(words: Array, digest: Bytes) -> None:
    """Write the SHA-1 of one padded block, uint32 ``[16]``, which it uses up (RFC 3174)."""
    a, b = np.uint32(0x67452301), np.uint32(0xEFCDAB89)
    c, d, e = np.uint32(0x98BADCFE), np.uint32(0x10325476), np.uint32(0xC3D2E1F0)
    for t in range(80):
        if t >= 16:
            mixed = words[(t + 13) & 15] ^ words[(t + 8) & 15] ^ words[(t + 2) & 15] ^ words[t & 15]
            words[t & 15] = _rotated(np.uint32(mixed), 1)
        if t < 20:
            f, constant = (b & c) | (~b & d), np.uint32(0x5A827999)
        elif t < 40:
            f, constant = b ^ c ^ d, np.uint32(0x6ED9EBA1)
        elif t < 60:
            f, constant = (b & c) | (b & d) | (c & d), np.uint32(0x8F1BBCDC)
        else:
            f, constant = b ^ c ^ d, np.uint32(0xCA62C1D6)
        added = np.uint64(_rotated(a, 5)) + np.uint64(np.uint32(f)) + np.uint64(e)
        added += np.uint64(constant) + np.uint64(words[t & 15])
        e, d, c, b, a = d, c, _rotated(b, 30), a, np.uint32(added)
    _put_word(digest, 0, a, 0x67452301)
    _put_word(digest, 4, b, 0xEFCDAB89)
    _put_word(digest, 8, c, 0x98BADCFE)
    _put_word(digest, 12, d, 0x10325476)
    _put_word(digest, 16, e, 0xC3D2E1F0)


@inlined
def _put_word(digest: Bytes, at: int, word: np.uint32, added: int) -> None:
    total = np.uint64(word) + np.uint64(added)
    for k in range(4):
        digest[at + k] = np.uint8((total >> np.uint64(24 - 8 * k)) & np.uint64(0xFF))
