"""Money: exact whole minor units, rates from their publication on, and nothing lost over splits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from harmonised import harmonised, reasons, schema_of, values
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from streamproc.errors import DefinitionError
from streamproc.operator import StreamType
from streamproc.operators.harmonising.currencies import MINOR_DIGITS
from streamproc.operators.harmonising.scaling import scaled

ECB = b"""Date,USD,JPY,GBP,KWD,TRL,
2026-10-30,1.1652,178.21,0.8331,0.3581,N/A,
2026-10-29,1.1601,177.95,0.8342,0.3570,N/A,
2026-10-23,1.1550,176.02,0.8350,N/A,N/A,
2004-12-31,1.3621,139.65,0.70505,N/A,1836200,
"""
RATES = sp.canonical.ecb_rates(ECB)
BERLIN = ZoneInfo("Europe/Berlin")


def us(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc, arg-type]


def half_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even, exactly


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62), st.integers(1, 2**62)), min_size=1))
def test_scaling_is_exact_and_never_wraps(rows: list[tuple[int, int, int]]) -> None:
    amounts, n, d = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    made, fits = scaled(amounts, n, d)
    for i, (a, up, down) in enumerate(rows):
        truth = half_even(Fraction(a * up, down))
        assert bool(fits[i]) == (abs(truth) < 2**63 and a != -(2**63))
        assert not fits[i] or made[i] == truth


def test_a_rate_counts_from_its_publication_at_four_in_frankfurt() -> None:
    # On 30 October Frankfurt is at UTC+1: 16:00 is 15:00 UTC.
    at = [us(2026, 10, 30, 14, 59, 59), us(2026, 10, 30, 15), us(2026, 10, 29, 12), us(2026, 11, 6, 15)]
    made = values(
        pl.DataFrame({"a": ["100"] * 4}), at=at, m=sp.canonical.money("a", currency="USD", to="EUR", rates=RATES)
    )
    assert made["m"] == [
        8620,
        8582,
        8658,
        8582,
    ]  # 100/1.1601, 100/1.1652, 100/1.1550 of the Friday before, a week later
    assert made["m_rate_date"] == [date(2026, 10, day) for day in (29, 30, 23, 30)]
    assert made["m_rate_id"][0] == "ecb/2026-10-29/USD-EUR"


def test_a_rate_that_is_too_old_or_not_yet_public_is_no_rate() -> None:
    at = [us(2026, 11, 6, 15, 0, 1), us(2004, 12, 31, 14, 59), us(2005, 1, 3), us(2026, 10, 30, 16)]
    frame = pl.DataFrame({"a": [1, 1, 1, 1], "c": ["USD", "USD", "TRL", "TRL"]})
    output = harmonised(frame, at=at, m=sp.canonical.money("a", currency_column="c", to="EUR", rates=RATES))
    assert reasons(output) == {"m: no rate published in time": [0, 1, 3]}
    assert output.rows.frame["m"].to_list() == [0]  # a Turkish lira of old was not worth a cent


def test_the_moment_may_stand_in_a_column() -> None:
    paid = pl.Series([datetime(2026, 10, 29, 15, 30)], dtype=pl.Datetime("us", "UTC"))  # noqa: DTZ001 -- UTC by its type
    frame = pl.DataFrame({"a": [1.0], "paid": paid})
    made = values(
        frame, at=[us(2026, 10, 30, 20)], m=sp.canonical.money("a", currency="USD", to="EUR", rates=RATES, at="paid")
    )
    assert made["m_rate_date"] == [date(2026, 10, 29)]


@pytest.mark.parametrize(
    ("source", "target"), [("USD", "EUR"), ("JPY", "EUR"), ("USD", "JPY"), ("KWD", "GBP"), ("EUR", "KWD")]
)
def test_conversions_equal_fractions(source: str, target: str) -> None:
    worth = {
        "EUR": Fraction(1),
        "USD": Fraction("1.1652"),
        "JPY": Fraction("178.21"),
        "GBP": Fraction("0.8331"),
        "KWD": Fraction("0.3581"),
    }
    random = np.random.default_rng(1)
    amounts = [int(a) for a in random.integers(-(10**12), 10**12, 500)]
    made = values(
        pl.DataFrame({"a": amounts}), at=[us(2026, 10, 30, 20)] * 500,
        m=sp.canonical.money("a", currency=source, to=target, minor=True, rates=RATES),
    )  # fmt: skip
    per = Fraction(10) ** (MINOR_DIGITS[target] - MINOR_DIGITS[source])
    assert made["m"] == [half_even(a * per * worth[target] / worth[source]) for a in amounts]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.decimals(-(10**13), 10**13, places=7) | st.decimals(-100, 100, places=3), min_size=1),
    st.sampled_from(["EUR", "JPY", "KWD", "CLF"]),
)
def test_amounts_in_text_become_exact_minor_units(amounts: list[Decimal], currency: str) -> None:
    made = values(pl.DataFrame({"a": [f"{a:f}" for a in amounts]}), m=sp.canonical.money("a", currency=currency))
    one = Decimal(1).scaleb(-MINOR_DIGITS[currency])
    assert made["m"] == [int(a.quantize(one, ROUND_HALF_EVEN).scaleb(MINOR_DIGITS[currency])) for a in amounts]
    assert set(made["m_currency"]) == {currency}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_totals_in_minor_units_are_conserved_over_splits_of_the_stream(seed: int, pieces: int) -> None:
    random = np.random.default_rng(seed)
    texts = [f"{a / 100:.2f}" for a in random.integers(-(10**9), 10**9, 200)]
    field = sp.canonical.money("a", currency="EUR")
    whole = sum(values(pl.DataFrame({"a": texts}), m=field)["m"])
    cuts = sorted(int(cut) for cut in random.integers(0, 200, pieces))
    parts = [texts[a:b] for a, b in zip([0, *cuts], [*cuts, 200], strict=True)]
    assert whole == sum(sum(values(pl.DataFrame({"a": part}, schema={"a": pl.String}), m=field)["m"]) for part in parts)
    assert whole == sum(int(Decimal(text) * 100) for text in texts)


@st.composite
def published(draw: st.DrawFn) -> list[tuple[date, dict[str, str]]]:
    """Rates of a few days of two weeks around a change of clocks, as the ECB writes them; not of all days, nor of all
    currencies."""
    first = draw(st.sampled_from([date(2026, 3, 23), date(2026, 10, 19), date(2026, 6, 1)]))
    days = draw(st.lists(st.integers(0, 13), min_size=1, max_size=9, unique=True))
    rate = st.decimals("0.0001", "9000", places=4).map(str) | st.just("N/A")
    return [(first + timedelta(days=day), {code: draw(rate) for code in ("USD", "JPY", "KWD")}) for day in sorted(days)]


def table_of(days: list[tuple[date, dict[str, str]]]) -> Any:
    lines = [f"{day},{told['USD']},{told['JPY']},{told['KWD']}," for day, told in reversed(days)]
    return sp.canonical.ecb_rates("\n".join(["Date,USD,JPY,KWD,", *lines, ""]).encode())


def by_hand(
    amount: int, source: str, target: str, at: datetime, days: list[tuple[date, dict[str, str]]], age: timedelta
) -> tuple[int, date] | None:
    """Goes through all days from the newest on: the first that was out by then with both currencies, if not too old."""
    for day, told in reversed(days):
        out = datetime(day.year, day.month, day.day, 16, tzinfo=BERLIN)
        worth = [Fraction(1) if code == "EUR" else told[code] for code in (source, target)]
        if out <= at and "N/A" not in worth:
            below, above = (Fraction(one) for one in worth)
            digits = MINOR_DIGITS[target] - MINOR_DIGITS[source]
            made = half_even(amount * Fraction(10) ** digits * above / below)
            return (made, day) if at - out <= age and abs(made) < 2**63 else None
    return None


@settings(max_examples=60, deadline=None)
@given(
    published(), st.sampled_from([("USD", "EUR"), ("JPY", "USD"), ("EUR", "KWD"), ("KWD", "JPY")]),
    st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 13), st.integers(-2, 2)), min_size=1),
    st.integers(0, 6), published(),
)  # fmt: skip
def test_the_rate_is_the_newest_that_was_out_by_then_and_a_year_later_it_still_is(
    days: list[tuple[date, dict[str, str]]], pair: tuple[str, str], asked: list[tuple[int, int, int]], age: int,
    more: list[tuple[date, dict[str, str]]],
) -> None:  # fmt: skip
    """Moments lie within two seconds of 16:00 in Berlin, on days with a rate and without one."""
    start = days[0][0]
    moments = [
        datetime(start.year, start.month, start.day, 16, tzinfo=BERLIN) + timedelta(days=day, seconds=seconds)
        for _, day, seconds in asked
    ]
    moments = [moment.astimezone(UTC) for moment in moments]
    frame = pl.DataFrame({"a": [amount for amount, _, _ in asked]})
    at = [int(moment.timestamp()) * 1_000_000 for moment in moments]
    expected = [by_hand(a, *pair, t, days, timedelta(days=age)) for (a, _, _), t in zip(asked, moments, strict=True)]
    next_year = [(date(2027, day.month, day.day), told) for day, told in more]
    for known in (days, days + next_year):
        field = sp.canonical.money("a", currency=pair[0], to=pair[1], minor=True, rates=table_of(known),
                                   max_age=f"{age}d", otherwise="null")  # fmt: skip
        made = values(frame, at=at, m=field)
        assert list(zip(made["m"], made["m_rate_date"], strict=True)) == [one or (None, None) for one in expected]
        assert made["m_rate_id"] == [
            one and f"ecb/{one[1]}/{pair[0]}-{pair[1]}" for one in expected
        ]


def test_money_a_year_later_is_the_same_money() -> None:
    later = b"Date,USD,JPY,GBP,KWD,TRL,\n2027-10-29,2.5,200,0.5,0.3,N/A,\n" + ECB.split(b"\n", 1)[1]
    frame = pl.DataFrame({"a": ["19.99", "0.01", "-7.005"]})
    at = [us(2026, 10, 30, 16)] * 3
    now, then = (
        values(frame, at=at, m=sp.canonical.money("a", currency="GBP", to="EUR", rates=table))
        for table in (RATES, sp.canonical.ecb_rates(later))
    )
    assert now == then


def test_a_rate_that_a_join_brought_counts_like_one_of_a_table() -> None:
    published = pl.Series([us(2026, 10, 30, 15)] * 3 + [us(2026, 10, 30, 17)], dtype=pl.Int64).cast(
        pl.Datetime("us", "UTC")
    )
    frame = pl.DataFrame(
        {
            "a": ["100", "50", "1", "1"],
            "c": ["USD", "EUR", "USD", "USD"],
            "rate": [1.1652, None, 0.0, 1.1652],
            "id": ["r7", None, "r8", "r9"],
            "p": published,
        }
    )
    columns = sp.canonical.RateColumns("rate", id="id", published="p")
    output = harmonised(
        frame, at=[us(2026, 10, 30, 16)] * 4, m=sp.canonical.money("a", currency_column="c", to="EUR", rates=columns)
    )
    assert output.rows.frame["m"].to_list() == [8582, 5000]
    assert output.rows.frame["m_rate_id"].to_list() == ["r7", None]
    assert reasons(output) == {"m: no rate published in time": [2, 3]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"currency": "EUX"}, "no currency of ISO 4217"), ({}, "needs the currency"),
        ({"currency": "USD", "to": "EUR"}, "without rates"),
        ({"currency": "USD", "rates": RATES}, "no currency to convert to"),
    ],
)  # fmt: skip
def test_money_that_cannot_be_told_is_refused_where_it_is_written(arguments: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        sp.canonical.money("a", **arguments)


def test_the_contracts_currency_is_believed() -> None:
    schema = schema_of(pl.DataFrame({"a": [1.0]}))
    declared = schema.with_fields([type(schema["a"])("a", pl.Float64(), unit="GBP")])
    operator: Any = sp.harmonise(m=sp.canonical.money("a", currency="USD")).operator
    with pytest.raises(DefinitionError, match="its contract says GBP"):
        operator.schema(StreamType(declared))
