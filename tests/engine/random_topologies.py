"""Small topologies made by chance, as recipes that can be built for the engine and computed on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.graph import Stream

FIELDS = """{"name": "id", "type": "long"}, {"name": "k", "type": "string", "sp:role": "key"},
    {"name": "g", "type": ["null", "long"], "default": null}, {"name": "v", "type": ["null", "long"], "default": null},
    {"name": "items", "type": {"type": "array", "items": "long"}}, {"name": "uid", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}"""
MOVED = parse_contract(f'{{"type": "record", "name": "ev", "sp:version": 1, "fields": [{FIELDS}]}}')
PLACED = parse_contract(
    f'{{"type": "record", "name": "placed", "sp:version": 1, "sp:partitioner": "murmur2", "fields": [{FIELDS}]}}'
)
BASE = ("id", "k", "g", "v", "uid")
MADE = ("window_start", "window_end", "n", "s", "m")
TOPICS = ("a", "b", "c")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A stream of a random topology.

    key      the columns of its key, or None
    sorted   rows stand in order of event time and `uid`
    has      columns beside the base ones: "items" of rows as they come; `result` for window results
    paired   a row is made of two, so that its `uid` is large
    """

    kind: str
    inputs: tuple[Recipe, ...] = ()
    args: tuple[Any, ...] = ()
    key: tuple[str, ...] | None = None
    sorted: bool = False
    items: bool = False
    result: bool = False
    paired: bool = False

    def told(self) -> str:
        """The recipe in words."""
        args = ", ".join(map(str, self.args))
        if not self.inputs:
            return f"{self.kind}({args})"
        first, *others = (one.told() for one in self.inputs)
        return f"{first}\n    | {self.kind}({', '.join([args, *(f'[{other}]' for other in others)])})"


