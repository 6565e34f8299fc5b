"""The order in which a step takes its inputs, and time along that order.

A task reads several *channels*: partition p of each source, and one partition per upstream task of each internal topic.
What a channel gives is a sequence of *units*: rows, records that could not be read, and watermark marks. Every unit
has an
`advance`, the watermark that it implies for its channel (event time minus lateness; the sender's watermark; nothing).

`choose_runs` merges channels by their running watermark, the one that lags first, so that live and historical runs see
nearly the same order; `run_time` walks the chosen order and writes down the stage's time at each unit.
"""

from __future__ import annotations

import numpy as np

from streamproc import batch
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.kernels import kernel
from streamproc.ports import Int64s
from streamproc.row_loops import copy_rows

ROW = 1
BAD = 0
MARK = 2
_ROW = batch.ROW
_WATERMARK = batch.WATERMARK
_ACCOUNT = batch.ACCOUNT
_LATE = batch.LATE


@kernel
def choose_runs(advance: Int64s, starts: Int64s, ends: Int64s, watermark: Int64s, waits: Int64s) -> Int64s:
    """Runs of units in merged order, as rows (channel, count).

    advance    int64[n]  of all channels' waiting units, one channel after the other
    starts, ends int64[c] bounds of each channel in it
    watermark  int64[c]  each channel's watermark so far
    waits      int64[c]  1 where more may come from the channel: what it gives next comes with at least its watermark of
                         now, so the order ends where that would be the next one, and goes on below it

    The next unit is that of the channel whose watermark, after it, is least; of equals the first channel's.
    Returns int64[r, 2].  Cost O(n c) at worst, O(n) where channels advance in long runs.
    """
    channels = starts.size
    at = starts.copy()
    current = watermark.copy()
    key = np.empty(channels, np.int64)
    for c in range(channels):
        if at[c] < ends[c]:
            key[c] = max(current[c], advance[at[c]])
        else:
            key[c] = current[c] if waits[c] == 1 and current[c] < MAX_TIME else MAX_TIME + 1
    capacity = 64
    runs = np.empty((capacity, 2), np.int64)
    count = 0
    while True:
        best = -1
        second = MAX_TIME + 1
        second_at = channels
        for c in range(channels):
            if key[c] > MAX_TIME:
                continue
            if best < 0 or key[c] < key[best]:
                if best >= 0:
                    second, second_at = key[best], best
                best = c
            elif key[c] < second:
                second, second_at = key[c], c
        if best < 0 or at[best] >= ends[best]:
            break
        begin = at[best]
        # The run goes on while this channel stays least (equal keys: the smaller number wins).
        while True:
            current[best] = key[best]
            at[best] += 1
            if at[best] >= ends[best]:
                key[best] = current[best] if waits[best] == 1 and current[best] < MAX_TIME else MAX_TIME + 1
                break
            following = advance[at[best]]
            key[best] = following if following > current[best] else current[best]
            if key[best] > second or (key[best] == second and second_at < best):
                break
        if count == capacity:
            grown = np.empty((capacity * 2, 2), np.int64)
            copy_rows(runs, grown, capacity)
            runs = grown
            capacity *= 2
        runs[count, 0] = best
        runs[count, 1] = at[best] - begin
        count += 1
    return runs[:count].copy()


@kernel
def stage_time(watermark: Int64s, idle: Int64s, slack: Int64s) -> int:
    """Where the time of a stage stands: the least watermark of the channels that are awake.

    idle   int64[c]  0 awake; 1 silent, so that it holds nobody back; 2 silent for as long as its lateness too
    slack  int64[c]  how far a channel's time goes on beyond its watermark once nothing of it is waited for: past the
                     newest event that it gave

    Where all sleep, time rests until nothing is waited for any more: then it passes the newest event of all, so that
    no row stays behind in a task that hears nothing.  The beginning of time where there is none.
    """
    least, newest = MAX_TIME, MIN_TIME
    awake = False
    for c in range(watermark.size):
        if idle[c] == 0:
            awake = True
            least = min(least, watermark[c])
        elif idle[c] == 2 and watermark[c] > MIN_TIME:
            newest = max(newest, watermark[c] + slack[c])
    return least if awake else newest


@kernel
def run_time(
    runs: Int64s,
    advance: Int64s,
    event_time: Int64s,
    kinds: Int64s,
    sourced: Int64s,
    starts: Int64s,
    watermark: Int64s,
    idle: Int64s,
    slack: Int64s,
    stage: int,
    time: Int64s,
    late: Int64s,
    unit_of: Int64s,
) -> int:
    """Walks the units in the order of `runs` and writes down time; returns the stage's watermark at the end.

    runs        int64[r, 2]  (channel, count)
    advance, event_time, kinds  int64[n] of the channels' units, one channel after the other from `starts`
    sourced     int64[c]     1 for the partition of a source (lateness is judged), 0 for an internal channel, 2 for one
                             of feedback: it stays idle, and its watermark says only what it has heard
    watermark   int64[c]     in and out: each channel's watermark
    idle        int64[c]     in and out: 1 while the channel does not hold time back, 2 once nothing of it is waited for
                             either (`stage_time`); a unit ends it
    slack       int64[c]     see `stage_time`
    stage       the stage's watermark before; it never goes back
    time        int64[m]     out: the stage's watermark at each unit, in order
    late        int64[n]     in and out: set to 1 for rows of sources that come later than the lateness allows; on a
                             mark of an internal channel it says what its sender is (`idle`)
    unit_of     int64[m]     out: index (into advance) of each unit, in order

    A row is late if its event time is below its own channel's watermark before it: that is the running maximum of event
    time minus lateness, row by row, so no cut of the input can change it.
    """
    at = starts.copy()
    m = 0
    for r in range(runs.shape[0]):
        c = runs[r, 0]
        for _ in range(runs[r, 1]):
            u = at[c]
            at[c] += 1
            if sourced[c] == 2:
                if kinds[u] == 2 and advance[u] > watermark[c]:
                    watermark[c] = advance[u]
                time[m] = stage
                unit_of[m] = u
                m += 1
                continue
            moved = idle[c] != 0
            idle[c] = 0
            if kinds[u] == 1 and sourced[c] == 1 and event_time[u] < watermark[c]:
                late[u] = 1
            if kinds[u] != 0 and advance[u] > watermark[c]:
                watermark[c] = advance[u]
                moved = True
            if kinds[u] == 2 and late[u] != 0:
                # The sender of an internal channel says that it is idle itself.
                idle[c] = late[u]
                moved = True
            if moved:
                stage = max(stage, stage_time(watermark, idle, slack))
            time[m] = stage
            unit_of[m] = u
            m += 1
    return int(stage)


@kernel
def place_rows(
    units: Int64s, meta: Int64s, order: Int64s, start: int, time: Int64s, late: Int64s, first_account: int
) -> Int64s:
    """The meta matrix of a channel's rows, with position, watermark, account and late flag set.

    units  int64[n, UNIT_WIDTH] of the channel; its units are `order[start : start + n]`-th in the step
    meta   int64[k, WIDTH] of its rows, in order
    time, late  of the whole step: by place in the order, and by unit
    """
    out = meta.copy()
    row = 0
    for u in range(units.shape[0]):
        if units[u, 0] != 1:
            continue
        at = order[start + u]
        out[row, _ROW] = 2 * at + 1
        out[row, _WATERMARK] = time[at]
        out[row, _ACCOUNT] = first_account + at
        out[row, _LATE] = late[start + u]
        row += 1
    return out
