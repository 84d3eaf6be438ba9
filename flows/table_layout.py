"""How :mod:`flows.table` lays its flows and its state out in memory."""

from __future__ import annotations

import numpy as np

__all__ = [
    "ACTIVE",
    "AFTER_END",
    "BY_PROTOCOL",
    "CLOCK",
    "COUNTERS",
    "EARLIEST",
    "ENTRY_DTYPE",
    "FINS",
    "FREED",
    "FRESH",
    "HOST_IS_HIGH",
    "HOST_IS_LOW",
    "ICMP",
    "LINGER",
    "LINGER_HEAD",
    "LINGER_TAIL",
    "LINKS_DTYPE",
    "MOST_ENTRIES",
    "NEXT_NUMBER",
    "NUMBERS_UNTIL",
    "OPEN",
    "ORIGINATOR_FIN",
    "ORIGINATOR_IS_LOW",
    "PACKETS",
    "REFUSED_FLOWS",
    "REFUSED_PACKETS",
    "REGRESSIONS",
    "RESPONDER_FIN",
    "SHIFT",
    "STATE_SIZE",
    "SYN_SEEN",
    "TURN",
]

ENTRY_DTYPE = np.dtype(
    [
        ("low_hi", "<u8"),  # the end with the lower address and port
        ("low_lo", "<u8"),
        ("high_hi", "<u8"),
        ("high_lo", "<u8"),
        ("flow_number", "<u8"),
        ("last_ns", "<i8"),
        ("packets", "<u4"),
        ("history", "<i4"),  # where the host's history was last found
        ("low_port", "<u2"),
        ("high_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("marks", "u1"),  # bits, see below
        ("list", "u1"),  # TCP, UDP, ICMP or LINGER
    ]
)
"""What every packet of a flow needs: one cache line."""

ORIGINATOR_IS_LOW, SYN_SEEN, ORIGINATOR_FIN, RESPONDER_FIN = 1, 2, 4, 8
HOST_IS_LOW, HOST_IS_HIGH = 16, 32  # whose history the flow belongs to; neither: nobody's
FINS = ORIGINATOR_FIN | RESPONDER_FIN

LINKS_DTYPE = np.dtype(
    [
        ("start_ns", "<i8"),
        ("due_ns", "<i8"),  # when it would be over, as far as the wheel knows
        ("before", "<i4"),  # neighbours, see flows.table_timers
        ("after", "<i4"),  # of a freed entry: the one that was freed before it
        ("syn_seq", "<u4"),  # sequence number of the originator's SYN
        ("reserved", "<u4"),
    ]
)
"""What is needed as a flow begins and ends: half a cache line."""

# What an entry's ``list`` says, and the index of each one's timeout.
TCP, UDP, ICMP, LINGER, ACTIVE = 0, 1, 2, 3, 4

# Words of the state vector, int64.
CLOCK = 0
NEXT_NUMBER = 1
OPEN = 2  # flows that have not ended
FREED = 3  # the entry that was freed last; -1: none
FRESH = 4  # entries from here on have never been used
LINGER_HEAD, LINGER_TAIL = 5, 6  # of the list of flows that linger; -1: none
TURN = 7  # where the wheel stands
SHIFT = 8  # of a time in ns to where the wheel stands then
EARLIEST = 9  # no timeout passes before this time
COUNTERS = 10
# Counters behind that: packets, time regressions, packets after the end, then flows and packets
# of TCP, UDP, ICMP and ICMPv6.
PACKETS, REGRESSIONS, AFTER_END, BY_PROTOCOL = range(COUNTERS, COUNTERS + 4)
REFUSED_FLOWS, REFUSED_PACKETS = BY_PROTOCOL + 8, BY_PROTOCOL + 9
MOST_ENTRIES = BY_PROTOCOL + 10  # to which the table may grow
NUMBERS_UNTIL = BY_PROTOCOL + 11  # no flow begins with this number or a higher one
STATE_SIZE = BY_PROTOCOL + 12
