"""The step that asks people keeps the eight laws, and gives each case what a person with a list would give it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.review import ANSWER, REVIEW
from streamproc.errors import DefinitionError
from streamproc.operator import StreamType
from streamproc.testing import check_operator
from streamproc.testing.trials import Event

SECOND = 1_000_000
TIMEOUT = 5 * SECOND
ROWS = StreamType(Schema((Field("case", pl.String()), Field("x", pl.Float64()), Field("i", pl.Int64()))), ("case",))
ANSWERS = StreamType(ANSWER.schema, ("case",))
STEP = sp.review(
    answers="answers", default="no", choices=("yes", "no"), timeout="5s", priority="x", subject="i"
)  # fmt: skip


def cases(random: np.random.Generator, n: int) -> pl.DataFrame:
    """Each row is a case of its own: ids are made of coordinates."""
    return pl.DataFrame({
        "case": [f"c{i}" for i in random.permutation(n)], "x": random.random(n), "i": random.integers(0, 9, n)
    }, schema=ROWS.schema.polars())  # fmt: skip


def answers(random: np.random.Generator, n: int) -> pl.DataFrame:
    nobody = pl.Series([None] * n, dtype=pl.String)
    return pl.DataFrame({
        "case": [f"c{i}" for i in random.integers(0, 12, n)],
        "deed": random.choice(["answer", "answer", "answer", "claim"], n).tolist(),
        "by": random.choice(["eve", "kim"], n).tolist(), "at": [0] * n, "subject": nobody,
        "verdict": random.choice(["yes", "yes", "no", "maybe"], n).tolist(), "note": nobody, "until": [None] * n,
        "token": ["t"] * n,
    }, schema=ANSWER.schema.polars())  # fmt: skip


def by_hand(events: Iterable[Event]) -> list[dict[str, Any]]:
    """A list of open cases; time is looked at before each row."""
    waiting: dict[str, tuple[int, dict[str, Any]]] = {}
    made = []

    def close(case: str, status: str, verdict: str, by: str | None) -> None:
        _, row = waiting.pop(case)
        made.append({**row, "status": status, "verdict": verdict, "answered_by": by})

    for event in events:
        for deadline, case in sorted((asked + TIMEOUT, case) for case, (asked, _) in waiting.items()):
            if deadline <= event.released_up_to:
                close(case, "timed_out", "no", None)
        if event.port == 0 and not event.late and event.time >= event.released_up_to:
            waiting[event.row["case"]] = (event.time, event.row)
        elif event.port == 1 and event.row["deed"] == "answer" and event.row["case"] in waiting:
            asked, _ = waiting[event.row["case"]]
            if event.time < asked + TIMEOUT and event.row["verdict"] in ("yes", "no"):
                close(event.row["case"], "answered", event.row["verdict"], event.row["by"])
    return made


def test_a_review_keeps_the_eight_laws() -> None:
    assert check_operator(
        STEP, ROWS, ANSWERS, seeds=200, rows=30, unit="1s", samples=(cases, answers), without=("twin",)
    ) == 200  # fmt: skip


def test_the_id_of_a_case_hangs_on_its_row_alone() -> None:
    (ids,) = STEP.before
    assert check_operator(ids, StreamType(Schema(ROWS.schema.fields[1:])), seeds=50, rows=30) == 50


def test_a_case_gets_its_first_answer_in_time_else_the_default() -> None:
    from streamproc.testing.runs import run_trial
    from streamproc.testing.trials import random_cuts, random_trial

    told = ("case", "x", "i", "status", "verdict", "answered_by")
    seen = set()
    for seed in range(300):
        trial = random_trial(seed, (ROWS, ANSWERS), rows=40, unit_us=SECOND, samplers=(cases, answers))
        ran = run_trial(STEP.operator, trial, random_cuts(np.random.default_rng(seed), trial.watermarks.size))
        got = ran.rows.frame.select(told).to_dicts()
        assert sorted(got, key=str) == sorted(({n: row[n] for n in told} for row in by_hand(trial.events())), key=str)
        assert len({row["case"] for row in got}) == len(got), "one verdict a case"
        seen |= {row["status"] for row in got} | {name for name in ran.outputs if "break" in name}
    reasons = {f"rows that break '{why}'" for why in ("no_open_case", "no_such_verdict", "timed_out")}
    assert seen == {"answered", "timed_out", *reasons}


def test_an_open_case_says_everything_a_person_needs() -> None:
    out = STEP.operator.schema(ROWS, ANSWERS)
    assert out.schema.names == ("case", "x", "i", *(field.name for field in REVIEW))


def test_what_stands_for_a_person_does_so_in_the_case_too_and_a_name_is_no_subject() -> None:
    def tagged(tag: str) -> StreamType:
        origin = frozenset({"payment.v1.i"})
        return replace(ROWS, schema=ROWS.schema.with_fields((Field("i", pl.Int64(), pii=tag, origins=origin),)))

    subject = STEP.operator.schema(tagged("pseudonym"), ANSWERS).schema["subject"]
    assert (subject.pii, subject.origins) == ("pseudonym", frozenset({"payment.v1.i"}))
    with pytest.raises(DefinitionError, match="names a person"):
        STEP.operator.schema(tagged("direct"), ANSWERS)
