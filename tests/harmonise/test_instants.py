"""Times: zones by an independent table, gaps and folds by declared policy, epochs that are never guessed."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from harmonised import harmonised, reasons, schema_of, values
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from streamproc.errors import DefinitionError
from streamproc.operator import StreamType

ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Dublin", "America/New_York", "America/Chicago", "America/Los_Angeles",
    "America/St_Johns", "America/Sao_Paulo", "America/Santiago", "Africa/Cairo", "Africa/Casablanca", "Asia/Tehran",
    "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Auckland", "Pacific/Apia",
    "Pacific/Chatham", "Asia/Gaza",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _packaged_zones() -> Iterator[None]:
    """The oracle reads the tzdata package, not the machine's files."""
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(to=before)
    zoneinfo.ZoneInfo.clear_cache()


def oracle(local: datetime, zone: str, *, gap: str, fold: str) -> datetime | str:
    """An instant by the standard library, with its own rules for gaps and folds (PEP 495)."""
    here = zoneinfo.ZoneInfo(zone)
    first, second = (local.replace(tzinfo=here, fold=n).astimezone(UTC) for n in (0, 1))
    if first == second:
        return first
    if first.astimezone(here).replace(tzinfo=None) == local and second.astimezone(here).replace(tzinfo=None) == local:
        return "twice" if fold == "refuse" else first if fold == "earlier" else second
    # In a gap, fold=0 reads with the offset before the change, fold=1 with the one after it.
    return "never" if gap == "refuse" else first if gap == "later" else second


def awkward(zone: str) -> list[datetime]:
    """Local times around every change of a zone from 2008 to 2025, every 30 minutes for a day, and some quiet ones.

    Not beyond: governments change their rules, and the two tables are not of one date.
    """
    here = zoneinfo.ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta | None:
        return moment.astimezone(here).utcoffset()

    out: list[datetime] = []
    day, week = timedelta(days=1), timedelta(days=7)
    moment = datetime(2008, 1, 1, tzinfo=UTC)
    while moment.year < 2026:
        if offset(moment) != offset(moment + week):
            before = next(
                moment + n * day for n in range(7) if offset(moment + n * day) != offset(moment + (n + 1) * day)
            )
            base = before.astimezone(here).replace(tzinfo=None, second=0, microsecond=0)
            out += [base + timedelta(minutes=30 * step) for step in range(-4, 104)]
        moment += week
    return [*out, *(datetime(2020, month, 11, 12, 34, 56, month, UTC).replace(tzinfo=None) for month in range(1, 13))]


@pytest.mark.parametrize("zone", ZONES)
def test_local_times_become_the_instants_of_the_standard_library(zone: str) -> None:
    locals_ = awkward(zone)
    frame = pl.DataFrame({"t": pl.Series(locals_, dtype=pl.Datetime("us"))})
    for gap, fold in (("later", "earlier"), ("earlier", "later"), ("refuse", "refuse")):
        policy: Any = {"gap": gap, "fold": fold, "otherwise": "null"}
        made = values(frame, at_utc=sp.canonical.instant("t", zone=zone, **policy))
        expected = [oracle(local, zone, gap=gap, fold=fold) for local in locals_]
        known = [value if isinstance(value, datetime) else None for value in expected]
        got = pl.Series(made["at_utc"]).dt.replace_time_zone(None).to_list()
        assert got == [value and value.replace(tzinfo=None) for value in known]
        assert made["at_utc_status"] == ["NULL" if value is None else "CAST" for value in known]


def test_texts_with_a_zone_of_their_own_become_the_same_instants() -> None:
    """Of all zones at once, in any order, by text and a column that names the zone."""
    asked = [(local, zone) for zone in ZONES for local in awkward(zone)[::23]]
    asked = [asked[n] for n in np.random.default_rng(1).permutation(len(asked))]
    frame = pl.DataFrame([(f"{local:%d.%m.%Y %H:%M:%S.%f}", zone) for local, zone in asked], ["t", "z"], orient="row")
    for gap, fold in (("earlier", "earlier"), ("refuse", "later")):
        policy: Any = {"gap": gap, "fold": fold, "otherwise": "null"}
        made = values(frame, u=sp.canonical.instant("t", formats="%d.%m.%Y %H:%M:%S%.f", zone_column="z", **policy))
        expected = [oracle(local, zone, gap=gap, fold=fold) for local, zone in asked]
        assert made["u"] == [one if isinstance(one, datetime) else None for one in expected]
    assert len(asked) > 2_000 and "never" in expected


