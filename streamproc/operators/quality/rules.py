"""`rules`: rows go on, tagged, as dead letters, or not at all, as the rules say; alerts stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import C1, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, RuleBroken
from streamproc.event_time import Span, span_us
from streamproc.graph import Step, Stream
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.aggregates import total
from streamproc.operators.evaluation import in_columns
from streamproc.operators.expressions import check_predicate, expression_columns, never_null_where_true
from streamproc.operators.key_by import key_by
from streamproc.operators.quality.drift_tally import DriftTally
from streamproc.operators.quality.freshness import Freshness
from streamproc.operators.quality.rule import DriftRule, Rule, row
from streamproc.operators.quality.tally import RuleTally
from streamproc.operators.quality.verdicts import RuleVerdicts
from streamproc.operators.union import union
from streamproc.operators.windows import tumbling

Flags = npt.NDArray[np.bool_]
TAGS: Final = pl.List(pl.String())


@dataclass(frozen=True, slots=True)
class Rules:
    """Applies the row rules that act on rows, see `rules`; those that only raise alerts cost nothing here.

    tag    the column that names the tag rules that a row breaks, "" where there is none
    watch  the steps that make alerts of the rows that come in; the first one counts, and so do those of `also`
    """

    declared: tuple[tuple[str, Rule], ...]
    tag: str = ""
    watch: tuple[Step, ...] = ()
    fresh: tuple[Step, ...] = ()
    verb: str = "rules"
    # What these are follows from the rules, so they add nothing to the fingerprint.
    also: tuple[Step, ...] = field(default=(), metadata={"fingerprint": False})
    acting: tuple[tuple[str, Rule], ...] = field(init=False)

    def __post_init__(self) -> None:
        acting = tuple((name, rule) for name, rule in self.declared if rule.action != "alert")
        object.__setattr__(self, "acting", acting)

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns and the tags; not nullable where a rule that lets no other row pass shows it."""
        (stream,) = inputs
        present: frozenset[str] = frozenset()
        for name, rule in self.declared:
            if rule.test is not None:
                check_predicate(rule.test, stream.schema, f"{self.verb}: {name}")
                if rule.action in ("dead_letter", "stop"):
                    present |= never_null_where_true(rule.test)
        fields = tuple(
            replace(column, nullable=False) if column.name in present else column for column in stream.schema
        )
        if not self.tag:
            return replace(stream, schema=Schema(fields))
        if self.tag in stream.schema:
            raise DuplicateName(
                f"step '{self.verb}' writes the names of broken rules to '{self.tag}', which is there already",
                hint="sp.rules(..., tag='another_name')",
            )
        return replace(stream, schema=Schema((*fields, Field(self.tag, TAGS, doc="rules that the row breaks"))))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and what the rules that act on rows read."""
        tests = [rule.test for _, rule in self.acting if rule.test is not None]
        read = [column for test in tests for column in expression_columns(test)]
        return (passes_through(needed, read, (self.tag,)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost: one Polars expression per rule that acts on rows, and nothing per row where all rows keep them.

        Raises RuleBroken for a row that breaks a rule whose action is to stop.
        """
        (batch,) = inputs
        if not self.acting or not len(batch):
            return None, Output(self._tagged(batch, []) if self.tag else batch)
        broken = broken_rows(batch.frame, [rule.test for _, rule in self.acting if rule.test is not None])
        refusing = np.full(len(batch), -1, np.int64)
        for number in range(len(self.acting) - 1, -1, -1):
            name, rule = self.acting[number]
            if rule.action == "stop" and broken[number].any():
                raise self._stopped(name, batch, int(np.argmax(broken[number])))
            if rule.action == "dead_letter":
                refusing[broken[number]] = number
        if self.tag:
            batch = self._tagged(batch, broken)
        if (refusing < 0).all():
            return None, Output(batch)
        bare = batch.with_frame(batch.frame.drop(self.tag)) if self.tag else batch
        refused = tuple(
            (name, bare.take(np.flatnonzero(refusing == number)))
            for number, (name, _) in enumerate(self.acting)
            if (refusing == number).any()
        )
        return None, Output(batch.take(np.flatnonzero(refusing < 0)), rejected=refused)

    def _tagged(self, batch: Batch, broken: Sequence[Flags]) -> Batch:
        parts = [
            pl.Series(name, [name, None], dtype=pl.String).gather(np.where(mask, 0, 1))
            for (name, rule), mask in zip(self.acting, broken, strict=False)
            if rule.action == "tag"
        ]
        if not parts:
            return batch.with_frame(batch.frame.with_columns(pl.Series(self.tag, [[]] * len(batch), dtype=TAGS)))
        tags = pl.DataFrame(parts).select(pl.concat_list(pl.all()).list.drop_nulls().alias(self.tag)).to_series()
        return batch.with_frame(batch.frame.with_columns(tags))

    def _stopped(self, name: str, batch: Batch, row: int) -> RuleBroken:
        values = batch.frame[row : row + 1].to_dicts()[0]
        shown = ", ".join(f"{key}={value!r}" for key, value in list(values.items())[:8])
        return RuleBroken(
            f"step '{self.verb}': the row at offset {int(batch.meta[row, C1])} breaks '{name}', which stops the worker "
            f"({shown})",
            hint="nothing of the step was committed; mend the source or the rule, then start again",
        )

    def alerts(self, rows: Stream) -> Stream:
        """The alerts that these rules raise over the rows that come in."""
        parts = []
        if self.watch:
            first, *then = self.watch
            stream = rows | first
            if self.also:
                stream = stream | union(*(rows | step for step in self.also))
            for step in then:
                stream = stream | step
            parts.append(stream)
        parts += [rows | step for step in self.fresh]
        if not parts:
            raise DefinitionError(f"step '{self.verb}' raises no alerts", hint="sp.rules does")
        return parts[0] if len(parts) == 1 else parts[0] | union(*parts[1:])


