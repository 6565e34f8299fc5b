"""The same questions answered by DuckDB, from all events at once: nothing here knows of streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import duckdb
import polars as pl

from benchmarks.nexmark.events import SIDE_ROWS

_RANKS: Final = ("price < 10000", "price >= 10000 AND price < 1000000", "price >= 1000000")


def _statistics() -> str:
    counts = [f"count(*) FILTER ({rank})" for rank in _RANKS]
    for column in ("bidder", "auction"):
        counts += [f"count(DISTINCT {column})", *(f"count(DISTINCT {column}) FILTER ({rank})" for rank in _RANKS)]
    return ", ".join(["count(*)", *counts])


def _folder(number: int) -> str:
    return f"nullif(split_part(url, '/', {number}), '')"


_WINNERS: Final = """(
    SELECT b.*, a.seller, a.category, a.expires FROM bids b JOIN auctions a ON a.id = b.auction
    WHERE b.date_time BETWEEN a.date_time AND a.expires
    QUALIFY row_number() OVER (PARTITION BY b.auction ORDER BY b.price DESC, b.date_time) = 1)"""
_SESSIONS: Final = """(
    SELECT bidder, date_time, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM (
        SELECT bidder, date_time, CASE WHEN date_time < INTERVAL 10 SECOND
               + lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) THEN 0 ELSE 1 END AS begins FROM bids))"""
_TEN: Final = "to_timestamp(floor(epoch_us({}) / 10000000) * 10)"

ANSWERS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]]] = {
    # query: columns that are compared, columns of which the last row holds, SQL with the columns in that order
    "q0": (
        ("auction", "bidder", "price", "channel", "url", "date_time", "extra"),
        (),
        "SELECT auction, bidder, price, channel, url, date_time, extra FROM bids",
    ),
    "q1": (
        ("auction", "bidder", "euros", "date_time", "extra"),
        (),
        "SELECT auction, bidder, 0.908::DOUBLE * price, date_time, extra FROM bids",
    ),
    "q2": (("auction", "price"), (), "SELECT auction, price FROM bids WHERE auction % 123 = 0"),
    "q3": (
        ("name", "city", "state", "auction"),
        (),
        "SELECT p.name, p.city, p.state, a.id FROM auctions a JOIN persons p ON a.seller = p.id"
        " WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
    ),
    "q4": (("category", "average"), ("category",), f"SELECT category, avg(price) FROM {_WINNERS} GROUP BY category"),
    "q5": (
        ("auction", "bids", "ends"),
        (),
        """WITH windows AS (SELECT auction, unnest(generate_series(0, 4)) AS k, date_time FROM bids),
           counted AS (SELECT auction, to_timestamp((floor(epoch_us(date_time) / 2000000) + k + 1) * 2) AS ends,
                       count(*) AS bids FROM windows GROUP BY ALL)
           SELECT auction, bids, ends FROM counted QUALIFY bids = max(bids) OVER (PARTITION BY ends)""",
    ),
    "q6": (
        ("seller", "average"),
        ("seller",),
        f"""SELECT seller, average FROM (
              SELECT seller, expires, auction, avg(price) OVER (PARTITION BY seller ORDER BY expires, auction
                     ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS average FROM {_WINNERS})
            QUALIFY row_number() OVER (PARTITION BY seller ORDER BY expires DESC, auction DESC) = 1""",
    ),
    "q7": (
        ("auction", "bidder", "price", "date_time"),
        (),
        "SELECT auction, bidder, price, date_time FROM bids"
        f" QUALIFY price = max(price) OVER (PARTITION BY {_TEN.format('date_time')})",
    ),
    "q8": (
        ("id", "name", "window_start"),
        (),
        f"""SELECT DISTINCT p.id, p.name, {_TEN.format("p.date_time")} FROM persons p
            JOIN auctions a ON a.seller = p.id AND {_TEN.format("p.date_time")} = {_TEN.format("a.date_time")}""",
    ),
    "q9": (
        ("auction", "bidder", "price", "date_time", "seller"),
        ("auction",),
        f"SELECT auction, bidder, price, date_time, seller FROM {_WINNERS}",
    ),
    "q11": (
        ("bidder", "window_start", "bids"),
        (),
        f"SELECT bidder, min(date_time), count(*) FROM {_SESSIONS} GROUP BY bidder, session",
    ),
    "q13": (
        ("auction", "bidder", "price", "date_time", "value"),
        (),
        "SELECT auction, bidder, price, b.date_time, s.value FROM bids b"
        f" JOIN side s ON s.key = b.auction % {SIDE_ROWS}",
    ),
    "q14": (
        ("auction", "bidder", "euros", "kind", "date_time", "letters"),
        (),
        """SELECT auction, bidder, 0.908::DOUBLE * price AS euros,
                  CASE WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'day'
                  WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'night' ELSE 'other' END,
                  date_time, length(extra) - length(replace(extra, 'c', ''))
           FROM bids WHERE euros > 1000000 AND euros < 50000000""",
    ),
    "q15": (
        (
            "window_start",
            "bids",
            "bids_rank1",
            "bids_rank2",
            "bids_rank3",
            "bidders",
            "bidders_rank1",
            "bidders_rank2",
            "bidders_rank3",
            "auctions",
            "auctions_rank1",
            "auctions_rank2",
            "auctions_rank3",
        ),
        (),
        f"SELECT date_trunc('day', date_time), {_statistics()} FROM bids GROUP BY 1",
    ),
    "q16": (
        (
            "channel",
            "window_start",
            "bids",
            "bids_rank1",
            "bids_rank2",
            "bids_rank3",
            "bidders",
            "bidders_rank1",
            "bidders_rank2",
            "bidders_rank3",
            "auctions",
            "auctions_rank1",
            "auctions_rank2",
            "auctions_rank3",
        ),
        (),
        f"SELECT channel, date_trunc('day', date_time), {_statistics()} FROM bids GROUP BY 1, 2",
    ),
    "q17": (
        (
            "auction",
            "window_start",
            "bids",
            "bids_rank1",
            "bids_rank2",
            "bids_rank3",
            "least",
            "most",
            "average",
            "all_prices",
        ),
        (),
        "SELECT auction, date_trunc('day', date_time), count(*), "
        + ", ".join(f"count(*) FILTER ({rank})" for rank in _RANKS)
        + ", min(price), max(price), avg(price), sum(price)::BIGINT FROM bids GROUP BY 1, 2",
    ),
    "q18": (
        ("bidder", "auction", "price", "date_time"),
        ("bidder", "auction"),
        "SELECT bidder, auction, price, date_time FROM bids"
        " QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) = 1",
    ),
    "q20": (
        ("auction", "bidder", "price", "date_time", "item", "seller", "category", "expires"),
        (),
        "SELECT b.auction, b.bidder, b.price, b.date_time, a.item, a.seller, a.category, a.expires"
        " FROM bids b JOIN auctions a ON a.id = b.auction WHERE a.category = 10",
    ),
    "q21": (
        ("auction", "bidder", "price", "channel", "channel_id"),
        (),
        """SELECT auction, bidder, price, channel, CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1'
                  WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
                  ELSE nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '') END AS channel_id
           FROM bids WHERE channel_id IS NOT NULL""",
    ),
    "q22": (
        ("auction", "bidder", "price", "channel", "folder1", "folder2", "folder3"),
        (),
        f"SELECT auction, bidder, price, channel, {_folder(4)}, {_folder(5)}, {_folder(6)} FROM bids",
    ),
}


def answer(name: str, topics: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What a query must give, in any order."""
    columns, _, sql = ANSWERS[name]
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        for topic, frame in topics.items():
            database.register(topic, frame.to_arrow())
        found = database.sql(sql).pl()
    return found.rename(dict(zip(found.columns, columns, strict=True)))