@dataclass
class Maker:
    """Makes recipes.

    plain   only what can be computed on paper whatever the order of arrival: sources are put in order at once
    placed  everything stays in one stage: the one key is that of the sources
    """

    random: np.random.Generator
    plain: bool
    placed: bool
    sources: list[Recipe] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def topology(self) -> tuple[Recipe, ...]:
        """The recipes of one to three sinks."""
        self.sources = [Recipe("source", (), (topic,), items=True) for topic in TOPICS[: self.number(1, 4)]]
        pool: list[Recipe] = [Recipe("ordered", (s,), sorted=True, items=True) if self.plain else s
                              for s in self.sources]  # fmt: skip
        for _ in range(self.number(3, 11)):
            pool.append(self.extended(pool))
        leaves = [pool[-1], *(self.pick(*pool) for _ in range(self.number(0, 3)))]
        return tuple(dict.fromkeys(leaves))

    def extended(self, pool: Sequence[Recipe]) -> Recipe:
        # The newest streams are taken most often, so that topologies become deep.
        above = pool[-1] if self.random.random() < 0.5 else self.pick(*pool)
        if above.result:
            return self.pick(self.busy, self.as_rows)(above)
        steps: list[Callable[[Recipe], Recipe]] = [
            self.where, self.shifted, self.required, self.selected, self.renamed, self.exploded, self.ordered,
            self.deduped, self.keyed, self.windowed, self.windowed, self.looked_back,
        ]  # fmt: skip
        other = self.pick(*pool)
        if not other.result:
            steps += [lambda one: self.united(one, other), lambda one: self.looked_up(one, other)]
            steps += [lambda one: self.paired(one, other)]
        return self.pick(*steps)(above)

    # ── one row at a time ────────────────────────────────────────────────────────────────────────────────────────────

    def like(self, above: Recipe, kind: str, *args: Any, **changed: Any) -> Recipe:
        known = {"key": above.key, "sorted": above.sorted, "items": above.items, "result": above.result,
                 "paired": above.paired}  # fmt: skip
        return Recipe(kind, (above,), args, **{**known, **changed})

    def where(self, above: Recipe) -> Recipe:
        modulus = self.number(2, 5)
        return self.like(above, "where", modulus, self.number(0, modulus))

    def shifted(self, above: Recipe) -> Recipe:
        return self.like(above, "shifted", self.number(-3, 4))

    def required(self, above: Recipe) -> Recipe:
        return self.like(above, "required", self.number(3, 9))

    def selected(self, above: Recipe) -> Recipe:
        return self.like(above, "selected", items=False)

    def renamed(self, above: Recipe) -> Recipe:
        return self.like(above, "renamed")

    def exploded(self, above: Recipe) -> Recipe:
        return self.like(above, "exploded", items=False) if above.items else self.where(above)

    def ordered(self, above: Recipe) -> Recipe:
        return self.like(above, "ordered", sorted=True)

    def keyed(self, above: Recipe) -> Recipe:
        key = ("k",) if self.placed else self.pick(("k",), ("g",), ("id",), ("k", "g"), ("g", "k"), ())
        return self.like(above, "keyed", key, key=key)

    # ── what remembers ───────────────────────────────────────────────────────────────────────────────────────────────

    def in_order(self, above: Recipe) -> Recipe:
        return above if above.sorted or not self.plain else self.ordered(above)

    def with_key(self, above: Recipe, key: tuple[str, ...] | None = None) -> Recipe:
        if key is not None:
            return above if above.key == key else self.like(above, "keyed", key, key=key)
        return above if above.key is not None else self.keyed(above)

    def deduped(self, above: Recipe) -> Recipe:
        above = self.in_order(above)
        if self.placed:
            return self.like(above, "deduped", ("k", "id"), self.number(1, 30))
        key = above.key if above.key is not None and set(above.key) <= {"id"} else ("id",)
        return self.like(above, "deduped", ("id",), self.number(1, 30), key=key)

    def windowed(self, above: Recipe) -> Recipe:
        above = self.with_key(above)
        kind = self.pick("tumbling", "sliding", "session")
        span = self.number(2, 25)
        args = {"tumbling": (span,), "sliding": (span * 2, span), "session": (self.number(1, 8),)}[kind]
        return self.like(above, kind, *args, sorted=False, items=False, result=True)

    def looked_back(self, above: Recipe) -> Recipe:
        above = self.with_key(self.in_order(above))
        return self.like(above, "looked_back", self.number(1, 30))

    def busy(self, above: Recipe) -> Recipe:
        return self.like(above, "busy", self.number(0, 3))

    def as_rows(self, above: Recipe) -> Recipe:
        key = above.key if above.key is not None and set(above.key) <= {"k", "g"} else None
        return self.like(above, "as_rows", above.key, result=False, key=key)

    # ── two inputs ───────────────────────────────────────────────────────────────────────────────────────────────────

    def united(self, left: Recipe, right: Recipe) -> Recipe:
        key = left.key if left.key == right.key else None
        paired = left.paired or right.paired
        if paired and left.paired and right.paired:
            return self.where(left)
        return Recipe("united", (left, right), (), key, paired=paired)

    def looked_up(self, left: Recipe, right: Recipe) -> Recipe:
        left = self.with_key(left)
        if left.key == () and right.key != ():
            right = self.with_key(right, ())
        left, right = self.sorted_side(left), self.sorted_side(self.with_key(right, left.key))
        return Recipe("looked_up", (left, right), (self.pick(None, self.number(1, 20)),), left.key, left.sorted,
                      paired=left.paired)  # fmt: skip

    def sorted_side(self, side: Recipe) -> Recipe:
        """Joins of other stages than the sources' are promised below `ordered` only."""
        return side if side.sorted or self.placed else self.ordered(side)

    def paired(self, left: Recipe, right: Recipe) -> Recipe:
        if left.paired or right.paired or left is right:
            return self.shifted(left)
        left = self.with_key(left)
        right = self.with_key(right, left.key)
        how = self.pick("inner", "inner", "left")
        return Recipe("paired", (left, right), (self.number(0, 8), self.number(0, 8), how), left.key, paired=True)


def built(recipe: Recipe, known: dict[int, Stream], *, placed: bool, lateness: int) -> Stream:
    """The stream of a recipe."""
    if id(recipe) not in known:
        above = [built(one, known, placed=placed, lateness=lateness) for one in recipe.inputs]
        known[id(recipe)] = _built(recipe, above, placed=placed, lateness=lateness)
    return known[id(recipe)]


