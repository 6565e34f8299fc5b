"""Will this order be followed by a return within 14 days? Scores, what they are worth, and what is done with an order.

A model learns from what became of earlier orders of all persons: at the return that came, or 14 days after the order.
Beside it stand what costs nothing (`prior` and `no_change` of the metrics). Where it cannot say anything, the ladder
takes the person's own share of returns, and for a guest, of whom nothing is known, the share that is usual.

A decision has the rule that made it, and the reasons as a sentence for the person who looks at it.
"""

from __future__ import annotations

from typing import Final

import polars as pl
from river import linear_model, optim, preprocessing

import streamproc as sp
from topologies.retail.people import GUEST
from topologies.retail.value import answering, known

HORIZON: Final = "14d"
USUAL: Final = 0.15
"""The share of orders that a return follows, where nothing is known: said by the shop, not learned."""
INPUTS: Final = (
    "size", "lines_log", "orders_30d", "orders_90d", "returns_30d", "returns_90d", "share", "spend_log", "quiet_days",
    "return_days", "mails_30d", "abroad",
)  # fmt: skip
DAY_US: Final = 86_400_000_000.0
LOOKS_BACK: Final = pl.duration(days=90)
"""The longest span of an input."""

fresh = known | sp.where(pl.col("corrected_at").is_null(), name="as_it_happened")
returned = fresh | sp.where(pl.col("source") == "returns", name="returned")
asked = (
    fresh
    | sp.where(pl.col("source") == "orders", name="ordered")
    | sp.with_columns(
        name="inputs",
        size=(pl.col("cents").fill_null(0) + 1).cast(pl.Float64).log(),
        lines_log=(pl.col("lines") + 1).cast(pl.Float64).log(),
        spend_log=(pl.col("spend_90d") + 1).cast(pl.Float64).log(),
        share=pl.col("returns_90d") / (pl.col("orders_90d") + 1),
        quiet_days=(pl.col("since_order") / DAY_US).fill_null(90.0),
        return_days=(pl.col("since_return") / DAY_US).fill_null(90.0),
        abroad=(pl.col("country") != "United Kingdom").cast(pl.Int64),
    )
)
is_guest = pl.col("entity").str.starts_with(GUEST)

# A return belongs to the person who ordered also where one of the two merges with the other between them.
became = sp.outcomes(
    answering
    | sp.where((pl.col("source") == "orders") & ~pl.col("leaf").str.starts_with(GUEST), name="orders_to_judge"),
    answering | sp.where(pl.col("source") == "returns", name="returns_to_judge"),
    within=HORIZON,
    on="event",
    into="returned",
    name="became",
)

scored = asked | sp.where(~is_guest, name="orders_of_persons") | sp.learn(
    preprocessing.StandardScaler()
    | linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=0.05, l2=1.0), intercept_lr=0.03),
    inputs=INPUTS,
    into="score",
    calibrated="chance",
    labels=became,
    on="event",
    label="returned",
    horizon=HORIZON,
    report=100,
    name="risk",
)  # fmt: skip
unscored = asked | sp.where(is_guest, name="orders_of_guests") | sp.with_columns(
    name="no_score", **{column: pl.lit(None, pl.Float64) for column in ("score", "chance", "return_share")}
)

LARGE: Final = pl.col("cents") >= 100_000
FIRST: Final = pl.col("orders") == 1
BACK: Final = (pl.col("refunds_90d") > pl.col("spend_90d") - pl.col("cents")) & (pl.col("refunds_90d") > 0)
RISKY: Final = pl.col("risk") >= 0.5
DOUBTFUL: Final = pl.col("risk") >= 0.35
UNKNOWN: Final = pl.col("cents").is_null()

