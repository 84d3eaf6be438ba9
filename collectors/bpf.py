"""Kernel filters: tcpdump's expressions, compiled by libpcap.

libpcap is asked for through its C interface, since the base installation is to need no package
for it. Where it is missing, all but expressions works.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

from flows.errors import SettingsError
from flows.link import LinkType

__all__ = ["DROP_ALL", "accept_all", "compile_filter", "has_libpcap", "without_own"]

_LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
_DLT = {LinkType.ETHERNET: 1, LinkType.RAW: 12}  # libpcap's numbers, which differ by system
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter, and libpcap's bpf_insn
_RETURN = 0x06  # BPF_RET | BPF_K
_MASK_UNKNOWN = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN: no `ip broadcast`
_ERROR_BYTES = 256

DROP_ALL = _INSTRUCTION.pack(_RETURN, 0, 0, 0)
"""The filter that lets nothing pass."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def accept_all(snaplen: int) -> bytes:
    """Return the filter that cuts every packet to ``snaplen`` bytes."""
    return _INSTRUCTION.pack(_RETURN, 0, 0, snaplen)


def has_libpcap() -> bool:
    """Tell whether expressions can be compiled here."""
    return _library() is not None


def without_own(expression: str, own: Sequence[tuple[str, int]]) -> str:
    """Return an expression for what ``expression`` lets pass but TCP from or to ``own``.

    Args:
        expression: A tcpdump expression; empty: all packets.
        own: Addresses and ports.
    """
    words = []
    for host, port in own:
        address = ip_address(ip_address(host).packed)  # without a zone
        family = "ip6" if address.version == 6 else "ip"
        words += [f"({family} {side} host {address} and tcp {side} port {port})"
                  for side in ("src", "dst")]  # fmt: skip
    # First, since `vlan` in an expression holds for all that follows it.
    parts = [f"not ({' or '.join(words)})"] if words else []
    if expression.strip():
        parts.append(f"({expression})")
    return " and ".join(parts)


def compile_filter(expression: str, interface: str, link: LinkType, snaplen: int) -> bytes:
    """Compile a tcpdump expression for a socket that captures from an interface.

    Args:
        expression: As in pcap-filter(7).
        interface: Its name; it is opened for a moment, as only so libpcap makes code that finds
            VLAN tags where this kernel keeps them. Where that fails, ``vlan`` matches nothing.
        link: What its frames begin with.
        snaplen: To how many bytes packets are cut that pass.

    Returns:
        Instructions, ``struct sock_filter`` one behind the other.

    Raises:
        SettingsError: There is no libpcap, or the expression is none.
    """
    library = _library()
    if library is None:
        raise SettingsError(
            f"bpf: {expression!r} cannot be compiled, as there is no libpcap here; install it "
            "(Debian: apt-get install libpcap0.8) or capture without an expression"
        )
    handle = _opened(library, interface, link, snaplen)
    program = _Program()
    try:
        if library.pcap_compile(handle, program, expression.encode(), 1, _MASK_UNKNOWN) != 0:
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise SettingsError(f"bpf: {expression!r}: {reason} (see man pcap-filter)")
        code = ctypes.string_at(program.instructions, program.length * _INSTRUCTION.size)
        library.pcap_freecode(program)
    finally:
        library.pcap_close(handle)
    return b"".join(_cut(one, snaplen) for one in _INSTRUCTION.iter_unpack(code))


def _cut(instruction: tuple[int, int, int, int], snaplen: int) -> bytes:
    code, if_true, if_false, value = instruction
    if code == _RETURN and value:
        value = snaplen
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _library() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        with suppress(OSError):
            return _declared(ctypes.CDLL(name))
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    handle, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("pcap_create", handle, (ctypes.c_char_p, ctypes.c_char_p)),
        ("pcap_open_dead", handle, (number, number)),
        ("pcap_set_snaplen", number, (handle, number)),
        ("pcap_set_buffer_size", number, (handle, number)),
        ("pcap_activate", number, (handle,)),
        ("pcap_datalink", number, (handle,)),
        ("pcap_geterr", ctypes.c_char_p, (handle,)),
        ("pcap_compile", number,
         (handle, ctypes.POINTER(_Program), ctypes.c_char_p, number, ctypes.c_uint32)),
        ("pcap_freecode", None, (ctypes.POINTER(_Program),)),
        ("pcap_close", None, (handle,)),
    ):  # fmt: skip
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _opened(library: ctypes.CDLL, interface: str, link: LinkType, snaplen: int) -> int:
    handle = library.pcap_create(interface.encode(), ctypes.create_string_buffer(_ERROR_BYTES))
    if handle:
        library.pcap_set_snaplen(handle, snaplen)
        library.pcap_set_buffer_size(handle, 1 << 18)
        if library.pcap_activate(handle) >= 0 and library.pcap_datalink(handle) == _DLT[link]:
            return int(handle)
        library.pcap_close(handle)
    return int(library.pcap_open_dead(_DLT[link], snaplen))
