"""`alert`: one alert for one cause, raised and resolved, however often the cause shows.

Per key there is a small machine: quiet, rising (the condition holds but not long enough yet), raised. It moves on rows
alone, so a replay makes the same alerts, and a restart none twice. Replays write to topics of their own, which nobody
pages from: alerts are suppressed there without a word of the author.

A storm: where more keys than `storm` raise within one span of `fold`, the next one is told as "storm" and further ones
are folded: not told, and not resolved one by one either, until the span is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, Batch
from streamproc.columns import grow, next_rows
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.graph import Step
from streamproc.hashing import frozen, mix64
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.evaluation import evaluate
from streamproc.operators.expressions import check_predicate, expression_columns
from streamproc.operators.lateness import split_late
from streamproc.ports import Int64s
from streamproc.state import KeyTable

Floats = npt.NDArray[np.float64]
Severity = Literal["info", "warning", "high", "critical"]
SEVERITIES: Final = ("info", "warning", "high", "critical")
STATUS: Final = ("raised", "resolved", "storm")
_RAISED, _RESOLVED, _STORM = 0, 1, 2
_QUIET, _RISING, _UP = 0, 1, 2
_STATE, _SINCE, _ROWS, _CALM = 0, 1, 2, 3
_NEVER: Final = -(2**63)

ALERT: Final = (
    Field("alert", pl.String()), Field("status", pl.String()), Field("severity", pl.String()),
    Field("value", pl.Float64(), nullable=True), Field("peak", pl.Float64(), nullable=True),
    Field("since", pl.Int64(), unit="us"), Field("alert_rows", pl.Int64()), Field("cause", pl.Int64()),
    Field("runbook", pl.String()),
)  # fmt: skip
"""Columns of an alert behind the key.

