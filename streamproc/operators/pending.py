"""Rows that wait for their label, and labels that came before their row.

A label belongs to a row of its key if  row <= label <= row + horizon  in event time. Each row takes the first that
comes; a label serves every waiting row that it belongs to. A row whose horizon is over is *due* when the watermark is
above it; a label that came early serves rows until the watermark is above its own time. Both moments are known when
they come and wait in one heap, so that forgetting never changes a result.

Rows of a key hang in a list by arrival. A place that becomes free is used again from the next step on, because what a
row kept there is read only after the kernel is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow, next_rows
from streamproc.kernels import kernel
from streamproc.ports import Int64s
from streamproc.state import KeyTable

Floats = npt.NDArray[np.float64]

OWNER: Final = 0
TIME: Final = 1
NEXT: Final = 2
SERIAL: Final = 3
"""Number by arrival, -1 where the place is free."""

PREDICT: Final = 0
LEARN: Final = 1
GIVE_UP: Final = 2
"""What happens to a row: it is scored; its label is known; its horizon is over without one."""

_ROWS: Final = 0
_ROWS_FREE: Final = 1
_LABELS: Final = 2
_LABELS_FREE: Final = 3
_HEAP: Final = 4
_SERIAL: Final = 5


@dataclass(slots=True)
class Pending:
    """Links are one past the place that they name, 0 for none.

    table   keys
    heads   int64[keys, 4]: first and last waiting row, first and last early label
    rows    int64[places, 4]: OWNER, TIME, NEXT, SERIAL
    labels  int64[places, 4], and their values
    heap    int64[*, 3]: moment, serial, 2 * place + (1 for a label)
    counts  places used and first free one (rows, labels), size of the heap, next serial
    """

    table: KeyTable
    heads: Int64s
    rows: Int64s
    labels: Int64s
    values: Floats
    heap: Int64s
    counts: Int64s

    @property
    def places(self) -> int:
        """Places for rows, used or free."""
        return int(self.rows.shape[0])

    @property
    def waiting(self) -> int:
        """Rows that wait for a label."""
        return int(np.count_nonzero(self.rows[: int(self.counts[_ROWS]), SERIAL] >= 0))

    def make_room(self, slots: int, rows: int, labels: int) -> None:
        """Makes sure that so many keys, rows more and labels more have a place."""
        self.heads = grow(self.heads, next_rows(self.heads.shape[0], slots))
        self.rows = grow(self.rows, next_rows(self.rows.shape[0], int(self.counts[_ROWS]) + rows), fill=-1)
        places = next_rows(self.labels.shape[0], int(self.counts[_LABELS]) + labels)
        self.labels = grow(self.labels, places, fill=-1)
        self.values = grow(self.values, places)
        self.heap = grow(self.heap, next_rows(self.heap.shape[0], int(self.counts[_HEAP]) + rows + labels))


def no_pending() -> Pending:
    """Nothing waits."""
    return Pending(
        KeyTable(), np.zeros((0, 4), np.int64), np.empty((0, 4), np.int64), np.empty((0, 4), np.int64),
        np.empty(0, np.float64), np.empty((0, 3), np.int64), np.zeros(8, np.int64),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Events:
    """What happens to rows, in the order in which it happens.

    kinds    PREDICT, LEARN or GIVE_UP
    lefts    of a PREDICT the row of the batch
    places   the row's place
    causes   of a LEARN the row whose coming caused it, as merged; -1 where time did
    moments  of a LEARN or GIVE_UP by time, when it was due
    labels   of a LEARN the label
    """

    kinds: Int64s
    lefts: Int64s
    places: Int64s
    causes: Int64s
    moments: Int64s
    labels: Floats

    def between(self, start: int, stop: int) -> Events:
        """Those from `start` on, up to `stop`."""
        of = slice(start, stop)
        return Events(
            self.kinds[of], self.lefts[of], self.places[of], self.causes[of], self.moments[of], self.labels[of]
        )  # fmt: skip


def run_pending(
    pending: Pending, order: Int64s, limits: Int64s, *, last_limit: int, left_slots: Int64s, left_times: Int64s,
    right_slots: Int64s, right_times: Int64s, right_values: Floats, horizon: int, negative: float,
) -> Events:  # fmt: skip
    """Lets rows and labels come in `order` (see `merge_by_position`), and time between them.

    limits      int64[n]: before row i of the order, what is due strictly before this moment has happened
    negative    the label of a row whose horizon is over; NaN: it is given up
    """
    events, labels, gone_rows, gone_labels, emptied = _run(
        pending.heads, pending.rows, pending.labels, pending.values, pending.heap, pending.counts, order, limits,
        last_limit, left_slots, left_times, right_slots, right_times, right_values, horizon, negative,
    )  # fmt: skip
    _free(pending.rows, pending.counts, _ROWS_FREE, gone_rows)
    _free(pending.labels, pending.counts, _LABELS_FREE, gone_labels)
    # A key that was emptied may have come again within the batch.
    again = np.unique(emptied)
    again = again[(pending.heads[again, 0] == 0) & (pending.heads[again, 2] == 0)]
    if again.size:
        pending.table.release(again)
    kinds, lefts, places, causes, moments = (np.ascontiguousarray(events[:, i]) for i in range(5))
    return Events(kinds, lefts, places, causes, moments, labels)


@kernel
def _free(places: Int64s, counts: Int64s, head: int, gone: Int64s) -> None:
    for i in range(gone.size):
        places[gone[i], SERIAL] = -1
        places[gone[i], NEXT] = counts[head]
        counts[head] = gone[i] + 1


@kernel
def _place(places: Int64s, counts: Int64s, used: int) -> int:
    """A free place, or the next unused one."""
    if counts[used + 1] > 0:
        place = counts[used + 1] - 1
        counts[used + 1] = places[place, NEXT]
        return int(place)
    counts[used] += 1
    return int(counts[used] - 1)


@kernel
def _push(heap: Int64s, counts: Int64s, moment: int, serial: int, what: int) -> None:
    i = counts[_HEAP]
    counts[_HEAP] += 1
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent, 0] < moment or (heap[parent, 0] == moment and heap[parent, 1] < serial):
            break
        heap[i] = heap[parent]
        i = parent
    heap[i, 0] = moment
    heap[i, 1] = serial
    heap[i, 2] = what


@kernel
def _pop(heap: Int64s, counts: Int64s) -> None:
    counts[_HEAP] -= 1
    size = counts[_HEAP]
    moment, serial, what = heap[size, 0], heap[size, 1], heap[size, 2]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size:
            a, b = heap[child, 0], heap[child + 1, 0]
            if b < a or (a == b and heap[child + 1, 1] < heap[child, 1]):
                child += 1
        if moment < heap[child, 0] or (moment == heap[child, 0] and serial < heap[child, 1]):
            break
        heap[i] = heap[child]
        i = child
    heap[i, 0] = moment
    heap[i, 1] = serial
    heap[i, 2] = what


@kernel
def _unlink(places: Int64s, heads: Int64s, slot: int, first: int, place: int) -> None:
    """Takes a place out of its key's list, which begins at heads[slot, first] and ends at heads[slot, first + 1]."""
    before = -1
    at = heads[slot, first] - 1
    while at != place:
        before = at
        at = places[at, NEXT] - 1
    if before < 0:
        heads[slot, first] = places[place, NEXT]
    else:
        places[before, NEXT] = places[place, NEXT]
    if heads[slot, first + 1] == place + 1:
        heads[slot, first + 1] = before + 1


