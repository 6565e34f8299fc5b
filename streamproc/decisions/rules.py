"""Rules: what is decided where something holds, and which of several that hold counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.operators.evaluation import evaluate
from streamproc.operators.expressions import canonical_text, check_predicate, expression_columns

Hit = Literal["first", "unique", "collect"]
HITS: Final = ("first", "unique", "collect")


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Decides `then` where `holds` does; `name` says so in the log."""

    holds: pl.Expr
    then: str
    name: str


def when(holds: pl.Expr, *, then: str, name: str = "") -> Rule:
    """A line of a decision table: an element-wise condition, and what is decided where it holds (null: it does not).

    >>> when(pl.col("risk") > 0.9, then="block").name
    'block'
    """
    if not isinstance(holds, pl.Expr):
        raise DefinitionError(f"sp.when takes a condition, not {type(holds).__name__}", hint="pl.col('risk') > 0.9")
    if not then:
        raise DefinitionError("sp.when decides nothing", hint="then='block'")
    return Rule(holds, then, name or then)


@dataclass(frozen=True, slots=True)
class Cheapest:
    """Decides what costs least on average: per decision its cost where the event does not come, and where it does."""

    chance: str
    costs: tuple[tuple[str, float, float], ...]

    def expected(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """float64[rows, decisions]: the expected costs; NaN where the chance is not known, or is none."""
        chance = frame[self.chance].cast(pl.Float64).fill_null(np.nan).to_numpy()
        chance = np.where((chance >= 0.0) & (chance <= 1.0), chance, np.nan)
        return np.stack([(1.0 - chance) * without + chance * with_it for _, without, with_it in self.costs], axis=1)


def cheapest(chance: str, **costs: tuple[float, float]) -> Cheapest:
    """Decides by expected cost: `(1 - chance) * cost without + chance * cost with`, the least counts.

    chance  a column of chances, such as a learner's score; where it is null or NaN, `otherwise` is decided
    costs   per decision the cost where the event does not come and where it does; of equal ones the first counts

    A threshold follows from costs: blocking at 5 against letting a fraud of 100 pass means blocking from 1 in 20 on.

    >>> cheapest("risk", allow=(0.0, 100.0), block=(5.0, 5.0)).costs[1]
    ('block', 5.0, 5.0)
    """
    if len(costs) < 2:
        raise DefinitionError("sp.cheapest needs two decisions to choose from", hint="allow=(0, 100), block=(5, 0)")
    return Cheapest(chance, tuple((name, float(a), float(b)) for name, (a, b) in costs.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rules of one step, and how several hits count."""

    rules: tuple[Rule, ...]
    by_cost: Cheapest | None
    otherwise: str
    hit: Hit

    @property
    def columns(self) -> tuple[str, ...]:
        """What the rules read, in a fixed order."""
        read = {name for rule in self.rules for name in expression_columns(rule.holds)}
        return tuple(sorted(read | ({self.by_cost.chance} if self.by_cost else set())))

    @property
    def text(self) -> str:
        """The rules in the engine's own form: equal if they decide alike."""
        rules = [(rule.name, rule.then, canonical_text(rule.holds)) for rule in self.rules]
        return f"{rules} {self.by_cost} {self.otherwise} {self.hit}"

    def check(self, schema: Schema) -> None:
        """Raises what `sp.where` does for conditions; UnknownColumn and TypeMismatch for a chance."""
        for rule in self.rules:
            check_predicate(rule.holds, schema, "decide")
        if self.by_cost is not None:
            if self.by_cost.chance not in schema:
                raise UnknownColumn(
                    f"step 'decide' reads '{self.by_cost.chance}'", hint=did_you_mean(self.by_cost.chance, schema.names)
                )
            if not schema[self.by_cost.chance].dtype.is_numeric():
                raise TypeMismatch(
                    f"step 'decide': '{self.by_cost.chance}' is no chance", hint="use a column of floats"
                )

    def hits(self, frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """bool[rows, rules]: which rules hold."""
        if not self.rules or not frame.height:
            return np.zeros((frame.height, len(self.rules)), np.bool_)
        named = [(f"rule {i}", rule.holds.fill_null(False)) for i, rule in enumerate(self.rules)]
        made = evaluate(frame, named, frame.height)
        return np.stack([made[name].to_numpy() for name, _ in named], axis=1)

    def decide(self, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series, npt.NDArray[np.bool_]]:
        """The decision and the rule of each row, and where several rules hold that must not."""
        if self.by_cost is not None:
            expected = self.by_cost.expected(frame)
            known = ~np.isnan(expected).any(axis=1)
            chosen = np.where(
                known, np.where(np.isnan(expected), np.inf, expected).argmin(axis=1), len(self.by_cost.costs)
            )
            names = [name for name, _, _ in self.by_cost.costs]
            decided = _taken([*names, self.otherwise], chosen)
            return (
                decided,
                _taken([*(["cheapest"] * len(names)), "otherwise"], chosen),
                np.zeros(frame.height, np.bool_),
            )
        hits = self.hits(frame)
        thens, names = [rule.then for rule in self.rules], [rule.name for rule in self.rules]
        if self.hit == "collect":
            return (
                _collected(hits, thens, self.otherwise),
                _collected(hits, names, "otherwise"),
                np.zeros(frame.height, np.bool_),
            )
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), len(self.rules))
        several: npt.NDArray[np.bool_] = (hits.sum(axis=1) > 1) & (self.hit == "unique")
        return _taken([*thens, self.otherwise], first), _taken([*names, "otherwise"], first), several


def table_of(rules: Sequence[Rule | Cheapest], *, otherwise: str, hit: Hit) -> Table:
    """The table of a step.  Raises DefinitionError and DuplicateName for rules that do not go together."""
    if hit not in HITS:
        raise DefinitionError(f"step 'decide': hit='{hit}'", hint=f"one of {', '.join(map(repr, HITS))}")
    by_cost = [rule for rule in rules if isinstance(rule, Cheapest)]
    plain = tuple(rule for rule in rules if isinstance(rule, Rule))
    if len(by_cost) > 1 or (by_cost and plain) or not rules or len(by_cost) + len(plain) != len(rules):
        raise DefinitionError(
            "step 'decide' takes rules, or one sp.cheapest", hint="sp.when(pl.col('risk') > 0.9, ...)"
        )
    names = [rule.name for rule in plain]
    for name in names:
        if names.count(name) > 1 or name == "otherwise":
            raise DuplicateName(f"step 'decide' has two rules named '{name}'", hint="give them names: name='...'")
    return Table(plain, by_cost[0] if by_cost else None, otherwise, hit)


def _taken(words: list[str], chosen: npt.NDArray[np.int64]) -> pl.Series:
    return pl.Series(words, dtype=pl.String)[chosen] if chosen.size else pl.Series([], dtype=pl.String)


def _collected(hits: npt.NDArray[np.bool_], words: list[str], otherwise: str) -> pl.Series:
    known: Mapping[bytes, list[str]] = {
        key: [word for word, hit in zip(words, np.frombuffer(key, np.bool_), strict=True) if hit] or [otherwise]
        for key in {row.tobytes() for row in hits}
    }
    return pl.Series([known[row.tobytes()] for row in hits], dtype=pl.List(pl.String))
