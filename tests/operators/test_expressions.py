"""Expressions over one row at a time pass, and whatever looks at other rows is refused by name."""

from __future__ import annotations

import datetime
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, NotElementWise, TypeMismatch, UnknownColumn
from streamproc.operators.evaluation import evaluate, in_columns, true_rows
from streamproc.operators.expressions import (
    canonical_text,
    check_elementwise,
    check_predicate,
    expression_columns,
    never_null_where_true,
)
from streamproc.operators.probe import differs_when_cut, probe_frame

ROWS = Schema(
    (
        Field("a", pl.Int64(), unit="EUR", origins=frozenset({"payment.a"})),
        Field("b", pl.Float64(), nullable=True, origins=frozenset({"payment.b"})),
        Field("u", pl.Int64(), unit="USD", pii="pseudonym", origins=frozenset({"payment.u"})),
        Field("s", pl.String(), pii="direct", origins=frozenset({"payment.s"})),
        Field("t", pl.Datetime("us", "UTC")),
        Field("d", pl.Date()),
        Field("l", pl.List(pl.Int64())),
        Field("r", pl.Array(pl.Int64(), 2)),
        Field("x", pl.Struct({"p": pl.Int64(), "q": pl.String()})),
        Field("y", pl.Binary()),
        Field("f", pl.Boolean()),
        Field("e", pl.Enum(["red", "green"])),
        Field("m", pl.Decimal(10, 2)),
        Field("w", pl.Duration("us")),
    )
)
a, b, s, t, l = (pl.col(name) for name in "abstl")

ELEMENT_WISE = [
    a * 2 + 1,
    a / 3,
    a // 2,
    a % 2,
    a**2,
    -a,
    a.abs().sqrt(),
    (a > 1) & ~(s == "x") | b.is_nan(),
    a.is_in([1, 2]),
    a.is_in(l),
    a.is_between(1, 5),
    b.fill_null(0.0).fill_nan(1.0).clip(0, 1).round(1),
    pl.coalesce(b, 0.0),
    pl.when(a > 1).then(s).when(a > 0).then(pl.lit("zero")).otherwise(None),
    pl.max_horizontal(b, b * 2),
    pl.all_horizontal(pl.col("f"), a > 1),
    pl.concat_str([s, a.cast(pl.String)], separator="-"),
    pl.format("{}/{}", s, a),
    pl.struct(a, s),
    pl.col("x").struct.field("p"),
    pl.col("x").struct.with_fields(z=pl.field("p") + 1),
    s.str.to_uppercase().str.strip_chars().str.slice(0, 3),
    s.str.contains("a.b"),
    s.str.extract(r"(\d+)", 1),
    s.str.replace_all("a", "b"),
    s.str.split(","),
    s.str.to_date("%Y-%m-%d", strict=False),
    s.str.to_integer(strict=False),
    s.cast(pl.Int64, strict=False),
    s.replace({"a": "b"}),
    s.replace_strict({"a": 1}, default=0),
    t.dt.truncate("1h"),
    t.dt.convert_time_zone("Europe/Berlin").dt.hour(),
    t.dt.offset_by("1d") - t,
    t > pl.datetime(2020, 1, 1, time_zone="UTC"),
    t.dt.epoch("ms"),
    pl.col("d").dt.year(),
    pl.col("w").dt.total_seconds(),
    l.list.len(),
    l.list.get(0, null_on_oob=True),
    l.list.sort().list.head(2),
    l.list.eval(pl.element() * 2),
    l.list.eval(pl.element().rank()),
    l.list.eval(pl.element().filter(pl.element() > 1)),
    l.list.agg(pl.element().sum()),
    l.list.unique(maintain_order=True),
    pl.col("r").arr.sum(),
    pl.col("y").bin.encode("hex"),
    pl.col("e").cast(pl.String),
    pl.col("m") * 2,
    a.exp() + b.log() + b.sin(),
    pl.lit(1),
    pl.lit("x").str.to_uppercase(),
]