def agree(rows: pl.DataFrame, expected: pl.DataFrame) -> bool:
    """Whether two frames hold equal rows, in any order; floats, as another engine computes them, to the last bits."""
    order = [name for name in rows.columns if rows.schema[name] != pl.Float64]
    if rows.height != expected.height:
        return False
    left, right = rows.sort(order), expected.select(rows.columns).cast(dict(rows.schema)).sort(order)  # type: ignore[arg-type]
    for name in rows.columns:
        near = (left[name] - right[name]).abs() <= 1e-12 * right[name].abs() if name not in order else None
        if not (left[name].equals(right[name]) if near is None else near.all()):
            return False
    return True


def top_ten(bids: pl.DataFrame) -> pl.DataFrame:
    """q19: every bid that was among its auction's ten highest when it came, and which; of equal ones the first leads.

    Not an SQL question: it asks what was so at each moment, so each bid is compared with all that came before it.
    """
    rows = bids.sort("date_time")
    found = []
    for (auction,), mine in rows.group_by("auction", maintain_order=True):
        prices = mine["price"].to_list()
        for number, price in enumerate(prices):
            rank = 1 + sum(other >= price for other in prices[:number])
            if rank <= 10:
                found.append((auction, price, mine["date_time"][number], rank))
    return pl.DataFrame(found, schema=["auction", "price", "date_time", "rank"], orient="row")
