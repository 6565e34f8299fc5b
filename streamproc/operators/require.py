"""Rules that a row must keep; a row that breaks one is a dead letter under the rule's name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.evaluation import true_rows
from streamproc.operators.expressions import check_predicate, expression_columns, never_null_where_true


@dataclass(frozen=True, slots=True)
class Require:
    """Lets rows go on that keep every rule."""

    rules: tuple[tuple[str, pl.Expr], ...]
    verb: str = "require"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, no longer nullable where a rule shows them to be there; raises DefinitionError."""
        present: frozenset[str] = frozenset()
        for name, rule in self.rules:
            check_predicate(rule, inputs[0].schema, f"{self.verb}: {name}")
            present |= never_null_where_true(rule)
        fields = tuple(
            replace(column, nullable=False) if column.name in present else column for column in inputs[0].schema
        )
        return replace(inputs[0], schema=Schema(fields))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and what the rules read."""
        return (passes_through(needed, [column for _, rule in self.rules for column in expression_columns(rule)]),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Cost: one Polars expression per rule, and nothing per row where all rows keep the rules."""
        batch = inputs[0]
        if not len(batch):
            return None, Output(batch)
        broken = np.full(len(batch), -1, np.int64)
        for number in range(len(self.rules) - 1, -1, -1):
            broken[~true_rows(batch.frame, self.rules[number][1], len(batch)).to_numpy()] = number
        if (broken < 0).all():
            return None, Output(batch)
        refused = tuple(
            (name, batch.take(np.flatnonzero(broken == number)))
            for number, (name, _) in enumerate(self.rules)
            if (broken == number).any()
        )
        return None, Output(batch.take(np.flatnonzero(broken < 0)), rejected=refused)


def require(*, name: str = "", **rules: pl.Expr) -> Step:
    """Lets rows go on that keep every rule; the others go to the dead-letter topic, with the first broken rule as
    reason.

    A rule is a Boolean, element-wise expression; a null counts as broken. Late rows are judged like all others.
    At plan time raises DefinitionError for a rule that reads unknown columns, other rows, or is not Boolean.

    >>> require(price_above_zero=pl.col("unit_price") > 0).operator.verb
    'require'
    """
    if not rules:
        raise DefinitionError(
            "step 'require' has no rule", hint="sp.require(price_above_zero=pl.col('unit_price') > 0)"
        )
    return Step(Require(tuple(rules.items())), name=name)
