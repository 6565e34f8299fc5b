"""Version 2 of the story: one more feature, the orders of a week, which reasons of decisions tell."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

import streamproc as sp
from topologies.retail import retail
from topologies.retail.risk import decisions

OF_WEEK = " of the person's orders within a week"
told = (
    decisions
    | sp.key_by("entity", name="decisions_by_person")
    | sp.ordered("order_id", name="decisions_in_order")
    | sp.features(name="of_a_week", of_week=sp.count().over("7d"))
    | sp.with_columns(
        name="reasons_with_week",
        reason=pl.concat_str(
            [pl.col("reason"), pl.format("number {}{}", pl.col("of_week"), pl.lit(OF_WEEK))],
            separator="; ", ignore_nulls=True,
        ),
    )
    | sp.drop("of_week")
)  # fmt: skip
decided = replace(retail.sink("decisions"), stream=told)
retail_2 = replace(retail, version=2, sinks={**retail.sinks, "decisions": decided})
