"""Events of each key in order of event time, and aggregates over the last span of them: the kernel under `lookback`.

**Events.** A row is kept as one record of int64 words: event time, links to the event before and after it of the same
key, which values are not null, its coordinate if `first` or `last` need it, its values, and links for extremes. Events
of a key are a chain in order of (event time, arrival). The chain is cut at its old end when no row in time can look
back that far any more.

**Windows.** Each span has, per key, a window that ends at the key's newest event: its oldest event, and accumulators of
what is in it. A row that comes in order moves that end: what falls out is taken from the accumulators, which is exact.
A row that comes out of order belongs at an earlier place. It is put there; then, for reading, the window is *rewound*
to end at the row, see `rewinding`, and put back as it was. So an out-of-order row costs as much as the disorder around
it, and never more than its window is long.

**Extremes** cannot be taken back. In order they are the front of a chain of events whose values fall (a monotone
queue); out of order the window is scanned. What nothing keeps up to date (quantiles, trends, the most frequent values)
is computed from a scan of the window for each row, see `window_scans`.

**Windows without a begin** (`ever`) only ever take in. An event is forgotten once no row in time can lie before it; its
numbers stay in the accumulators, and extremes and edges keep a memory of the best that was forgotten.

**The bound.** A key keeps so many events at most. One more drops the oldest, from all windows too, and the key notes
its event time: a window that reaches back that far is not covered any more.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.kernels import inlined, polished, tight
from streamproc.operators.accumulators import wide_add
from streamproc.operators.event_records import (
    AFTER,
    BEFORE,
    COORDINATE,
    COVERED,
    EDGE_BASE,
    EVER,
    EXTREME_BASE,
    FORGOT,
    HELD,
    LAST,
    NEWEST,
    OLDEST,
    PLACE,
    SPANS,
    TIME,
    TOGETHER,
    VALID,
    Results,
    Rows,
    Store,
    Table,
    Wants,
)
from streamproc.operators.exact import SumArrays, add_exact, add_exact_square, clear_exact
from streamproc.operators.rewinding import fetch_around, restore, rewind, save
from streamproc.operators.window_reading import later_than_memory, read_window
from streamproc.operators.window_scans import Room
from streamproc.ports import Int64s
from streamproc.row_loops import fill
from streamproc.slot_index import prefetch

_AHEAD: Final = 8
"""Rows between one fetch and the next that needs what it brought."""


@inlined
def _apply(wants: Wants, store: Store, sums: SumArrays, key: int, event: int, span: int, sign: int) -> bool:
    """Adds an event to the accumulators of one window, or takes it out; False if a total leaves 128 bits."""
    record, of_key = store.events[event], store.keys[key]
    words, counted, summed, widened = wants.words, wants.counts, wants.sums, wants.wides
    valid, values, counts, wides = record[VALID], words[0], words[3], words[4]
    fine = True
    for c in range(counted.shape[0]):
        if counted[c, 0] == span and (counted[c, 1] < 0 or (valid >> counted[c, 1]) & 1):
            of_key[counts + c] += sign
    number = summed.shape[0]
    for f in range(number):
        if summed[f, 0] == span and (valid >> summed[f, 1]) & 1:
            x = np.int64(record[values + summed[f, 1]]).view(np.float64)
            if summed[f, 2]:
                add_exact_square(sums, key * number + f, x, sign)
            else:
                add_exact(sums, key * number + f, x, sign)
    for w in range(widened.shape[0]):
        if widened[w, 0] == span and (valid >> widened[w, 1]) & 1:
            low, high = record[values + widened[w, 1]], record[values + widened[w, 2]]
            if sign < 0:
                low, high = -low, -high if low == 0 else ~high
            at = wides + 2 * w
            fine = wide_add(of_key[at : at + 1], of_key[at + 1 : at + 2], 0, low, high) and fine
    return fine


@inlined
def _leave(wants: Wants, store: Store, key: int, event: int, span: int) -> None:
    """Takes the oldest event of a window out of the queues of its extremes."""
    events, of_key, extremes, words = store.events, store.keys[key], wants.extremes, wants.words
    for m in range(extremes.shape[0]):
        front = words[2] + 2 * m
        if extremes[m, 0] == span and of_key[front] == event:
            later = events[event, words[1] + 2 * m + 1]
            of_key[front] = later
            if later < 0:
                of_key[front + 1] = -1
            else:
                events[later, words[1] + 2 * m] = -1


@inlined
def _queue(wants: Wants, store: Store, key: int, event: int, span: int) -> None:
    """Puts an event of a window into the queues of its extremes, at its place in time."""
    events, of_key, extremes, words = store.events, store.keys[key], wants.extremes, wants.words
    for m in range(extremes.shape[0]):
        value = extremes[m, 1]
        if extremes[m, 0] != span or not (events[event, VALID] >> value) & 1:
            continue
        word, flip, front = words[0] + value, extremes[m, 2], words[2] + 2 * m
        earlier_link = words[1] + 2 * m
        code = events[event, word] ^ flip
        later, earlier = np.int64(-1), of_key[front + 1]
        while earlier >= 0 and events[earlier, TIME] > events[event, TIME]:
            later, earlier = earlier, events[earlier, earlier_link]
        if later >= 0 and (events[later, word] ^ flip) >= code:
            continue
        while earlier >= 0 and (events[earlier, word] ^ flip) <= code:
            earlier = events[earlier, earlier_link]
        events[event, earlier_link], events[event, earlier_link + 1] = earlier, later
        if earlier >= 0:
            events[earlier, earlier_link + 1] = event
        else:
            of_key[front] = event
        if later >= 0:
            events[later, earlier_link] = event
        else:
            of_key[front + 1] = event


@inlined
def _insert(wants: Wants, store: Store, rows: Rows, i: int) -> int:
    """A new event for row i, linked into its key's chain after all that are not later."""
    events, of_key, counters = store.events, store.keys[rows.keys[i]], store.counters
    words, given, t = wants.words, rows.words, rows.times[i]
    if counters[0] > 0:
        counters[0] -= 1
        event = int(store.free[counters[0]])
    else:
        event = int(counters[1])
        counters[1] += 1
    events[event, TIME], events[event, VALID] = t, rows.valid[i]
    for k in range(given.shape[1]):
        events[event, PLACE + k] = given[i, k]
    for k in range(words[1], events.shape[1]):
        events[event, k] = -1
    earlier, later = of_key[NEWEST], np.int64(-1)
    while earlier >= 0 and events[earlier, TIME] > t:
        later, earlier = earlier, events[earlier, BEFORE]
    events[event, BEFORE], events[event, AFTER] = earlier, later
    if earlier >= 0:
        events[earlier, AFTER] = event
    else:
        of_key[OLDEST] = event
    if later >= 0:
        events[later, BEFORE] = event
    else:
        of_key[NEWEST] = event
    of_key[words[7] + HELD] += 1
    return event