status      "raised", "resolved", "storm" (raised, and further keys are folded until the span is over)
value, peak the value at the row that told, and the largest since; null of a condition
since       event time (µs) at which the condition began to hold
alert_rows  rows on which it held since then; of a storm the keys that raised in the span
cause       the same number for all that is told of one cause: what receivers dedupe by
"""


@dataclass(slots=True)
class AlertState:
    """Machines by slot of the table, and the span of the storm.

    machines  int64[slots, 4]: quiet, rising or raised; since; rows; since when it is calm
    peaks     float64[slots]
    folded    int64[slots]: 1 where the raised alert was folded into a storm
    span      int64[2]: number of the span of `fold` that runs, keys that raised in it
    keys      names of the key's columns
    """

    table: KeyTable
    machines: Int64s
    peaks: Floats
    folded: Int64s
    span: Int64s
    keys: list[str]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told: of which row, raised or resolved, value, peak, since when, rows."""

    rows: Int64s
    statuses: Int64s
    values: Floats
    peaks: Floats
    since: Int64s
    counts: Int64s

    def kept(self, mask: npt.NDArray[np.bool_]) -> _Told:
        """Only some of it."""
        arrays = (self.rows, self.statuses, self.values, self.peaks, self.since, self.counts)
        return _Told(*(array[mask] for array in arrays))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Alert:
    """Raises and resolves alerts per key, see `alert`."""

    title: str
    what: str | pl.Expr
    above: float
    clear: float
    hold_us: int
    calm_us: int
    severity: str
    runbook: str
    storm: int
    fold_us: int

    @property
    def verb(self) -> str:
        return "alert"

    @property
    def _reads(self) -> tuple[str, ...]:
        return (self.what,) if isinstance(self.what, str) else tuple(sorted(expression_columns(self.what)))

    def schema(self, *inputs: StreamType) -> StreamType:
        """The key's columns and those of `ALERT`.

        Raises DefinitionError without a key, UnknownColumn, TypeMismatch, DuplicateName.
        """
        (rows,) = inputs
        keys = rows.require_key(self.verb)
        if isinstance(self.what, str):
            if self.what not in rows.schema:
                raise UnknownColumn(
                    f"step 'alert' reads '{self.what}'", hint=did_you_mean(self.what, rows.schema.names)
                )
            if not rows.schema[self.what].dtype.is_numeric():
                raise TypeMismatch(f"step 'alert': '{self.what}' is {rows.schema[self.what].dtype}, not a number")
        else:
            check_predicate(self.what, rows.schema, self.verb)
        taken = [name for name in keys if name in {field.name for field in ALERT}]
        if taken:
            raise DuplicateName(f"step 'alert' makes '{taken[0]}', which the key has", hint="rename the key's column")
        return StreamType(Schema((*(rows.schema[name] for name in keys), *ALERT)), keys)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        made = [field.name for field in ALERT]
        return (passes_through(needed, self._reads, made),)

    def open(self, *inputs: StreamType) -> AlertState:
        none = np.zeros(0, np.int64)
        keys = list(inputs[0].keyed_by or ())
        return AlertState(
            KeyTable(), np.zeros((0, 4), np.int64), np.zeros(0), none, np.array([MIN_TIME, 0], np.int64), keys
        )

    def process(self, state: AlertState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[AlertState, Output]:
        rows, late = split_late(inputs[0])
        assert rows.keys is not None, "the plan gives alerts keyed inputs"
        keys = rows.keys
        slots = state.table.intern(keys)
        room = next_rows(state.peaks.size, int(slots.max(initial=-1)) + 1)
        state.machines, state.peaks = grow(state.machines, room), grow(state.peaks, room)
        state.folded = grow(state.folded, room)
        values = self._values(rows)
        told = _Told(*_run(
            frozen(slots), np.ascontiguousarray(rows.event_time), frozen(values), self.above, self.clear, self.hold_us,
            self.calm_us, state.machines, state.peaks,
        ))  # fmt: skip
        if self.storm:
            told = self._folded(state, told, rows.event_time, slots)
        batch = self._batch(rows, told, state.keys)
        quiet = np.unique(slots)
        quiet = quiet[state.machines[quiet, _STATE] == _QUIET]
        if quiet.size:
            state.machines[quiet], state.peaks[quiet], state.folded[quiet] = 0, 0.0, 0
            state.table.release(quiet)
        time.fates.absorb(np.ascontiguousarray(rows.meta[rows.meta[:, ACCOUNT] >= 0, ACCOUNT]))
        return state, Output(batch, late)

    def _values(self, rows: Batch) -> Floats:
        if isinstance(self.what, str):
            return rows.frame[self.what].cast(pl.Float64).fill_null(np.nan).to_numpy()
        made = evaluate(rows.frame, [("holds", self.what.cast(pl.Float64))], len(rows))
        return made["holds"].fill_null(np.nan).to_numpy()

    def _folded(self, state: AlertState, told: _Told, times: Int64s, slots: Int64s) -> _Told:
        """Without what a storm folds."""
        keep = np.ones(told.rows.size, np.bool_)
        for i, (row, status) in enumerate(zip(told.rows.tolist(), told.statuses.tolist(), strict=True)):
            slot = slots[row]
            if status == _RESOLVED:
                keep[i] = state.folded[slot] == 0
                state.folded[slot] = 0
                continue
            span = int(times[row]) // self.fold_us
            if span > state.span[0]:
                state.span[:] = span, 0
            state.span[1] += 1
            if state.span[1] > self.storm:
                state.folded[slot] = 1
                keep[i] = state.span[1] == self.storm + 1
                told.statuses[i], told.counts[i] = _STORM, state.span[1]
        return told.kept(keep)

    def _batch(self, rows: Batch, told: _Told, keys: list[str]) -> Batch:
        at = told.rows
        taken = rows.take(at)
        n = at.size
        columns = [taken.frame[name] for name in keys]
        plain = isinstance(self.what, str)
        value = pl.Series("value", told.values if plain else [None] * n, dtype=pl.Float64).fill_nan(None)
        peak = pl.Series("peak", told.peaks if plain else [None] * n, dtype=pl.Float64)
        assert taken.keys is not None, "rows had keys"
        causes = mix64(taken.keys.hashes, told.since).view(np.int64)
        made = [
            pl.Series("alert", [self.title] * n, dtype=pl.String),
            pl.Series("status", [STATUS[s] for s in told.statuses.tolist()], dtype=pl.String),
            pl.Series("severity", [self.severity] * n, dtype=pl.String), value, peak,
            pl.Series("since", told.since), pl.Series("alert_rows", told.counts), pl.Series("cause", causes),
            pl.Series("runbook", [self.runbook] * n, dtype=pl.String),
        ]  # fmt: skip
        return Batch(pl.DataFrame([*columns, *made]), taken.meta, taken.keys)


def alert(
    what: str | pl.Expr,
    *,
    title: str,
    above: float | None = None,
    clear: float | None = None,
    hold: Span | None = None,
    calm: Span | None = None,
    severity: Severity = "warning",
    runbook: str = "",
    storm: int = 0,
    fold: Span = "1h",
    name: str = "",
) -> Step:
    """Raises one alert per key when something holds, and resolves it when it does so no longer.

    what      a column with `above=`, or a condition
    above     the alert is raised from this value on; `clear`: it is resolved below that one (hysteresis; by default
              the same). Between the two nothing changes
    hold      how long it must have held, on every row of the key since, before it is raised (debounce)
    calm      how long it must have been over before it is resolved
    storm     raise at most so many keys of a task in each `fold` of event time; the next one is told as "storm",
              further ones are folded. 0: never fold
    runbook   where to read what to do

    Needs a keyed stream; `sp.key_by()` makes one key of all rows. The output are the key and the columns of `ALERT`:
    `cause` is one number for all that is told of one cause, in every run. Rows with a null change nothing.

    >>> alert("risk", title="risky card", above=0.9, clear=0.7, hold="5m").operator.hold_us
    300000000
    """
    if isinstance(what, pl.Expr):
        if above is not None or clear is not None:
            raise DefinitionError("step 'alert': a condition has no threshold", hint="leave out above= and clear=")
        above = clear = 1.0
    elif above is None:
        raise DefinitionError(f"step 'alert' needs to know from which '{what}' on", hint="above=0.9")
    clear = above if clear is None else clear
    if clear > above:
        raise DefinitionError(f"step 'alert': clear={clear} lies above {above}", hint="clear= is the lower one")
    if severity not in SEVERITIES:
        raise DefinitionError(f"step 'alert': severity='{severity}'", hint=f"one of {', '.join(SEVERITIES)}")
    if not title:
        raise DefinitionError("step 'alert' needs a title", hint="title='card spends too fast'")
    return Step(
        Alert(
            title, what, float(above), float(clear), 0 if hold is None else span_us(hold),
            0 if calm is None else span_us(calm), severity, runbook, storm, span_us(fold),
        ),
        name=name,
    )  # fmt: skip


@kernel
def _run(
    slots: Int64s, times: Int64s, values: Floats, above: float, clear: float, hold: int, calm: int, machines: Int64s,
    peaks: Floats,
) -> tuple[Int64s, Int64s, Floats, Floats, Int64s, Int64s]:  # fmt: skip
    """Moves the machines row by row; gives what is told."""
    n = slots.size
    rows, statuses, since, counts = (
        np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    )  # fmt: skip
    told, highest = np.empty(n, np.float64), np.empty(n, np.float64)
    e = 0
    for i in range(n):
        value = values[i]
        if np.isnan(value):
            continue
        slot = slots[i]
        machine = machines[slot]
        high = value >= above
        tell = -1
        if machine[_STATE] == _QUIET and high:
            machine[_STATE], machine[_SINCE], machine[_ROWS], machine[_CALM] = _RISING, times[i], 0, _NEVER
            peaks[slot] = value
        if machine[_STATE] == _RISING:
            if not high:
                machine[_STATE] = _QUIET
            elif times[i] - machine[_SINCE] >= hold:
                machine[_STATE] = _UP
                tell = _RAISED
        elif machine[_STATE] == _UP:
            if value < clear:
                if machine[_CALM] == _NEVER:
                    machine[_CALM] = times[i]
                if times[i] - machine[_CALM] >= calm:
                    machine[_STATE] = _QUIET
                    tell = _RESOLVED
            else:
                machine[_CALM] = _NEVER
        if machine[_STATE] != _QUIET:
            peaks[slot] = max(peaks[slot], value)
            machine[_ROWS] += 1 if high else 0
        if tell >= 0:
            rows[e], statuses[e], told[e] = i, tell, value
            highest[e], since[e], counts[e] = peaks[slot], machine[_SINCE], machine[_ROWS]
            e += 1
    return (
        rows[:e].copy(),
        statuses[:e].copy(),
        told[:e].copy(),
        highest[:e].copy(),
        since[:e].copy(),
        counts[:e].copy(),
    )
