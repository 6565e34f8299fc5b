"""Training sets: features as they were, with the labels that were known by a moment.

A label becomes known some time after what it is about: a chargeback comes weeks after the payment. A training set as
of a moment therefore holds a label only if it was *available* by then; what it is about decides which features it gets,
and those are the ones that the row had at its own moment, because a replay by event time gives them again.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from streamproc.errors import InputError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import instant_us

AVAILABLE: str = "_label_available_at"


@dataclass(frozen=True, slots=True)
class Labels:
    """Which columns of the labels mean what.

    on            columns that labels and features have in common: whose label it is
    label         the column to learn
    available_at  the column that says when the label was known
    about         the column that says at which moment it is about; "" where `on` names the row itself
    """

    on: tuple[str, ...]
    label: str
    available_at: str
    about: str = ""


def training_set(
    features: pl.DataFrame, labels: pl.DataFrame, spec: Labels, *, until: str | None = None, at: str = ""
) -> pl.DataFrame:
    """The feature rows that have a label by `until`, with it: columns of the features, the label, when it was known.

    features  rows of a sink, in any order; their columns come out unchanged, bit for bit
    until     ISO 8601: labels that were known later are left out; None takes all
    at        the features' column of event time, needed where labels are about a moment: then each label gets the
              newest feature row of its `on` at or before that moment

    Of several labels of one thing the one that was known last by `until` counts. Rows come out in the features' order.
    Raises UnknownColumn, TypeMismatch where times are no times or `on` differs in type, InputError without `at`.
    """
    for column in (*spec.on, spec.label, spec.available_at, *([spec.about] if spec.about else [])):
        if column not in labels.columns:
            raise UnknownColumn(f"the labels have no column '{column}'", hint=did_you_mean(column, labels.columns))
    for column in (*spec.on, *([at] if at else [])):
        if column not in features.columns:
            raise UnknownColumn(f"the features have no column '{column}'", hint=did_you_mean(column, features.columns))
    if spec.label in features.columns:
        raise InputError(
            f"the features have a column '{spec.label}' too: a model would read the answer",
            hint="rename the label, or drop that column from the features",
        )
    if spec.about and not at:
        raise InputError("labels about a moment need the features' event time", hint="name its column: --at COLUMN")
    for column in spec.on:
        if labels.schema[column] != features.schema[column]:
            raise TypeMismatch(
                f"'{column}' is {labels.schema[column]} in the labels, {features.schema[column]} in the features",
                hint="write the labels with the same type",
            )
    times = [("labels", labels, spec.available_at)]
    times += [("labels", labels, spec.about), ("features", features, at)] if spec.about else []
    for whose, frame, column in times:
        if not isinstance(frame.schema[column], pl.Datetime):
            raise TypeMismatch(f"'{column}' of the {whose} is {frame.schema[column]}", hint="it has to be a moment")
    known = labels.select(
        *spec.on, *([_moment(spec.about)] if spec.about else []), spec.label,
        _moment(spec.available_at).alias(AVAILABLE),
    )  # fmt: skip
    if until is not None:
        known = known.filter(pl.col(AVAILABLE).dt.epoch("us") <= instant_us(until))
    what = [*spec.on, *([spec.about] if spec.about else [])]
    known = known.sort(AVAILABLE, maintain_order=True).unique(what, keep="last", maintain_order=True)
    if not spec.about:
        return features.join(known, on=list(spec.on), how="inner", maintain_order="left")
    row = "_row"
    numbered = features.with_row_index(row)
    moments = numbered.select(row, *spec.on, _moment(at).alias("_moment")).sort("_moment", maintain_order=True)
    found = (
        known.sort(spec.about, maintain_order=True)
        .join_asof(moments, left_on=spec.about, right_on="_moment", by=list(spec.on), strategy="backward")
        .drop_nulls(row)
        .select(row, spec.about, spec.label, AVAILABLE)
    )
    return found.join(numbered, on=row, how="inner").sort(row, spec.about).select(
        *features.columns, *([spec.about] if spec.about not in features.columns else []), spec.label, AVAILABLE
    )


def _moment(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("us", "UTC"))