decided = (
    scored
    | sp.union(unscored | sp.key_by("event", name="guests_by_id"), name="all_orders")
    | sp.fallback("risk", full="chance", own="return_share", usual=USUAL, name="ladder")
    | sp.with_columns(
        name="reasons",
        reason=pl.concat_str(
            [
                pl.when(UNKNOWN).then(pl.lit("worth unknown: no rate of the last 7 days")),
                pl.when(BACK).then(pl.lit("gave back more in 90 days than was bought before")),
                pl.when(RISKY).then(pl.lit("a return is likely")),
                pl.when(DOUBTFUL & ~RISKY).then(pl.lit("a return is not unlikely")),
                pl.when(LARGE).then(pl.lit("1,000 EUR or more")),
                pl.when(FIRST & ~is_guest).then(pl.lit("first order")),
                pl.when(is_guest).then(pl.lit("nothing is known of the buyer")),
                pl.when((pl.col("risk_rung") != "full") & ~is_guest).then(pl.lit("no score of the model")),
            ],
            separator="; ",
            ignore_nulls=True,
        ),
    )
    | sp.decide(
        sp.when(BACK & LARGE, then="hold", name="gave back more, large"),
        sp.when(RISKY & LARGE, then="hold", name="return likely, large"),
        sp.when(UNKNOWN, then="review", name="worth unknown"),
        sp.when(RISKY, then="review", name="return likely"),
        sp.when(DOUBTFUL & LARGE, then="review", name="return not unlikely, large"),
        sp.when(LARGE & (pl.col("risk_rung") == "usual"), then="review", name="large, of somebody unknown"),
        otherwise="accept",
        log=("event", "entity", "score", "chance", "risk_rung", "risk_cause"),
        name="verdict",
    )
)  # fmt: skip
decisions = decided | sp.select(
    "decision_id", "entity", order_id=pl.col("event"), name="decisions", ordered_at=pl.col("at"),
    decision=pl.col("decision"), rule=pl.col("decision_rule"), reason=pl.col("reason"), risk=pl.col("risk"),
    rung=pl.col("risk_rung"), cause=pl.col("risk_cause"), score=pl.col("score"), cents=pl.col("cents"),
    orders_90d=pl.col("orders_90d"), returns_90d=pl.col("returns_90d"), orders=pl.col("orders"),
)  # fmt: skip

# What became of each order, told of all orders equally late: labels as the model gets them come early where they are
# true, so that their share says nothing while a run is young. No outcome is one of these, so each order waits 14 days.
nothing = (
    became
    | sp.where(pl.col("returned_at") < pl.col("at"), name="nothing")
    | sp.select("event", name="no_row")
)
judged = (
    asked
    | sp.where(~is_guest, name="orders_with_outcome")
    | sp.select("event", "at", name="orders_alone")
    | sp.key_by("event", name="orders_by_id")
    | sp.ordered("event", name="orders_in_order")
    | sp.within(nothing, before="0s", after=HORIZON, how="left", name="fourteen_days_later")
    | sp.as_of(became, max_age=HORIZON, columns=("returned",), name="outcome")
    | sp.select("event", "at", "returned", name="judged")
)  # fmt: skip

watched = (
    scored
    | sp.select("event", "at", "size", "orders_30d", "returns_90d", "quiet_days", "chance", name="watched")
    | sp.key_by(name="one_watcher")
    | sp.ordered("event", name="watched_in_order")
    | sp.features(name="watched_since", began=sp.first("at").ever())
)  # fmt: skip
# While the stream is younger than what the inputs look back over, they change because their windows fill, and so does
# what is made of them. No test can tell that from drift, so it is not watched.
full = watched | sp.where(pl.col("at") - pl.col("began") >= LOOKS_BACK, name="with_full_windows")
drift = (
    watched
    | sp.drift("size", run_length=60_000, warm=500, report=1_000, name="drift_of_orders")
    | sp.union(
        full
        | sp.drift("orders_30d", "returns_90d", "quiet_days", run_length=60_000, warm=500, report=1_000,
                   name="drift_of_inputs"),
        full
        | sp.drift("chance", learned=("chance",), run_length=60_000, warm=500, report=1_000, name="drift_of_scores"),
        name="all_drift",
    )
)  # fmt: skip
label_drift = (
    judged
    | sp.key_by(name="one_label_watcher")
    | sp.ordered("event", name="labels_in_order")
    | sp.drift("returned", run_length=20_000, warm=500, report=1_000, name="drift_of_labels")
)
