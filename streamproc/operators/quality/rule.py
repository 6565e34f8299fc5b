"""What a rule can be, as a person writes it: `sp.rule.row(test)`, `sp.rule.null_rate("email", at_most=0.1)`, ...

A row rule holds for each row by itself, and may act on it: action "alert" (the row goes on as it is), "tag" (its name
is written on the row), "dead_letter" (the row goes to the dead-letter topic), "stop" (the worker stops before it). A
window rule holds for the rows of a window together, when their fate is long decided: it can only raise alerts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.operators.two_samples import TESTS

Action = Literal["alert", "tag", "dead_letter", "stop"]
Kind = Literal["row", "null_rate", "duplicates", "volume", "drift", "fresh"]
ACTIONS: Final = ("alert", "tag", "dead_letter", "stop")

__all__ = ["Rule", "between", "drift", "duplicates", "fresh", "null_rate", "one_of", "row", "volume"]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule.

    test        of a row rule: true where a row keeps it; null counts as broken
    columns     of null_rate, duplicates and drift
    at_most     the largest share of rows of a window that may break it, or the most rows of a volume
    at_least    the fewest rows of a window (volume); of fewer nothing is said (drift)
    within_us   how old the newest row may be (fresh)
    """

    kind: Kind
    action: Action = "alert"
    test: pl.Expr | None = None
    columns: tuple[str, ...] = ()
    at_most: float | None = None
    at_least: int = 0
    within_us: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise DefinitionError(f"a rule with action={self.action!r}", hint=f"actions are {', '.join(ACTIONS)}")

    def __bool__(self) -> bool:
        return True

    @property
    def of_rows(self) -> bool:
        """Whether each row by itself keeps or breaks it."""
        return self.kind == "row"

    @property
    def expression(self) -> pl.Expr | None:
        """True where a row keeps it; None where that cannot be said of a single row."""
        if self.kind == "null_rate":
            return pl.col(self.columns[0]).is_not_null()
        return self.test


@dataclass(frozen=True, slots=True, eq=False)
class DriftRule(Rule):
    """A rule of drift: its test, rows of the reference, and rows between false alarms."""

    statistic: str = "psi"
    reference: int = 2000
    run_length: int = 100_000


def row(test: pl.Expr, *, action: Action = "alert", at_most: float = 0.0) -> Rule:
    """Each row keeps a Boolean expression of its columns; null counts as broken.

    at_most  the share of a window's rows that may break it before there is an alert

    >>> row(pl.col("price") > 0, action="dead_letter").action
    'dead_letter'
    """
    if not isinstance(test, pl.Expr):
        raise DefinitionError(f"a row rule got {type(test).__name__}, not an expression", hint="pl.col('price') > 0")
    return Rule("row", action, test, at_most=_share(at_most))


def between(column: str, low: Any = None, high: Any = None, *, action: Action = "alert", at_most: float = 0.0) -> Rule:
    """A value lies between two bounds, both included; one of them may be left out.

    >>> between("quantity", 0, 10_000).kind
    'row'
    """
    if low is None and high is None:
        raise DefinitionError(f"the range of '{column}' has no bound", hint="between('quantity', 0, 10_000)")
    tests = [
        *([pl.col(column) >= low] if low is not None else []),
        *([pl.col(column) <= high] if high is not None else []),
    ]
    return row(tests[0] if len(tests) == 1 else tests[0] & tests[1], action=action, at_most=at_most)


def one_of(column: str, values: Sequence[Any], *, action: Action = "alert", at_most: float = 0.0) -> Rule:
    """A value is one of these.

    >>> one_of("status", ["new", "paid"], action="tag").action
    'tag'
    """
    if not values:
        raise DefinitionError(f"the set of '{column}' is empty", hint="one_of('status', ['new', 'paid'])")
    return row(pl.col(column).is_in(list(values)), action=action, at_most=at_most)


def null_rate(column: str, *, at_most: float) -> Rule:
    """At most this share of the rows of a window has null in a column.

    >>> null_rate("email", at_most=0.1).columns
    ('email',)
    """
    return Rule("null_rate", columns=(column,), at_most=_share(at_most))


def duplicates(*columns: str, at_most: float = 0.0) -> Rule:
    """At most this share of the rows of a window repeats an earlier row of it in these columns.

    Counted per partition: rows of one id are in one where they are keyed by it. Columns as for `key_by`: no floats.

    >>> duplicates("order_id").columns
    ('order_id',)
    """
    if not columns:
        raise DefinitionError("a rule of duplicates names no column", hint="duplicates('order_id')")
    return Rule("duplicates", columns=columns, at_most=_share(at_most))


def volume(*, at_least: int = 0, at_most: int | None = None) -> Rule:
    """A window has so many rows. Windows without any are told of, as one alert, when rows come again.

    >>> volume(at_least=10).at_least
    10
    """
    if at_least <= 0 and at_most is None:
        raise DefinitionError("a rule of volume has no bound", hint="volume(at_least=10, at_most=100_000)")
    return Rule("volume", at_least=at_least, at_most=at_most)


def drift(
    column: str, *, test: str = "psi", reference: int = 2000, run_length: int = 100_000, at_least: int = 50
) -> Rule:  # fmt: skip
    """A column of a window is distributed as in the first windows; an alert for each window that is not.

    test        "psi", "ks", "chi2" or "wasserstein", as of `sp.drift`
    reference   the windows that come first, until they have so many rows, are what later ones are compared with
    run_length  rows between false alarms on average, if rows are independent: thresholds follow from it and from how
                many rows a window has
    at_least    windows of fewer rows are not judged

    Each partition compares its own rows, and a window is broken as far as its partitions are. Unlike `sp.drift` the
    reference stays, so that the rule is kept again when the column is as it was.

    >>> drift("amount", test="ks").columns
    ('amount',)
    """
    if test not in TESTS:
        raise DefinitionError(f"a rule of drift by '{test}'", hint=f"tests are {', '.join(TESTS)}")
    bounds = (("reference", reference, 20), ("run_length", run_length, 10), ("at_least", at_least, 10))
    for word, number, least in bounds:
        if number < least:
            raise DefinitionError(f"the rule of drift of '{column}': {word}={number}", hint=f"at least {least}")
    return DriftRule(
        "drift", columns=(column,), at_least=at_least, statistic=test, reference=reference, run_length=run_length
    )


def fresh(*, within: Span) -> Rule:
    """The newest row of each partition is at most so old by the clock.

    What the clock says is in the journal: a replay of it gives the same alerts, and a run by event time gives none.

    >>> fresh(within="5m").within_us
    300000000
    """
    span = span_us(within)
    if span <= 0:
        raise DefinitionError("a rule of freshness needs a span above zero", hint="fresh(within='5m')")
    return Rule("fresh", within_us=span)


def _share(at_most: float) -> float:
    if not 0 <= at_most <= 1:
        raise DefinitionError(f"a share of {at_most}", hint="shares of rows lie between 0 and 1")
    return float(at_most)
