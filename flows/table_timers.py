"""When flows of :mod:`flows.table` are over, compiled: a timing wheel that packets do not touch.

An open flow stands in the wheel by when it is over if no further packet comes. A packet only moves
its entry's ``last_ns`` on; what that means is seen when the flow's turn comes, and it moves on
then. So a packet touches no other flow, where in a list in order of expiry it touches two, and
those are not in the cache when many flows are open (Varghese and Lauck, SOSP 1987, scheme 6).

Still each flow ends exactly when it is over: the spoke whose time it is stands in order, and
:func:`next_due` looks at its first flow.

Flows that have ended and wait for stragglers stand in a list, in order of their last packets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.compiled import inlined, kernel
from flows.packet import Record, Records
from flows.table_layout import (
    ACTIVE,
    EARLIEST,
    LINGER,
    LINGER_HEAD,
    LINGER_TAIL,
    SHIFT,
    TURN,
)

__all__ = [
    "SPOKES",
    "begin_linger",
    "insert",
    "next_due",
    "renew_linger",
    "shift_for",
    "turn",
    "unlink",
]

SPOKES = 2_048
"""Spokes of the wheel. What lies further ahead waits in the last one, and moves on from there."""

_LEAST_SHIFT = 20  # about a millisecond
_LOOK_AHEAD = 64  # spokes; a slow wire would turn the wheel at each packet
_NONE = -1
_HEAD = -2  # and below: the first flow of a spoke has _HEAD - spoke before it


def shift_for(timeouts_ns: npt.NDArray[np.int64]) -> int:
    """Return the logarithm (base 2) of how long the wheel stands still, in ns."""
    idle_ns = int(min(timeouts_ns[:LINGER].min(), timeouts_ns[ACTIVE]))
    return max((idle_ns // 128).bit_length() - 1, _LEAST_SHIFT)


@inlined
def _comes_before(entries: Records, links: Records, a: int, b: int) -> bool:
    """Tell whether flow ``a`` is over before ``b``; of two at the same time the older one is."""
    due, other = links[a].due_ns, links[b].due_ns
    return due < other or (due == other and entries[a].flow_number < entries[b].flow_number)


@inlined
def _over_ns(entry: Record, link: Record, timeouts_ns: npt.NDArray[np.int64]) -> int:
    return min(entry.last_ns + timeouts_ns[entry.list], link.start_ns + timeouts_ns[ACTIVE])


@inlined
def _put(
    links: Records, wheel: npt.NDArray[np.int32], spoke: int, before: int, e: int, after: int
) -> None:
    """Put ``e`` between two flows of a spoke; ``_NONE``: its beginning, its end."""
    links[e].before = before if before >= 0 else _HEAD - spoke
    links[e].after = after
    if before >= 0:
        links[before].after = e
    else:
        wheel[spoke] = e
    if after >= 0:
        links[after].before = e


@inlined
def insert(
    entries: Records,
    links: Records,
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
    due_ns: int,
) -> None:
    """Put entry ``e``, which is over at ``due_ns``, into the wheel."""
    links[e].due_ns = due_ns
    ahead = (due_ns >> state[SHIFT]) - state[TURN]
    if ahead > 0:
        at = state[TURN] + min(ahead, SPOKES - 1)
        spoke = at & (SPOKES - 1)
        _put(links, wheel, spoke, _NONE, e, np.int64(wheel[spoke]))
        state[EARLIEST] = min(state[EARLIEST], at << state[SHIFT])
    else:
        _put_in_order(entries, links, wheel, state, e)


@kernel
def _put_in_order(
    entries: Records,
    links: Records,
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
) -> None:
    # Only where a timeout is hardly longer than a spoke.
    spoke = state[TURN] & (SPOKES - 1)
    before: Any = np.int64(_NONE)
    after: Any = np.int64(wheel[spoke])
    while after >= 0 and _comes_before(entries, links, after, e):
        before, after = after, np.int64(links[after].after)
    _put(links, wheel, spoke, before, e, after)
    state[EARLIEST] = min(state[EARLIEST], links[e].due_ns)


@inlined
def unlink(
    entries: Records,
    links: Records,
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    e: int,
) -> None:
    """Take entry ``e`` out of the wheel, or of the list of those that linger."""
    before, after = links[e].before, links[e].after
    if before >= 0:
        links[before].after = after
    elif entries[e].list == LINGER:
        state[LINGER_HEAD] = after
    else:
        wheel[_HEAD - before] = after
    if after >= 0:
        links[after].before = before
    elif entries[e].list == LINGER:
        state[LINGER_TAIL] = before


@kernel
def turn(
    entries: Records,
    links: Records,
    wheel: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    timeouts_ns: npt.NDArray[np.int64],
    now_ns: int,
) -> None:
    """Turn the wheel on to ``now_ns``: what may be over by then stands in its spoke, in order."""
    target = now_ns >> state[SHIFT]
    begin = state[TURN]
    if target == begin:
        return
    passed: Any = np.int64(_NONE)
    for spoke in range(min(target, begin + SPOKES - 1), begin - 1, -1):
        e: Any = np.int64(wheel[spoke & (SPOKES - 1)])
        wheel[spoke & (SPOKES - 1)] = _NONE
        while e >= 0:  # the latest to come in stands first
            after = np.int64(links[e].after)
            links[e].after = passed
            passed, e = e, after
    state[TURN] = target
    first: Any = np.int64(_NONE)
    last: Any = np.int64(_NONE)
    while passed >= 0:
        e, passed = passed, np.int64(links[passed].after)
        due_ns = _over_ns(entries[e], links[e], timeouts_ns)
        if due_ns >> state[SHIFT] > target:
            insert(entries, links, wheel, state, e, due_ns)
            continue
        links[e].due_ns = due_ns
        links[e].after = _NONE
        if last >= 0:
            links[last].after = e
        else:
            first = e
        last = e
    first = _sorted(entries, links, first)
    here = target & (SPOKES - 1)
    before: Any = np.int64(_HEAD - here)
    wheel[here] = first
    while first >= 0:
        links[first].before = before
        before, first = first, np.int64(links[first].after)


@kernel
def _sorted(entries: Records, links: Records, first: int) -> int:
    """Put a chain of flows, linked by ``after``, in order; return its first.

    A merge sort of the runs that are there: mostly it is in order, or nearly.
    """
    head: Any = np.int64(first)
    while True:
        rest, merges = head, 0
        head = tail = np.int64(_NONE)
        while rest >= 0:
            left = rest
            rest = _cut(entries, links, left)
            right = rest
            if right >= 0:
                rest = _cut(entries, links, right)
                merges += 1
            while left >= 0 or right >= 0:
                if right < 0 or (left >= 0 and _comes_before(entries, links, left, right)):
                    e, left = left, np.int64(links[left].after)
                else:
                    e, right = right, np.int64(links[right].after)
                if tail >= 0:
                    links[tail].after = e
                else:
                    head = e
                tail = e
        if merges == 0:
            return head


@inlined
def _cut(entries: Records, links: Records, e: int) -> Any:
    """Cut a chain behind the run that it begins with; return what was behind it."""
    after: Any = np.int64(links[e].after)
    while after >= 0 and _comes_before(entries, links, e, after):
        e, after = after, np.int64(links[after].after)
    links[e].after = _NONE
    return after


@inlined
def next_due(
    links: Records, wheel: npt.NDArray[np.int32], state: npt.NDArray[np.int64]
) -> tuple[Any, Any]:
    """Return which flow may be over first, and when; -1: none is before the wheel's next turn.

    That is when a spoke is reached that holds flows.
    """
    e = np.int64(wheel[state[TURN] & (SPOKES - 1)])
    if e >= 0:
        return e, np.int64(links[e].due_ns)
    spoke = state[TURN] + 1
    last = spoke + _LOOK_AHEAD
    while spoke < last and wheel[spoke & (SPOKES - 1)] < 0:
        spoke += 1
    return e, spoke << state[SHIFT]


@inlined
def begin_linger(
    links: Records, state: npt.NDArray[np.int64], timeouts_ns: npt.NDArray[np.int64], e: int,
    now_ns: int,
) -> None:  # fmt: skip
    """Put entry ``e`` at the end of those that linger."""
    tail = state[LINGER_TAIL]
    links[e].before = tail
    links[e].after = _NONE
    state[LINGER_TAIL] = e
    if tail >= 0:
        links[tail].after = e
    else:
        state[LINGER_HEAD] = e
        state[EARLIEST] = min(state[EARLIEST], now_ns + timeouts_ns[LINGER])


@inlined
def renew_linger(links: Records, state: npt.NDArray[np.int64], e: int) -> None:
    """Move entry ``e`` to the end of those that linger."""
    tail = state[LINGER_TAIL]
    if tail == e:
        return
    before, after = links[e].before, links[e].after
    if before >= 0:
        links[before].after = after
    else:
        state[LINGER_HEAD] = after
    links[after].before = before
    links[tail].after = e
    links[e].before = tail
    links[e].after = _NONE
    state[LINGER_TAIL] = e
