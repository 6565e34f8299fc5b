"""`decide`: rules that decide each row, and a log by which every decision can be made again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.decision_log import CHAIN, FIRST, LogForm, chained
from streamproc.decisions.rules import Cheapest, Hit, Rule, Table, table_of
from streamproc.errors import DefinitionError, DuplicateName, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.hashing import mix64
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.wire import Encoder

SEVERAL = "several rules hold"
"""Why a row is dead-lettered where hits must be unique."""


@dataclass(slots=True)
class DecideState:
    """Lines of the log so far, and the hash of the last one."""

    number: int
    chain: bytes


@dataclass(frozen=True, slots=True)
class Decide:
    """Decides rows by a table, see `decide`."""

    table: Table
    into: str
    log: tuple[str, ...]

    @property
    def verb(self) -> str:
        return "decide"

    @property
    def made(self) -> tuple[str, str, str]:
        """The columns of id, decision and rule."""
        return f"{self.into}_id", self.into, f"{self.into}_rule"

    @property
    def logic(self) -> str:
        """The version of the rules by content: equal for tables that decide alike."""
        return hashlib.sha256(self.table.text.encode()).hexdigest()[:16]

    @property
    def logged(self) -> tuple[str, ...]:
        """Columns that the log keeps: what the rules read, and what else it was asked to."""
        read = self.table.columns
        return (*read, *(name for name in self.log if name not in read))

    def form(self, schema: Schema) -> LogForm:
        """The form of the log, for rows of these columns."""
        return _form(self, {name: schema[name].dtype for name in self.logged})[0]

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns, decision, rule and id.  Raises UnknownColumn, DuplicateName, TypeMismatch."""
        (rows,) = inputs
        self.table.check(rows.schema)
        for name in self.log:
            if name not in rows.schema:
                raise UnknownColumn(f"step 'decide' logs '{name}'", hint=did_you_mean(name, rows.schema.names))
        for name in self.made:
            if name in rows.schema:
                raise DuplicateName(f"step 'decide' makes '{name}', which is there", hint="choose another into=")
        decision = pl.List(pl.String()) if self.table.hit == "collect" else pl.String()
        key, decided, rule = self.made
        fields = (Field(decided, decision), Field(rule, decision), Field(key, pl.Int64()))
        self.form(rows.schema)
        return replace(rows, schema=rows.schema.with_fields(fields))

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "log": a line for each decision."""
        return {"log": StreamType(self.form(inputs[0].schema).schema)}

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, self.logged, self.made),)

    def open(self, *inputs: StreamType) -> DecideState:
        return DecideState(0, FIRST)

    def process(self, state: DecideState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[DecideState, Output]:
        (batch,) = inputs
        decided, rule, several = self.table.decide(batch.frame)
        key, into, by = self.made
        made = pl.DataFrame([decided.alias(into), rule.alias(by), self._ids(batch, time).alias(key)])
        rows = batch.with_frame(pl.DataFrame([*batch.frame.get_columns(), *made.get_columns()]))
        rejected: tuple[tuple[str, Batch], ...] = ()
        if several.any():
            rejected = ((SEVERAL, batch.filter(several)),)
            rows = rows.filter(~several)
        lines = self._lines(state, rows, _form(self, {name: batch.frame.schema[name] for name in self.logged}))
        log = rows.meta.copy()
        log[:, ACCOUNT] = -1
        log[:, C1:] = 0
        log[:, C0], log[:, C1] = time.rank << 32, rows.frame[key].to_numpy()
        side = Batch(lines, log)
        return state, Output(rows, rejected=rejected, sides=(("log", side),))

    def _ids(self, batch: Batch, time: StepTime) -> pl.Series:
        """What each decision is called: a hash of the row's coordinate, the same in every run."""
        columns = (np.ascontiguousarray(batch.meta[:, c]) for c in (C0, C1, C2, C3))
        return pl.Series(mix64(np.full(len(batch), time.rank), *columns).view(np.int64))

    def _lines(self, state: DecideState, rows: Batch, form: tuple[LogForm, Encoder]) -> pl.DataFrame:
        """The log of these rows; the chain goes on."""
        n, (shape, encoder) = len(rows), form
        numbers = pl.Series("number", np.arange(state.number, state.number + n))
        logic = pl.Series("logic", [self.logic], dtype=pl.String).new_from_index(0, n)
        known = {column.name: column for column in (numbers, logic, *rows.frame.get_columns())}
        body = pl.DataFrame([known[name] for name in shape.body.names])
        hashes = chained(state.chain, shape.bodies(body, encoder))
        if n:
            state.number, state.chain = state.number + n, hashes[-1]
        return pl.DataFrame([*body.get_columns(), pl.Series(CHAIN, hashes, dtype=pl.Binary)])


@cache
def _encoder(form: LogForm) -> Encoder:
    return form.encoder()


def _form(step: Decide, types: Mapping[str, pl.DataType]) -> tuple[LogForm, Encoder]:
    inputs = Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in types.items()))
    form = LogForm(inputs, step.made, step.table.hit == "collect")
    return form, _encoder(form)


def decide(
    *rules: Rule | Cheapest,
    otherwise: str,
    hit: Hit = "first",
    into: str = "decision",
    log: tuple[str, ...] = (),
    name: str = "",
) -> Step:
    """Decides each row by rules, and writes down what it rested on.

    rules      sp.when(condition, then=..., name=...) in order; or one sp.cheapest(...), which decides by cost
    otherwise  what is decided where no rule holds, or the chance is not known
    hit        "first": the first rule that holds; "unique": several that hold make the row a dead letter; "collect":
               all that hold, as lists
    into       the column of the decision; `<into>_rule` names the rule and `<into>_id` the decision
    log        columns to log beside those that the rules read: arm, rung, propensity, versions

    The side "log" has a line for each decision: id, number in the task, version of the rules, the columns, decision,
    rule, and a hash chain over all of it. Give it a sink: it leaves in one transaction with the decisions, and
    `streamproc explain` makes a decision again from it.  Cost about 1 µs a row.

    >>> from streamproc.decisions.rules import when
    >>> step = decide(when(pl.col("risk") > 0.9, then="block"), otherwise="allow", log=("amount",))
    >>> step.operator.logged
    ('risk', 'amount')
    """
    if not otherwise:
        raise DefinitionError("step 'decide' must know what to do otherwise", hint="otherwise='allow'")
    return Step(Decide(table_of(rules, otherwise=otherwise, hit=hit), into, tuple(log)), name=name)
