"""Random streams for operators that depend on time, and a driver that cuts them into steps.

A stream is a list of input rows with a watermark each, and of rows that time released upstream before some of them.
`drive` gives what comes out with global positions, so that runs that were cut in other places can be compared as lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from streamproc.batch import ACCOUNT, C0, DUE, EVENT_TIME, LATE, RANK, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.hashing import mix64
from streamproc.keys import keys_of
from streamproc.operator import Fates, Operator, StepTime, StreamType
from streamproc.state import export_state, import_state

RANK_UNDER_TEST = 7


@dataclass(frozen=True)
class Row:
    """A row of a test stream; if time released it, it stands before input row `at`, else it is that one."""

    port: int
    at: int
    time: int
    key: str | None
    value: int | None
    late: bool = False
    released: bool = False
    account: int = -1
    watermark: int = 0

    @property
    def position(self) -> tuple[int, int, int]:
        return (2 * self.at, self.time, 1 + self.port) if self.released else (2 * self.at + 1, 0, 0)


@dataclass(frozen=True)
class TestStream:
    """Rows in position order, and the stage's watermark at each input row."""

    __test__ = False

    rows: tuple[Row, ...]
    watermarks: tuple[int, ...]
    ports: int = 1


@dataclass
class Result:
    """All that came out: rows as tuples with global positions, late rows per port, and the ledger."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    late: list[list[tuple[Any, ...]]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    absorbed: list[int] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    metas: list[np.ndarray] = field(default_factory=list)

    def sorted_fates(self) -> tuple[list[int], list[int], list[int]]:
        return sorted(self.held), sorted(self.released), sorted(self.absorbed)


SCHEMAS = (
    Schema((Field("key", pl.String(), nullable=True), Field("value", pl.Int64(), nullable=True))),
    Schema((Field("key", pl.String(), nullable=True), Field("value", pl.Int64(), nullable=True),
            Field("note", pl.String(), nullable=True))),
)  # fmt: skip


def stream_types(ports: int, *, ordered: bool = False, keyed: bool = True) -> tuple[StreamType, ...]:
    return tuple(StreamType(SCHEMAS[port], ("key",) if keyed else None, ordered) for port in range(ports))


@st.composite
def timed_streams(draw: st.DrawFn, *, ports: int = 1, max_rows: int = 40, in_order: bool = False) -> TestStream:
    """Streams with ties, disorder, late rows, hot keys, null keys and rows released upstream.

    in_order  every row is one that an `ordered` released: position before the first row with a higher watermark
    """
    lateness = draw(st.sampled_from([0, 2, 5, 20]))
    n = draw(st.integers(0, max_rows))
    spread = draw(st.sampled_from([3, 10, 60]))
    seed = draw(st.integers(0, 2**32 - 1))
    return make_stream(np.random.default_rng(seed), n, lateness=lateness, spread=spread, ports=ports, in_order=in_order)


def make_stream(
    random: np.random.Generator, n: int, *, lateness: int, spread: int, ports: int = 1, in_order: bool = False
) -> TestStream:
    inputs: list[Row] = []
    watermarks: list[int] = []
    now, highest = int(random.integers(-5, 50)), -(2**62)
    keys = ["a", "a", "a", "b", "b", "cc", "", None]
    released: list[Row] = []

    def row(at: int, time: int, **more: Any) -> Row:
        port = int(random.integers(ports))
        value = None if random.random() < 0.1 else int(random.integers(4))
        return Row(port, at, time, keys[int(random.integers(len(keys)))], value, **more)

    for at in range(n):
        now += int(random.integers(0, spread)) if random.random() < 0.5 else 0
        time = now - int(random.integers(0, lateness + 3)) if random.random() < 0.6 else now
        late = time < highest - lateness
        highest = max(highest, time)
        before = watermarks[-1] if watermarks else -(2**62)
        jump = int(random.integers(0, 10)) if random.random() < 0.05 else 0  # an idle verdict moves time past rows
        watermarks.append(max(before, highest - lateness + jump))
        inputs.append(row(at, time, late=late, watermark=watermarks[-1]))
        if before > -(2**61) and watermarks[-1] > before and random.random() < 0.3:
            strict = bool(random.random() < 0.5)
            for due in sorted(int(d) for d in random.integers(before + (not strict), watermarks[-1] + (not strict), 2)):
                released.append(row(at, due, released=True, watermark=due))
    if in_order:
        first_above = [next((i for i, w in enumerate(watermarks) if w > r.time), n) for r in inputs]
        released = [
            Row(r.port, at, r.time, r.key, r.value, released=True, watermark=r.time)
            for r, at in zip(inputs, first_above, strict=True)
            if at < n and not r.late and r.time >= r.watermark
        ]
        inputs = []
    rows = sorted([*inputs, *released], key=lambda r: r.position)
    return TestStream(
        tuple(
            Row(r.port, r.at, r.time, r.key, r.value, r.late, r.released, i, r.watermark) for i, r in enumerate(rows)
        ),
        tuple(watermarks),
        ports,
    )


def coordinate(row: Row) -> tuple[int, int, int, int]:
    """Deliberately not in order of arrival, so that ties are really sorted."""
    return (row.port << 32, (row.account * 7919) % 101, row.account, 0)


def batch_of(stream: TestStream, port: int, *, keyed: bool) -> Batch:
    """All rows of one port."""
    rows = [row for row in stream.rows if row.port == port]
    meta = np.zeros((len(rows), WIDTH), np.int64)
    for i, row in enumerate(rows):
        r, due, rank = row.position
        meta[i, [EVENT_TIME, WATERMARK, ROW, DUE, RANK, ACCOUNT, LATE]] = (
            row.time, row.watermark, r, due, rank, row.account, row.late)  # fmt: skip
        meta[i, C0 : C0 + 4] = coordinate(row)
    columns: dict[str, Any] = {"key": [r.key for r in rows], "value": [r.value for r in rows]}
    if port == 1:
        columns["note"] = [None if r.value is None else f"n{r.account}" for r in rows]
    frame = pl.DataFrame(columns, schema=SCHEMAS[port].polars())
    return Batch(frame, meta, keys_of(frame, ("key",)) if keyed else None)


def step_of(whole: Batch, first: int, stop: int) -> Batch:
    """The rows of a port that belong to input rows first..stop, with positions counted from there."""
    start, end = np.searchsorted(whole.meta[:, ROW], [2 * first, 2 * stop])
    meta = whole.meta[start:end].copy()
    meta[:, ROW] -= 2 * first
    keys = None if whole.keys is None else whole.keys.take(np.arange(start, end))
    return Batch(whole.frame[int(start) : int(end)], meta, keys)


def _tuples(batch: Batch, first: int) -> list[tuple[Any, ...]]:
    out = []
    for i in range(len(batch)):
        meta = batch.meta[i].tolist()
        meta[ROW] += 2 * first
        key = None if batch.keys is None or batch.keys.starts[i] < 0 else batch.keys.get(i)
        out.append((tuple(meta), key, batch.frame.row(i)))
    return out


def drive(
    operator: Operator, stream: TestStream, cuts: Sequence[int], *,
    resume: bool = False, ordered: bool = False, keyed: bool = True,
) -> Result:  # fmt: skip
    """Runs the operator over the stream, cut before the input rows in `cuts`; `resume` stores and reads state there."""
    types = stream_types(stream.ports, ordered=ordered, keyed=keyed)
    promised = operator.schema(*types).schema.polars()
    state = operator.open(*types)
    result = Result(late=[[] for _ in range(stream.ports)])
    wholes = [batch_of(stream, port, keyed=keyed) for port in range(stream.ports)]
    edges = sorted({0, len(stream.watermarks), *(c for c in cuts if c <= len(stream.watermarks))})
    for first, stop in pairwise(edges):
        inputs = tuple(step_of(whole, first, stop) for whole in wholes)
        before = [batch.meta.copy() for batch in inputs]
        time = StepTime(np.array(stream.watermarks[first:stop], np.int64), RANK_UNDER_TEST, Fates())
        state, output = operator.process(state, inputs, time)
        for batch, meta in zip(inputs, before, strict=True):
            assert (batch.meta == meta).all(), "an input was changed"
        if resume:
            state = import_state(operator.open(*types), export_state(state))
        assert output.rows.frame.schema == promised
        assert output.rows.meta.flags.c_contiguous and output.rows.meta.dtype == np.int64
        assert len(output.rows) == output.rows.frame.height
        result.rows += _tuples(output.rows, first)
        for port, late in enumerate((output.late, *output.late_others)):
            if late is not None:
                result.late[port] += _tuples(late, first)
        for ours, theirs in ((result.held, time.fates.held), (result.released, time.fates.released),
                             (result.absorbed, time.fates.absorbed)):  # fmt: skip
            for accounts in theirs:
                ours += accounts.tolist()
    positions = [meta[ROW : RANK + 1] for meta, _, _ in result.rows]
    assert positions == sorted(positions), "rows do not stand in position order"
    return result


def cuts_of(stream: TestStream) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, max(0, len(stream.watermarks))), max_size=6)


def hash_of(row: Row) -> int:
    """The hash of a row's coordinate, as a join pair carries it."""
    parts = [np.array([c], np.int64) for c in coordinate(row)]
    return int(mix64(*parts).view(np.int64)[0])
