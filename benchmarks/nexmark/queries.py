"""Nexmark's questions as topologies.

What a stream of the suite's SQL would retract is given here as it stands after each change: of q4, q6, q9, q17, q18 and
q19 the last row of a key holds. q12 counts by the clock of the machine that computes, so two runs differ by definition:
nothing deterministic answers it, and it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import polars as pl

import streamproc as sp
from benchmarks.nexmark.events import AUCTION, BEGIN_US, BID, LONGEST_AUCTION_US, PERSON, SIDE, SIDE_ROWS
from streamproc.contracts.model import Field, Schema
from streamproc.graph import Stream

LATENESS: Final = "1s"
EVER: Final = "3650d"
NOT_EXPRESSED: Final = {"q12": "windows by the clock of the computing machine: two runs of it differ by definition"}
SCORE: Final = 1 << 35
"""Prices are below 2^27, streams shorter than 2^35 us (9 h): price first, then the earlier moment, in one integer."""

persons = sp.source("persons", contract=PERSON, lateness=LATENESS)
auctions = sp.source("auctions", contract=AUCTION, lateness=LATENESS)
bids = sp.source("bids", contract=BID, lateness=LATENESS)
side = sp.source("side", contract=SIDE, lateness=LATENESS)

euros = (0.908 * pl.col("price")).alias("euros")
RANKS: Final = {
    "rank1": pl.col("price") < 10_000,
    "rank2": (pl.col("price") >= 10_000) & (pl.col("price") < 1_000_000),
    "rank3": pl.col("price") >= 1_000_000,
}


def ranked(column: str, prefix: str) -> dict[str, pl.Expr]:
    """The column's value in the rows of each rank of price, else null: what counts skip."""
    return {f"{prefix}_{rank}": pl.when(test).then(pl.col(column)) for rank, test in RANKS.items()}


def statistics() -> dict[str, Any]:
    """Bids, bidders and auctions, in all and by rank."""
    found: dict[str, Any] = {"bids": sp.count()}
    for rank in RANKS:
        found[f"bids_{rank}"] = sp.count(f"bidder_{rank}")
    for what, column in (("bidders", "bidder"), ("auctions", "auction")):
        found[what] = sp.distinct(column)
        for rank in RANKS:
            found[f"{what}_{rank}"] = sp.distinct(f"{column}_{rank}")
    return found


by_rank = bids | sp.with_columns(**ranked("bidder", "bidder"), **ranked("auction", "auction"))


class LastTen:
    """The mean of the last ten prices of each seller, after each of them."""

    def schema(self, rows: Schema) -> Schema:
        return rows.with_fields([Field("average", pl.Float64(), nullable=False)])

    def open(self) -> dict[int, list[int]]:
        return {}

    def process(self, state: dict[int, list[int]], rows: pl.DataFrame) -> tuple[dict[int, list[int]], pl.DataFrame]:
        averages = []
        for seller, price in zip(rows["seller"].to_list(), rows["price"].to_list(), strict=True):
            state[seller] = [*state.get(seller, [])[-9:], price]
            averages.append(sum(state[seller]) / len(state[seller]))
        return state, rows.drop("_event_time").with_columns(average=pl.Series(averages, dtype=pl.Float64))


class TopTen:
    """Each bid that enters its auction's ten highest, with its rank at that moment."""

    def schema(self, rows: Schema) -> Schema:
        return rows.with_fields([Field("rank", pl.Int64(), nullable=False)])

    def open(self) -> dict[int, list[int]]:
        return {}

    def process(self, state: dict[int, list[int]], rows: pl.DataFrame) -> tuple[dict[int, list[int]], pl.DataFrame]:
        entered, ranks = [], []
        for row, (auction, price) in enumerate(zip(rows["auction"].to_list(), rows["price"].to_list(), strict=True)):
            best = state.setdefault(auction, [])
            rank = sum(other >= price for other in best)
            if rank < 10:
                state[auction] = [*best[:rank], price, *best[rank:]][:10]
                entered.append(row)
                ranks.append(rank + 1)
        return state, rows[entered].drop("_event_time").with_columns(
            rank=pl.Series(ranks, dtype=pl.Int64), _row=pl.Series(entered, dtype=pl.Int64)
        )


