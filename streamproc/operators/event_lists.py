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
queue); out of order the window is scanned.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.hashing import inlined, tight
from streamproc.operators.accumulators import wide_add
from streamproc.operators.event_records import (
    AFTER,
    BEFORE,
    COORDINATE,
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
from streamproc.operators.exact import SumArrays, add_exact, add_exact_square, clear_exact, rounded_sum
from streamproc.operators.moments import sample_variance
from streamproc.operators.rewinding import fetch_around, restore, rewind, save
from streamproc.ports import Int64s
from streamproc.slot_index import prefetch

_AHEAD: Final = 8
"""Rows between one fetch and the next that needs what it brought."""


@inlined
def _apply(wants: Wants, store: Store, sums: SumArrays, key: int, event: int, span: int, sign: int) -> bool:
    """Adds an event to the accumulators of one window, or takes it out; False if a total leaves 128 bits."""
    record, of_key = store.events[event], store.keys[key]
    valid, values, counts, wides = record[VALID], wants.words[0], wants.words[3], wants.words[4]
    fine = True
    for c in range(wants.counts.shape[0]):
        if wants.counts[c, 0] == span and (wants.counts[c, 1] < 0 or (valid >> wants.counts[c, 1]) & 1):
            of_key[counts + c] += sign
    number = wants.sums.shape[0]
    for f in range(number):
        if wants.sums[f, 0] == span and (valid >> wants.sums[f, 1]) & 1:
            x = np.int64(record[values + wants.sums[f, 1]]).view(np.float64)
            if wants.sums[f, 2]:
                add_exact_square(sums, key * number + f, x, sign)
            else:
                add_exact(sums, key * number + f, x, sign)
    for w in range(wants.wides.shape[0]):
        if wants.wides[w, 0] == span and (valid >> wants.wides[w, 1]) & 1:
            low, high = record[values + wants.wides[w, 1]], record[values + wants.wides[w, 2]]
            if sign < 0:
                low, high = -low, -high if low == 0 else ~high
            at = wides + 2 * w
            fine = wide_add(of_key[at : at + 1], of_key[at + 1 : at + 2], 0, low, high) and fine
    return fine


@inlined
def _leave(wants: Wants, store: Store, key: int, event: int, span: int) -> None:
    """Takes the oldest event of a window out of the queues of its extremes."""
    of_key = store.keys[key]
    for m in range(wants.extremes.shape[0]):
        front = wants.words[2] + 2 * m
        if wants.extremes[m, 0] == span and of_key[front] == event:
            later = store.events[event, wants.words[1] + 2 * m + 1]
            of_key[front] = later
            if later < 0:
                of_key[front + 1] = -1
            else:
                store.events[later, wants.words[1] + 2 * m] = -1


@inlined
def _queue(wants: Wants, store: Store, key: int, event: int, span: int) -> None:
    """Puts an event of a window into the queues of its extremes, at its place in time."""
    events, of_key = store.events, store.keys[key]
    for m in range(wants.extremes.shape[0]):
        value = wants.extremes[m, 1]
        if wants.extremes[m, 0] != span or not (events[event, VALID] >> value) & 1:
            continue
        word, flip, front = wants.words[0] + value, wants.extremes[m, 2], wants.words[2] + 2 * m
        earlier_link = wants.words[1] + 2 * m
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


@tight
def _earlier(events: Table, a: int, b: int) -> bool:
    for k in range(PLACE, PLACE + COORDINATE):
        if events[a, k] != events[b, k]:
            return bool(events[a, k] < events[b, k])
    return False


@tight
def _edge(events: Table, event: int, value: int, until: int, link: int) -> int:
    """From `event` along a link, within (…, until] or (until, …]: the first event with the value, -1 if there is none.

    Of events at the same moment the one with the least coordinate going forward, with the greatest going back.
    """
    forward = link == AFTER
    while event >= 0 and not (events[event, VALID] >> value) & 1:
        event = events[event, link]
        if event >= 0 and (events[event, TIME] > until if forward else events[event, TIME] <= until):
            event = -1
    best = event
    if event >= 0:
        other = events[event, link]
        while other >= 0 and events[other, TIME] == events[event, TIME]:
            if (events[other, VALID] >> value) & 1:
                if forward and _earlier(events, other, best):
                    best = other
                if not forward and _earlier(events, best, other):
                    best = other
            other = events[other, link]
    return best


@tight
def _read(
    wants: Wants, store: Store, sums: SumArrays, key: int, event: int, span: int, in_order: bool, out: Results, i: int
) -> None:
    """Writes the results of one window of row i, whose event is the window's newest."""
    events, of_key = store.events, store.keys[key]
    values = wants.words[0]
    t = events[event, TIME]
    since = t - wants.spans[span]
    for c in range(wants.counts.shape[0]):
        if wants.counts[c, 0] == span:
            out.counts[i, c] = of_key[wants.words[3] + c]
    number = wants.sums.shape[0]
    for f in range(number):
        if wants.sums[f, 0] == span:
            out.sums[i, f] = rounded_sum(sums, key * number + f)
    for w in range(wants.wides.shape[0]):
        if wants.wides[w, 0] == span:
            out.wides[i, 2 * w] = of_key[wants.words[4] + 2 * w]
            out.wides[i, 2 * w + 1] = of_key[wants.words[4] + 2 * w + 1]
    for v in range(wants.variances.shape[0]):
        total, square, count = wants.variances[v, 0], wants.variances[v, 1], wants.variances[v, 2]
        if wants.sums[total, 0] == span:
            n = of_key[wants.words[3] + count]
            out.variances[i, v] = 0.0
            if n > 1:
                at, of_square = key * number + total, key * number + square
                out.variances[i, v] = sample_variance(sums, sums, at, of_square, n, out.parts, out.limbs)
    for m in range(wants.extremes.shape[0]):
        if wants.extremes[m, 0] == span:
            value, flip = wants.extremes[m, 1], wants.extremes[m, 2]
            best = -1
            if in_order:
                best = int(of_key[wants.words[2] + 2 * m])
            else:
                at = int(event)
                while at >= 0 and events[at, TIME] > since:
                    if (events[at, VALID] >> value) & 1 and (
                        best < 0 or events[at, values + value] ^ flip > events[best, values + value] ^ flip
                    ):
                        best = at
                    at = int(events[at, BEFORE])
            out.has[i, m] = best >= 0
            out.extremes[i, m] = events[best, values + value] if best >= 0 else 0
    for e in range(wants.edges.shape[0]):
        if wants.edges[e, 0] == span:
            value = wants.edges[e, 1]
            if wants.edges[e, 2]:
                best = _edge(events, event, int(value), int(since), BEFORE)
            else:
                first = of_key[SPANS + span]
                while events[first, BEFORE] >= 0 and events[events[first, BEFORE], TIME] > since:
                    first = events[first, BEFORE]
                best = _edge(events, int(first), int(value), int(t), AFTER)
            out.has[i, wants.extremes.shape[0] + e] = best >= 0
            out.edges[i, e] = events[best, values + value] if best >= 0 else 0


@inlined
def _insert(wants: Wants, store: Store, rows: Rows, i: int) -> int:
    """A new event for row i, linked into its key's chain after all that are not later."""
    events, of_key = store.events, store.keys[rows.keys[i]]
    if store.counters[0] > 0:
        store.counters[0] -= 1
        event = int(store.free[store.counters[0]])
    else:
        event = int(store.counters[1])
        store.counters[1] += 1
    events[event, TIME], events[event, VALID] = rows.times[i], rows.valid[i]
    for k in range(rows.words.shape[1]):
        events[event, PLACE + k] = rows.words[i, k]
    for k in range(wants.words[1], events.shape[1]):
        events[event, k] = -1
    earlier, later = of_key[NEWEST], np.int64(-1)
    while earlier >= 0 and events[earlier, TIME] > rows.times[i]:
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
    return event


@inlined
def _forget(store: Store, key: int, since: int) -> None:
    """Frees the key's events at or before a moment."""
    events, of_key = store.events, store.keys[key]
    event = of_key[OLDEST]
    while event >= 0 and events[event, TIME] <= since:
        store.free[store.counters[0]] = event
        store.counters[0] += 1
        event = events[event, AFTER]
    of_key[OLDEST] = event
    if event >= 0:
        events[event, BEFORE] = -1
    else:
        of_key[NEWEST] = -1


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
    number = wants.sums.shape[0]
    if far < rows.keys.size:
        key = rows.keys[far]
        _fetch(store.keys, key)
        for f in range(number):
            prefetch(sums.parts, (key * number + f) * sums.parts.shape[1])
    if near < rows.keys.size:
        key = rows.keys[near]
        _fetch(store.events, store.keys[key, NEWEST])
        for span in range(wants.spans.size):
            _fetch(store.events, store.keys[key, SPANS + span])
        if store.counters[0] > 2 * _AHEAD:
            _fetch(store.events, store.free[store.counters[0] - 2 * _AHEAD])
    if soon < rows.keys.size:
        for span in range(wants.spans.size):
            oldest = store.keys[rows.keys[soon], SPANS + span]
            if oldest >= 0:
                _fetch(store.events, store.events[oldest, AFTER])


@tight
def look_back(wants: Wants, store: Store, sums: SumArrays, rows: Rows, out: Results, start: int) -> int:
    """Takes rows in from `start` on; n when done, i if the pool needs room before row i, -1 - i for an overflow.

    There is room for an event per row.
    """
    spans, number, longest = wants.spans.size, wants.sums.shape[0], np.int64(0)
    for span in range(spans):
        longest = max(longest, wants.spans[span])
    for i in range(start, rows.keys.size):
        if sums.free_count[0] < number:
            return i
        _look_ahead(wants, store, sums, rows, i)
        if (i - start) % TOGETHER == 0:
            fetch_around(wants, store, rows, i, out.walks)
        key, t = rows.keys[i], rows.times[i]
        events, of_key = store.events, store.keys[key]
        newest = of_key[NEWEST]
        in_order = newest < 0 or t >= events[newest, TIME]
        end = t if in_order else events[newest, TIME]
        fine = True
        if in_order and newest >= 0:
            for span in range(spans):
                oldest = of_key[SPANS + span]
                while oldest >= 0 and events[oldest, TIME] <= t - wants.spans[span]:
                    fine = _apply(wants, store, sums, key, oldest, span, -1) and fine
                    _leave(wants, store, key, oldest, span)
                    oldest = events[oldest, AFTER]
                of_key[SPANS + span] = oldest
        event = _insert(wants, store, rows, i)
        for span in range(spans):
            if t > end - wants.spans[span]:
                fine = _apply(wants, store, sums, key, event, span, 1) and fine
                _queue(wants, store, key, event, span)
                oldest = of_key[SPANS + span]
                if oldest < 0 or events[oldest, TIME] > t:
                    of_key[SPANS + span] = event
        _forget(store, key, int(rows.reached[i] - longest))
        if not in_order:
            save(wants, store, sums, key, out.saved)
        for span in range(spans):
            if not in_order:
                fine = rewind(wants, store, sums, key, event, span) and fine
            _read(wants, store, sums, key, event, span, in_order, out, i)
        if not in_order:
            restore(wants, store, sums, key, out.saved)
        if not fine:
            return -1 - i
    return rows.keys.size


@tight
def drop_keys(wants: Wants, store: Store, sums: SumArrays, keys: Int64s) -> None:
    """Frees all events of these keys and empties their accumulators."""
    number = wants.sums.shape[0]
    for i in range(keys.size):
        _forget(store, keys[i], 2**63 - 1)
        store.keys[keys[i], : wants.words[3]] = -1
        store.keys[keys[i], wants.words[3] :] = 0
        for f in range(number):
            clear_exact(sums, keys[i] * number + f)
