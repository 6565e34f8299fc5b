"""A decision made again from its line in the log: the same bytes or `ReplayDiverged`, with reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from streamproc.contracts.model import Schema
from streamproc.decisions.decide import Decide
from streamproc.decisions.decision_log import CHAIN
from streamproc.errors import ReplayDiverged


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision is as it is.

    decision, rule  what was decided, and by which rule
    rules           per rule its condition and whether it held, up to the one that counted
    costs           per decision its expected cost, where costs decide
    matters         per input what would be decided were it not known, where that is something else
    counterfactual  the nearest change of one number that decides otherwise: column, value, decision; None if none was
                    found within a million times its size
    """

    decision: Any
    rule: Any
    rules: tuple[tuple[str, str, bool], ...]
    costs: tuple[tuple[str, float], ...]
    matters: tuple[tuple[str, Any], ...]
    counterfactual: tuple[str, float, Any] | None


def explain_line(step: Decide, schema: Schema, line: pl.DataFrame) -> Explanation:
    """Makes the decision of one line of the log again.

    schema  the columns of the rows that the step gets
    Raises ReplayDiverged, with both values, if rules or outcome are not what was logged.
    """
    form = step.form(schema)
    inputs = line.select(step.logged)
    logged = line.row(0, named=True)
    if logged["logic"] != step.logic:
        raise ReplayDiverged(
            f"decision {logged[step.made[0]]} was made by rules of version {logged['logic']}, these are {step.logic}",
            hint="explain it with the version of the topology that made it",
        )
    decided, rule, _ = step.table.decide(inputs)
    again = line.with_columns(decided.alias(step.made[1]), rule.alias(step.made[2]))
    encoder = form.encoder()
    if form.bodies(again.drop(CHAIN), encoder) != form.bodies(line.drop(CHAIN), encoder):
        raise ReplayDiverged(
            f"decision {logged[step.made[0]]}: logged is {logged[step.made[1]]!r} by {logged[step.made[2]]!r}, "
            f"the rules give {decided[0]!r} by {rule[0]!r}"
        )
    hits = step.table.hits(inputs)[0].tolist()
    rules = tuple((one.name, str(one.holds), bool(hit)) for one, hit in zip(step.table.rules, hits, strict=True))
    costs: tuple[tuple[str, float], ...] = ()
    if step.table.by_cost is not None:
        expected = step.table.by_cost.expected(inputs)[0].tolist()
        costs = tuple((name, cost) for (name, _, _), cost in zip(step.table.by_cost.costs, expected, strict=True))
    return Explanation(
        _plain(decided), _plain(rule), rules, costs, _matters(step, inputs, _plain(decided)),
        nearest(step, inputs, _plain(decided)),
    )  # fmt: skip


def made_again(step: Decide, schema: Schema, lines: pl.DataFrame) -> int:
    """Makes every decision of a log again, all at once, and says how many that were.

    schema  the columns of the rows that the step gets
    Raises ReplayDiverged, as `explain_line` does, for the first line that is not what was logged.
    """
    form = step.form(schema)
    decided, rule, _ = step.table.decide(lines.select(step.logged))
    again = lines.with_columns(decided.alias(step.made[1]), rule.alias(step.made[2]), pl.lit(step.logic).alias("logic"))
    encoder = form.encoder()
    both = zip(form.bodies(again.drop(CHAIN), encoder), form.bodies(lines.drop(CHAIN), encoder), strict=True)
    for at, (made, logged) in enumerate(both):
        if made != logged:
            explain_line(step, schema, lines[at : at + 1])
    return lines.height


def nearest(step: Decide, inputs: pl.DataFrame, decided: Any) -> tuple[str, float, Any] | None:
    """The smallest change of one number, against its size, that decides otherwise, and what; found by trial.

    Steps away from the value double until the decision turns; then the interval is cut into 64 until its ends agree to
    six digits. The value given does turn the decision.
    """
    best: tuple[float, str, float, Any] | None = None
    for name in step.table.columns:
        dtype = inputs.schema[name]
        value = inputs[name][0]
        if value is None or not dtype.is_numeric() or not math.isfinite(value):
            continue
        size = max(abs(float(value)), 1e-3)
        away = np.concatenate([sign * size * 2.0 ** np.arange(-20, 21) for sign in (-1.0, 1.0)])
        tried = _outcomes(step, inputs, name, float(value) + away)
        for sign in (slice(0, 41), slice(41, 82)):
            turned = [i for i in range(sign.start, sign.stop) if tried[i] != decided]
            if not turned:
                continue
            far = float(away[turned[0]])
            near = float(away[turned[0] - 1]) if turned[0] > sign.start else 0.0
            while abs(far - near) > 1e-6 * size:
                between = np.linspace(near, far, 65)[1:]
                first = next(
                    k for k, one in enumerate(_outcomes(step, inputs, name, value + between)) if one != decided
                )
                near, far = float(between[first - 1]) if first else near, float(between[first])
            other = float(value) + far if dtype.is_float() else float(np.round(float(value) + far))
            changed = _outcomes(step, inputs, name, np.array([other]))[0]
            if changed != decided and (best is None or abs(far) / size < best[0]):
                best = (abs(far) / size, name, other, changed)
    return None if best is None else best[1:]


def _outcomes(step: Decide, inputs: pl.DataFrame, name: str, values: np.ndarray[Any, Any]) -> list[Any]:
    dtype = inputs.schema[name]
    tried = pl.Series(name, values if dtype.is_float() else np.round(values)).cast(dtype, strict=False)
    rows = inputs[[0] * len(values)].with_columns(tried)
    return list(step.table.decide(rows)[0].to_list())


def _matters(step: Decide, inputs: pl.DataFrame, decided: Any) -> tuple[tuple[str, Any], ...]:
    found = []
    for name in step.table.columns:
        without = inputs.with_columns(pl.lit(None, inputs.schema[name]).alias(name))
        other = _plain(step.table.decide(without)[0])
        if other != decided:
            found.append((name, other))
    return tuple(found)


def _plain(column: pl.Series) -> Any:
    return column.to_list()[0]
