"""A look-back's windows, moved back to end at a row that came out of order, and then put as they were.

What a key's windows hold is saved first. Then each window goes the shorter way: from its end, newer events are taken
out and older ones put back; or, where the row lies more than half a window behind, it is emptied and filled with the
events up to the row. Sums are exact, so both ways give the same bits. Each accumulator walks the events by itself: the
first walk brings them near, and the others only follow links.
"""

from __future__ import annotations

import numpy as np

from streamproc.kernels import inlined, tight
from streamproc.operators.accumulators import wide_add
from streamproc.operators.event_records import (
    BEFORE,
    EVER,
    NEWEST,
    SPANS,
    TIME,
    TOGETHER,
    VALID,
    Rows,
    Saved,
    Store,
    Table,
    Wants,
)
from streamproc.operators.exact import PARTS, SumArrays, add_exact_square, clear_exact, spill_row
from streamproc.operators.runs_of_floats import add_run
from streamproc.ports import Int64s
from streamproc.row_loops import copy, fill
from streamproc.slot_index import prefetch


@inlined
def _far_back(newest: int, t: int, length: int) -> bool:
    return 2 * (newest - t) > length


@tight
def fetch_around(wants: Wants, store: Store, rows: Rows, first: int, walks: Table) -> None:
    """Brings near the events that a group of rows out of order will walk over, for kernels.

    A walk waits for memory at each event. The walks of several rows, a step of each in turn, wait together.
    """
    events, keys, of_rows, times, lengths, active = store.events, store.keys, rows.keys, rows.times, wants.spans, 0
    for i in range(first, min(first + TOGETHER, of_rows.size)):
        of_key, t = keys[of_rows[i]], times[i]
        newest = of_key[NEWEST]
        if newest < 0 or events[newest, TIME] <= t:
            continue
        until = t
        for span in range(lengths.size):
            length = lengths[span]
            if _far_back(events[newest, TIME], t, length):
                until = min(until, t - length)
            elif of_key[SPANS + span] >= 0:
                walks[active, 0], walks[active, 1] = of_key[SPANS + span], t - length
                active += 1
        walks[active, 0], walks[active, 1] = newest, until
        active += 1
    while active > 0:
        w = 0
        while w < active:
            event = walks[w, 0]
            if event >= 0 and events[event, TIME] > walks[w, 1]:
                event = events[event, BEFORE]
                if event >= 0:
                    prefetch(events, event * events.shape[1])
                    prefetch(events, (event + 1) * events.shape[1] - 1)
                walks[w, 0] = event
                w += 1
            else:
                active -= 1
                walks[w, 0], walks[w, 1] = walks[active, 0], walks[active, 1]


@tight
def save(wants: Wants, store: Store, sums: SumArrays, key: int, saved: Saved) -> None:
    """Copies what the key's windows hold, for kernels."""
    number, parts, limbs, special = wants.sums.shape[0], sums.parts, sums.limbs, sums.special
    saved_parts, saved_limbs, saved_special = saved.parts, saved.limbs, saved.special
    copy(store.keys[key], saved.words, saved.words.size)
    for f in range(number):
        at = key * number + f
        for k in range(PARTS + 1):
            saved_parts[f, k] = parts[at, k]
        row = spill_row(sums, at)
        if row >= 0:
            copy(limbs[row], saved_limbs[f], limbs.shape[1])
            copy(special[row], saved_special[f], special.shape[1])


@tight
def restore(wants: Wants, store: Store, sums: SumArrays, key: int, saved: Saved) -> None:
    """Puts back what `save` copied, for kernels; rows of the pool that were taken since are free again."""
    number, parts, limbs, special = wants.sums.shape[0], sums.parts, sums.limbs, sums.special
    saved_parts, saved_limbs, saved_special = saved.parts, saved.limbs, saved.special
    copy(saved.words, store.keys[key], saved.words.size)
    for f in range(number):
        at = key * number + f
        row = spill_row(sums, at)
        if saved_parts[f, PARTS] != 0.0:
            copy(saved_limbs[f], limbs[row], limbs.shape[1])
            copy(saved_special[f], special[row], special.shape[1])
            continue
        if row >= 0:
            clear_exact(sums, at)
        for k in range(PARTS):
            parts[at, k] = saved_parts[f, k]


@tight
def _empty(wants: Wants, sums: SumArrays, of_key: Int64s, key: int, span: int) -> None:
    """Sets the accumulators of one window to nothing; a sum keeps its row of the pool."""
    words, counted, widened, summed = wants.words, wants.counts, wants.wides, wants.sums
    parts, limbs, special, number = sums.parts, sums.limbs, sums.special, summed.shape[0]
    for c in range(counted.shape[0]):
        if counted[c, 0] == span:
            of_key[words[3] + c] = 0
    for w in range(widened.shape[0]):
        if widened[w, 0] == span:
            of_key[words[4] + 2 * w] = of_key[words[4] + 2 * w + 1] = 0
    for f in range(number):
        if summed[f, 0] == span:
            row = spill_row(sums, key * number + f)
            for k in range(PARTS):
                parts[key * number + f, k] = 0.0
            if row >= 0:
                fill(limbs[row], 0)
                fill(special[row], 0)


@inlined
def _counted(events: Table, event: int, since: int, value: int) -> int:
    found = 0
    while event >= 0 and events[event, TIME] > since:
        if value < 0 or (events[event, VALID] >> value) & 1:
            found += 1
        event = events[event, BEFORE]
    return found


@tight
def _add_squares(
    events: Table, event: int, since: int, value: int, word: int, sums: SumArrays, at: int, sign: int
) -> None:
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            add_exact_square(sums, at, np.int64(events[event, word]).view(np.float64), sign)
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
    of_words, counted, widened, summed = wants.words, wants.counts, wants.wides, wants.sums
    number, values = summed.shape[0], of_words[0]
    fine = True
    for c in range(counted.shape[0]):
        if counted[c, 0] == span:
            of_key[of_words[3] + c] += sign * _counted(events, event, since, counted[c, 1])
    for f in range(number):
        if summed[f, 0] == span:
            value, at = summed[f, 1], key * number + f
            if summed[f, 2]:
                _add_squares(events, event, since, value, values + value, sums, at, sign)
            else:
                add_run(events, event, since, value, values + value, sums, at, sign)
    for w in range(widened.shape[0]):
        if widened[w, 0] == span:
            value, at = widened[w, 1], of_words[4] + 2 * w
            words = (values + value, values + widened[w, 2])
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
    if length >= EVER:
        return bool(_walk(wants, store, sums, key, newest, t, span, -1))
    if _far_back(events[newest, TIME], t, length):
        _empty(wants, sums, of_key, key, span)
        return bool(_walk(wants, store, sums, key, event, t - length, span, 1))
    # The row is in the window, so all that came after it is too, and what lies before the window is older than the row.
    fine = _walk(wants, store, sums, key, newest, t, span, -1)
    oldest = of_key[SPANS + span]
    before = int(events[oldest, BEFORE]) if oldest >= 0 else -1
    return bool(_walk(wants, store, sums, key, before, t - length, span, 1) and fine)
