"""Rows that wait and events that count, by entity, while leaves bring them and take them away.

Of each entity there are two lists, of rows and of events, each with the leaf and the stay that brought it. A row meets
an event if it is older, and not older than the span. So of an entity's events only the newest matters: once it is
known, all rows before it have met one and leave their list, and those that stay wait for events to come. That is asked
when an event happens, and of an entity to which something arrived, once all moves of the moment are done: what a leaf
touches in passing within one moment is nothing that it belonged to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.columns import grow, next_rows
from streamproc.kernels import kernel
from streamproc.operators.deadlines import BLOCK, NEVER, blocks_of, take_due
from streamproc.operators.follow import ARRIVES, HAPPENS, LEAVES
from streamproc.ports import Int64s
from streamproc.row_loops import copy

OWNER: Final = 0
"""Slot of the entity."""
LEAF_CODE: Final = 1
STAY: Final = 2
TIME: Final = 3
"""When it happened."""
NUMBER: Final = 4
"""Of a row, where its id is kept; -1 of an event."""
KIND: Final = 5
"""0 of a row, 1 of an event, -1 of a free place."""
NEXT: Final = 6
BEFORE: Final = 7
_TOLD_STEP: Final = 6
_NOW: Final = 7
"""In what is told, in the place of the links."""
_STAMP: Final = 2
_USED: Final = 0
_FREE: Final = 1
_SERIAL: Final = 2


@dataclass(slots=True)
class Meetings:
    """Links are one past the place that they name, 0 for none.

    heads      int64[slots, 3]: first row, first event, and the moment (by number) at which it was asked last
    places     int64[places, 8]: OWNER, LEAF_CODE, STAY, TIME, NUMBER, KIND, NEXT, BEFORE
    deadlines  int64[places]: TIME + span, NEVER of free ones; `minima` per block of them
    counts     int64[3]: places used, link to the first free one, moments with moves
    """

    heads: Int64s
    places: Int64s
    deadlines: Int64s
    minima: Int64s
    counts: Int64s

    def make_room(self, slots: int, more: int) -> None:
        """Makes sure that so many slots, and so many rows and events more, have a place."""
        self.heads = grow(self.heads, next_rows(self.heads.shape[0], slots))
        places = next_rows(self.deadlines.size, int(self.counts[_USED]) + more)
        self.places = grow(self.places, places, fill=-1)
        self.deadlines = grow(self.deadlines, places, fill=NEVER)
        self.minima = grow(self.minima, blocks_of(places), fill=NEVER)

    def taken(self, *, waiting: bool = False) -> Int64s:
        """The places in use; `waiting`: those of rows."""
        kinds = self.places[: int(self.counts[_USED]), KIND]
        return np.flatnonzero(kinds == 0 if waiting else kinds >= 0)


def no_meetings() -> Meetings:
    """Nothing waits, nothing counts."""
    none = np.empty(0, np.int64)
    return Meetings(
        np.zeros((0, 3), np.int64), np.empty((0, 8), np.int64), none, none.copy(), np.zeros(3, np.int64)
    )  # fmt: skip


def meet(meetings: Meetings, told: Int64s, order: Int64s, span: int) -> tuple[Int64s, Int64s]:
    """Takes what is told, in `order`; gives who met, int64[*, 2] (NUMBER, moment), and numbers that wait no more.

    told  int64[*, 8]: OWNER, LEAF_CODE, STAY, TIME, NUMBER, KIND, step, moment. Of one moment and kind, rows that
          arrive stand before those that leave, and these before what happens
    """
    goes = told[:, _TOLD_STEP] == LEAVES
    once = np.zeros(len(told), np.bool_)
    if goes.any():
        # Each row of a stay tells that it leaves; the first one takes all of them.
        stays = told[goes][:, [OWNER, LEAF_CODE, STAY, KIND, _NOW]]
        once[np.flatnonzero(goes)[np.unique(stays, axis=0, return_index=True)[1]]] = True
    met, gone = _meet(
        order, told, once, span, meetings.heads, meetings.places, meetings.deadlines, meetings.minima, meetings.counts
    )
    return met, gone


def forget(meetings: Meetings, end: int) -> tuple[Int64s, Int64s]:
    """Drops what can meet nothing any more; gives the numbers of its rows, and the slots that had any of it."""
    due = take_due(meetings.deadlines, meetings.minima, int(meetings.counts[_USED]), end)
    numbers, slots = meetings.places[due, NUMBER], meetings.places[due, OWNER].copy()
    numbers = numbers[numbers >= 0]
    _forget(due, meetings.heads, meetings.places, meetings.deadlines, meetings.counts)
    return numbers, slots


@kernel
def _free(place: int, heads: Int64s, places: Int64s, deadlines: Int64s, counts: Int64s) -> None:
    """Takes a place out of its list."""
    after, before = places[place, NEXT], places[place, BEFORE]
    if before > 0:
        places[before - 1, NEXT] = after
    else:
        heads[places[place, OWNER], places[place, KIND]] = after
    if after > 0:
        places[after - 1, BEFORE] = before
    places[place, KIND] = -1
    places[place, NEXT] = counts[_FREE]
    counts[_FREE] = place + 1
    deadlines[place] = NEVER


@kernel
def _forget(due: Int64s, heads: Int64s, places: Int64s, deadlines: Int64s, counts: Int64s) -> None:
    for i in range(due.size):
        _free(due[i], heads, places, deadlines, counts)


@kernel
def _take(
    one: Int64s, span: int, heads: Int64s, places: Int64s, deadlines: Int64s, minima: Int64s, counts: Int64s
) -> None:
    place = counts[_FREE] - 1
    if place >= 0:
        counts[_FREE] = places[place, NEXT]
    else:
        place = counts[_USED]
        counts[_USED] += 1
    copy(one, places[place], KIND + 1)
    first = heads[one[OWNER], one[KIND]]
    places[place, NEXT] = first
    places[place, BEFORE] = 0
    if first > 0:
        places[first - 1, BEFORE] = place + 1
    heads[one[OWNER], one[KIND]] = place + 1
    deadlines[place] = one[TIME] + span
    minima[place // BLOCK] = min(minima[place // BLOCK], one[TIME] + span)


@kernel
def _meet(
    order: Int64s, told: Int64s, once: npt.NDArray[np.bool_], span: int, heads: Int64s, places: Int64s,
    deadlines: Int64s, minima: Int64s, counts: Int64s,
) -> tuple[Int64s, Int64s]:  # fmt: skip
    most = counts[_USED] + order.size
    met = np.empty((most, 2), np.int64)
    gone = np.empty(most, np.int64)
    m = g = begin = 0
    while begin < order.size:
        now = told[order[begin], _NOW]
        end = begin
        counts[_SERIAL] += 1
        while end < order.size and told[order[end], _NOW] == now:
            one = told[order[end]]
            if one[_TOLD_STEP] == ARRIVES:
                if one[TIME] + span >= now:
                    _take(one, span, heads, places, deadlines, minima, counts)
                elif one[NUMBER] >= 0:
                    gone[g] = one[NUMBER]
                    g += 1
            elif once[order[end]]:
                link = heads[one[OWNER], one[KIND]]
                while link > 0:
                    place = link - 1
                    link = places[place, NEXT]
                    if places[place, LEAF_CODE] == one[LEAF_CODE] and places[place, STAY] == one[STAY]:
                        if places[place, NUMBER] >= 0:
                            gone[g] = places[place, NUMBER]
                            g += 1
                        _free(place, heads, places, deadlines, counts)
            end += 1
        # What happens stands behind all that moved at its moment, on both sides.
        for happening in range(2):
            for at in range(begin, end):
                one = told[order[at]]
                slot = one[OWNER]
                newest = now
                if happening == 1:
                    if one[_TOLD_STEP] != HAPPENS:
                        continue
                    _take(one, span, heads, places, deadlines, minima, counts)
                    if one[KIND] == 0:
                        continue
                else:
                    if one[_TOLD_STEP] != ARRIVES or heads[slot, _STAMP] == counts[_SERIAL]:
                        continue
                    heads[slot, _STAMP] = counts[_SERIAL]
                    newest = np.iinfo(np.int64).min
                    link = heads[slot, 1]
                    while link > 0:
                        newest = max(newest, places[link - 1, TIME])
                        link = places[link - 1, NEXT]
                link = heads[slot, 0]
                while link > 0:
                    place = link - 1
                    link = places[place, NEXT]
                    # Those that time has passed are told of elsewhere; when they are dropped depends on the cut.
                    if places[place, TIME] < newest and places[place, TIME] + span >= now:
                        met[m, 0] = places[place, NUMBER]
                        met[m, 1] = now
                        m += 1
                        gone[g] = places[place, NUMBER]
                        g += 1
                        _free(place, heads, places, deadlines, counts)
        begin = end
    return met[:m].copy(), gone[:g].copy()
