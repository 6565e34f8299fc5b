"""A look-back's windows, moved back to end at a row that came out of order, and then put as they were.

What a key's windows hold is saved first. Then each window goes the shorter way: from its end, newer events are taken
out and older ones put back; or, where the row lies more than half a window behind, it is emptied and filled with the
events up to the row. Sums are exact, so both ways give the same bits. Each accumulator walks the events by itself: the
first walk brings them near, and the others only follow links.
"""

from __future__ import annotations

import numpy as np

from streamproc.hashing import inlined, tight
from streamproc.operators.accumulators import wide_add
from streamproc.operators.event_records import BEFORE, NEWEST, SPANS, TIME, VALID, Saved, Store, Table, Wants
from streamproc.operators.exact import PARTS, SumArrays, add_exact, add_exact_square, clear_exact, spill_row
from streamproc.ports import Int64s


@inlined
def _copy(source: Int64s, into: Int64s) -> None:
    for k in range(into.size):
        into[k] = source[k]


@tight
def save(wants: Wants, store: Store, sums: SumArrays, key: int, saved: Saved) -> None:
    """Copies what the key's windows hold, for kernels."""
    number = wants.sums.shape[0]
    _copy(store.keys[key], saved.words)
    for f in range(number):
        at = key * number + f
        for k in range(PARTS + 1):
            saved.parts[f, k] = sums.parts[at, k]
        row = spill_row(sums, at)
        if row >= 0:
            _copy(sums.limbs[row], saved.limbs[f])
            _copy(sums.special[row], saved.special[f])


@tight
def restore(wants: Wants, store: Store, sums: SumArrays, key: int, saved: Saved) -> None:
    """Puts back what `save` copied, for kernels; rows of the pool that were taken since are free again."""
    number = wants.sums.shape[0]
    _copy(saved.words, store.keys[key])
    for f in range(number):
        at = key * number + f
        row = spill_row(sums, at)
        if saved.parts[f, PARTS] != 0.0:
            _copy(saved.limbs[f], sums.limbs[row])
            _copy(saved.special[f], sums.special[row])
            continue
        if row >= 0:
            clear_exact(sums, at)
        for k in range(PARTS):
            sums.parts[at, k] = saved.parts[f, k]


@tight
def _empty(wants: Wants, sums: SumArrays, of_key: Int64s, key: int, span: int) -> None:
    """Sets the accumulators of one window to nothing; a sum keeps its row of the pool."""
    number = wants.sums.shape[0]
    for c in range(wants.counts.shape[0]):
        if wants.counts[c, 0] == span:
            of_key[wants.words[3] + c] = 0
    for w in range(wants.wides.shape[0]):
        if wants.wides[w, 0] == span:
            of_key[wants.words[4] + 2 * w] = of_key[wants.words[4] + 2 * w + 1] = 0
    for f in range(number):
        if wants.sums[f, 0] == span:
            row = spill_row(sums, key * number + f)
            for k in range(PARTS):
                sums.parts[key * number + f, k] = 0.0
            if row >= 0:
                sums.limbs[row, :] = 0
                sums.special[row, :] = 0


@inlined
def _counted(events: Table, event: int, since: int, value: int) -> int:
    found = 0
    while event >= 0 and events[event, TIME] > since:
        if value < 0 or (events[event, VALID] >> value) & 1:
            found += 1
        event = events[event, BEFORE]
    return found


@inlined
def _sum(
    events: Table, event: int, since: int, value: int, word: int, sums: SumArrays, at: int, square: int, sign: int
) -> None:
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            x = np.int64(events[event, word]).view(np.float64)
            if square:
                add_exact_square(sums, at, x, sign)
            else:
                add_exact(sums, at, x, sign)
        event = events[event, BEFORE]


@inlined
def _wide_sum(
    events: Table, event: int, since: int, value: int, words: tuple[int, int], total: Int64s, sign: int
) -> bool:
    fine = True
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            low, high = events[event, words[0]], events[event, words[1]]
            if sign < 0:
                low, high = -low, -high if low == 0 else ~high
            fine = wide_add(total[:1], total[1:], 0, low, high) and fine
        event = events[event, BEFORE]
    return fine


@tight
def _walk(wants: Wants, store: Store, sums: SumArrays, key: int, event: int, since: int, span: int, sign: int) -> bool:
    """Adds the events from one back to, but without, a moment to a window, or takes them out."""
    events, of_key = store.events, store.keys[key]
    number, values = wants.sums.shape[0], wants.words[0]
    fine = True
    for c in range(wants.counts.shape[0]):
        if wants.counts[c, 0] == span:
            of_key[wants.words[3] + c] += sign * _counted(events, event, since, wants.counts[c, 1])
    for f in range(number):
        if wants.sums[f, 0] == span:
            value = wants.sums[f, 1]
            _sum(events, event, since, value, values + value, sums, key * number + f, wants.sums[f, 2], sign)
    for w in range(wants.wides.shape[0]):
        if wants.wides[w, 0] == span:
            value, at = wants.wides[w, 1], wants.words[4] + 2 * w
            words = (values + value, values + wants.wides[w, 2])
            fine = _wide_sum(events, event, since, value, words, of_key[at : at + 2], sign) and fine
    return fine


@tight
def rewind(wants: Wants, store: Store, sums: SumArrays, key: int, event: int, span: int) -> bool:
    """Moves a window's accumulators from the key's newest event to this one, for kernels.

    The event is in its place, and in the window if that reaches it. False if a total leaves 128 bits.
    """
    events, of_key = store.events, store.keys[key]
    newest = of_key[NEWEST]
    length, t = wants.spans[span], events[event, TIME]
    if 2 * (events[newest, TIME] - t) > length:
        _empty(wants, sums, of_key, key, span)
        return bool(_walk(wants, store, sums, key, event, t - length, span, 1))
    # The row is in the window, so all that came after it is too, and what lies before the window is older than the row.
    fine = _walk(wants, store, sums, key, newest, t, span, -1)
    before = events[of_key[SPANS + span], BEFORE]
    return bool(_walk(wants, store, sums, key, before, t - length, span, 1) and fine)