def rules(
    *, window: Span = "1m", tag: str = "broken_rules", remind: Span = "1h", name: str = "", **declared: Rule | pl.Expr
) -> Step:
    """Holds rows to rules; what happens where one is broken is the rule's action, by default an alert.

    declared  rules by name: a Boolean expression (a row rule that alerts), or one of `sp.rule`: row, between, one_of
              (of rows), null_rate, duplicates, volume, drift (of windows), fresh (of the clock)
    window    alerts come once per rule and window of event time, with the number of rows
    remind    while a rule stays broken, an alert comes at the start, then every so often, and when it is kept again
    tag       the column that names the tag rules that a row breaks, if there are any

    The rows go on; with no other action than "alert" they leave byte for byte as they came. A row that breaks a rule of
    "dead_letter" goes to the dead-letter topic with the first such rule as reason; one that breaks a rule of "stop"
    stops the worker before the step is committed. Alerts are a stream of their own, `checked.alerts`: the rule, its
    status (RAISED, ONGOING, CLEARED), since when, the window, rows, broken rows, and the share or volume that was seen.
    They are counted over the rows in time, and never change what becomes of a row.

    >>> step = rules(price=pl.col("price") > 0, ids=rule.duplicates("order_id"), window="5m")
    >>> [name for name, _ in step.operator.declared]
    ['price', 'ids']
    """
    if not declared:
        raise DefinitionError("step 'rules' has no rule", hint="sp.rules(price_above_zero=pl.col('price') > 0)")
    span, often = span_us(window), span_us(remind)
    if span <= 0 or often < 0:
        raise DefinitionError(f"step 'rules' counts over windows of {window}", hint="spans are above zero")
    all_rules = tuple((key, row(value) if isinstance(value, pl.Expr) else value) for key, value in declared.items())
    for key, value in all_rules:
        if not isinstance(value, Rule):
            raise DefinitionError(f"rule '{key}' is {type(value).__name__}", hint="an expression, or one of sp.rule")
        if not value.of_rows and value.action != "alert":
            raise DefinitionError(
                f"rule '{key}' is about many rows and cannot be one of {value.action}", hint="it can only raise alerts"
            )
    counted = tuple((key, value) for key, value in all_rules if value.kind != "fresh")
    watch: tuple[Step, ...] = ()
    plain = tuple((key, value) for key, value in counted if value.kind != "drift")
    tallies = [Step(RuleTally(plain, span))] if plain else []
    for key, value in counted:
        if isinstance(value, DriftRule):
            of = (value.columns[0], value.statistic, value.reference, value.run_length, value.at_least)
            tallies.append(Step(DriftTally(key, *of, span)))
    if counted:
        watch = (
            tallies[0],
            key_by("rule"),
            # What several tasks counted of one window has one event time, the window's end.
            tumbling("1us", rows=total("rows"), broken=total("broken")),
            Step(RuleVerdicts(counted, span, often)),
        )
    fresh = tuple(Step(Freshness(key, value.within_us, often)) for key, value in all_rules if value.kind == "fresh")
    tags = tag if any(value.action == "tag" for _, value in all_rules) else ""
    return Step(Rules(all_rules, tags, watch, fresh, also=tuple(tallies[1:])), name=name)


def broken_rows(frame: pl.DataFrame, tests: Sequence[pl.Expr]) -> list[Flags]:
    """Per test, the rows that do not keep it."""
    if not tests:
        return []
    made = in_columns(
        lambda part: part.select(~test.fill_null(False).alias(str(number)) for number, test in enumerate(tests)), frame
    )
    if made.height != frame.height:  # Tests of constants alone give one row.
        made = made[[0] * frame.height]
    return [column.to_numpy() for column in made.get_columns()]
