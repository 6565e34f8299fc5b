"""A trial: random input of one operator, as a stage would hand it over, that can be cut into steps anywhere.

Rows come out of order by more and by less than the lateness; event times tie and lie before 1970; keys are skewed; some
rows were released by time further up (even ROW), some are siblings of one position, time jumps past rows as after an
idle verdict, and whole steps have no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import (
    ACCOUNT,
    C0,
    C1,
    C3,
    DUE,
    EVENT_TIME,
    LATE,
    RANK,
    ROW,
    WATERMARK,
    WIDTH,
    Batch,
    Meta,
    Raw,
    position_order,
)
from streamproc.contracts.model import Schema
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.operator import StepTime, StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.operators.released import released_up_to
from streamproc.ports import Int64s
from streamproc.testing.random_rows import random_frame

Sampler = Callable[[np.random.Generator, int], pl.DataFrame]
"""Makes so many rows of one input."""

UNITS: Final = (1, 1_000, 1_000_000, 60_000_000)
"""µs between rows, unless a check names its own."""


@dataclass(frozen=True, slots=True)
class Event:
    """A row as a row-at-a-time engine meets it, or time alone (port -1).

    released_up_to  what was due by this moment, itself included, has gone
    """

    port: int
    time: int
    released_up_to: int
    late: bool
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """Input of an operator: rows of each port with positions counted from the start, and time at each input row."""

    types: tuple[StreamType, ...]
    ports: tuple[Batch, ...]
    watermarks: Int64s

    def piece(self, begin: int, stop: int) -> tuple[tuple[Batch, ...], Int64s]:
        """Input rows begin..stop as a step of their own."""
        batches = []
        for port in self.ports:
            first, last = np.searchsorted(port.meta[:, ROW], (2 * begin, 2 * stop)).tolist()
            index = np.arange(first, last)
            meta = port.meta[first:last].copy()
            meta[:, ROW] -= 2 * begin
            batches.append(
                Batch(
                    port.frame[first:last],
                    meta,
                    None if port.keys is None else port.keys.take(index),
                    None if port.raw is None else port.raw.take(index),
                )
            )
        return tuple(batches), self.watermarks[begin:stop].copy()

    def kept(self, keep: Sequence[npt.NDArray[np.bool_]]) -> Trial:
        """Only these rows of each port; time goes on as before."""
        return replace(self, ports=tuple(port.filter(mask) for port, mask in zip(self.ports, keep, strict=True)))

    def with_frames(self, frames: Sequence[pl.DataFrame]) -> Trial:
        """Other columns for the same rows under the same keys; the types are those of the columns that are there."""
        types, ports = [], []
        for kind, port, frame in zip(self.types, self.ports, frames, strict=True):
            there = Schema(tuple(column for column in kind.schema if column.name in frame.columns))
            types.append(replace(kind, schema=there))
            ports.append(replace(port, frame=frame, raw=None))
        return replace(self, types=tuple(types), ports=tuple(ports))

    def events(self) -> Iterator[Event]:
        """Rows in order of position, time alone before each input row: what a twin goes through."""
        met: list[tuple[tuple[int, int, int, int], Event]] = []
        for number, port in enumerate(self.ports):
            reached = released_up_to(port.meta)
            rows = port.frame.to_dicts()
            for i in range(len(port)):
                meta = port.meta[i]
                event = Event(number, int(meta[EVENT_TIME]), int(reached[i]), bool(meta[LATE]), rows[i])
                met.append(((int(meta[ROW]), int(meta[DUE]), int(meta[RANK]), number), event))
        for i, moment in enumerate(self.watermarks.tolist()):
            met.append(((2 * i + 1, MIN_TIME, 0, -1), Event(-1, moment, moment, False, {})))
        return (event for _, event in sorted(met, key=lambda pair: pair[0]))

    def told(self, most: int = 12) -> str:
        """The rows in words, for a message."""
        lines: list[str] = []
        for event in self.events():
            if event.port < 0:
                told = f"      time  {_moment(event.time)}"
                if lines and lines[-1].startswith("      time"):
                    lines.pop()
            else:
                told = f"      port {event.port}  {_moment(event.time)}{'  late' if event.late else ''}  {event.row}"
            lines.append(told)
        return "\n".join([*lines[:most], f"      ... {len(lines) - most} more"] if len(lines) > most else lines)


def _moment(time: int) -> str:
    return {MAX_TIME: "the end", MIN_TIME: "the beginning"}.get(time, str(time))


def random_trial(
    seed: int,
    types: Sequence[StreamType],
    *,
    rows: int = 40,
    unit_us: int | None = None,
    samplers: Sequence[Sampler | None] = (),
) -> Trial:
    """A trial that depends on the seed alone.

    rows      at most, over all ports
    unit_us   what event times are multiples of; by default one of `UNITS`
    samplers  make the rows of a port, where the random ones of its schema will not do
    """
    random = np.random.default_rng(seed)
    types = tuple(types)
    n = int(random.integers(0, rows + 1))
    unit = int(random.choice(UNITS)) if unit_us is None else unit_us
    port_of = random.integers(0, len(types), n)
    time = _times(random, n) * unit
    lateness = random.choice((0, 3, 20), len(types)) * unit
    watermarks, late = _watermarks(random, time, port_of, lateness, unit)
    meta = np.zeros((n, WIDTH), np.int64)
    meta[:, EVENT_TIME], meta[:, WATERMARK], meta[:, LATE] = time, watermarks, late
    meta[:, ROW] = 2 * np.arange(n) + 1
    meta[:, ACCOUNT] = np.arange(n)
    meta[:, C0] = (port_of << 32) + random.integers(0, 2, n)
    meta[:, C1] = random.permutation(n)
    if random.random() < 0.8:
        watermarks = np.append(watermarks, MAX_TIME)
    siblings = random.random() < 0.3
    wild = random.random() < 0.3
    ports = []
    for number, kind in enumerate(types):
        mine = meta[port_of == number]
        mine = _ordered(mine, watermarks, number) if kind.ordered else _some_released(random, mine, watermarks, unit)
        if siblings:
            mine = _with_siblings(random, mine)
        sampler = samplers[number] if number < len(samplers) else None
        sampled = sampler(random, len(mine)) if sampler else random_frame(random, kind.schema, len(mine), wild=wild)
        batch = Batch(
            sampled, np.ascontiguousarray(mine), None, None if siblings or kind.ordered else _payloads(len(mine))
        )
        if kind.keyed_by is not None:
            keyed = KeyBy(kind.keyed_by).process(None, (batch,), StepTime(watermarks, 0))[1].rows
            batch = batch.with_keys(keyed.keys)
        ports.append(batch)
    return Trial(types, tuple(ports), watermarks)


def random_cuts(random: np.random.Generator, steps: int) -> tuple[int, ...]:
    """Where to cut: nearly everywhere, in a few places, or twice at one place, which makes a step without rows."""
    if random.random() < 0.1:
        return tuple(range(1, steps))
    return tuple(sorted(int(cut) for cut in random.integers(0, steps + 1, int(random.integers(1, 5)))))


def _times(random: np.random.Generator, n: int) -> Int64s:
    base = int(random.choice((-40, 0, 1_700_000)))
    steps = random.integers(0, int(random.choice((2, 4, 30))), n)
    back = random.integers(0, int(random.choice((4, 30))), n) * (random.random(n) < 0.4)
    times: Int64s = base + np.cumsum(steps) - back
    return times


def _watermarks(
    random: np.random.Generator, time: Int64s, port_of: Int64s, lateness: Int64s, unit: int
) -> tuple[Int64s, Int64s]:
    """The stage's watermark at each row, and which rows are late: each port is a channel of its own."""
    reached = np.full(lateness.size, MIN_TIME, np.int64)
    watermarks, late = np.empty(time.size, np.int64), np.zeros(time.size, np.int64)
    stage = MIN_TIME
    jumps = random.random() < 0.3
    for i in range(time.size):
        port = port_of[i]
        late[i] = time[i] < reached[port]
        reached[port] = max(reached[port], time[i] - lateness[port])
        stage = max(stage, int(reached.min()))
        if jumps and random.random() < 0.1:
            stage = max(stage, int(reached.max()) + int(random.integers(0, 9)) * unit)
        watermarks[i] = stage
    return watermarks, late


