"""Bugs planted on purpose: each is one that a streaming engine really had, and the checks find every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.batch import EVENT_TIME, LATE, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.engine.ledger import Ledger, StepFates
from streamproc.errors import InputError, LogError, VerificationError
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.windows import Windows
from streamproc.runtime import task as runtime_task
from streamproc.testing import LawError, check_operator, checks
from streamproc.testing.topology_checks import TopologyError, check_topology

ROW = Schema((Field("k", pl.String()), Field("x", pl.Float64()), Field("i", pl.Int64())))
KEYED = StreamType(ROW, ("k",))
EVENT = parse_contract(
    '{"type": "record", "name": "event", "sp:version": 1, "fields": ['
    '{"name": "k", "type": "string", "sp:role": "key"}, {"name": "i", "type": "long"},'
    '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)
FRAME = pl.DataFrame({"k": ["a", "b", "a", "c"] * 10, "i": range(40), "at": [i * 1_000_000 for i in range(40)]})


def topology() -> sp.Topology:
    rows = sp.source("events", contract=EVENT, lateness="3s")
    return sp.Topology("t", sinks={"out": rows | sp.ordered() | sp.dedupe("k", within="4s", per="partition")})


@dataclass(frozen=True)
class Wrapped:
    """An operator with another `process`."""

    inner: Any

    @property
    def verb(self) -> str:
        return str(self.inner.verb)

    def schema(self, *inputs: StreamType) -> StreamType:
        return self.inner.schema(*inputs)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return self.inner.reads(needed, *inputs)

    def open(self, *inputs: StreamType) -> Any:
        return self.inner.open(*inputs)

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        return self.inner.process(state, inputs, time)


class LateByTheLastWatermark(Wrapped):
    """Judges all rows of a batch by the watermark at its end."""

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        meta = inputs[0].meta.copy()
        if time.end is not None:
            meta[:, LATE] |= meta[:, EVENT_TIME] < min(time.end, 2**61)
        return self.inner.process(state, (replace(inputs[0], meta=meta),), time)


class Hoarder(Wrapped):
    """Gives what it made one step later, as a buffer that is flushed once per poll."""

    def open(self, *inputs: StreamType) -> Any:
        return [0]

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        (batch,) = inputs
        numbers = pl.Series("i", np.arange(len(batch)) + state[0] % 1)
        return [state[0] + 1], Output(replace(batch, frame=batch.frame.with_columns(numbers), raw=None))


class WindowsThatCloseOneTooLate(Windows):
    """`>` where `>=` belongs: a window stays open at its very end."""

    def _release(self, state: Any, time: StepTime) -> Batch:
        end = time.watermarks - (np.diff(time.watermarks, prepend=time.watermarks[:1]) == 0)
        return super()._release(state, replace(time, watermarks=np.maximum.accumulate(end)))


class FloatTotals(Wrapped):
    """A running total per key of floats in the order in which rows come, begun anew with each batch's own sum."""

    def schema(self, *inputs: StreamType) -> StreamType:
        return StreamType(Schema((Field("k", pl.String()), Field("total", pl.Float64()))), ("k",))

    def open(self, *inputs: StreamType) -> Any:
        return [{}]

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        (batch,) = inputs
        sums = batch.frame.select("k", total=pl.col("x").cum_sum().over("k"))
        before = [state[0].get(key, 0.0) for key in sums["k"]]
        sums = sums.with_columns(total=pl.Series(before, dtype=pl.Float64) + pl.col("total"))
        after = {**state[0], **dict(zip(sums["k"], sums["total"], strict=True))}
        return [after], Output(replace(batch, frame=sums, raw=None))


class Unsaid(Wrapped):
    """Reads a column that it does not declare."""

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        keep = inputs[0].frame["x"].fill_nan(0.0).to_numpy() >= 0 if "x" in inputs[0].frame.columns else None
        return self.inner.process(state, inputs if keep is None else (inputs[0].filter(keep),), time)


class Shared(Wrapped):
    """Numbers rows over all keys, and says that it is keyed."""

    def open(self, *inputs: StreamType) -> Any:
        return [0]

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        (batch,) = inputs
        numbers = pl.Series("i", np.arange(state[0], state[0] + len(batch)))
        frame = batch.frame.with_columns(numbers)
        return [state[0] + len(batch)], Output(replace(batch, frame=frame, raw=None))


def operator(step: Any) -> Any:
    return step.operator


def planted() -> Iterator[tuple[str, str, Any]]:
    where = operator(sp.where(pl.col("i") > 0))
    windows = operator(sp.tumbling("4s", n=sp.count()))
    late = LateByTheLastWatermark(operator(sp.dedupe("i", within="4s")))
    yield "lateness by the last watermark of a batch", "cut", late
    yield "state per poll", "cut", Hoarder(where)
    yield (
        "a window that closes one too late",
        "cut",
        WindowsThatCloseOneTooLate(
            windows.verb, windows.span_us, windows.every_us, windows.offset_us, windows.emit, windows.aggregates
        ),
    )
    yield "totals of floats in order", "cut", FloatTotals(where)
    yield "a column that is not declared", "lineage", Unsaid(where)
    yield "state shared by keys that says it is keyed", "key", Shared(where)


@pytest.mark.parametrize(("bug", "law", "broken"), list(planted()), ids=[bug for bug, _, _ in planted()])
def test_a_planted_bug_in_an_operator_is_found(bug: str, law: str, broken: Any) -> None:
    with pytest.raises(LawError, match=f"breaks the law of {law}") as told:
        check_operator(broken, KEYED, seeds=200, rows=16, unit="1s")
    assert "rows are enough" in str(told.value) and "seed" in str(told.value)


def test_memory_that_is_lost_on_restore_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def emptied(template: Any, arrays: dict[str, Any]) -> Any:
        return operator(sp.dedupe("k", within="9s")).open(KEYED)

    monkeypatch.setattr(checks, "import_state", emptied)
    with pytest.raises(LawError, match="breaks the law of resume"):
        check_operator(sp.dedupe("k", within="9s"), KEYED, seeds=100, rows=16, unit="1s")


def test_a_ledger_that_forgets_held_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = StepFates.settle

    def forgets(self: StepFates, ledger: Ledger, held: Sequence[Any], released: Sequence[Any]) -> Ledger:
        settled = honest(self, ledger, held, released)
        return replace(settled, counts=settled.counts - (settled.accounts.size > 3))

    monkeypatch.setattr(StepFates, "settle", forgets)
    with pytest.raises(TopologyError, match="conservation"):
        check_topology(topology(), {"events": FRAME}, contracts=(EVENT,))


def test_a_journal_that_skips_a_range_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = runtime_task.consumed

    def skips(channels: Any, units: Any, before: Any, after: Any) -> Any:
        ranges, records = honest(channels, units, before, after)
        return tuple(replace(r, first=r.first + 1) if r.first == 6 else r for r in ranges), records

    monkeypatch.setattr(runtime_task, "consumed", skips)
    with pytest.raises((TopologyError, VerificationError, LogError, InputError)):
        check_topology(topology(), {"events": FRAME}, contracts=(EVENT,), seeds=12)


def test_the_same_topology_without_a_bug_passes() -> None:
    sums = check_topology(topology(), {"events": FRAME}, contracts=(EVENT,), partitions=(1,), ordered=("out",))
    assert sums["t.out"].rows > 0