OTHER_ROWS = [
    a - a.mean(),
    a - a.first(),
    a / a.sum(),
    a.max(),
    a.filter(a > 1),
    l.explode(),
    a.shift(1),
    a.diff(),
    a.cum_sum(),
    a.rolling_mean(2),
    a.rolling("d", period="2d").sum(),
    a.ewm_mean(alpha=0.5),
    a.over("s"),
    a.sum().over("s"),
    a.sort(),
    a.sort_by("s"),
    a.reverse(),
    a.unique(),
    a.rank(),
    a.is_duplicated(),
    a.is_first_distinct(),
    a.head(2),
    a.gather([0]),
    a.get(0),
    a.interpolate(),
    b.fill_null(strategy="forward"),
    b.drop_nulls(),
    a.value_counts(),
    a.rle_id(),
    a.implode(),
    a.is_in(pl.col("u")),
    a.sample(1),
    a.shuffle(),
    s.str.join(","),
    pl.len(),
    a.count(),
    pl.int_range(pl.len()),
    pl.lit(pl.Series([1, 2])),
    (a + 1).map_elements(lambda value: value, return_dtype=pl.Int64),
    a.map_batches(lambda column: column),
    pl.when(a > a.median()).then(1).otherwise(0),
    pl.struct(a.shift(1), s),
    l.list.get(a.first(), null_on_oob=True),
    l.list.sample(1),
    l.list.eval(pl.element().shuffle()),
    s.hash(),
    pl.col("e").to_physical(),
    s.cast(pl.Categorical),
]

FAILS_ON_A_ROW = [
    s.cast(pl.Int64),
    a.cast(pl.Int8),
    b.cast(pl.Int64),
    l.list.get(0),
    s.str.to_date("%Y-%m-%d"),
    s.str.to_integer(),
    s.replace_strict({"a": 1}),
    s.str.contains(s),
    s.cast(pl.Enum(["a"])),
    t.dt.replace_time_zone(None).dt.replace_time_zone("Europe/Berlin"),
]


@pytest.mark.parametrize("expr", ELEMENT_WISE, ids=str)
def test_an_expression_over_one_row_at_a_time_passes_with_polars_own_type(expr: pl.Expr) -> None:
    field = check_elementwise(expr, ROWS, "with_columns")
    made = evaluate(probe_frame(ROWS), [("made", expr)], 37)["made"]
    assert field.dtype == made.dtype
    assert field.nullable or not made.null_count()


@pytest.mark.parametrize("expr", OTHER_ROWS, ids=str)
def test_an_expression_that_looks_at_other_rows_is_refused(expr: pl.Expr) -> None:
    with pytest.raises(NotElementWise, match="'where'"):
        check_elementwise(expr, ROWS, "where")


@pytest.mark.parametrize("expr", FAILS_ON_A_ROW, ids=str)
def test_an_expression_that_fails_on_a_possible_row_is_refused_with_that_row(expr: pl.Expr) -> None:
    with pytest.raises(NotElementWise, match="fails on a row such as"):
        check_elementwise(expr, ROWS, "where")


def test_the_refusal_names_the_part_and_not_the_whole() -> None:
    with pytest.raises(NotElementWise) as caught:
        check_elementwise((pl.col("a") * 2 - pl.col("b").mean()).alias("z"), ROWS, "where")
    assert 'col("b").mean() is not allowed' in str(caught.value)
    assert 'col("a")' not in str(caught.value)


def test_an_unknown_column_is_named_with_the_nearest_one() -> None:
    rows = Schema((Field("amount", pl.Int64()),))
    with pytest.raises(UnknownColumn, match=r"step 'where' reads 'amont'; did you mean 'amount'\?"):
        check_elementwise(pl.col("amont") > 1, rows, "where")


def test_a_selector_is_refused_because_a_new_contract_version_would_change_its_meaning() -> None:
    for expr in (pl.all(), pl.col("a", "b"), pl.col("^a.*$"), pl.col(pl.Int64), pl.col("a").name.suffix("_x")):
        with pytest.raises(NotElementWise):
            check_elementwise(expr, ROWS, "select")


def test_types_that_do_not_fit_are_refused_with_polars_reason() -> None:
    with pytest.raises(TypeMismatch, match="cannot evaluate"):
        check_elementwise(pl.col("s") + 1, ROWS, "where")
    with pytest.raises(TypeMismatch, match="needs true or false"):
        check_predicate(pl.col("a") + 1, ROWS, "where")
    with pytest.raises(DefinitionError, match="got str, not a Polars expression"):
        check_elementwise("a", ROWS, "where")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("a") + pl.col("u"),
        pl.col("a") - pl.col("u"),
        pl.col("a") > pl.col("u"),
        pl.coalesce("a", "u"),
        pl.max_horizontal("a", "u"),
        pl.when(pl.col("f")).then(pl.col("a")).otherwise(pl.col("u")),
        (pl.col("a") * 1.0).fill_null(0.0) + (-pl.col("a") + pl.col("u").abs()),
    ],
    ids=str,
)
def test_columns_of_two_units_do_not_add_or_compare(expr: pl.Expr) -> None:
    with pytest.raises(TypeMismatch, match="EUR and USD"):
        check_elementwise(expr, ROWS, "where")


