"""Random streams with everything that makes time hard, and a driver that cuts them into steps.

Rows come out of order by more and by less than the lateness; event times tie; watermarks jump; some rows were released
by time further up; keys and values are null at times; several ports share the input rows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, WIDTH, Batch, concat
from streamproc.contracts.model import Field, Schema
from streamproc.keys import keys_of
from streamproc.operator import Operator, StepTime, StreamType
from streamproc.state import export_state, import_state
from streamproc.testing.naive import Row, rows_of

RANK_HERE = 6
SCHEMAS = (
    Schema(
        (
            Field("k", pl.String(), True),
            Field("n", pl.Int64(), True),
            Field("x", pl.Float64(), True),
            Field("s", pl.String(), True),
        )
    ),
    Schema((Field("k", pl.String(), True), Field("n", pl.Int64(), True), Field("note", pl.String(), True))),
)
_FLOATS = (
    0.1,
    0.2,
    0.3,
    1e16,
    -1e16,
    1.0,
    3.5,
    1e-300,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
)


@dataclass(frozen=True)
class Recorded:
    """The rows of each port in position order, and the stage's watermark at each input row."""

    ports: tuple[Batch, ...]
    watermarks: tuple[int, ...]
    kinds: tuple[StreamType, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows as the twins take them."""
        return [row for port, batch in enumerate(self.ports) for row in rows_of(batch, port=port)]


def recorded(seed: int, *, ports: int = 1, in_order: bool = False, deletes: bool = False) -> Recorded:
    """A stream that depends on the seed alone.

    in_order  as below `ordered`: all rows were released by time, in order of event time, in time
    deletes   the ports are tables: the column `gone` says of a row that it deletes its key
    """
    rng = random.Random(seed)
    count, lateness, step = rng.randint(0, 45), rng.choice([0, 2, 8]), rng.choice([1, 3, 12])
    wild = rng.random() < 0.3
    now, highest = rng.randint(-60, 60), -(2**62)
    watermarks: list[int] = []
    rows: list[tuple[int, list[int], list[Any]]] = []
    for index in range(count):
        now += rng.randint(0, step) if rng.random() < 0.6 else 0
        before = watermarks[-1] if watermarks else -(2**62)
        time = now - (rng.randint(0, lateness + 3) if rng.random() < 0.5 else 0)
        late = time < highest - lateness
        highest = max(highest, time)
        jump = rng.randint(1, 9) if rng.random() < 0.04 else 0
        watermarks.append(max(before, highest - lateness + jump))
        meta = [0] * WIDTH
        meta[EVENT_TIME], meta[WATERMARK], meta[ROW], meta[LATE] = time, watermarks[-1], 2 * index + 1, late
        if watermarks[-1] > before > -(2**61) and rng.random() < 0.25 and not in_order:
            due = rng.randint(before + 1, watermarks[-1])
            meta[EVENT_TIME], meta[WATERMARK], meta[LATE] = due, due, 0
            meta[ROW], meta[DUE], meta[RANK] = 2 * index, due, rng.randint(1, 2)
        values = [
            rng.choice(["a", "a", "a", "b", "b", "cc", "", None]),
            None if rng.random() < 0.15 else rng.randint(-4, 4),
            None if rng.random() < 0.15 else rng.choice(_FLOATS if wild else _FLOATS[:10]),
            rng.choice(["u", "v", "é", "", None]),
        ]
        rows.append((rng.randrange(ports), meta, values))
    if in_order:
        rows = [row for row in rows if not row[1][LATE] and row[1][EVENT_TIME] >= row[1][WATERMARK]]
        for _, meta, _ in rows:
            time = meta[EVENT_TIME]
            at = next((i for i, watermark in enumerate(watermarks) if watermark > time), len(watermarks))
            meta[ROW], meta[DUE], meta[RANK], meta[WATERMARK] = 2 * at, time, 1, time
        rows = [row for row in rows if row[1][ROW] < 2 * len(watermarks)]
    rows.sort(key=lambda row: (row[1][ROW], row[1][DUE], row[1][RANK]))
    # Below `ordered` rows of one moment stand by coordinate; elsewhere coordinates and arrival have nothing in common.
    names = list(range(len(rows))) if in_order else rng.sample(range(len(rows)), len(rows))
    for account, (port, meta, _) in enumerate(rows):
        meta[ACCOUNT] = account
        meta[C0 : C0 + 4] = [port << 32, names[account], 0, 0]
    batches, kinds = tuple(_batch(rows, port) for port in range(ports)), types(ports, ordered=in_order)
    if deletes:
        gone = Field("gone", pl.Boolean(), deletes=True)
        telling = (pl.col("n") < -1).fill_null(True).alias("gone")
        batches = tuple(replace(batch, frame=batch.frame.with_columns(telling)) for batch in batches)
        kinds = tuple(replace(kind, schema=Schema((*kind.schema, gone))) for kind in kinds)
    return Recorded(batches, tuple(watermarks), kinds)


def _batch(rows: Sequence[tuple[int, list[int], list[Any]]], port: int) -> Batch:
    mine = [(meta, values) for at, meta, values in rows if at == port]
    width = len(SCHEMAS[port].fields)
    # The fourth value is the text of both ports.
    cells = [values if width == 4 else [*values[:2], values[3]] for _, values in mine]
    frame = pl.DataFrame(cells, schema=SCHEMAS[port].polars(), orient="row")
    meta = np.array([meta for meta, _ in mine], np.int64).reshape(len(mine), WIDTH)
    return Batch(frame, meta, keys_of(frame, ["k"]))


def types(ports: int = 1, *, ordered: bool = False) -> tuple[StreamType, ...]:
    """What the plan knows of the ports."""
    return tuple(StreamType(SCHEMAS[port], ("k",), ordered) for port in range(ports))


def run(operator: Operator, stream: Recorded, cuts: Sequence[int]) -> tuple[list[Row], list[Row]]:
    """What an operator makes of the stream in pieces, and its late rows by position, as the twins give them.

    Between two pieces the state is stored and read back: law 2 is in every comparison.
    """
    kinds = stream.kinds
    promised = operator.schema(*kinds).schema.polars()
    state = operator.open(*kinds)
    count = len(stream.watermarks)
    edges = sorted({0, count, *(cut for cut in cuts if cut <= count)})
    made: list[Batch] = []
    late: list[Row] = []
    for first, stop in itertools.pairwise(edges):
        pieces = tuple(_moved(_between(batch, first, stop), -first) for batch in stream.ports)
        time = StepTime(np.array(stream.watermarks[first:stop], np.int64), RANK_HERE)
        state, output = operator.process(state, pieces, time)
        state = import_state(operator.open(*kinds), export_state(state))
        assert output.rows.frame.schema == promised
        made.append(_moved(output.rows, first))
        for port, batch in enumerate((output.late, *output.late_others)):
            late += [] if batch is None else rows_of(_moved(batch, first), port=port)
    return rows_of(concat(made)) if made else [], sorted(late, key=lambda row: (row.position, row.port))


def _between(batch: Batch, first: int, stop: int) -> Batch:
    return batch.filter((batch.meta[:, ROW] >= 2 * first) & (batch.meta[:, ROW] < 2 * stop))


def _moved(batch: Batch, by: int) -> Batch:
    meta = batch.meta.copy()
    meta[:, ROW] += 2 * by
    return replace(batch, meta=meta)
