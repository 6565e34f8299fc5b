"""Random topologies computed on paper: every stream is a list of all its rows, and every step a loop over it.

Only for topologies whose results do not depend on the order of arrival, with no row late. Nothing of the engine is
used.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from random_topologies import BASE, MADE, Recipe

Row = dict[str, Any]
"""Values by column, and the event time as `t`."""


def computed(recipe: Recipe, frames: dict[str, pl.DataFrame], known: dict[int, list[Row]]) -> list[Row]:
    """All rows of a recipe, in order of event time and `uid` where it says so."""
    if id(recipe) not in known:
        above = [computed(one, frames, known) for one in recipe.inputs]
        known[id(recipe)] = _computed(recipe, above, frames)
    return known[id(recipe)]


def shown(recipe: Recipe, rows: list[Row]) -> list[tuple[Any, ...]]:
    """The columns that a sink has, sorted."""
    columns = (*(recipe.key or ()), *MADE) if recipe.result else (*BASE, *(("items",) if recipe.items else ()))
    return sorted(
        (tuple(row[name] if name != "items" else tuple(row[name]) for name in columns) for row in rows), key=repr
    )


def _computed(recipe: Recipe, above: list[list[Row]], frames: dict[str, pl.DataFrame]) -> list[Row]:
    args = recipe.args
    rows = above[0] if above else []
    match recipe.kind:
        case "source":
            return [{**row, "t": row["at"]} for row in frames[args[0]].iter_rows(named=True)]
        case "where":
            return [row for row in rows if row["v"] is not None and row["v"] % args[0] != args[1]]
        case "shifted":
            return [{**row, "v": None if row["v"] is None else row["v"] + args[0]} for row in rows]
        case "required":
            return [row for row in rows if row["v"] is None or row["v"] < args[0]]
        case "selected" | "renamed" | "keyed":
            return rows
        case "exploded":
            return [{**row, "uid": row["uid"] * 10 + item} for row in rows for item in row["items"]]
        case "ordered":
            return sorted(rows, key=lambda row: (row["t"], row["uid"]))
        case "deduped":
            return _deduped(rows, args[0], args[1])
        case "tumbling":
            return _windows(rows, recipe.key or (), args[0], args[0])
        case "sliding":
            return _windows(rows, recipe.key or (), args[0], args[1])
        case "session":
            return _sessions(rows, recipe.key or (), args[0])
        case "looked_back":
            return _looked_back(rows, recipe.key or (), args[0])
        case "busy":
            return [row for row in rows if row["n"] > args[0]]
        case "as_rows":
            return [
                {"id": row["n"] % 5, "k": row["k"] if "k" in args[0] else "all", "g": row["g"] if "g" in args[0] else 1,
                 "v": row["s"], "uid": row["m"], "t": row["t"]}
                for row in rows
            ]  # fmt: skip
        case "united":
            return [{**row, "uid": row["uid"] * 2 + side} for side in (0, 1) for row in above[side]]
        case "looked_up":
            return _looked_up(rows, above[1], recipe.key or (), args[0])
        case "paired":
            return _paired(rows, above[1], recipe.key or (), *args)
    raise AssertionError(recipe.kind)


def _key(row: Row, key: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[name] for name in key)


def _deduped(rows: list[Row], columns: tuple[str, ...], within: int) -> list[Row]:
    out: list[Row] = []
    for row in rows:
        if not any(_key(o, columns) == _key(row, columns) and abs(o["t"] - row["t"]) <= within for o in out):
            out.append(row)
    return out


def _result(key: dict[str, Any], rows: list[Row], start: int, end: int) -> Row:
    values = [row["v"] for row in rows if row["v"] is not None]
    moments = {"window_start": start, "window_end": end, "t": end}
    return {**key, **moments, "n": len(rows), "s": sum(values), "m": max(row["uid"] for row in rows)}


def _windows(rows: list[Row], key: tuple[str, ...], span: int, every: int) -> list[Row]:
    windows: dict[Any, list[Row]] = {}
    for row in rows:
        start = row["t"] // every * every
        while start + span > row["t"]:
            windows.setdefault((_key(row, key), start), []).append(row)
            start -= every
    return [
        _result({name: inside[0][name] for name in key}, inside, start, start + span)
        for (_, start), inside in windows.items()
    ]


def _sessions(rows: list[Row], key: tuple[str, ...], gap: int) -> list[Row]:
    out: list[Row] = []
    for one in {_key(row, key) for row in rows}:
        mine = sorted((row for row in rows if _key(row, key) == one), key=lambda row: row["t"])
        runs: list[list[Row]] = []
        for row in mine:
            if runs and row["t"] - runs[-1][-1]["t"] < gap:
                runs[-1].append(row)
            else:
                runs.append([row])
        out += [_result({n: run[0][n] for n in key}, run, run[0]["t"], run[-1]["t"] + gap) for run in runs]
    return out


def _looked_back(rows: list[Row], key: tuple[str, ...], span: int) -> list[Row]:
    out = []
    for at, row in enumerate(rows):
        seen = [o for o in rows[: at + 1] if _key(o, key) == _key(row, key) and o["t"] > row["t"] - span]
        out.append({**row, "v": len(seen) * 7 + sum(o["v"] for o in seen if o["v"] is not None)})
    return out


def _looked_up(left: list[Row], right: list[Row], key: tuple[str, ...], age: int | None) -> list[Row]:
    out = []
    for row in left:
        best: Row | None = None
        for other in right:
            usable = _key(other, key) == _key(row, key) and other["t"] <= row["t"]
            if usable and (best is None or (other["t"], other["uid"]) >= (best["t"], best["uid"])):
                best = other
        if best is not None and age is not None and row["t"] - best["t"] > age:
            best = None
        out.append({**row, "v": -1 if best is None or best["v"] is None else best["v"]})
    return out


def _paired(left: list[Row], right: list[Row], key: tuple[str, ...], before: int, after: int, how: str) -> list[Row]:
    out = []
    for row in left:
        partners = [
            o for o in right if _key(o, key) == _key(row, key) and row["t"] - before <= o["t"] <= row["t"] + after
        ]
        for other in partners:
            uid = row["uid"] * 1_000_000_000 + other["uid"]
            out.append({**row, "v": other["v"], "uid": uid, "t": max(row["t"], other["t"])})
        if not partners and how == "left":
            out.append({**row, "v": None, "uid": row["uid"] * 1_000_000_000 + 999_999_999, "t": row["t"] + after})
    return out
