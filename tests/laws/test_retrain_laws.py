"""What asks for a model to be made anew keeps the laws, and asks as a person with a calendar would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.learning.retrain import SIGNAL, Retrain
from streamproc.operator import StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.testing import check_operator
from streamproc.testing.runs import run_trial
from streamproc.testing.trials import Event, random_cuts, random_trial

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIGNALS = StreamType(Schema((Field(SIGNAL, pl.Int64()),)), (), ordered=True)
STREAM = Stream(KeyBy(()))
CASES = {
    "harm": sp.retrain(harm=STREAM, cooldown="9s", cut="3s", window="5s"),
    "volume": sp.retrain(volume=3, cooldown="7s", cut="2s"),
    "schedule": sp.retrain(every="4s", cooldown="0s", cut="4s"),
    "schedule off the grid": sp.retrain(every="5s", cooldown="6s", cut="3s"),
    "all": sp.retrain(harm=STREAM, volume=4, every="6s", cooldown="8s", cut="2s", window="10s"),
}


def signals(random: np.random.Generator, n: int) -> pl.DataFrame:
    return pl.DataFrame({SIGNAL: (random.random(n) < 0.15).astype(np.int64)})


def by_hand(step: Retrain, events: Iterable[Event]) -> list[dict[str, Any]]:
    """Second by second: the clock strikes, the cooldown ends, the cut is there; then what happened in that second."""
    events = list(events)
    rows = [(event.time // SECOND, event.row[SIGNAL]) for event in events if event.port == 0]
    last = max((event.released_up_to for event in events), default=-1) // SECOND
    last = min(last, max((t for t, _ in rows), default=0) + 60)  # where time ended, nothing is due so long after
    grid, every, cool = (us // SECOND for us in (step.cut_us, step.every_us, step.cooldown_us))
    labels = alarms = 0
    asked: tuple[int, int, set[str]] | None = None
    owed: set[str] = set()
    last_cut: int | None = None
    made = []

    def ask(now: int, why: set[str], earliest: int) -> None:
        nonlocal asked, owed
        if asked is not None:
            asked[2].update(why)
        elif last_cut is not None and now < last_cut + cool:
            owed |= why - {"harm"}
        else:
            asked = (next(t for t in range(earliest, earliest + grid + 1) if t % grid == 0), now, set(why))

    begun = min((t for t, _ in rows), default=0)
    for now in range(begun, last + 1):
        if every and now > begun and now % every == 0 and labels:
            ask(now, {"schedule"}, now)
        if owed and last_cut is not None and now == last_cut + cool:
            why, owed = owed, set()
            ask(now, why, now)
        if asked is not None and asked[0] == now:
            made.append({"cut": now, "asked_at": asked[1], "reasons": asked[2], "labels": labels, "alarms": alarms})
            asked, last_cut, labels, alarms = None, now, 0, 0
        for _, signal in (row for row in rows if row[0] == now):
            if signal:
                alarms += 1
                ask(now, {"harm"}, now + 1)
            else:
                labels += 1
                if step.volume and labels >= step.volume:
                    ask(now, {"volume"}, now + 1)
    return made


def told(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for row in frame.iter_rows(named=True):
        moments = {name: int((row[name] - EPOCH) / timedelta(seconds=1)) for name in ("cut", "asked_at")}
        yield {**moments, "reasons": set(row["reasons"]), "labels": row["labels"], "alarms": row["alarms"]}


@pytest.mark.parametrize("case", sorted(CASES))
def test_retrain_keeps_its_laws(case: str) -> None:
    operator = CASES[case].operator
    assert check_operator(operator, SIGNALS, seeds=40, unit="1s", samples=(signals,), without=("key",)) == 40


@pytest.mark.parametrize("case", sorted(CASES))
def test_retrain_asks_when_a_person_with_a_calendar_would(case: str) -> None:
    operator = CASES[case].operator
    asked = 0
    for seed in range(80):
        trial = random_trial(seed, (SIGNALS,), rows=60, unit_us=SECOND, samplers=(signals,))
        ran = run_trial(operator, trial, random_cuts(np.random.default_rng(seed), trial.watermarks.size))
        wanted = by_hand(operator, trial.events())
        assert list(told(ran.rows.frame)) == wanted, seed
        for row in ran.rows.frame.iter_rows(named=True):
            window = timedelta(microseconds=operator.window_us)
            assert row["since"] == (row["cut"] - window if window else None)
            assert row["request"] == row["cut"].strftime("%Y%m%dT%H%M%S.%fZ")
        asked += len(wanted)
    assert asked > 60


def test_what_can_never_ask_and_what_is_no_span_is_refused() -> None:
    for words, said in (
        ({}, "never asks"),
        ({"volume": 0}, "volume=0"),
        ({"volume": 1, "cut": "0s"}, "cut='0s'"),
        ({"every": "0s"}, "every='0s'"),
    ):
        with pytest.raises(DefinitionError, match=said):
            sp.retrain(**{"cooldown": "0s", "cut": "1d", **words})  # type: ignore[arg-type]
