"""Rules that a row must keep; a row that breaks one is a dead letter under the rule's name."""

from __future__ import annotations

import polars as pl

from streamproc.errors import DefinitionError
from streamproc.graph import Step
from streamproc.operators.quality.rule import row
from streamproc.operators.quality.rules import Rules


def require(*, name: str = "", **rules: pl.Expr) -> Step:
    """Lets rows go on that keep every rule; the others go to the dead-letter topic, with the first broken rule as
    reason.

    A rule is a Boolean, element-wise expression; a null counts as broken. Late rows are judged like all others. It is
    `rules` with the action "dead_letter" for all of them, and raises no alerts.
    At plan time raises DefinitionError for a rule that reads unknown columns, other rows, or is not Boolean.

    >>> require(price_above_zero=pl.col("unit_price") > 0).operator.verb
    'require'
    """
    if not rules:
        raise DefinitionError(
            "step 'require' has no rule", hint="sp.require(price_above_zero=pl.col('unit_price') > 0)"
        )
    declared = tuple((key, row(test, action="dead_letter")) for key, test in rules.items())
    return Step(Rules(declared, verb="require"), name=name)
