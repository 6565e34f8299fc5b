"""Steps that keep rows as they are but for their columns: where, select, with_columns, rename, drop.

Expressions are Polars', and must be element-wise (`streamproc.operators.expressions`). Positions, event time and the
watermark travel beside the columns, so dropping the column of event time changes nothing. Keys travel too; a step that
loses or overwrites a key column ends what the plan knows of the key, and the next keyed step asks for `key_by`.

A frame may lack columns that no later step needs: the plan does not decode them. So these steps pass on what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.evaluation import evaluate, true_rows
from streamproc.operators.expressions import (
    check_elementwise,
    check_predicate,
    expression_columns,
    never_null_where_true,
)


@dataclass(frozen=True, slots=True, eq=False)
class Where:
    """Keeps the rows for which every predicate is true."""

    predicates: tuple[pl.Expr, ...]
    verb: str = "where"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns; those that the predicates show to be there are no longer nullable."""
        (stream,) = inputs
        present: frozenset[str] = frozenset()
        for predicate in self.predicates:
            check_predicate(predicate, stream.schema, self.verb)
            present |= never_null_where_true(predicate)
        fields = tuple(
            replace(column, nullable=False) if column.name in present else column for column in stream.schema
        )
        return replace(stream, schema=Schema(fields))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the columns of the predicates."""
        return (passes_through(needed, _columns_of(self.predicates)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One pass of Polars over the predicates, one gather of what stays."""
        (batch,) = inputs
        verdict = true_rows(batch.frame, pl.all_horizontal(self.predicates), len(batch))
        return None, Output(batch.filter(verdict.to_numpy()))


