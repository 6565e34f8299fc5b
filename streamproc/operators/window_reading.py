"""The results of a look-back's windows for one row, whose event is the newest of each: for kernels."""

from __future__ import annotations

import numpy as np

from streamproc.kernels import tight
from streamproc.operators.event_records import (
    AFTER,
    BEFORE,
    BEFORE_ROW,
    COORDINATE,
    EDGE_BASE,
    EVER,
    EXTREME_BASE,
    FIRST,
    LAST,
    OLDEST,
    PLACE,
    SPANS,
    TIME,
    VALID,
    Results,
    Store,
    Table,
    Wants,
)
from streamproc.operators.exact import SumArrays, rounded_sum
from streamproc.operators.moments import sample_variance
from streamproc.operators.window_scans import Room, scan
from streamproc.ports import Int64s


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
    while event >= 0 and (
        (events[event, TIME] > until if forward else events[event, TIME] <= until)
        or not (events[event, VALID] >> value) & 1
    ):
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
def _newest_with(events: Table, event: int, value: int, since: int) -> int:
    """From `event` back to, but without, a moment: the newest event with the value (-1: any), -1 if there is none."""
    while event >= 0 and events[event, TIME] > since:
        if value < 0 or (events[event, VALID] >> value) & 1:
            return event
        event = int(events[event, BEFORE])
    return -1


@tight
def later_than_memory(events: Table, event: int, of_key: Int64s, base: int) -> bool:
    """Whether an event stands behind an edge's memory, by event time, then coordinate."""
    if events[event, TIME] != of_key[base + 1]:
        return bool(events[event, TIME] > of_key[base + 1])
    for k in range(COORDINATE):
        if events[event, PLACE + k] != of_key[base + 2 + k]:
            return bool(events[event, PLACE + k] > of_key[base + 2 + k])
    return False


@tight
def _read_edge(wants: Wants, store: Store, key: int, event: int, e: int, out: Results, i: int) -> None:
    """Writes the result of one edge of row i."""
    events, of_key, edges, words, length = store.events, store.keys[key], wants.edges, wants.words, wants.spans
    flags, results = out.has, out.edges
    span, value, mode = edges[e, 0], int(edges[e, 1]), edges[e, 2]
    t = events[event, TIME]
    since, ever = t - length[span], length[span] >= EVER
    word, has = words[0] + value, wants.extremes.shape[0] + e
    base = words[6] + EDGE_BASE * e
    if mode == FIRST:
        first = of_key[OLDEST] if ever else of_key[SPANS + span]
        while first >= 0 and events[first, BEFORE] >= 0 and events[events[first, BEFORE], TIME] > since:
            first = events[first, BEFORE]
        best = _edge(events, int(first), value, int(t), AFTER)
        if ever and of_key[base] and best >= 0 and later_than_memory(events, best, of_key, int(base)):
            best = -1
    elif mode == LAST:
        best = _edge(events, event, value, int(since), BEFORE)
        if ever and of_key[base] and best >= 0 and not later_than_memory(events, best, of_key, int(base)):
            best = -1
    else:
        start = int(events[event, BEFORE]) if mode == BEFORE_ROW else event
        best = _newest_with(events, start, value, int(since))
    if best >= 0:
        flags[i, has], results[i, e] = 1, events[best, word] if mode <= LAST else t - events[best, TIME]
    elif ever and of_key[base]:
        flags[i, has], results[i, e] = 1, of_key[base + EDGE_BASE - 1] if mode <= LAST else t - of_key[base + 1]
    else:
        flags[i, has], results[i, e] = 0, 0


@tight
def _read_extreme(
    wants: Wants, store: Store, key: int, event: int, m: int, in_order: bool, out: Results, i: int
) -> None:
    """Writes the result of one extreme of row i."""
    events, of_key, extremes, words = store.events, store.keys[key], wants.extremes, wants.words
    span, value, flip = extremes[m, 0], extremes[m, 1], extremes[m, 2]
    since, word = events[event, TIME] - wants.spans[span], words[0] + value
    best = -1
    if in_order:
        best = int(of_key[words[2] + 2 * m])
    else:
        at = int(event)
        while at >= 0 and events[at, TIME] > since:
            if (events[at, VALID] >> value) & 1 and (
                best < 0 or events[at, word] ^ flip > events[best, word] ^ flip
            ):
                best = at
            at = int(events[at, BEFORE])
    base = words[5] + EXTREME_BASE * m
    has, code = best >= 0, (events[best, word] ^ flip) if best >= 0 else np.int64(0)
    if of_key[base] and (not has or of_key[base + 1] > code):
        has, code = True, of_key[base + 1]
    out.has[i, m] = has
    out.extremes[i, m] = code ^ flip if has else 0


@tight
def read_window(
    wants: Wants, store: Store, sums: SumArrays, key: int, event: int, span: int, in_order: bool, out: Results, i: int,
    room: Room | None,
) -> None:  # fmt: skip
    """Writes the results of one window of row i, whose event is the window's newest.

    Without `room` there are neither variances nor scans: Numba then leaves out all that computes them.
    """
    events, of_key = store.events, store.keys[key]
    since = events[event, TIME] - wants.spans[span]
    words, counted, summed, widened = wants.words, wants.counts, wants.sums, wants.wides
    extremes, edges, counts, wides = wants.extremes, wants.edges, out.counts, out.wides
    for c in range(counted.shape[0]):
        if counted[c, 0] == span:
            counts[i, c] = of_key[words[3] + c]
    number = summed.shape[0]
    for f in range(number):
        if summed[f, 0] == span:
            out.sums[i, f] = rounded_sum(sums, key * number + f)
    for w in range(widened.shape[0]):
        if widened[w, 0] == span:
            wides[i, 2 * w] = of_key[words[4] + 2 * w]
            wides[i, 2 * w + 1] = of_key[words[4] + 2 * w + 1]
    for m in range(extremes.shape[0]):
        if extremes[m, 0] == span:
            _read_extreme(wants, store, key, event, m, in_order, out, i)
    for e in range(edges.shape[0]):
        if edges[e, 0] == span:
            _read_edge(wants, store, key, event, e, out, i)
    if room is not None:
        spread, variances, scans = wants.variances, out.variances, wants.scans
        for v in range(spread.shape[0]):
            total, square, count = spread[v, 0], spread[v, 1], spread[v, 2]
            if summed[total, 0] == span:
                n = of_key[words[3] + count]
                variances[i, v] = 0.0
                if n > 1:
                    at, of_square = key * number + total, key * number + square
                    variances[i, v] = sample_variance(sums, sums, at, of_square, n, out.parts, out.limbs)
        for s in range(scans.shape[0]):
            if scans[s, 0] == span:
                scan(wants, events, event, since, s, room, out.scans[i])