def test_a_unit_stays_where_it_must_and_goes_where_it_cannot_be_known() -> None:
    units = {
        "EUR": [pl.col("a"), pl.col("a").alias("z"), pl.col("a") + pl.col("a"), pl.col("a").fill_null(0), -pl.col("a"),
                pl.when(pl.col("f")).then(pl.col("a")).otherwise(0), pl.col("a").cast(pl.Float64)],
        "": [pl.col("a") * 2, pl.col("a") / pl.col("u"), pl.col("a") > 1, pl.col("a") + pl.col("b"), pl.lit(1)],
    }  # fmt: skip
    for unit, expressions in units.items():
        for expr in expressions:
            assert check_elementwise(expr, ROWS, "where").unit == unit, str(expr)


def test_tags_and_origins_are_those_of_all_that_is_read() -> None:
    field = check_elementwise(pl.format("{} {}", pl.col("u"), pl.col("s")).alias("z"), ROWS, "where")
    assert field.name == "z"
    assert field.pii == "direct"
    assert field.origins == {"payment.u", "payment.s"}
    assert check_elementwise(pl.col("u") * pl.col("a"), ROWS, "where").pii == "pseudonym"


def test_null_comes_only_where_it_can() -> None:
    never = [pl.col("a") + 1, pl.col("b").is_null(), pl.col("b").fill_null(0.0), pl.coalesce("b", 0.0), pl.struct("b")]
    perhaps = [pl.col("b") + 1, pl.col("a") // pl.col("a"), pl.col("s").cast(pl.Int64, strict=False), pl.lit(None),
               pl.lit(None, pl.String)]  # fmt: skip
    assert not any(check_elementwise(expr, ROWS, "where").nullable for expr in never)
    assert all(check_elementwise(expr, ROWS, "where").nullable for expr in perhaps)


def test_columns_that_a_true_predicate_shows_to_be_there() -> None:
    predicate = (pl.col("a") > 1) & (pl.col("b").is_not_null() & (pl.lit(3) == pl.col("c"))) & pl.col("d").is_in([1])
    assert never_null_where_true(predicate) == {"a", "b", "c"}
    assert never_null_where_true((pl.col("a") > 1) | (pl.col("b") > 1)) == frozenset()
    assert never_null_where_true(pl.col("a").eq_missing(pl.col("b"))) == frozenset()
    assert never_null_where_true(~pl.col("a").is_null()) == frozenset()


def test_canonical_text_tells_expressions_apart_and_nothing_else() -> None:
    texts = [canonical_text(expr) for expr in ELEMENT_WISE]
    assert len(set(texts)) == len(texts)
    assert canonical_text(pl.col("a") + 1) == canonical_text(pl.col("a") + 1)
    odd = [pl.lit(float("nan")), pl.lit(float("inf")), pl.lit(-float("inf")), pl.lit(0.0), pl.lit(-0.0), pl.lit(None)]
    assert len({canonical_text(expr) for expr in odd}) == len(odd)


