"""Recorded input with rows taken away: what a row of the output would have been without them.

A row that is taken away leaves its place in time: the moment to which it moved the watermark stays, as a mark. So all
other rows are late or not, and windows close, as they did, and what changes is due to the row alone. Steps may be run
as one, since results do not depend on the cut; a step that ends in a verdict of the clock keeps its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from streamproc.batch import Batch, Raw
from streamproc.engine import units as unit
from streamproc.engine.compiled import Channel, CompiledStage
from streamproc.engine.step import StepInput, run_rows
from streamproc.engine.timeline import BAD, MARK, ROW
from streamproc.engine.units import UNIT_WIDTH, Units, joined_units, no_units
from streamproc.event_time import MIN_TIME
from streamproc.planning.plan import Port
from streamproc.ports import Int64s

Mask = npt.NDArray[np.bool_]
_NO_RUNS: Final = np.empty((0, 2), np.int64)


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """A task and all that it consumed up to some step, as few steps.

    steps  consecutive steps of the journal made one wherever no verdict of the clock stands between them
    """

    stage: CompiledStage
    task: int
    channels: tuple[Channel, ...]
    steps: tuple[StepInput, ...]

    @property
    def rows(self) -> int:
        """How many rows it consumed."""
        return sum(part.frame.height for step in self.steps for part in step.units)

    def masks(self, value: bool) -> list[list[Mask]]:
        """Per step and channel a mask over the rows, all of one value."""
        return [[np.full(part.frame.height, value) for part in step.units] for step in self.steps]

    def keeping(self, masks: Sequence[Sequence[Mask]]) -> RecordedTask:
        """The same with only the rows that the masks name; the others keep their place in time."""
        steps = tuple(thinned(step, keep) for step, keep in zip(self.steps, masks, strict=True))
        return replace(self, steps=steps)

    def outputs(self, port: Port) -> Iterable[Batch]:
        """The rows at a port of the stage, step by step, from an empty state."""
        state = self.stage.open_state(self.channels)
        for step in self.steps:
            state, rows = run_rows(self.stage, self.task, self.channels, state, step)
            yield rows[port]


def as_one(steps: Sequence[StepInput]) -> StepInput:
    """Consecutive steps as one; only the last may end in marks or a clock.  The cut law says that nothing changes."""
    if len(steps) == 1:
        return steps[0]
    parts = []
    for channel in range(len(steps[0].units)):
        filled = [step.units[channel] for step in steps if len(step.units[channel])]
        parts.append(joined_units(filled) if filled else no_units())
    runs = np.concatenate([_NO_RUNS, *(step.runs for step in steps)])
    return StepInput(tuple(parts), runs, steps[-1].marks, steps[-1].clock)


def few(steps: Iterable[StepInput]) -> tuple[StepInput, ...]:
    """Steps made one wherever no verdict of the clock stands between them."""
    found: list[StepInput] = []
    waiting: list[StepInput] = []
    for step in steps:
        waiting.append(step)
        if step.marks or step.clock is not None:
            found.append(as_one(waiting))
            waiting = []
    if waiting:
        found.append(as_one(waiting))
    return tuple(found)


def thinned(step: StepInput, keep: Sequence[Mask]) -> StepInput:
    """A step with only the rows that the masks name, one mask a channel over its rows.

    What lies between two rows that stay becomes one mark per channel, which carries the furthest watermark: time is
    where it was before the next row, and how it got there releases the same rows in the same order.
    Cost O(units log units).
    """
    sizes = [len(part) for part in step.units]
    starts = np.cumsum([0, *sizes])
    channel, at = _order(step.runs, len(sizes))
    joined = np.concatenate([np.empty((0, UNIT_WIDTH), np.int64), *(p.units for p in step.units if len(p))])
    first = np.array([int(starts[c]) for c in range(len(sizes))], np.int64)
    stays = np.zeros(joined.shape[0], np.bool_)
    for c, part in enumerate(step.units):
        if len(part):
            kinds = part.units[:, unit.KIND]
            # A mark that says "idle" is a verdict of its own.
            own = (kinds == MARK) & (part.units[:, unit.LATE] != 0)
            own[kinds == ROW] = keep[c]
            stays[starts[c] : starts[c] + len(part)] = own
    ordered = first[channel] + at
    staying = stays[ordered]
    gap = np.cumsum(staying)
    places = [np.flatnonzero(staying)]
    gone = np.flatnonzero(~staying)
    furthest = np.empty(0, np.int64)
    if gone.size:
        group = gap[gone] * len(sizes) + channel[gone]
        by_group = np.argsort(group, kind="stable")
        begins = np.flatnonzero(np.diff(group[by_group], prepend=group[by_group[0]] - 1))
        units = joined[ordered[gone[by_group]]]
        advance = np.where(units[:, unit.KIND] == BAD, MIN_TIME, units[:, unit.ADVANCE])
        furthest = np.maximum.reduceat(advance, begins)
        ends = np.append(begins[1:], gone.size) - 1
        places.append(gone[by_group][ends])
    place = np.concatenate(places)
    marks = np.concatenate([np.zeros(places[0].size, np.bool_), np.ones(furthest.size, np.bool_)])
    value = np.concatenate([np.zeros(places[0].size, np.int64), furthest])
    in_order = np.argsort(place, kind="stable")
    place, marks, value = place[in_order], marks[in_order], value[in_order]
    parts = tuple(
        _kept(part, at[place[mine]], marks[mine], value[mine], keep[c]) if len(part) else part
        for c, part in enumerate(step.units)
        for mine in (channel[place] == c,)
    )
    return StepInput(parts, _runs(channel[place]), step.marks, step.clock)


def standing_of(step: StepInput) -> list[Int64s]:
    """Per channel, the number of each unit in the order in which the step consumed them all."""
    channel, at = _order(step.runs, len(step.units))
    standing = [np.empty(len(part), np.int64) for part in step.units]
    for c, places in enumerate(standing):
        mine = np.flatnonzero(channel == c)
        places[at[mine]] = mine
    return standing


def _kept(part: Units, at: Int64s, marks: Mask, advance: Int64s, keep: Mask) -> Units:
    """Units of one channel: those at `at`, or a mark in their place."""
    units = part.units[at].copy()
    records = part.records[at].copy()
    units[marks] = 0
    units[marks, unit.KIND] = MARK
    units[marks, unit.ADVANCE] = advance[marks]
    units[marks, unit.INDEX] = -1
    units[marks, unit.OFFSET] = part.units[at[marks], unit.OFFSET]
    records[marks] = -1
    rows = units[:, unit.KIND] == ROW
    units[rows, unit.INDEX] = np.arange(int(rows.sum()))
    index = np.flatnonzero(keep)
    raw = part.raw
    if raw is not None:
        raw = Raw(raw.buffer, raw.starts[index], raw.ends[index], raw.key_starts[index], raw.key_ends[index])
    frame = part.frame[index] if part.frame.width else part.frame
    return Units(units, frame, part.meta[index], raw, part.buffer, records)


def _order(runs: Int64s, channels: int) -> tuple[Int64s, Int64s]:
    """For each unit in the order of consumption its channel and its number in that channel."""
    channel = np.repeat(runs[:, 0], runs[:, 1])
    at = np.empty(channel.size, np.int64)
    for c in range(channels):
        mine = np.flatnonzero(channel == c)
        at[mine] = np.arange(mine.size)
    return channel, at


def _runs(channel: Int64s) -> Int64s:
    """(channel, count) of each run of equal channels."""
    if not channel.size:
        return _NO_RUNS
    begins = np.flatnonzero(np.diff(channel, prepend=channel[0] - 1))
    counts = np.diff(np.append(begins, channel.size))
    return np.ascontiguousarray(np.stack((channel[begins], counts), axis=1))
