"""`changes`: rows that are changes of a table, where a condition on the row says that its key is gone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DuplicateName
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.evaluation import true_rows
from streamproc.operators.expressions import check_predicate, expression_columns
from streamproc.operators.join import DELETED


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Adds the column that tells deletes, see `changes`."""

    deleted: pl.Expr

    @property
    def verb(self) -> str:
        return "changes"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns and `deleted`; raises DuplicateName, UnknownColumn, and TypeMismatch for no condition."""
        (stream,) = inputs
        check_predicate(self.deleted, stream.schema, self.verb)
        if DELETED in stream.schema:
            raise DuplicateName(
                f"step '{self.verb}' makes a column '{DELETED}', which its input has already",
                hint="rename the input's column before",
            )
        # A table has one column that tells deletes: what another one said is a value like any other from here on.
        plain = (replace(column, deletes=False) for column in stream.schema)
        return replace(stream, schema=Schema((*plain, Field(DELETED, pl.Boolean(), deletes=True))))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the columns of the condition."""
        return (passes_through(needed, sorted(expression_columns(self.deleted)), (DELETED,)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One pass of Polars over the condition."""
        (batch,) = inputs
        told = true_rows(batch.frame, self.deleted, len(batch)).alias(DELETED)
        return None, Output(batch.with_frame(batch.frame.with_columns(told)))


def changes(deleted: pl.Expr, *, name: str = "") -> Step:
    """Says that the rows are changes of a table, and which of them delete their key: those where `deleted` is true.

    For change events that have a value in any case, such as those of a database: `sp.changes(pl.col("op") == "d")`.
    The column `deleted` is added, by which `as_of` and `join` know what is gone; a sink with latest=True writes such a
    row as a record without a value.

    >>> changes(pl.col("op") == "d").operator.verb
    'changes'
    """
    return Step(Changes(deleted), (), name)