def test_canonical_text_is_the_same_in_another_process() -> None:
    code = (
        "import polars as pl; from streamproc.operators.expressions import canonical_text;"
        "print(canonical_text(pl.col('a').is_in([3, 1]) & pl.col('s').replace({'x': 'y'}).str.contains('z')))"
    )
    here = canonical_text(pl.col("a").is_in([3, 1]) & pl.col("s").replace({"x": "y"}).str.contains("z"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert run.stdout.strip() == here


def test_expression_columns_are_the_roots_without_the_item_of_a_list() -> None:
    expr = pl.col("l").list.filter(pl.element() > 1).list.len() + pl.col("a")
    assert expression_columns(expr) == {"l", "a"}


def test_a_literal_fills_its_column_whatever_the_frame() -> None:
    two, none = pl.DataFrame({"a": [1, 2]}), pl.DataFrame()
    for frame, rows in ((two, 2), (two[:1], 1), (two.clear(), 0), (none, 3), (none, 0)):
        assert evaluate(frame, [("z", pl.lit(7))], rows)["z"].to_list() == [7] * rows


@pytest.mark.parametrize("divisor", [3, 7.0, pl.col("c"), pl.col("d")], ids=str)
def test_a_quotient_has_the_same_last_bit_in_a_batch_of_one_row(divisor: object) -> None:
    """Polars multiplies by the reciprocal where a column is divided by what it knows to be one value."""
    frame = pl.DataFrame({"a": [float(n) for n in range(1, 300)]}).with_columns(c=pl.lit(49.0), d=pl.lit(49.0))
    frame = frame.with_columns(d=pl.Series([49.0] * frame.height))

    def compute(part: pl.DataFrame) -> pl.DataFrame:
        return evaluate(part, [("q", pl.col("a") / divisor)], part.height)

    whole = compute(frame)["q"].to_list()
    assert [compute(frame[row : row + 1])["q"].item() for row in range(frame.height)] == whole
    assert compute(pl.concat([frame[:7], frame[7:]]))["q"].to_list() == whole
    assert compute(frame[list(range(frame.height))])["q"].to_list() == whole


def test_a_constant_column_divides_as_any_other_column() -> None:
    plain = pl.DataFrame({"a": [float(n) for n in range(1, 300)], "c": [49.0] * 299})
    constant = plain.select("a").with_columns(c=pl.lit(49.0))
    quotient = pl.col("a") / pl.col("c")
    assert evaluate(constant, [("q", quotient)], 299).equals(evaluate(plain, [("q", quotient)], 299))
    assert in_columns(lambda part: part.select(quotient), plain)["a"].to_list() == [n / 49 for n in range(1, 300)]


def test_true_rows_are_one_a_row_also_for_a_literal() -> None:
    frame = pl.DataFrame({"a": [1, None, 3]})
    assert true_rows(frame, pl.col("a") > 1, 3).to_list() == [False, False, True]
    assert true_rows(frame, pl.lit(True), 3).to_list() == [True] * 3
    assert true_rows(pl.DataFrame(), pl.lit(True), 3).to_list() == [True] * 3
    assert true_rows(frame.clear(), pl.lit(True), 0).to_list() == []


DTYPES = st.recursive(
    st.sampled_from(
        [pl.Int8(), pl.UInt16(), pl.Int64(), pl.Float32(), pl.Float64(), pl.Boolean(), pl.String(), pl.Binary(),
         pl.Date(), pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Duration("ns"), pl.Time(), pl.Decimal(12, 3),
         pl.Enum(["p", "q"]), pl.Null()]
    ),
    lambda inner: st.one_of(
        inner.map(pl.List),
        st.builds(pl.Array, inner, st.just(2)),
        inner.map(lambda dtype: pl.Struct({"p": dtype, "q": pl.String()})),
    ),
    max_leaves=3,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(DTYPES, st.booleans()), min_size=1, max_size=5))
def test_a_probe_frame_has_its_schema_nulls_only_where_declared_and_is_always_the_same(
    columns: list[tuple[pl.DataType, bool]],
) -> None:
    schema = Schema(tuple(Field(f"c{i}", dtype, nullable) for i, (dtype, nullable) in enumerate(columns)))
    frame = probe_frame(schema)
    assert frame.schema == schema.polars()
    assert frame.equals(probe_frame(schema))
    for field in schema:
        if "Null" not in str(field.dtype):
            assert bool(frame[field.name].null_count()) == field.nullable, field


def test_the_last_net_sees_what_depends_on_the_cut() -> None:
    frame = probe_frame(Schema((Field("a", pl.Int64()), Field("at", pl.Date()))))
    assert not differs_when_cut(lambda part: part.select(pl.col("a") * 2), frame)
    a = pl.col("a")
    for expr in (a.cum_sum(), a.is_first_distinct(), a - a.first(), pl.int_range(pl.len())):
        assert differs_when_cut(lambda part, expr=expr: part.select(expr), frame)


def test_probe_values_reach_the_ends_of_their_ranges() -> None:
    frame = probe_frame(Schema((Field("i", pl.Int32()), Field("x", pl.Float64()), Field("d", pl.Date()))))
    assert frame["i"].min() == -(2**31) and frame["i"].max() == 2**31 - 1
    assert frame["x"].is_nan().any() and frame["x"].is_infinite().any()
    assert frame["d"].min() < datetime.date(1970, 1, 1)  # type: ignore[operator]