def test_times_that_never_were_or_were_twice_are_told_apart_in_the_reason() -> None:
    frame = pl.DataFrame({"t": ["2026-03-29 02:30", "2026-10-25 02:30", "2026-06-01 12:00", "soon"]})
    strict: Any = {"gap": "refuse", "fold": "refuse"}
    output = harmonised(
        frame, at=[0] * 4, u=sp.canonical.instant("t", formats="%Y-%m-%d %H:%M", zone="Europe/Berlin", **strict)
    )
    assert reasons(output) == {
        "u: a local time that never was": [0],
        "u: a local time that was twice": [1],
        "u: no time of a declared form": [3],
    }
    assert output.rows.frame["u"].to_list() == [datetime(2026, 6, 1, 10, tzinfo=UTC)]


def test_formats_are_tried_in_the_declared_order_and_the_status_says_which_rung_held() -> None:
    frame = pl.DataFrame({"t": ["2026-01-02T10:00:00+02:00", "03.04.2026", "04/03/2026", None, "x"]})
    made = values(
        frame,
        u=sp.canonical.instant(
            "t", formats=("iso", "%d.%m.%Y", "%m/%d/%Y"), zone="UTC", default=datetime(1970, 1, 1, tzinfo=UTC)
        ),
    )
    assert made["u"] == [
        datetime(2026, 1, 2, 8, tzinfo=UTC), datetime(2026, 4, 3, tzinfo=UTC), datetime(2026, 4, 3, tzinfo=UTC),
        None, datetime(1970, 1, 1, tzinfo=UTC),
    ]  # fmt: skip
    assert made["u_status"] == ["CAST", "OTHER", "OTHER", "MISSING", "DEFAULT"]


def test_a_column_of_zones_places_each_row_and_an_unknown_zone_is_a_dead_letter() -> None:
    frame = pl.DataFrame({"t": ["2026-07-01 12:00"] * 4, "z": ["Europe/Berlin", "Asia/Tokyo", "Mars/Olympus", None]})
    output = harmonised(frame, u=sp.canonical.instant("t", formats="%Y-%m-%d %H:%M", zone_column="z"))
    assert [value.hour for value in output.rows.frame["u"]] == [10, 3]
    assert reasons(output) == {"u: an unknown time zone": [2, 3]}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**10), 10**10), min_size=1),
)
def test_epochs_count_as_declared_and_what_is_out_of_range_is_never_wrapped(unit: str, counts: list[int]) -> None:
    made = values(pl.DataFrame({"t": counts}), u=sp.canonical.instant("t", epoch=unit, otherwise="null"))
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    first, last = -62_135_596_800 * per, 253_402_300_800 * per
    expected = [(count * 10**6) // per if first <= count < last else None for count in counts]
    assert pl.Series(made["u"], dtype=pl.Datetime("us", "UTC")).to_physical().to_list() == expected


@pytest.mark.parametrize(
    ("column", "arguments", "words"),
    [
        (pl.Series([1]), {}, "nothing says what they count"),
        (pl.Series(["x"]), {"formats": "%Y-%m-%d"}, "nothing says of which time zone"),
        (pl.Series([0], dtype=pl.Datetime("us")), {}, "nothing says of which time zone"),
        (pl.Series([True]), {}, "reads 't', a Boolean"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_by_the_plan(column: pl.Series, arguments: Any, words: str) -> None:
    frame = pl.DataFrame({"t": column})
    operator: Any = sp.harmonise(u=sp.canonical.instant("t", **arguments)).operator
    with pytest.raises(DefinitionError, match=words):
        operator.schema(StreamType(schema_of(frame)))


def test_an_unknown_zone_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionError, match="no time zone 'Europe/Berlim'"):
        sp.canonical.instant("t", zone="Europe/Berlim")


def test_a_pattern_without_a_day_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionError, match="'%H' is no format"):
        sp.canonical.instant("t", formats=("iso", "%H"), zone="UTC")