@tight
def _remember(wants: Wants, store: Store, key: int, event: int) -> None:
    """Takes an event that is about to go into the memories of windows without a begin."""
    events, of_key, words, spans = store.events, store.keys[key], wants.words, wants.spans
    extremes, edges = wants.extremes, wants.edges
    for m in range(extremes.shape[0]):
        span, value = extremes[m, 0], extremes[m, 1]
        if spans[span] < EVER:
            continue
        _leave(wants, store, key, event, span)
        if (events[event, VALID] >> value) & 1:
            code, base = events[event, words[0] + value] ^ extremes[m, 2], words[5] + EXTREME_BASE * m
            if not of_key[base] or code > of_key[base + 1]:
                of_key[base], of_key[base + 1] = 1, code
    for e in range(edges.shape[0]):
        value, mode, base = edges[e, 1], edges[e, 2], words[6] + EDGE_BASE * e
        if spans[edges[e, 0]] < EVER or (value >= 0 and not (events[event, VALID] >> value) & 1):
            continue
        if mode > LAST:
            if not of_key[base] or events[event, TIME] > of_key[base + 1]:
                of_key[base], of_key[base + 1] = 1, events[event, TIME]
        elif not of_key[base] or later_than_memory(events, event, of_key, int(base)) == (mode == LAST):
            of_key[base], of_key[base + 1] = 1, events[event, TIME]
            for k in range(COORDINATE):
                of_key[base + 2 + k] = events[event, PLACE + k]
            of_key[base + EDGE_BASE - 1] = events[event, words[0] + value]