opened = (
    auctions
    | sp.select("id", "seller", "category", "item", "expires", opened=pl.col("date_time"))
    | sp.key_by("id")
    | sp.ordered()
)
bids_of_auction = bids | sp.key_by("auction") | sp.ordered()

# Each bid that was its open auction's highest when it came; of equal ones the first.
winning = (
    bids_of_auction
    | sp.as_of(opened, columns=("opened", "expires", "seller", "category"), name="auction")
    | sp.where(pl.col("date_time") >= pl.col("opened"), pl.col("date_time") <= pl.col("expires"))
    | sp.with_columns(score=pl.col("price") * SCORE - (pl.col("date_time").cast(pl.Int64) - BEGIN_US))
    | sp.features(best=sp.max("score").ever())
    | sp.where(pl.col("score") == pl.col("best"))
)
# The same auctions again, each at the moment when it ends: event time may be any column of the contract.
ends = sp.source(
    "auctions",
    contract=AUCTION,
    event_time="expires",
    lateness=f"{LONGEST_AUCTION_US}us",
    max_future_skew=EVER,
)
closed = (
    ends
    | sp.select("id", "seller", "category", "expires")
    | sp.key_by("id")
    | sp.ordered()
    | sp.as_of(winning | sp.select("auction", "price"), columns=("price",), name="winner")
    | sp.where(pl.col("price").is_not_null())
)


def q0() -> Stream:
    """Passes bids on."""
    return bids


def q1() -> Stream:
    """Prices in euros."""
    return bids | sp.select("auction", "bidder", euros, "date_time", "extra")


def q2() -> Stream:
    """Bids on some auctions."""
    return bids | sp.where(pl.col("auction") % 123 == 0) | sp.select("auction", "price")


def q3() -> Stream:
    """Who sells in category 10 in three states."""
    sellers = persons | sp.where(pl.col("state").is_in(["OR", "ID", "CA"])) | sp.key_by("id")
    return (
        auctions
        | sp.where(pl.col("category") == 10)
        | sp.select("seller", "id")
        | sp.rename(id="auction")
        | sp.key_by("seller")
        | sp.within(sellers | sp.select("id", "name", "city", "state"), before=EVER, after=EVER)
    )


def q4() -> Stream:
    """The mean price at which auctions of a category closed."""
    return closed | sp.key_by("category") | sp.ordered("id") | sp.features(average=sp.mean("price").ever())


def q5() -> Stream:
    """The auctions with most bids in the last ten seconds, every two."""
    counted = (
        bids
        | sp.key_by("auction")
        | sp.sliding("10s", every="2s", bids=sp.count())
        | sp.select("auction", "bids", ends=pl.col("window_end"))
        | sp.key_by("ends")
        | sp.ordered("auction")
    )
    most = counted | sp.tumbling("2s", most=sp.max("bids")) | sp.select("ends", "most")
    return counted | sp.within(most, before="0s", after="2s") | sp.where(pl.col("bids") == pl.col("most"))


def q6() -> Stream:
    """The mean of each seller's last ten closing prices."""
    return closed | sp.key_by("seller") | sp.ordered("id") | sp.custom(LastTen(), key=("seller",))


def q7() -> Stream:
    """The highest bids of each ten seconds."""
    highest = bids | sp.key_by() | sp.tumbling("10s", price=sp.max("price"))
    return (
        bids
        | sp.key_by("price")
        | sp.within(
            highest | sp.select("window_start", "window_end", highest=pl.col("price")) | sp.key_by("highest"),
            before="0s",
            after="10s",
        )
        | sp.where(pl.col("date_time") >= pl.col("window_start"), pl.col("date_time") < pl.col("window_end"))
    )


def q8() -> Stream:
    """Who opened an auction in the ten seconds in which they registered."""
    sellers = auctions | sp.key_by("seller") | sp.tumbling("10s", auctions=sp.count())
    return (
        persons
        | sp.key_by("id", "name")
        | sp.tumbling("10s", registrations=sp.count())
        | sp.key_by("id")
        | sp.within(sellers | sp.select("seller"), before="0s", after="0s")
    )


