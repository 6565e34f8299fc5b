"""Polars functions whose value for a row depends on that row alone, by the names of Polars' serialized expressions.

Every name stands with what it makes of nulls:

    keeps   null where an input is null, and only there
    makes   may be null even where no input is
    never   never null
    first   null only where all inputs are

A name that stands here nowhere is refused; `streamproc.operators.expressions` says so. Left out on purpose: `hash`
(Polars may change it between versions), physical codes of categoricals (they depend on what came before), `now` and
everything random, and every function of a whole column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Nulls = Literal["keeps", "makes", "never", "first"]


def _table(prefix: str, keeps: str = "", makes: str = "", never: str = "", first: str = "") -> dict[str, Nulls]:
    groups: tuple[tuple[Nulls, str], ...] = (("keeps", keeps), ("makes", makes), ("never", never), ("first", first))
    return {prefix + name: nulls for nulls, names in groups for name in names.split()}


FUNCTIONS: Final[Mapping[str, Nulls]] = {
    **_table(
        "",
        keeps=(
            "Abs Atan2 Cbrt Ceil Clip Cut Entropy Exp Expm1 Floor Log Log1p Negate Reinterpret Replace Round "
            "RoundSF Sign Sqrt Truncate"
        ),
        makes="RepeatBy ReplaceStrict",
        never="AsStruct",
        first="Coalesce FillNull MaxHorizontal MeanHorizontal MinHorizontal SumHorizontal",
    ),
    **_table("Pow.", keeps="Generic Sqrt Cbrt"),
    **_table(
        "Boolean.",
        keeps="AllHorizontal AnyHorizontal IsBetween IsClose IsFinite IsIn IsInfinite IsNan IsNotNan Not",
        never="IsNotNull IsNull",
    ),
    **_table("Bitwise.", keeps="CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros"),
    **_table(
        "Trigonometry.",
        keeps="ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTanh Cos Cosh Cot Degrees Radians Sin Sinh Tan Tanh",
    ),
    **_table(
        "StringExpr.",
        keeps=(
            "Base64Encode ConcatHorizontal Contains ContainsAny CountMatches EndsWith EscapeRegex ExtractAll "
            "ExtractMany FindMany Format Head HexEncode LenBytes LenChars Lowercase Normalize PadEnd PadStart Replace "
            "ReplaceAll ReplaceMany Reverse Slice Split SplitExact SplitN StartsWith StripChars StripCharsEnd "
            "StripCharsStart StripPrefix StripSuffix Tail Titlecase Uppercase ZFill"
        ),
        makes=(
            "Base64Decode Extract ExtractGroups Find HexDecode JsonDecode JsonPathMatch Strptime ToDecimal ToInteger"
        ),
    ),
    **_table(
        "BinaryExpr.",
        keeps="Base64Encode Contains EndsWith Head HexEncode Size Slice StartsWith Tail",
        makes="Base64Decode HexDecode Reinterpret",
    ),
    **_table(
        "TemporalExpr.",
        keeps=(
            "BaseUtcOffset CastTimeUnit Century Combine ConvertTimeZone DSTOffset Date Day DaysInMonth Duration Hour "
            "IsLeapYear IsoYear Microsecond Millennium Millisecond Minute Month MonthEnd MonthStart Nanosecond "
            "OffsetBy OrdinalDay Quarter Round Second Time TimeStamp ToString TotalDays TotalHours TotalMicroseconds "
            "TotalMilliseconds TotalMinutes TotalNanoseconds TotalSeconds Truncate Week WeekDay Year"
        ),
        makes="DatetimeFunction Replace ReplaceTimeZone",
    ),
    **_table("Business.", keeps="AddBusinessDay BusinessDayCount IsBusinessDay"),
    **_table(
        "ListExpr.",
        keeps=(
            "Concat CountMatches Diff DropNulls Head Length Reverse SetOperation Shift Slice Sort Tail ToArray Unique"
        ),
        makes=("All Any ArgMax ArgMin Contains Gather Get Join Max Mean Median Min NUnique Std Sum ToStruct Var"),
    ),
    **_table(
        "ArrayExpr.",
        keeps="Length Reverse Shift Sort ToList",
        makes=("All Any ArgMax ArgMin Contains CountMatches Get Join Max Mean Median Min NUnique Std Sum Unique Var"),
    ),
    **_table("StructExpr.", makes="FieldByName JsonEncode RenameFields"),
    **_table("Categorical.", keeps="EndsWith LenBytes LenChars Slice StartsWith"),
}

FAMILIES: Final = frozenset(name.partition(".")[0] for name in FUNCTIONS if "." in name)
"""Groups of functions that Polars names by a pair."""

CONSTANT_ARGUMENTS: Final[Mapping[str, int]] = {
    "Boolean.IsIn": 1,
    "Replace": 1,
    "ReplaceStrict": 1,
    "StringExpr.ContainsAny": 1,
    "StringExpr.ReplaceMany": 1,
    "StringExpr.ExtractMany": 1,
    "StringExpr.FindMany": 1,
    "Business.AddBusinessDay": 2,
    "Business.BusinessDayCount": 2,
    "Business.IsBusinessDay": 1,
}
"""Functions that look through a collection, and from which argument on: given a whole column, they look at all rows."""

WITHIN_A_CELL: Final = frozenset({"Random", "Hash", "FillNullWithStrategy", "AnonymousFunction", "Range"})
"""Functions that are refused even inside `list.eval`, where looking at the other items of the same cell is fine."""
