"""Linkages from and to Splink, by the JSON that its `save_model_to_json` writes.

Levels are read by the shape of their SQL: equality, Jaro-Winkler, Damerau-Levenshtein and Levenshtein at a limit, "is
null", and "else". What has another shape is refused by name: nothing is dropped in silence. Term frequency tables are
not in that file; `with_frequencies` counts them in a frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from streamproc.entities.comparisons import Block, Comparison, Level
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.training import frequencies_of
from streamproc.errors import InputError

_NAME = r'"?(?P<{side}>\w+?)_{letter}"?'
_PAIR = _NAME.format(side="left", letter="l") + r"\s*{between}\s*" + _NAME.format(side="right", letter="r")
_EQUAL = re.compile(_PAIR.format(between="="), re.IGNORECASE)
_CALL = re.compile(
    r"(?P<call>\w+)\(\s*" + _PAIR.format(between=",") + r"\s*\)\s*(?P<sign>[<>]=)\s*(?P<limit>[0-9.]+)", re.IGNORECASE
)
_CALLS = {
    "jaro_winkler_similarity": ("jaro_winkler", ">="), "jaro_winkler": ("jaro_winkler", ">="),
    "damerau_levenshtein": ("damerau_levenshtein", "<="), "levenshtein": ("levenshtein", "<="),
}  # fmt: skip
_WRITTEN = {measure: (name, sign) for name, (measure, sign) in reversed(_CALLS.items())}
_RULE = re.compile(r'\(?\s*"?l"?\."?(\w+)"?\s*=\s*"?r"?\."?(\w+)"?\s*\)?', re.IGNORECASE)
_LETTERS = re.compile(
    r'\(?\s*SUBSTR(?:ING)?\(\s*"?l"?\."?(\w+)"?\s*,\s*1\s*,\s*(\d+)\s*\)\s*=\s*'
    r'SUBSTR(?:ING)?\(\s*"?r"?\."?(\w+)"?\s*,\s*1\s*,\s*(\d+)\s*\)\s*\)?',
    re.IGNORECASE,
)


def from_splink(text: str, *, records: int = 0) -> LinkageModel:
    """The linkage of a Splink model file; raises InputError for what it says that cannot be said here."""
    try:
        told: Mapping[str, Any] = json.loads(text)
        comparisons, m, u = [], [], []
        for one in told["comparisons"]:
            comparison, likely, unlikely = _comparison(one)
            comparisons.append(comparison)
            m.append(likely)
            u.append(unlikely)
        rules = told.get("blocking_rules_to_generate_predictions", [])
        blocks = tuple(_block(rule["blocking_rule"] if isinstance(rule, Mapping) else rule) for rule in rules)
        prior = float(told["probability_two_random_records_match"])
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f"this is no Splink model: {problem!r}", hint="linker.misc.save_model_to_json") from None
    return LinkageModel(tuple(comparisons), blocks, prior, tuple(m), tuple(u), {}, {}, records)


def _comparison(told: Mapping[str, Any]) -> tuple[Comparison, tuple[float, ...], tuple[float, ...]]:
    levels: list[Level] = []
    m: list[float] = []
    u: list[float] = []
    columns: set[str] = set()
    rest: tuple[float, float] | None = None
    frequencies = False
    name = str(told.get("output_column_name", "?"))
    for one in told["comparison_levels"]:
        if one.get("is_null_level"):
            continue
        condition = str(one["sql_condition"]).strip()
        chances = float(one.get("m_probability") or 1e-9), float(one.get("u_probability") or 1e-9)
        if condition.upper() == "ELSE":
            rest = chances
            continue
        equal, call = _EQUAL.fullmatch(condition), _CALL.fullmatch(condition)
        if equal is not None and equal["left"] == equal["right"]:
            levels.append(Level("equal"))
            columns.add(equal["left"])
            frequencies = frequencies or bool(one.get("tf_adjustment_column"))
        elif (
            call is not None and call["left"] == call["right"]
            and _CALLS.get(call["call"].lower(), ("", ""))[1] == call["sign"]
        ):  # fmt: skip
            levels.append(Level(_CALLS[call["call"].lower()][0], float(call["limit"])))
            columns.add(call["left"])
        else:
            raise InputError(
                f"the comparison '{name}' has a level that cannot be read: {condition}",
                hint="equality, jaro_winkler_similarity, damerau_levenshtein, levenshtein, NULL and ELSE can",
            )
        m.append(chances[0])
        u.append(chances[1])
    if len(columns) != 1 or rest is None:
        raise InputError(f"the comparison '{name}' does not compare one column with an ELSE level", hint="split it")
    made = Comparison(columns.pop(), "text", tuple(levels), frequencies)
    return made, (*m, rest[0]), (*u, rest[1])


def _block(rule: str) -> Block:
    parts = []
    for part in re.split(r"\s+AND\s+", rule.strip(), flags=re.IGNORECASE):
        whole, letters = _RULE.fullmatch(part.strip()), _LETTERS.fullmatch(part.strip())
        if whole is not None and whole[1] == whole[2]:
            parts.append((whole[1], 0))
        elif letters is not None and letters[1] == letters[3] and letters[2] == letters[4]:
            parts.append((letters[1], int(letters[2])))
        else:
            raise InputError(f"the blocking rule cannot be read: {rule}", hint="equalities joined by AND")
    return Block(tuple(parts))


def to_splink(model: LinkageModel, *, link_type: str = "dedupe_only") -> str:
    """The model as a file that Splink's `Linker` takes; raises InputError for levels that Splink has no words for."""
    comparisons = []
    for at, one in enumerate(model.comparisons):
        column = one.column
        levels: list[dict[str, Any]] = [
            {"sql_condition": f'"{column}_l" IS NULL OR "{column}_r" IS NULL', "is_null_level": True,
             "label_for_charts": "missing"}
        ]  # fmt: skip
        for k, level in enumerate(one.levels):
            if level.measure == "equal":
                condition = f'"{column}_l" = "{column}_r"'
            elif level.measure in _WRITTEN:
                call, sign = _WRITTEN[level.measure]
                condition = f'{call}("{column}_l", "{column}_r") {sign} {level.limit:g}'
            else:
                raise InputError(f"Splink has no words here for '{level}' of '{column}'", hint="leave the level out")
            made: dict[str, Any] = {
                "sql_condition": condition, "label_for_charts": str(level), "m_probability": model.m[at][k],
                "u_probability": model.u[at][k],
            }  # fmt: skip
            if one.frequencies and k == 0:
                made["tf_adjustment_column"] = column
            levels.append(made)
        levels.append(
            {"sql_condition": "ELSE", "label_for_charts": "different", "m_probability": model.m[at][-1],
             "u_probability": model.u[at][-1]}
        )  # fmt: skip
        comparisons.append({"output_column_name": column, "comparison_levels": levels})
    return json.dumps(
        {
            "link_type": link_type, "probability_two_random_records_match": model.prior,
            "blocking_rules_to_generate_predictions": [
                {"blocking_rule": splink_rule(one), "sql_dialect": "duckdb"} for one in model.blocks
            ],
            "comparisons": comparisons, "sql_dialect": "duckdb",
        },
        indent=1,
    )  # fmt: skip


def splink_rule(one: Block) -> str:
    """A block as SQL."""
    if one.words:
        raise InputError(f"Splink has no words for the block '{one}'", hint="block by columns")
    return " AND ".join(
        f'l."{column}" = r."{column}"' if not letters
        else f'SUBSTR(l."{column}", 1, {letters}) = SUBSTR(r."{column}", 1, {letters})'
        for column, letters in one.parts
    )  # fmt: skip


def with_frequencies(model: LinkageModel, frame: pl.DataFrame) -> LinkageModel:
    """The model with the shares of values as they are in a frame, for comparisons that weigh them."""
    shares = {}
    for one in model.comparisons:
        if one.frequencies:
            texts = frame[one.column].cast(pl.String).str.strip_chars().str.to_lowercase().rename("t")
            texts = texts.filter(texts.is_not_null() & (texts != ""))
            shares[one.column] = frequencies_of(texts, texts.len())
    return replace(model, frequencies=shares, records=frame.height)