def _built(recipe: Recipe, above: list[Stream], *, placed: bool, lateness: int) -> Stream:
    args = recipe.args
    col = pl.col
    folds = {"n": sp.count(), "s": sp.total("v"), "m": sp.max("uid")}
    match recipe.kind:
        case "source":
            return sp.source(args[0], contract=PLACED if placed else MOVED, lateness=f"{lateness}us")
        case "where":
            return above[0] | sp.where(col("v") % args[0] != args[1])
        case "shifted":
            return above[0] | sp.with_columns(v=col("v") + args[0])
        case "required":
            return above[0] | sp.require(small=col("v").is_null() | (col("v") < args[0]))
        case "selected":
            return above[0] | sp.select(*BASE)
        case "renamed":
            return above[0] | sp.rename(g="h", v="w") | sp.rename(h="g", w="v")
        case "exploded":
            number = col("uid") * 10 + col("items").fill_null(0)
            return above[0] | sp.explode("items") | sp.with_columns(uid=number) | sp.drop("items")
        case "ordered":
            return above[0] | sp.ordered(by="uid")
        case "keyed":
            return above[0] | sp.key_by(*args[0])
        case "deduped":
            return above[0] | sp.dedupe(*args[0], within=f"{args[1]}us")
        case "tumbling":
            return above[0] | sp.tumbling(f"{args[0]}us", **folds)
        case "sliding":
            return above[0] | sp.sliding(f"{args[0]}us", every=f"{args[1]}us", **folds)
        case "session":
            return above[0] | sp.session(f"{args[0]}us", **folds)
        case "looked_back":
            span = f"{args[0]}us"
            folded = above[0] | sp.features(n=sp.count().over(span), s=sp.total("v").over(span))
            return folded | sp.with_columns(v=col("n") * 7 + col("s")) | sp.drop("n", "s")
        case "busy":
            return above[0] | sp.where(col("n") > args[0])
        case "as_rows":
            named = {
                "id": col("n") % 5,
                "k": col("k") if "k" in args[0] else pl.lit("all"),
                "g": col("g") if "g" in args[0] else pl.lit(1, pl.Int64),
                "v": col("s"),
                "uid": col("m"),
            }
            kept = [name for name in ("k", "g") if name in args[0]]
            return above[0] | sp.select(*kept, **{n: e for n, e in named.items() if n not in kept})
        case "united":
            left, right = (
                one | sp.select(*BASE) | sp.with_columns(uid=col("uid") * 2 + side) for side, one in enumerate(above)
            )
            return left | sp.union(right)
        case "looked_up":
            age = None if args[0] is None else f"{args[0]}us"
            joined = above[0] | sp.as_of(above[1] | sp.select(*BASE), max_age=age)
            at_hand = col("v_right").fill_null(-1)
            return joined | sp.with_columns(v=at_hand) | sp.select(*BASE)
        case "paired":
            joined = above[0] | sp.select(*BASE) | sp.within(
                above[1] | sp.select(*BASE), before=f"{args[0]}us", after=f"{args[1]}us", how=args[2]
            )  # fmt: skip
            both = col("uid") * 1_000_000_000 + col("uid_right").fill_null(999_999_999)
            return joined | sp.with_columns(v=col("v_right"), uid=both) | sp.select(*BASE)
    raise AssertionError(recipe.kind)


def random_rows(
    random: np.random.Generator, topics: Sequence[str], *, late: bool, lateness: int
) -> dict[str, pl.DataFrame]:
    """Rows of each source: ties, hot keys, disorder within the lateness, and beyond it if `late`."""
    frames = {}
    uid = 0
    for topic in topics:
        n = int(random.integers(0, 36))
        time = np.cumsum(random.integers(0, int(random.choice((2, 5))), n))
        back = random.integers(0, lateness + 1, n)
        time = np.maximum.accumulate(time) - back if n else time
        if late:
            time = time - (random.random(n) < 0.1) * random.integers(0, 40, n)
        frames[topic] = pl.DataFrame(
            {
                "id": random.integers(0, 12, n),
                "k": [str(key) for key in random.choice(["x", "y", "z", "ä"], n, p=[0.6, 0.2, 0.1, 0.1])],
                "g": [None if g == 3 else int(g) for g in random.integers(0, 4, n)],
                "v": [None if v == 0 else int(v) for v in random.integers(0, 10, n)],
                "items": [list(range(int(size))) for size in random.integers(0, 4, n)],
                "uid": uid + np.arange(n),
                "at": time,
            },
            schema={"id": pl.Int64, "k": pl.String, "g": pl.Int64, "v": pl.Int64, "items": pl.List(pl.Int64),
                    "uid": pl.Int64, "at": pl.Int64},
        )  # fmt: skip
        uid += n
    return frames