@inlined
def _free(wants: Wants, store: Store, key: int, event: int) -> None:
    """Frees the key's oldest event."""
    events, of_key, counters = store.events, store.keys[key], store.counters
    store.free[counters[0]] = event
    counters[0] += 1
    of_key[wants.words[7] + HELD] -= 1
    later = events[event, AFTER]
    of_key[OLDEST] = later
    if later >= 0:
        events[later, BEFORE] = -1
    else:
        of_key[NEWEST] = -1


@inlined
def _forget(wants: Wants, store: Store, key: int, since: int, ever: bool) -> None:
    """Frees the key's events at or before a moment."""
    events, of_key = store.events, store.keys[key]
    event = of_key[OLDEST]
    while event >= 0 and events[event, TIME] <= since:
        if ever:
            _remember(wants, store, key, event)
        _free(wants, store, key, event)
        event = of_key[OLDEST]


@tight
def _keep_the_bound(wants: Wants, store: Store, sums: SumArrays, key: int, ever: bool) -> bool:
    """Drops the oldest events while the key has more than its bound; False if a total leaves 128 bits."""
    events, of_key, words, spans, fine = store.events, store.keys[key], wants.words, wants.spans.size, True
    bound = words[7]
    while of_key[bound + HELD] > words[8]:
        event = of_key[OLDEST]
        for span in range(spans):
            if of_key[SPANS + span] == event:
                fine = _apply(wants, store, sums, key, event, span, -1) and fine
                _leave(wants, store, key, event, span)
                of_key[SPANS + span] = events[event, AFTER]
        if ever:
            _remember(wants, store, key, event)
        if not of_key[bound + FORGOT] or events[event, TIME] > of_key[bound + COVERED]:
            of_key[bound + FORGOT], of_key[bound + COVERED] = 1, events[event, TIME]
        _free(wants, store, key, event)
    return fine


@inlined
def _fetch(table: Table, row: int) -> None:
    if row >= 0:
        prefetch(table, row * table.shape[1])
        prefetch(table, (row + 1) * table.shape[1] - 1)


@inlined
def _look_ahead(wants: Wants, store: Store, sums: SumArrays, rows: Rows, i: int) -> None:
    """Fetches what rows some way ahead will need: their key, then its ends, then the event after the oldest.

    Keys come in any order, so each row would wait for memory several times, one after the other.
    """
    far, near, soon = i + 3 * _AHEAD, i + 2 * _AHEAD, i + _AHEAD
    number, spans, rows_keys = wants.sums.shape[0], wants.spans.size, rows.keys
    events, keys, counters, free, parts = store.events, store.keys, store.counters, store.free, sums.parts
    if far < rows_keys.size:
        key = rows_keys[far]
        _fetch(keys, key)
        for f in range(number):
            prefetch(parts, (key * number + f) * parts.shape[1])
    if near < rows_keys.size:
        key = rows_keys[near]
        _fetch(events, keys[key, NEWEST])
        for span in range(spans):
            _fetch(events, keys[key, SPANS + span])
        if counters[0] > 2 * _AHEAD:
            _fetch(events, free[counters[0] - 2 * _AHEAD])
    if soon < rows_keys.size:
        for span in range(spans):
            oldest = keys[rows_keys[soon], SPANS + span]
            if oldest >= 0:
                _fetch(events, events[oldest, AFTER])


