"""Units by UCUM's own table, and numbers as people write them."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib.resources import files
from xml.etree import ElementTree

import polars as pl
import pytest
from harmonised import harmonised, reasons, schema_of, values
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.operator import StreamType
from streamproc.operators.harmonising.units import conversion

# Conversions from the UCUM functional tests (unitsofmeasure.org), to the digits that stand there.
FUNCTIONAL = (
    ("6.3", "s.m-1", "s/m", "6.3"), ("6.3", "4.s/m", "s/m", "25"), ("6.30", "4.s/m", "s/m", "25.2"),
    ("6.30", "[in_i]", "m", "0.160"), ("6.300", "[in_i]", "cm", "16.0"), ("1", "[in_i]", "cm", "2.54"),
    ("1", "4.[pi].10*-7.N", "N", "0.00000125663706143591729538506"), ("100", "Cel", "K", "373.15"),
    ("98.6", "[degF]", "Cel", "37.0"), ("1", "[lb_av]", "g", "453.59237"), ("3.6", "km/h", "m/s", "1.0"),
    ("5", "10*3/uL", "/L", "5e9"), ("12", "%", "1", "0.12"), ("1", "kW.h", "J", "3.6e6"),
)  # fmt: skip


@pytest.mark.parametrize(("value", "source", "target", "outcome"), FUNCTIONAL)
def test_conversions_give_the_published_outcomes(value: str, source: str, target: str, outcome: str) -> None:
    found = conversion(source, target)
    digits = len(outcome.lower().partition("e")[0].replace(".", "").lstrip("0"))
    assert math.isclose(
        float(value) * found.factor + found.offset, float(outcome), rel_tol=0.7 * 10.0 ** (1 - min(digits, 9))
    )


def test_every_linear_unit_of_ucums_table_converts_as_the_table_says_or_is_refused() -> None:
    text = (files("ucumvert") / "vendor" / "ucum-essence.xml").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    space = root.tag[: root.tag.index("}") + 1]
    agree, refused = 0, []
    for unit in root.iter(f"{space}unit"):
        value = unit.find(f"{space}value")
        code = unit.attrib["Code"]
        if value is None or unit.get("isSpecial") == "yes" or unit.get("isArbitrary") == "yes":
            continue
        try:
            found = conversion(code, value.attrib["Unit"])
        except DefinitionError:
            refused.append(code)
            continue
        # Measured constants (the atomic mass, the parsec, mercury) moved since UCUM wrote them down.
        assert math.isclose(found.factor, float(value.attrib["value"]), rel_tol=1e-4), code
        agree += 1
    assert agree >= 219 and len(refused) <= 25, (agree, refused)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["kg", "g", "[lb_av]", "[oz_av]", "t", "mg"]), st.sampled_from(["kg", "[lb_av]", "mg"]),
       st.lists(st.floats(-1e12, 1e12), min_size=1))  # fmt: skip
def test_there_and_back_is_the_same_number_within_two_roundings(a: str, b: str, numbers: list[float]) -> None:
    there = values(pl.DataFrame({"x": numbers}), y=sp.canonical.quantity("x", unit=a, to=b))["y"]
    back = values(pl.DataFrame({"x": there}), y=sp.canonical.quantity("x", unit=b, to=a))["y"]
    assert all(
        math.isclose(one, other, rel_tol=1e-15, abs_tol=1e-300) for one, other in zip(numbers, back, strict=True)
    )


def test_units_of_their_own_stand_in_a_column_and_an_undeclared_one_is_a_dead_letter() -> None:
    frame = pl.DataFrame({"x": [1.0, 500.0, 2.0, 3.0, None], "u": ["kg", "g", "lbs", "stone", "kg"]})
    words = {"kg": "kg", "g": "g", "lbs": "[lb_av]"}
    output = harmonised(frame, kg=sp.canonical.quantity("x", to="kg", unit_column="u", units=words))
    assert output.rows.frame["kg"].to_list() == [1.0, 0.5, 0.90718474, None]
    assert reasons(output) == {"kg: an undeclared unit": [3]}


def test_numbers_are_read_in_the_declared_forms_only() -> None:
    frame = pl.DataFrame({"x": ["1.5", " 1,5 ", "1.234,5", "1,234.5", "12 kg", "inf", "", "1e3", "1,23,456"]})
    output = harmonised(frame, y=sp.canonical.quantity("x", unit="kg", to="kg", decimal=(".", ","), thousands="."))
    assert output.rows.frame["y"].to_list() == [1.5, 1.5, 1234.5, None, 1000.0]
    assert output.rows.frame["y_status"].to_list() == ["CAST", "OTHER", "OTHER", "MISSING", "CAST"]
    assert reasons(output) == {"y: no number of a declared form": [3, 4, 5, 8]}


def test_not_a_number_is_no_quantity() -> None:
    output = harmonised(pl.DataFrame({"x": [1.0, math.nan, math.inf]}), y=sp.canonical.quantity("x", unit="m", to="cm"))
    assert reasons(output) == {"y: not a finite number": [1, 2]}


@pytest.mark.parametrize(
    ("source", "target", "error", "words"),
    [
        ("kg", "m", TypeMismatch, "cannot become"), ("kilo", "kg", DefinitionError, "not a UCUM unit"),
        ("dB", "1", DefinitionError, "not a straight line"), ("[Cal]", "J", DefinitionError, "otherwise than UCUM"),
        ("'", "deg", DefinitionError, "otherwise than UCUM"),
    ],
)  # fmt: skip
def test_units_that_do_not_fit_are_refused_by_the_plan(
    source: str, target: str, error: type[Exception], words: str
) -> None:
    operator = sp.harmonise(y=sp.canonical.quantity("x", unit=source, to=target)).operator
    with pytest.raises(error, match=words):
        operator.schema(StreamType(schema_of(pl.DataFrame({"x": [1.0]}))))


def test_the_factor_is_the_double_next_to_the_truth() -> None:
    assert conversion("[lb_av]", "kg").factor == 0.45359237
    assert conversion("[degF]", "Cel").offset == float(Fraction(-160, 9))
    assert conversion("km/h", "m/s").factor == float(Fraction(5, 18))