def _some_released(random: np.random.Generator, meta: Meta, watermarks: Int64s, unit: int) -> Meta:
    """Turns some rows into what time released upstream before the next input row."""
    if random.random() < 0.5:
        return meta
    meta = meta.copy()
    for i in np.flatnonzero(random.random(len(meta)) < 0.3).tolist():
        at = int(meta[i, ROW]) // 2
        below, reached = (int(watermarks[at - 1]) if at else MIN_TIME), int(watermarks[at])
        if below < reached < MAX_TIME and reached > MIN_TIME:
            due = int(random.integers(max(below + 1, reached - 9 * unit), reached + 1))
            meta[i, [EVENT_TIME, WATERMARK, ROW, DUE, RANK, LATE]] = due, due, 2 * at, due, 2, 0
    return meta


def _ordered(meta: Meta, watermarks: Int64s, port: int) -> Meta:
    """The rows as `ordered` lets them go: each before the first input row whose watermark is above it."""
    meta = meta[(meta[:, LATE] == 0) & (meta[:, EVENT_TIME] >= meta[:, WATERMARK])]
    meta = meta[np.argsort(meta[:, EVENT_TIME], kind="stable")]
    at = np.searchsorted(watermarks, meta[:, EVENT_TIME], side="right")
    meta, at = meta[at < watermarks.size].copy(), at[at < watermarks.size]
    meta[:, ROW] = 2 * at
    meta[:, DUE] = meta[:, WATERMARK] = meta[:, EVENT_TIME]
    meta[:, RANK] = 1 + port
    return meta


def _with_siblings(random: np.random.Generator, meta: Meta) -> Meta:
    """Doubles some rows in their place, as `explode` does."""
    times = 1 + (random.random(len(meta)) < 0.2)
    doubled = np.repeat(meta, times, axis=0)
    doubled[:, C3] = np.arange(len(doubled)) - np.repeat(np.cumsum(times) - times, times)
    return doubled[position_order(doubled)]


def _payloads(rows: int) -> Raw:
    """A record for each row that says which row it is."""
    buffer = np.arange(rows, dtype=np.int32).view(np.uint8)
    starts = 4 * np.arange(rows, dtype=np.int64)
    none = np.full(rows, -1, np.int64)
    return Raw(buffer, starts, starts + 4, none, none)