def q9() -> Stream:
    """The winning bid of each auction, as it stands after each bid."""
    return winning


def q10() -> Stream:
    """All bids for the file system: replayed into Parquet files by `replay --out`."""
    return bids


def q11() -> Stream:
    """Bids in sessions of a bidder."""
    return bids | sp.key_by("bidder") | sp.session("10s", bids=sp.count())


def q13() -> Stream:
    """Bids with a value of a bounded table."""
    return (
        bids
        | sp.with_columns(side=pl.col("auction") % SIDE_ROWS)
        | sp.key_by("side")
        | sp.ordered()
        | sp.as_of(side | sp.key_by("key") | sp.ordered(), columns=("value",))
        | sp.where(pl.col("value").is_not_null())
    )


def q14() -> Stream:
    """Prices in euros within bounds, the kind of the hour, and how often a letter stands in a text."""
    hour = pl.col("date_time").dt.hour()
    return (
        bids
        | sp.with_columns(euros=euros)
        | sp.where(pl.col("euros") > 1_000_000, pl.col("euros") < 50_000_000)
        | sp.select(
            "auction",
            "bidder",
            "euros",
            "date_time",
            "extra",
            kind=pl.when((hour >= 8) & (hour <= 18))
            .then(pl.lit("day"))
            .when((hour <= 6) | (hour >= 20))
            .then(pl.lit("night"))
            .otherwise(pl.lit("other")),
            letters=pl.col("extra").str.count_matches("c", literal=True),
        )
    )


def q15() -> Stream:
    """Each day's bids, bidders and auctions, by rank of price."""
    return by_rank | sp.key_by() | sp.tumbling("1d", **statistics())


def q16() -> Stream:
    """The same for each channel."""
    return by_rank | sp.key_by("channel") | sp.tumbling("1d", **statistics())


def q17() -> Stream:
    """Each auction's bids and prices of a day."""
    return (
        by_rank
        | sp.key_by("auction")
        | sp.tumbling(
            "1d",
            bids=sp.count(),
            **{f"bids_{rank}": sp.count(f"bidder_{rank}") for rank in RANKS},
            least=sp.min("price"),
            most=sp.max("price"),
            average=sp.mean("price"),
            all_prices=sp.total("price"),
        )
    )


def q18() -> Stream:
    """The last bid of each bidder on each auction: each one in order, so that the last of a key holds."""
    return bids | sp.key_by("bidder", "auction") | sp.ordered()


def q19() -> Stream:
    """The ten highest bids of each auction: each one that was among them when it came."""
    return bids_of_auction | sp.custom(TopTen(), key=("auction",))


def q20() -> Stream:
    """Bids with their auction, where it is of category 10."""
    return (
        bids_of_auction
        | sp.as_of(opened, columns=("item", "seller", "category", "opened", "expires"))
        | sp.where(pl.col("category") == 10)
    )


def q21() -> Stream:
    """The channel's number: of four known ones, else as the address says; without one the bid is left out."""
    known = pl.col("channel").str.to_lowercase()
    number = pl.col("url").str.extract(r"(?:&|^)channel_id=([^&]*)", 1)
    for name, value in (("apple", "0"), ("google", "1"), ("facebook", "2"), ("baidu", "3")):
        number = pl.when(known == name).then(pl.lit(value)).otherwise(number)
    return (
        bids
        | sp.select("auction", "bidder", "price", "channel", channel_id=number)
        | sp.where(pl.col("channel_id").is_not_null())
    )


def q22() -> Stream:
    """The first three folders of the address."""
    parts = pl.col("url").str.split("/")
    return bids | sp.select(
        "auction",
        "bidder",
        "price",
        "channel",
        folder1=parts.list.get(3, null_on_oob=True),
        folder2=parts.list.get(4, null_on_oob=True),
        folder3=parts.list.get(5, null_on_oob=True),
    )


QUERIES: Final[dict[str, Callable[[], Stream]]] = {
    made.__name__: made
    for made in (q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22)
}


def query(name: str) -> sp.Topology:
    """A question as a topology, its answer in the sink `out`."""
    return sp.Topology(name, sinks={"out": QUERIES[name]()}, doc=QUERIES[name].__doc__ or "")