@dataclass(frozen=True, slots=True, eq=False)
class WithColumns:
    """Adds columns, or replaces them."""

    made: tuple[tuple[str, pl.Expr], ...]
    verb: str = "with_columns"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns with the new ones in place of those of their name, or behind."""
        (stream,) = inputs
        fields = [check_elementwise(expr, stream.schema, self.verb).renamed(name) for name, expr in self.made]
        return _rekeyed(stream, stream.schema.with_fields(fields), changed=frozenset(name for name, _ in self.made))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down and not made here, and the columns of the expressions."""
        made = tuple(name for name, _ in self.made)
        return (passes_through(needed, _columns_of(expr for _, expr in self.made), made),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One pass of Polars over the expressions."""
        (batch,) = inputs
        return None, Output(batch.with_frame(evaluate(batch.frame, self.made, len(batch))))


@dataclass(frozen=True, slots=True, eq=False)
class Select:
    """Keeps and makes exactly these columns, in this order; None stands for a column that is passed on."""

    columns: tuple[tuple[str, pl.Expr | None], ...]
    verb: str = "select"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The columns named."""
        (stream,) = inputs
        fields = [
            _known(stream.schema, name, self.verb) if expr is None
            else check_elementwise(expr, stream.schema, self.verb).renamed(name)
            for name, expr in self.columns
        ]  # fmt: skip
        made = frozenset(name for name, expr in self.columns if expr is not None)
        return _rekeyed(stream, Schema(tuple(fields)), changed=made)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """Of the columns passed on those that are needed further down, and the columns of the expressions."""
        passed = frozenset(name for name, expr in self.columns if expr is None)
        return (passes_through(needed & passed, _columns_of(expr for _, expr in self.columns if expr is not None)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One pass of Polars over the expressions; columns that are passed on are not copied."""
        (batch,) = inputs
        made = [(name, expr) for name, expr in self.columns if expr is not None]
        frame = evaluate(batch.frame, made, len(batch)) if made else batch.frame
        there = set(frame.columns)
        return None, Output(batch.with_frame(frame[[name for name, _ in self.columns if name in there]]))


@dataclass(frozen=True, slots=True)
class Rename:
    """Gives columns other names, in place."""

    names: tuple[tuple[str, str], ...]
    verb: str = "rename"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns under their new names; a key is known by its new name."""
        (stream,) = inputs
        for old, _ in self.names:
            _known(stream.schema, old, self.verb)
        names = dict(self.names)
        fields = tuple(column.renamed(names.get(column.name, column.name)) for column in stream.schema)
        for column in fields:
            if sum(column.name == other.name for other in fields) > 1:
                raise DuplicateName(
                    f"step '{self.verb}' would make two columns named '{column.name}'",
                    hint="drop or rename the other one",
                )

        def renamed(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if columns is None else tuple(names.get(name, name) for name in columns)

        keyed_by, placed_by = renamed(stream.keyed_by), renamed(stream.placed_by)
        return replace(stream, schema=Schema(fields), keyed_by=keyed_by, placed_by=placed_by)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, under its old names."""
        old_of = {new: old for old, new in self.names}
        return (frozenset(old_of.get(name, name) for name in needed),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Copies no values."""
        (batch,) = inputs
        return None, Output(batch.with_frame(batch.frame.rename(dict(self.names), strict=False)))


@dataclass(frozen=True, slots=True)
class Drop:
    """Leaves columns out."""

    names: tuple[str, ...]
    verb: str = "drop"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's other columns."""
        (stream,) = inputs
        for name in self.names:
            _known(stream.schema, name, self.verb)
        fields = tuple(column for column in stream.schema if column.name not in self.names)
        if not fields:
            raise DefinitionError(f"step '{self.verb}' leaves no column", hint="keep at least one")
        return _rekeyed(stream, Schema(fields))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down."""
        return (needed,)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """Copies no values."""
        (batch,) = inputs
        return None, Output(batch.with_frame(batch.frame.drop(self.names, strict=False)))


def where(*predicates: pl.Expr, name: str = "") -> Step:
    """Keeps the rows for which every predicate is true; a row for which one is false or null is filtered.

    The rows that stay keep their payload as it came. A column that a predicate shows to be present (`is_not_null`, a
    comparison) is not nullable further down.  At plan time raises NotElementWise, UnknownColumn, TypeMismatch.

    >>> where(pl.col("amount") > 0, pl.col("card_id").is_not_null()).operator.verb
    'where'
    """
    if not predicates:
        raise DefinitionError("step 'where' has no predicate", hint="sp.where(pl.col('amount') > 0)")
    return Step(Where(predicates), (), name)


def with_columns(*made: pl.Expr, name: str = "", **named: pl.Expr) -> Step:
    """Adds columns, or replaces them, each computed from its own row as it came in.

    Expressions do not see each other's results; put a second `with_columns` behind for that. A positional expression
    brings its own name (`.alias`).  At plan time raises NotElementWise, UnknownColumn, TypeMismatch, DuplicateName.

    >>> [column for column, _ in with_columns(total=pl.col("price") * pl.col("pieces")).operator.made]
    ['total']
    """
    columns = (*((_output_name(expr, "with_columns"), expr) for expr in made), *named.items())
    if not columns:
        raise DefinitionError(
            "step 'with_columns' has no column", hint="sp.with_columns(total=pl.col('a') + pl.col('b'))"
        )
    _all_different([column for column, _ in columns], "with_columns")
    return Step(WithColumns(columns), (), name)


def select(*columns: str | pl.Expr, name: str = "", **named: pl.Expr) -> Step:
    """Keeps and makes exactly these columns, in this order: names, expressions with names, then keyword columns.

    At plan time raises NotElementWise, UnknownColumn, TypeMismatch, DuplicateName.

    >>> [column for column, _ in select("order_id", total=pl.col("price") * pl.col("pieces")).operator.columns]
    ['order_id', 'total']
    """
    chosen: list[tuple[str, pl.Expr | None]] = [
        (column, None) if isinstance(column, str) else (_output_name(column, "select"), column) for column in columns
    ]
    chosen += named.items()
    if not chosen:
        raise DefinitionError(
            "step 'select' has no column", hint="sp.select('order_id', total=pl.col('a') + pl.col('b'))"
        )
    _all_different([column for column, _ in chosen], "select")
    return Step(Select(tuple(chosen)), (), name)


def rename(names: Mapping[str, str] | None = None, /, *, name: str = "", **more: str) -> Step:
    """Gives columns other names: `rename({"old": "new"})` or `rename(old="new")`; swaps are fine.

    At plan time raises UnknownColumn, and DuplicateName where two columns would share a name.

    >>> rename(cust="customer_id").operator.names
    (('cust', 'customer_id'),)
    """
    pairs = tuple({**(names or {}), **more}.items())
    if not pairs:
        raise DefinitionError("step 'rename' has no column", hint="sp.rename({'old': 'new'})")
    _all_different([new for _, new in pairs], "rename")
    return Step(Rename(pairs), (), name)


def drop(*columns: str, name: str = "") -> Step:
    """Leaves these columns out.  At plan time raises UnknownColumn, and DefinitionError if none is left.

    >>> drop("note", "remark").operator.names
    ('note', 'remark')
    """
    if not columns:
        raise DefinitionError("step 'drop' has no column", hint="sp.drop('note')")
    return Step(Drop(columns), (), name)


def _columns_of(expressions: Iterable[pl.Expr]) -> tuple[str, ...]:
    return tuple(sorted(frozenset().union(*(expression_columns(expr) for expr in expressions))))


def _known(schema: Schema, name: str, step: str) -> Field:
    if name not in schema:
        raise UnknownColumn(f"step '{step}' reads '{name}'", hint=did_you_mean(name, schema.names))
    return schema[name]


def _rekeyed(stream: StreamType, schema: Schema, *, changed: frozenset[str] = frozenset()) -> StreamType:
    """The stream with these columns; its key is forgotten if a key column is gone or was computed anew."""

    def kept(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        whole = columns is not None and all(name in schema and name not in changed for name in columns)
        return columns if whole else None

    return replace(stream, schema=schema, keyed_by=kept(stream.keyed_by), placed_by=kept(stream.placed_by))


def _output_name(expr: pl.Expr, step: str) -> str:
    if not isinstance(expr, pl.Expr):
        raise DefinitionError(
            f"step '{step}' got {type(expr).__name__}, not a Polars expression",
            hint="write pl.col('amount') * 2, or pl.lit(value).alias('name')",
        )
    try:
        return expr.meta.output_name()
    except pl.exceptions.PolarsError:
        raise DefinitionError(
            f"step '{step}' cannot tell the name of {expr}", hint="name the columns one by one, with .alias('...')"
        ) from None


def _all_different(names: list[str], step: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DuplicateName(f"step '{step}' makes column '{name}' twice", hint="give one of them another name")
