"""A seeded generator of Nexmark's events: people register, open auctions and bid.

Of fifty events one is a person, three are auctions and the rest bids, as in the suite's definition (Tucker, Tufte,
Papadimos, Maier 2002; Beam's and Flink's versions). Half of the bids go to a hot auction, three of four come from a hot
bidder. Everything is made a column at a time: some 3 million events a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.contracts.avro_schema import parse_contract

TIME: Final = '{"type": "long", "logicalType": "timestamp-micros"}'
PERSON: Final = parse_contract(
    '{"type": "record", "name": "person", "sp:version": 1, "sp:owner": "auction-house", "fields": ['
    '{"name": "id", "type": "long", "sp:role": "key"}, {"name": "name", "type": "string"},'
    '{"name": "email", "type": "string"}, {"name": "credit_card", "type": "string"},'
    '{"name": "city", "type": "string"}, {"name": "state", "type": "string"},'
    f'{{"name": "date_time", "type": {TIME}, "sp:role": "event_time"}}, {{"name": "extra", "type": "string"}}]}}'
)
AUCTION: Final = parse_contract(
    '{"type": "record", "name": "auction", "sp:version": 1, "sp:owner": "auction-house", "fields": ['
    '{"name": "id", "type": "long", "sp:role": "key"}, {"name": "item", "type": "string"},'
    '{"name": "description", "type": "string"}, {"name": "initial_bid", "type": "long", "sp:unit": "USD"},'
    '{"name": "reserve", "type": "long", "sp:unit": "USD"},'
    f'{{"name": "date_time", "type": {TIME}, "sp:role": "event_time"}}, {{"name": "expires", "type": {TIME}}},'
    '{"name": "seller", "type": "long"}, {"name": "category", "type": "long"}, {"name": "extra", "type": "string"}]}'
)
BID: Final = parse_contract(
    '{"type": "record", "name": "bid", "sp:version": 1, "sp:owner": "auction-house", "fields": ['
    '{"name": "auction", "type": "long", "sp:role": "key"}, {"name": "bidder", "type": "long"},'
    '{"name": "price", "type": "long", "sp:unit": "USD"}, {"name": "channel", "type": "string"},'
    f'{{"name": "url", "type": "string"}}, {{"name": "date_time", "type": {TIME}, "sp:role": "event_time"}},'
    '{"name": "extra", "type": "string"}]}'
)
SIDE: Final = parse_contract(
    '{"type": "record", "name": "side_input", "sp:version": 1, "sp:owner": "auction-house", "fields": ['
    '{"name": "key", "type": "long", "sp:role": "key"}, {"name": "value", "type": "string"},'
    f'{{"name": "date_time", "type": {TIME}, "sp:role": "event_time"}}]}}'
)
CONTRACTS: Final = (PERSON, AUCTION, BID, SIDE)

BEGIN_US: Final = 1_700_000_000_000_000
FIRST_ID: Final = 1_000
CATEGORIES: Final = 5
LONGEST_AUCTION_US: Final = 20_000_000
SIDE_ROWS: Final = 1_000
_FIFTY: Final = 50
_STATES: Final = np.array(["AZ", "CA", "ID", "OR", "WA", "WY"])
_CITIES: Final = np.array(
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"]
)
_FIRST: Final = np.array(
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"]
)
_LAST: Final = np.array(["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"])
_CHANNELS: Final = np.array(["Google", "Facebook", "Baidu", "Apple"])


@dataclass(frozen=True, slots=True)
class Nexmark:
    """What is generated: the same value gives the same events.

    events     how many in all, of the three kinds together
    rate       events per second of event time
    disorder_us  an event may stand behind others that are younger by up to so much; below the lateness of the queries
    """

    events: int
    seed: int = 1
    rate: int = 10_000
    disorder_us: int = 200_000

    def __post_init__(self) -> None:
        if self.events < _FIFTY or self.rate < 1 or self.disorder_us < 0:
            raise ValueError(f"Nexmark needs at least {_FIFTY} events, a rate and no negative disorder: {self}")

    def frames(self) -> Mapping[str, pl.DataFrame]:
        """The topics `persons`, `auctions`, `bids` and `side`, rows in order of arrival.

        Event times are unique. A bid names an auction, an auction a seller, that registered before it.
        """
        draw = np.random.default_rng(self.seed)
        number = np.arange(self.events, dtype=np.int64)
        place, round_ = number % _FIFTY, number // _FIFTY
        at = BEGIN_US + number * 1_000_000 // self.rate + (number if self.rate > 1_000_000 else 0)
        persons, auctions, bids = (
            np.flatnonzero(chosen) for chosen in (place == 0, (place > 0) & (place < 4), place > 3)
        )
        topics = {
            "persons": self._persons(draw, at[persons]),
            "auctions": self._auctions(draw, at[auctions], round_[auctions]),
            "bids": self._bids(draw, at[bids], round_[bids]),
        }
        late = {name: self._arrived(draw, frame) for name, frame in topics.items()}
        side = np.arange(SIDE_ROWS)
        late["side"] = pl.DataFrame(
            {"key": side, "value": [f"value-{key}" for key in side], "date_time": _times(BEGIN_US - SIDE_ROWS + side)}
        )
        return late

    def _arrived(self, draw: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows in order of arrival: each later than its event time by less than the disorder."""
        if not self.disorder_us:
            return frame
        arrival = frame["date_time"].dt.epoch("us").to_numpy() + draw.integers(0, self.disorder_us, frame.height)
        return frame[np.argsort(arrival, kind="stable")]

    def _persons(self, draw: np.random.Generator, at: np.ndarray) -> pl.DataFrame:
        n = at.size
        first, last = draw.choice(_FIRST, n), draw.choice(_LAST, n)
        ids = FIRST_ID + np.arange(n)
        return pl.DataFrame(
            {
                "id": ids,
                "name": np.char.add(np.char.add(first, " "), last),
                "email": np.char.add(np.char.lower(last), [f"{id_}@example.com" for id_ in ids]),
                "credit_card": [f"{card:016d}" for card in draw.integers(0, 10**16, n)],
                "city": draw.choice(_CITIES, n),
                "state": draw.choice(_STATES, n),
                "date_time": _times(at),
                "extra": _words(draw, n),
            }
        )

    def _auctions(self, draw: np.random.Generator, at: np.ndarray, round_: np.ndarray) -> pl.DataFrame:
        n = at.size
        initial = _prices(draw, n)
        ids = FIRST_ID + np.arange(n)
        return pl.DataFrame(
            {
                "id": ids,
                "item": [f"item {id_ % 997}" for id_ in ids],
                "description": _words(draw, n),
                "initial_bid": initial,
                "reserve": initial + _prices(draw, n),
                "date_time": _times(at),
                "expires": _times(at + draw.integers(1_000_000, LONGEST_AUCTION_US, n)),
                "seller": FIRST_ID + _hot(draw, round_, 4, 100, 1_000),
                "category": 10 + draw.integers(0, CATEGORIES, n),
                "extra": _words(draw, n),
            }
        )

    def _bids(self, draw: np.random.Generator, at: np.ndarray, round_: np.ndarray) -> pl.DataFrame:
        n = at.size
        channel = draw.integers(0, 12, n)
        names = [*_CHANNELS, *(f"channel-{c}" for c in range(4, 12))]
        urls = pl.Series(
            [f"https://www.nexmark.com/{a}/{b}/{c}/item.htm?query=1" for a in "abc" for b in "de" for c in "fg"]
        )
        url = urls[draw.integers(0, 12, n)]
        tagged = pl.Series(channel >= 8)
        ids = pl.Series(channel * 1_000 + draw.integers(0, 1_000, n)).cast(pl.String)
        frame = pl.DataFrame(
            {
                # The newest auctions of the rounds before: they are open, and every one of them registered earlier.
                "auction": FIRST_ID + _hot(draw, 3 * round_ - 1, 2, 100, 300),
                "bidder": FIRST_ID + _hot(draw, round_, 4, 100, 1_000),
                "price": _prices(draw, n),
                "channel": pl.Series(names)[channel],
                "url": url,
                "date_time": _times(at),
                "extra": _words(draw, n),
                "tagged": tagged,
                "channel_id": ids,
            }
        )
        with_id = pl.concat_str("url", pl.lit("&channel_id="), "channel_id")
        return frame.with_columns(url=pl.when("tagged").then(with_id).otherwise("url")).drop("tagged", "channel_id")


def _hot(draw: np.random.Generator, newest: np.ndarray, cold_one_in: int, hot_each: int, among: int) -> np.ndarray:
    """Numbers 0..newest: all but one in `cold_one_in` the last multiple of `hot_each`, the others among the newest."""
    newest = np.maximum(newest, 0)
    hot = newest // hot_each * hot_each
    cold = newest - (draw.random(newest.size) * np.minimum(newest + 1, among)).astype(np.int64)
    return np.where(draw.integers(0, cold_one_in, newest.size) > 0, hot, cold)


def _prices(draw: np.random.Generator, n: int) -> np.ndarray:
    """100 to 10^8, each power of ten as likely as the next."""
    return np.round(10.0 ** (draw.random(n) * 6.0) * 100.0).astype(np.int64)


def _times(at: np.ndarray) -> pl.Series:
    return pl.Series(at, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))


def _words(draw: np.random.Generator, n: int) -> pl.Series:
    """Texts of some forty letters."""
    some = pl.Series(["".join(map(chr, row)) for row in draw.integers(97, 123, (512, 40))])
    return some[draw.integers(0, some.len(), n)]
