"""Random keyed streams as a step sees them, and a driver that cuts them: what the tests of timed operators share.

Rows come out of order by more and by less than the lateness, keys are skewed, event times tie and lie before 1970, some
rows were released by time further up (even ROW), and whole steps have no row.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from hypothesis import strategies as st

from streamproc.batch import (
    ACCOUNT,
    C0,
    C1,
    DUE,
    EVENT_TIME,
    LATE,
    RANK,
    ROW,
    WATERMARK,
    WIDTH,
    Batch,
    concat,
)
from streamproc.contracts.model import Field, Schema
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType

RANK_HERE = 5
SECOND = 1_000_000

SCHEMA = Schema(
    (
        Field("k", pl.String()),
        Field("x", pl.Float64(), True),
        Field("i", pl.Int64()),
        Field("s", pl.String(), True),
        Field("d", pl.Decimal(20, 2), True),
    )
)
STREAM = StreamType(SCHEMA, ("k",))


@dataclass(frozen=True)
class Stream:
    """Input of one step: all rows (ROW counts from the start), and the watermark at each input row."""

    batch: Batch
    watermarks: npt.NDArray[np.int64]

    def piece(self, begin: int, stop: int) -> tuple[Batch, npt.NDArray[np.int64]]:
        """Input rows begin..stop as a step of their own."""
        row = self.batch.meta[:, ROW]
        inside = np.flatnonzero((row >= 2 * begin) & (row < 2 * stop))
        batch = self.batch.take(inside)
        meta = batch.meta.copy()
        meta[:, ROW] -= 2 * begin
        return Batch(batch.frame, meta, batch.keys), self.watermarks[begin:stop]


_FLOATS = np.array([0.1, -0.1, 1e16, -1e16, 1.0, 0.0, -0.0, 1e-300, 3.5, 1e308, 1e308, 5e-324, np.nan, np.inf, -np.inf])


def random_stream(seed: int, *, rows: int | None = None, keys: int | None = None, close: bool = True) -> Stream:
    """A stream that depends on the seed alone; ends with a row at the end of time unless `close` is off."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60)) if rows is None else rows
    names = np.array(["hot", "", "a", "ab", "ä", "zz", "zz9", "b" * 20])[: keys or int(rng.integers(1, 9))]
    weights = 1.0 / np.arange(1, names.size + 1) ** 2
    lateness = int(rng.choice([0, 3, 20])) * SECOND
    unit = int(rng.choice([1, SECOND // 2, SECOND]))
    base = int(rng.choice([-40, 0, 1_700_000_000])) * SECOND
    time = base + np.cumsum(rng.integers(0, 3, n)) * SECOND - rng.integers(0, 12, n) * (rng.random(n) < 0.4) * SECOND
    time = time // unit * unit
    highest = np.maximum.accumulate(time) if n else time
    meta = np.zeros((n, WIDTH), np.int64)
    meta[:, EVENT_TIME] = time
    if n:
        meta[:, WATERMARK] = highest - lateness
        before = np.concatenate(([MIN_TIME], highest[:-1])) - lateness
        meta[:, LATE] = time < before
        # Watermarks of the stage may lie above those of the rows' own partition, after an idle verdict.
        jump = np.where(rng.random(n) < 0.05, rng.integers(0, 15, n), 0) * SECOND
        meta[:, WATERMARK] = np.maximum.accumulate(meta[:, WATERMARK] + jump)
    meta[:, ROW] = 2 * np.arange(n) + 1
    meta[:, C0] = rng.integers(0, 2, n) << 32
    meta[:, C1] = rng.permutation(n)
    meta[:, ACCOUNT] = np.arange(n)
    watermarks = meta[:, WATERMARK].copy()
    if close:
        watermarks = np.append(watermarks, MAX_TIME)
    # Some rows turn into rows that time released before the next input row.
    below = np.concatenate(([MIN_TIME], watermarks[:-1])) if watermarks.size else watermarks
    for i in np.flatnonzero(rng.random(n) < 0.15):
        if below[i] < watermarks[i] and watermarks[i] < MAX_TIME:
            due = int(rng.integers(max(int(below[i]) + 1, int(watermarks[i]) - 10 * SECOND), int(watermarks[i]) + 1))
            meta[i, [EVENT_TIME, WATERMARK, ROW, DUE, RANK, LATE]] = [due, due, 2 * i, due, 2, 0]
    wild = rng.random() < 0.3
    pool = _FLOATS if wild else _FLOATS[:9]
    x = np.where(rng.random(n) < 0.5, pool[rng.integers(0, pool.size, n)], np.round(rng.normal(0, 100, n), 2))
    frame = pl.DataFrame(
        {
            "k": pl.Series(names[rng.choice(names.size, n, p=weights / weights.sum())], dtype=pl.String),
            "x": pl.Series(x, dtype=pl.Float64),
            "i": pl.Series(rng.integers(-5, 6, n), dtype=pl.Int64),
            "s": pl.Series(
                np.array(["", "x", "xy", "é", "long text that is shared"])[rng.integers(0, 5, n)], dtype=pl.String
            ),
            "d": pl.Series(rng.integers(-500, 500, n), dtype=pl.Int64).cast(pl.Decimal(20, 0)) / 100,
        },
        schema_overrides={"d": pl.Decimal(20, 2)},
    )
    none = pl.Series(rng.random(n) < 0.1)
    frame = frame.with_columns(
        [
            pl.when(none).then(None).otherwise(pl.col(name)).alias(name).cast(frame.schema[name])
            for name in ("x", "s", "d")
        ]
    )
    return Stream(Batch(frame, meta, keys_of(frame, ["k"])), watermarks)


@dataclass
class Ran:
    """Everything an operator made of a stream, its positions counted from the start."""

    rows: Batch
    late: Batch | None
    absorbed: npt.NDArray[np.int64]
    state: Any


def run(operator: Any, stream: Stream, cuts: list[int] | None = None, *, through: Any = copy.deepcopy) -> Ran:
    """Runs an operator over the stream in pieces; the state passes `through` a function between any two."""
    n = stream.watermarks.size
    bounds = [0, *sorted(min(cut, n) for cut in cuts or []), n]
    state = operator.open(STREAM)
    made: list[Batch] = []
    late: list[Batch] = []
    absorbed: list[npt.NDArray[np.int64]] = []
    for begin, stop in pairwise(bounds):
        batch, watermarks = stream.piece(begin, stop)
        time = StepTime(watermarks, RANK_HERE)
        frame, meta = batch.frame.clone(), batch.meta.copy()
        state, output = operator.process(state, (batch,), time)
        assert batch.frame.equals(frame, null_equal=True) and (batch.meta == meta).all(), "inputs are not changed"
        assert (np.lexsort((output.rows.meta[:, RANK], output.rows.meta[:, DUE], output.rows.meta[:, ROW]))
                == np.arange(len(output.rows))).all(), "rows stand in position order"  # fmt: skip
        assert output.rows.keys is not None and len(output.rows.keys) == len(output.rows) == output.rows.frame.height
        for part, into in ((output.rows, made), (output.late, late)):
            if part is not None:
                moved = part.meta.copy()
                moved[:, ROW] += 2 * begin
                into.append(Batch(part.frame, moved, part.keys))
        absorbed += time.fates.absorbed
        state = through(state)
    return Ran(concat(made), concat(late) if late else None, np.concatenate([*absorbed, np.empty(0, np.int64)]), state)


def same(a: Ran, b: Ran) -> None:
    """Asserts that two runs gave the same rows, late rows and fates."""
    for one, other in ((a.rows, b.rows), (a.late, b.late)):
        if one is None or other is None:
            assert one is other
            continue
        assert one.frame.schema == other.frame.schema
        assert bits(one.frame) == bits(other.frame)
        assert (one.meta == other.meta).all()
        assert one.keys is not None and other.keys is not None
        assert [one.keys.get(i) for i in range(len(one))] == [other.keys.get(i) for i in range(len(other))]
    assert sorted(a.absorbed) == sorted(b.absorbed)


def bits(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows with floats as their text, so that NaN equals itself and -0.0 is not 0.0."""
    return [tuple(repr(cell) for cell in row) for row in frame.iter_rows()]


def streams(**options: Any) -> st.SearchStrategy[Stream]:
    """Random streams."""
    return st.builds(lambda seed: random_stream(seed, **options), st.integers(0, 2**32))


def cuts() -> st.SearchStrategy[list[int]]:
    """Where to cut: twice at the same place makes a step without input rows."""
    return st.lists(st.integers(0, 60), max_size=8)
