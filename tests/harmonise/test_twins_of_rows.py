"""Canonical columns and rules of rows are those of a reading value by value, on random streams, cut anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.operator import StreamType
from streamproc.testing import check_operator
from streamproc.testing.trials import Event

ROW = StreamType(
    Schema(
        (
            Field("k", pl.String(), nullable=True), Field("x", pl.Float64(), nullable=True), Field("i", pl.Int64()),
            Field("s", pl.String(), nullable=True),
        )
    ),
    ("k",),
)  # fmt: skip
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def harmonised(events: Iterable[Event]) -> list[dict[str, Any]]:
    """A moment or nothing, a weight or a default, a word or a dead letter."""
    out = []
    for event in (one for one in events if one.port == 0):
        row = dict(event.row)
        seconds, pounds, word = row["i"], row["x"], row["s"]
        inside = -62_135_596_800 <= seconds < 253_402_300_800
        row |= {"at": EPOCH + timedelta(seconds=seconds) if inside else None, "at_status": "CAST" if inside else "NULL"}
        fine = pounds is not None and math.isfinite(pounds) and math.isfinite(pounds * 0.45359237)
        row |= {"kg": pounds * 0.45359237 + 0.0 if fine else None if pounds is None else 1.5}
        row |= {"kg_status": "CAST" if fine else "MISSING" if pounds is None else "DEFAULT"}
        blank = word is None or not word.strip()
        row |= {"word": None if blank else " ".join(word.split()).upper()}
        row |= {"word_status": "MISSING" if blank else "CAST"}
        if blank or all(letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for letter in row["word"]):
            out.append(row)
    return out


def ruled(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Null keeps no rule."""
    out = []
    for event in (one for one in events if one.port == 0):
        row, x = event.row, event.row["x"]
        tags = [] if row["s"] in ("a", "hot") else ["known"]
        tags += [] if x is not None and math.isfinite(x) else ["finite"]
        if -3 <= row["i"] <= 50:
            out.append({**row, "broken_rules": tags})
    return out


def test_harmonise_equals_its_twin() -> None:
    step = sp.harmonise(
        at=sp.canonical.instant("i", epoch="s", otherwise="null"),
        kg=sp.canonical.quantity("x", unit="[lb_av]", to="kg", default=1.5),
        word=sp.canonical.text("s", case="upper", pattern="[A-Z]*"),
    )  # fmt: skip
    assert check_operator(step, ROW, seeds=150, rows=24, unit="1s", twin=harmonised) == 150


def test_rules_equal_their_twin() -> None:
    step = sp.rules(
        positive=pl.col("i") > 0, known=sp.rule.one_of("s", ["a", "hot"], action="tag"),
        finite=sp.rule.row(pl.col("x").is_finite(), action="tag"),
        size=sp.rule.between("i", -3, 50, action="dead_letter"),
    )  # fmt: skip
    assert check_operator(step, ROW, seeds=150, rows=24, unit="1s", twin=ruled) == 150