@kernel
def _append(places: Int64s, heads: Int64s, slot: int, first: int, place: int) -> None:
    last = heads[slot, first + 1]
    if last == 0:
        heads[slot, first] = place + 1
    else:
        places[last - 1, NEXT] = place + 1
    heads[slot, first + 1] = place + 1
    places[place, NEXT] = 0


@kernel
def _run(
    heads: Int64s, rows: Int64s, labels: Int64s, values: Floats, heap: Int64s, counts: Int64s, order: Int64s,
    limits: Int64s, last_limit: int, left_slots: Int64s, left_times: Int64s, right_slots: Int64s, right_times: Int64s,
    right_values: Floats, horizon: int, negative: float,
) -> tuple[Int64s, Floats, Int64s, Int64s, Int64s]:  # fmt: skip
    n = order.size
    lefts = left_slots.size
    # Every row is scored once, and learned or given up at most once; so are those that waited.
    most = 2 * lefts + counts[_ROWS]
    events = np.empty((most, 5), np.int64)
    known = np.empty(most, np.float64)
    gone_rows = np.empty(most, np.int64)
    gone_labels = np.empty(counts[_LABELS] + right_slots.size, np.int64)
    emptied = np.empty(most + gone_labels.size, np.int64)
    e = g = gl = em = 0
    for at in range(n + 1):
        limit = last_limit if at == n else limits[at]
        while counts[_HEAP] > 0 and heap[0, 0] < limit:
            moment, serial, what = heap[0, 0], heap[0, 1], heap[0, 2]
            _pop(heap, counts)
            place = what >> 1
            if what & 1:
                if labels[place, SERIAL] != serial:
                    continue
                slot = labels[place, OWNER]
                _unlink(labels, heads, slot, 2, place)
                labels[place, SERIAL] = -2
                gone_labels[gl] = place
                gl += 1
            else:
                if rows[place, SERIAL] != serial:
                    continue
                slot = rows[place, OWNER]
                _unlink(rows, heads, slot, 0, place)
                rows[place, SERIAL] = -2
                gone_rows[g] = place
                g += 1
                events[e, 0] = GIVE_UP if np.isnan(negative) else LEARN
                events[e, 1] = -1
                events[e, 2] = place
                events[e, 3] = -1
                events[e, 4] = moment
                known[e] = negative
                e += 1
            if heads[slot, 0] == 0 and heads[slot, 2] == 0:
                emptied[em] = slot
                em += 1
        if at == n:
            break
        i = order[at]
        if i < lefts:
            slot, moment = left_slots[i], left_times[i]
            place = _place(rows, counts, _ROWS)
            serial = counts[_SERIAL]
            counts[_SERIAL] += 1
            rows[place, OWNER] = slot
            rows[place, TIME] = moment
            rows[place, SERIAL] = serial
            events[e, 0] = PREDICT
            events[e, 1] = i
            events[e, 2] = place
            events[e, 3] = i
            events[e, 4] = moment
            known[e] = np.nan
            e += 1
            early = heads[slot, 2] - 1
            while early >= 0 and not moment <= labels[early, TIME] <= moment + horizon:
                early = labels[early, NEXT] - 1
            if early >= 0:
                rows[place, SERIAL] = -2
                gone_rows[g] = place
                g += 1
                events[e, 0] = LEARN
                events[e, 1] = -1
                events[e, 2] = place
                events[e, 3] = i
                events[e, 4] = moment
                known[e] = values[early]
                e += 1
                if heads[slot, 0] == 0 and heads[slot, 2] == 0:
                    emptied[em] = slot
                    em += 1
            else:
                _append(rows, heads, slot, 0, place)
                _push(heap, counts, moment + horizon, serial, 2 * place)
        else:
            j = i - lefts
            if np.isnan(right_values[j]):
                if heads[right_slots[j], 0] == 0 and heads[right_slots[j], 2] == 0:
                    emptied[em] = right_slots[j]
                    em += 1
                continue
            slot, moment = right_slots[j], right_times[j]
            link = heads[slot, 0]
            while link > 0:
                place = link - 1
                link = rows[place, NEXT]
                if rows[place, TIME] <= moment <= rows[place, TIME] + horizon:
                    _unlink(rows, heads, slot, 0, place)
                    rows[place, SERIAL] = -2
                    gone_rows[g] = place
                    g += 1
                    events[e, 0] = LEARN
                    events[e, 1] = -1
                    events[e, 2] = place
                    events[e, 3] = i
                    events[e, 4] = moment
                    known[e] = right_values[j]
                    e += 1
            place = _place(labels, counts, _LABELS)
            serial = counts[_SERIAL]
            counts[_SERIAL] += 1
            labels[place, OWNER] = slot
            labels[place, TIME] = moment
            labels[place, SERIAL] = serial
            values[place] = right_values[j]
            _append(labels, heads, slot, 2, place)
            _push(heap, counts, moment, serial, 2 * place + 1)
    return events[:e].copy(), known[:e].copy(), gone_rows[:g].copy(), gone_labels[:gl].copy(), emptied[:em].copy()
