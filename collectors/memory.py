"""How much a collector may remember: a number of bytes, shared out to flow table and ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from collectors.ledger import LedgerLimits, block_bytes, place_bytes
from flows.errors import SettingsError
from flows.table import ENTRY_BYTES

__all__ = ["EdgeLimits", "edge_limits"]

_FEWEST = 1_024  # flows, of each kind, that a collector can do anything with


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """To what a collector's memory may grow.

    Attributes:
        memory_bytes: In all; 0: no limit.
        table_flows: Open flows, and flows that have just ended.
        ledger: Flows without a final verdict.
    """

    memory_bytes: int = 0
    table_flows: int = 1 << 31
    ledger: LedgerLimits = field(default_factory=LedgerLimits)


def edge_limits(memory_bytes: int, depth: int, *, with_header: bool = False) -> EdgeLimits:
    """Share bytes out.

    A quarter goes to the flow table and a quarter to what the ledger knows of each flow, both of
    which grow to powers of two; the rest goes to the packets of flows without a final verdict.
    While an array grows, it and the smaller one before it are there for a moment.

    Args:
        memory_bytes: For table and ledger; what Python and its libraries take comes on top.
        depth: First packets that the service wants of a flow.
        with_header: The packets hold their headers' bytes.

    Raises:
        SettingsError: That is too little to work with.
    """
    quarter = memory_bytes // 4
    table, span = _power(quarter // ENTRY_BYTES), _power(quarter // place_bytes())
    left = memory_bytes - table * ENTRY_BYTES - span * place_bytes()
    unsettled = min(left // block_bytes(depth, with_header=with_header), span)
    if min(table, span, unsettled) < _FEWEST:
        need = 4 * _FEWEST * max(ENTRY_BYTES, place_bytes())
        need = max(need, 2 * _FEWEST * block_bytes(depth, with_header=with_header))
        raise SettingsError(
            f"memory: {memory_bytes:,} bytes hold fewer than {_FEWEST:,} flows; give at least "
            f"{-(-need // 2**20)}MiB"
        )
    return EdgeLimits(memory_bytes, table, LedgerLimits(span, unsettled))


def _power(most: int) -> int:
    """Return the greatest power of two that is at most ``most``; 0: there is none."""
    return 1 << (most.bit_length() - 1) if most > 0 else 0
