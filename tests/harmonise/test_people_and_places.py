"""Texts, phones, addresses, names: what comes out, and what is refused."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from harmonised import harmonised, reasons, values

import streamproc as sp
from streamproc.operators.harmonising.distinct import Remembered, encoded, gathered
from streamproc.operators.harmonising.people import name_parts

can = sp.canonical


def one(column: list[str | None], field: Any) -> list[Any]:
    made = values(pl.DataFrame({"v": column}, schema={"v": pl.String}), f=field)
    return list(made["f"])


def test_texts_of_one_meaning_become_equal() -> None:
    forms = ["Café ", "Cafe\u0301", " ＣＡＦÉ", "café\u00a0"]
    assert set(one(list(forms), can.text("v", case="lower"))) == {"café"}
    assert one(["Łukasz Ünal", "Москва", "北京"], can.text("v", ascii=True, case="upper")) == [
        "LUKASZ UNAL",
        "MOSKVA",
        "BEIJING",
    ]


def test_blank_is_missing_and_never_a_value() -> None:
    made = values(
        pl.DataFrame({"v": ["", "  ", None]}),
        f=can.text("v"),
        p=can.phone("v", region="DE"),
        m=can.email("v"),
        n=can.person_name("v"),
        q=can.quantity("v", unit="kg", to="kg"),
    )
    for field in "fpmnq":
        assert made[field] == [None] * 3 and made[f"{field}_status"] == ["MISSING"] * 3


def test_a_pattern_refuses_what_does_not_match_as_a_whole() -> None:
    output = harmonised(
        pl.DataFrame({"v": ["ab-12", "ab-12x", "AB-7"]}), sku=can.text("v", case="upper", pattern=r"[A-Z]{2}-\d+")
    )
    assert output.rows.frame["sku"].to_list() == ["AB-12", "AB-7"]
    assert reasons(output) == {"sku: not of the declared pattern": [1]}


def test_phones_of_all_spellings_are_one_number() -> None:
    spelt: list[str | None] = ["030 1234567", "+49 (30) 123-4567", "0049301234567", "tel: 030/1234567"]
    assert set(one(spelt, can.phone("v", region="DE"))) == {"+49301234567"}
    made = values(pl.DataFrame({"v": ["020 7946 0958 ext. 12"], "r": ["gb"]}), f=can.phone("v", region_column="r"))
    assert (made["f"], made["f_extension"]) == (["+442079460958"], ["12"])
    output = harmonised(pl.DataFrame({"v": ["call me", "030 1"]}), f=can.phone("v", region="DE"))
    assert reasons(output) == {"f: no phone number": [0], "f: no valid phone number of its region": [1]}


def test_emails_are_read_without_asking_anybody() -> None:
    assert one([" Ann.Lee@EXAMPLE.com", "x@münchen.de"], can.email("v")) == ["ann.lee@example.com", "x@münchen.de"]
    assert one(["Ann.Lee@EXAMPLE.com"], can.email("v", local="keep")) == ["Ann.Lee@example.com"]
    assert reasons(harmonised(pl.DataFrame({"v": ["a@b@c", "nobody"]}), f=can.email("v"))) == {
        "f: no e-mail address": [0, 1]
    }


def test_countries_and_languages_are_known_by_code_and_by_name() -> None:
    spelt: list[str | None] = ["DE", "deu", "276", "Germany", "germany ", "Deutschland", "BRD"]
    assert one(spelt, can.country("v", names=("de",), also={"BRD": "DE"})) == ["DE"] * 7
    assert one(["UK", "U.S.A.", "united kingdom"], can.country("v")) == ["GB", "US", "GB"]
    assert one(["de", "deu", "ger", "German", "fr"], can.language("v")) == ["de"] * 4 + ["fr"]
    output = harmonised(pl.DataFrame({"v": ["Kongo", "Unspecified"]}), f=can.country("v", names=("de",)))
    assert reasons(output) == {"f: no known code or name": [0, 1]}


def test_addresses_are_held_to_the_rules_of_their_country() -> None:
    frame = pl.DataFrame(
        {
            "s": ["10  Downing Street", "1 Main St", "Unter den Linden 1", "1 Main St", "x"],
            "c": ["London", "Springfield", "Berlin", "Springfield", "y"],
            "z": ["sw1a 2aa", "62701", "1011", "62701", "z"],
            "a": [None, "Illinois", None, "Nowhere", None],
            "k": ["UK", "US", "Germany", "US", "Mars"],
        }
    )
    output = harmonised(frame, ad=can.address(street="s", city="c", postcode="z", area="a", country_column="k"))
    assert output.rows.frame["ad"].to_list() == [
        "10 Downing Street, SW1A 2AA LONDON, GB",
        "1 Main St, 62701 SPRINGFIELD, IL, US",
    ]
    assert output.rows.frame["ad_area"].to_list() == [None, "IL"]
    assert reasons(output) == {
        "ad: no postcode of its country": [2], "ad: no known area of its country": [3], "ad: no known country": [4],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Dr. Ludwig van BEETHOVEN jr.", ("Ludwig van Beethoven", "Dr", "Ludwig", None, "van Beethoven", "Jr")),
        ("beethoven, ludwig van", ("Ludwig van Beethoven", None, "Ludwig", None, "van Beethoven", None)),
        ("MARY-ANN O'NEIL", ("Mary-Ann O'Neil", None, "Mary-Ann", None, "O'Neil", None)),
        ("Smith, John Q., III", ("John Q. Smith", None, "John", "Q.", "Smith", "III")),
        ("Prof. Dr. Anna Maria de la Cruz", ("Anna Maria de la Cruz", "Prof Dr", "Anna", "Maria", "de la Cruz", None)),
        ("Plato", ("Plato", None, None, None, "Plato", None)),
        ("mcDonald, ronald", ("Ronald mcDonald", None, "Ronald", None, "mcDonald", None)),
        ("4711", 0), ("a@b.de", 0), ("--", 0),
    ],
)  # fmt: skip
def test_names_are_taken_apart_by_rules(text: str, parts: Any) -> None:
    assert name_parts("given_first", text) == parts


def test_the_family_name_may_stand_first() -> None:
    assert name_parts("family_first", "Nagy Imre") == ("Imre Nagy", None, "Imre", None, "Nagy", None)


def test_results_are_remembered_within_bounds_and_never_change() -> None:
    calls: list[str] = []

    def upper(value: str) -> str:
        calls.append(value)
        return value.upper()

    remembered = Remembered(upper, limit=10)
    for start in range(0, 100, 5):
        words = [f"w{n}" for n in range(start, start + 8)]
        assert remembered.of(words) == [word.upper() for word in words]
        assert len(remembered) <= 20
    assert len(calls) < 160 and remembered.of(["w0"]) == ["W0"]


def test_values_are_told_apart_by_their_bytes() -> None:
    column = pl.Series(["a", None, "b", "a", "", None])
    distinct, codes = encoded(column)
    assert gathered(distinct, codes).equals(column)
    nothing, none = encoded(pl.Series([], dtype=pl.String))
    assert gathered(nothing, none).to_list() == []