@polished
def look_back(
    wants: Wants, store: Store, sums: SumArrays, rows: Rows, out: Results, room: Room | None, start: int
) -> int:
    """Takes rows in from `start` on; n when done, i if the pool needs room before row i, -1 - i for an overflow.

    There is room for an event per row. Results are written for as many of the last rows as there is room for in `out`:
    what the rows before them see is not computed, and a scan costs them nothing. Without `room` there are no scans and
    no variances, and half as much to compile.
    """
    of_rows, times, reached, covered, lengths = rows.keys, rows.times, rows.reached, out.covered, wants.spans
    events, keys, words, free_count = store.events, store.keys, wants.words, sums.free_count
    walks, saved = out.walks, out.saved
    unread = of_rows.size - covered.size
    # A row in time never lies before the watermark, but may lie at it: its own event must not be forgotten at once.
    spans, number, longest, ever = lengths.size, wants.sums.shape[0], np.int64(1), False
    for span in range(spans):
        if lengths[span] < EVER:
            longest = max(longest, lengths[span])
        else:
            ever = True
    for i in range(start, of_rows.size):
        if free_count[0] < number:
            return i
        _look_ahead(wants, store, sums, rows, i)
        if (i - start) % TOGETHER == 0:
            fetch_around(wants, store, rows, i, walks)
        key, t = of_rows[i], times[i]
        of_key = keys[key]
        newest = of_key[NEWEST]
        in_order = newest < 0 or t >= events[newest, TIME]
        end = t if in_order else events[newest, TIME]
        fine = True
        if in_order and newest >= 0:
            for span in range(spans):
                if lengths[span] >= EVER:
                    continue
                oldest = of_key[SPANS + span]
                while oldest >= 0 and events[oldest, TIME] <= t - lengths[span]:
                    fine = _apply(wants, store, sums, key, oldest, span, -1) and fine
                    _leave(wants, store, key, oldest, span)
                    oldest = events[oldest, AFTER]
                of_key[SPANS + span] = oldest
        event = _insert(wants, store, rows, i)
        for span in range(spans):
            if t > end - lengths[span]:
                fine = _apply(wants, store, sums, key, event, span, 1) and fine
                _queue(wants, store, key, event, span)
                oldest = of_key[SPANS + span]
                if lengths[span] < EVER and (oldest < 0 or events[oldest, TIME] > t):
                    of_key[SPANS + span] = event
        _forget(wants, store, key, int(reached[i] - longest), ever)
        bound = words[7]
        if of_key[bound + HELD] > words[8]:
            fine = _keep_the_bound(wants, store, sums, key, ever) and fine
        if i < unread:
            if not fine:
                return -1 - i
            continue
        at = i - unread
        if of_key[bound + FORGOT]:
            covered[at] = of_key[bound + COVERED]
        if not in_order:
            save(wants, store, sums, key, saved)
        for span in range(spans):
            if not in_order:
                fine = rewind(wants, store, sums, key, event, span) and fine
            read_window(wants, store, sums, key, event, span, in_order, out, at, room)
        if not in_order:
            restore(wants, store, sums, key, saved)
        if not fine:
            return -1 - i
    return of_rows.size


@tight
def drop_keys(wants: Wants, store: Store, sums: SumArrays, keys: Int64s) -> None:
    """Frees all events of these keys and empties their accumulators."""
    number, of_keys, counts = wants.sums.shape[0], store.keys, wants.words[3]
    for i in range(keys.size):
        _forget(wants, store, keys[i], 2**63 - 1, False)
        of_key = of_keys[keys[i]]
        fill(of_key, 0)
        fill(of_key[:counts], -1)
        for f in range(number):
            clear_exact(sums, keys[i] * number + f)
