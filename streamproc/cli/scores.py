"""What a model said of a row and why, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click

from streamproc.cli.render import put_table
from streamproc.learning.contributions import Contributions
from streamproc.runtime.scored_by import Scored, Unasked

_HOW = {
    "linear": "weight times value, exactly",
    "tree": "along the path through the tree, exactly",
}


def score_form(one: Scored | Unasked, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON.

    inputs  what the decision rested on: the columns that hold this very score are named
    """
    if isinstance(one, Unasked):
        return {"learner": one.learner, "unknown": one.reason, "diverged": one.diverged}
    asked, parts = one.asked, one.asked.parts
    return {
        "learner": one.learner, "model": asked.model, "made_of": asked.made_of, "task": one.task, "step": one.step,
        "labels": asked.labels, "score": asked.score, "calibrated": asked.calibrated, "read_as": _read_as(one, inputs),
        "told": asked.told,
        "contributions": None if parts is None else {
            "way": parts.way, "exact": parts.exact, "adds_up_to": parts.scale, "base": parts.base,
            "total": parts.total, "permutations": parts.permutations, "background": parts.background,
            "terms": [
                {"name": t.name, "value": t.value, "weight": t.weight, "adds": t.adds, "error": t.error}
                for t in parts.terms
            ],
        },
    }  # fmt: skip


def put_score(one: Scored | Unasked, inputs: Mapping[str, Any]) -> None:
    """As text on stdout."""
    if isinstance(one, Unasked):
        click.echo(f"what {one.learner} said cannot be told: {one.reason}")
        return
    asked = one.asked
    score = "nothing" if asked.score is None else f"{asked.score:.6g}"
    called = "" if asked.model == "model" else f" '{asked.model}'"
    told = f"{one.learner}{called} ({asked.made_of}) said {score} when it knew {asked.labels:,} labels"
    if asked.calibrated is not None:
        told += f", as a chance {asked.calibrated:.6g}"
    names = _read_as(one, inputs)
    click.echo(told + (f"; read as {', '.join(names)}" if names else "; no input of the decision has that value"))
    if asked.parts is not None:
        _put_parts(asked.parts)


def _put_parts(parts: Contributions) -> None:
    what = "log-odds" if parts.scale == "log-odds" else "score"
    how = _HOW.get(parts.way, "")
    if not how:
        lenders = f"the {parts.background} rows scored before it" if parts.background else "a row without values"
        how = f"estimated by {parts.permutations} permutations against {lenders}"
    rows = [(t.name, _number(t.value), *_weighed(parts, t.weight, t.error), f"{t.adds:+.6f}") for t in parts.terms]
    if parts.way != "linear":
        rows.insert(0, ("(base)", "", "", f"{parts.base:+.6f}"))
    rows.append(("=", "", "", f"{parts.total:+.6f}"))
    third = "weight" if parts.way == "linear" else "error" if parts.way == "permutation" else ""
    put_table(f"what adds up to its {what}: {how}", ("input", "value", third, "adds"), rows)


def _weighed(parts: Contributions, weight: float | None, error: float | None) -> tuple[str]:
    if parts.way == "linear":
        return ("" if weight is None else f"{weight:+.6f}",)
    return ("" if error is None or math.isnan(error) else f"{error:.6f}",)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read_as(one: Scored, inputs: Mapping[str, Any]) -> list[str]:
    """Inputs of the decision that hold the score, or the chance that was made of it."""
    said = [value for value in (one.asked.score, one.asked.calibrated) if value is not None]
    return [name for name, value in inputs.items() if isinstance(value, float) and value in said]
