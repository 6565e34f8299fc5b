"""`fallback`: the best score that there is, and why no better one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import Span, span_us
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through


@dataclass(frozen=True, slots=True)
class Rung:
    """A column of scores, or one number for all rows; `age` is a column of µs and `max_age_us` its limit."""

    name: str
    score: str | float
    age: str = ""
    max_age_us: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads."""
        return tuple(name for name in (self.score, self.age) if isinstance(name, str) and name)


@dataclass(frozen=True, slots=True)
class Fallback:
    """Takes the first rung that holds, see `fallback`."""

    into: str
    rungs: tuple[Rung, ...]

    @property
    def verb(self) -> str:
        return "fallback"

    @property
    def _made(self) -> tuple[str, str, str]:
        return self.into, f"{self.into}_rung", f"{self.into}_cause"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns, score, rung and cause.  Raises UnknownColumn, TypeMismatch, DuplicateName."""
        (rows,) = inputs
        for rung in self.rungs:
            for name in rung.columns:
                if name not in rows.schema:
                    raise UnknownColumn(
                        f"step 'fallback': rung '{rung.name}' reads '{name}'",
                        hint=did_you_mean(name, rows.schema.names),
                    )
                if not rows.schema[name].dtype.is_numeric():
                    raise TypeMismatch(f"step 'fallback': rung '{rung.name}' reads '{name}', which is no number")
        for name in self._made:
            if name in rows.schema:
                raise DuplicateName(f"step 'fallback' makes '{name}', which is there", hint="choose another into=")
        score, rung_name, cause = self._made
        fields = (Field(score, pl.Float64()), Field(rung_name, pl.String()), Field(cause, pl.String()))
        return replace(rows, schema=rows.schema.with_fields(fields))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, [name for rung in self.rungs for name in rung.columns], self._made),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        (batch,) = inputs
        n = len(batch)
        score, rung_of, cause_of = np.full(n, np.nan), np.full(n, -1, np.int64), np.zeros(n, np.int64)
        causes: list[str] = [""]
        for number, rung in enumerate(self.rungs):
            open_rows = rung_of < 0
            values = np.full(n, rung.score) if isinstance(rung.score, float) else _floats(batch.frame[rung.score])
            usable = np.isfinite(values)
            stale = usable & (_floats(batch.frame[rung.age]) > rung.max_age_us) if rung.age else np.zeros(n, np.bool_)
            here = open_rows & usable & ~stale
            score[here], rung_of[here] = values[here], number
            if number == 0:  # the cause is that of the best rung: why the row had to do without it
                causes += [f"{rung.name} is too old", f"{rung.name} is missing"]
                cause_of[open_rows & stale], cause_of[open_rows & ~usable] = 1, 2
        names = pl.Series([rung.name for rung in self.rungs], dtype=pl.String)
        made = [
            pl.Series(self._made[0], score), names.gather(rung_of).alias(self._made[1]),
            pl.Series(causes, dtype=pl.String).gather(cause_of).alias(self._made[2]),
        ]  # fmt: skip
        return None, Output(batch.with_frame(pl.DataFrame([*batch.frame.get_columns(), *made])))


def rung(score: str, *, age: str = "", max_age: Span = "0s") -> Rung:
    """A rung of `sp.fallback` whose scores grow old: `age` is a column of µs, such as `sp.as_of` gives.

    >>> rung("last_risk", age="as_of_age", max_age="1h").max_age_us
    3600000000
    """
    return Rung("", score, age, span_us(max_age))


def fallback(into: str, *, name: str = "", **rungs: str | float | Rung) -> Step:
    """Takes the best score that a row has: the first of these rungs that is there, finite and not too old.

    into   the column of the score; `<into>_rung` names the rung, `<into>_cause` says why not the best one ("" if it is)
    rungs  from best to worst, by name: a column, `sp.rung(column, age=..., max_age=...)`, or a number. The last
           one must be a number, so that every row gets a score

    >>> step = fallback("score", full="risk", reduced="risk_small", last=rung("last_risk"), prior=0.02)
    >>> [one.name for one in step.operator.rungs]
    ['full', 'reduced', 'last', 'prior']
    """
    made = []
    for word, one in rungs.items():
        if isinstance(one, Rung):
            made.append(replace(one, name=word))
        elif isinstance(one, str):
            made.append(Rung(word, one))
        else:
            made.append(Rung(word, float(one)))
    if not made or not isinstance(made[-1].score, float) or not np.isfinite(made[-1].score):
        raise DefinitionError("step 'fallback' can end without a score", hint="end it in a number: prior=0.02")
    return Step(Fallback(into, tuple(made)), name=name)


def _floats(column: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()
