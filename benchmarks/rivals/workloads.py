"""What is asked of every engine: five questions about one stream of bids, as streamproc topologies and naive answers.

Bids are keyed by bidder, lie where Kafka's default partitioner puts them, and are up to 19 ms out of order; prices are
quarters, so that every engine's sums are exact whatever its order.  The bidders' table is written before them.  One bid
of a bidder of its own ends each partition, two minutes later, so that every window of the others closes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

import streamproc as sp
from benchmarks.end_to_end import bids as random_bids
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.hashing import hash_bytes, partitions_of
from streamproc.kernels import kernel
from streamproc.keys import keys_of
from streamproc.wire import Encoder

PARTITIONS: Final = 4
BIDDERS: Final = 20_000
"""With a bid each millisecond a bidder has 3 bids in 60 s and 30 in 600 s."""
LATENESS: Final = "20ms"
MINUTE_US, LONG_US = 60_000_000, 600_000_000
BEGIN_US: Final = 1_700_000_000_000_000
_AFTER_US: Final = 130_000_000
_PIECE: Final = 250_000

_AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
_BIDDER = '{"name": "bidder", "type": "long", "sp:role": "key"}'


def _contract(name: str, *fields: str) -> Contract:
    head = f'"type": "record", "name": "{name}", "sp:version": 1, "sp:partitioner": "murmur2"'
    return parse_contract(f'{{{head}, "fields": [{", ".join(fields)}]}}')


def _plain(name: str, kind: str) -> str:
    return f'{{"name": "{name}", "type": "{kind}"}}'


_FEATURES = ("bids_60s", "long"), ("spend_60s", "double"), ("bids_600s", "long"), ("spend_600s", "double")
BID: Final = _contract(
    "bid", _plain("auction", "long"), _BIDDER, _plain("price", "double"), _plain("channel", "string"),
    _plain("url", "string"), _AT,
)  # fmt: skip
PROFILE: Final = _contract("profile", _BIDDER, _plain("segment", "long"), _AT)
SPENT: Final = _contract("spent", _BIDDER, _AT, _plain("bids", "long"), _plain("spend", "double"))
LOOKED: Final = _contract("looked", _BIDDER, _AT, *(_plain(*feature) for feature in _FEATURES))
JOINED: Final = _contract(
    "joined", _plain("auction", "long"), _BIDDER, _plain("price", "double"), _AT, _plain("segment", "long")
)


@dataclass(frozen=True, slots=True)
class Workload:
    """title of the table's rows, what comes out, and how many times a peer's CPU streamproc is to stay below.

    goal  of the best peer; python_goal  of each peer in Python
    """

    title: str
    output: Contract
    goal: float
    python_goal: float


WORKLOADS: Final = {
    "pass": Workload("pass-through", BID, 1.5, 5),
    "filter": Workload("filter (80 % stay) + map", BID, 2, 5),
    "tumbling": Workload("tumbling 60 s per key", SPENT, 5, 15),
    "look-back": Workload("look-back 60 s, 600 s", LOOKED, 15, 15),
    "join": Workload("stream-table join", JOINED, 5, 15),
}


def shaped(frame: pl.DataFrame) -> pl.DataFrame:
    """The bids with moments in whole milliseconds and prices in quarters: what every engine can hold exactly."""
    return frame.with_columns(pl.col("at").dt.truncate("1ms"), price=(pl.col("price") * 4).round() / 4)


def bids(records: int) -> Iterator[pl.DataFrame]:
    """The stream, piece by piece; a longer one begins with the shorter one (pieces are whole)."""
    for start in range(0, records, _PIECE):
        yield shaped(random_bids(start, _PIECE, BIDDERS, start).head(records - start))


def profiles() -> pl.DataFrame:
    """The table: a segment of each bidder, known an hour before the first bid."""
    bidder = np.arange(BIDDERS)
    return _at(pl.DataFrame({"bidder": bidder, "segment": bidder * 7 % 97}), BEGIN_US - 3_600_000_000)


def _at(frame: pl.DataFrame, moment: int) -> pl.DataFrame:
    return frame.with_columns(at=pl.lit(moment).cast(pl.Datetime("us", "UTC")))


def _end_us(records: int) -> int:
    return BEGIN_US + records * 1_000 + _AFTER_US


def _last_bidders() -> list[int]:
    """One bidder beyond the others for each partition."""
    candidates = pl.DataFrame({"bidder": np.arange(BIDDERS, BIDDERS + 1_000)})
    keys = keys_of(candidates, ["bidder"])
    places = partitions_of(keys.buffer, keys.starts, keys.ends, PARTITIONS)
    return [BIDDERS + int(np.flatnonzero(places == number)[0]) for number in range(PARTITIONS)]


def last_bids(records: int) -> pl.DataFrame:
    """A bid for each partition, two minutes after so many bids."""
    frame = pl.DataFrame({"bidder": _last_bidders()}).select(
        auction=pl.lit(1, pl.Int64), bidder="bidder", price=pl.lit(0.0), channel=pl.lit("end"), url=pl.lit("end")
    )
    return _at(frame, _end_us(records))


def last_profiles(records: int) -> pl.DataFrame:
    """A row of the table for each partition, as late as the last bids: time goes on in the table too."""
    return _at(pl.DataFrame({"bidder": _last_bidders()}).with_columns(segment=pl.lit(0, pl.Int64)), _end_us(records))


# ── as topologies ────────────────────────────────────────────────────────────────────────────────────────────────────


def topology(name: str, run: str, source: str, table: str, out: str) -> sp.Topology:
    """The workload for streamproc; "look-back ordered" is the look-back in order of event time."""
    stream = sp.source(source, contract=BID, lateness=LATENESS, max_future_skew="36500d")
    keyed = stream | sp.key_by("bidder")
    features = sp.features(
        bids_60s=sp.count().over("60s"), spend_60s=sp.total("price").over("60s"),
        bids_600s=sp.count().over("600s"), spend_600s=sp.total("price").over("600s"),
    )  # fmt: skip
    look = sp.select("bidder", "at", "bids_60s", "spend_60s", "bids_600s", "spend_600s")
    match name:
        case "pass":
            made = stream
        case "filter":
            made = stream | sp.where(pl.col("auction") % 5 != 0) | sp.with_columns(price=pl.col("price") * 0.75)
        case "tumbling":
            windows = keyed | sp.tumbling("60s", bids=sp.count(), spend=sp.total("price"))
            made = windows | sp.select("bidder", "bids", "spend", at=pl.col("window_start"))
        case "look-back":
            made = keyed | features | look
        case "look-back ordered":
            made = keyed | sp.ordered() | features | look
        case "join":
            rows = sp.source(table, contract=PROFILE, max_future_skew="36500d") | sp.key_by("bidder")
            joined = keyed | sp.as_of(rows, columns=("segment",), name="profile")
            made = joined | sp.where(pl.col("segment").is_not_null()) | sp.select(*JOINED.schema.names)
        case _:
            raise ValueError(f"there is no workload '{name}'")
    contract = WORKLOADS[name.removesuffix(" ordered")].output
    sink = sp.sink(made, topic=out, contract=None if name == "pass" else contract)
    return sp.Topology(run, sinks={"out": sink}, late="count")


# ── as naive answers ─────────────────────────────────────────────────────────────────────────────────────────────────


def answer(name: str, stream: pl.DataFrame, order: str = "arrival") -> pl.DataFrame:
    """What comes out of these bids, in any order of rows; without the last bids, which end the stream.

    order  of look-back: which rows of its key with a moment in (t - span, t] a row at t sees, beside itself
           arrival  those that came before it
           time     those that precede it in order of (moment, arrival)
           range    all of them, however late they come: SQL's RANGE frame
    """
    match name:
        case "pass":
            return stream
        case "filter":
            return stream.filter(pl.col("auction") % 5 != 0).with_columns(pl.col("price") * 0.75)
        case "tumbling":
            start = pl.col("at").dt.truncate("60s")
            return stream.group_by("bidder", at=start).agg(bids=pl.len().cast(pl.Int64), spend=pl.col("price").sum())
        case "join":
            named = stream.join(profiles().select("bidder", "segment"), on="bidder")
            return named.select(JOINED.schema.names)
    return _look_back(stream, order)


def _look_back(stream: pl.DataFrame, order: str) -> pl.DataFrame:
    rows = stream.select("bidder", "at", "price").sort(
        ["bidder"] if order == "arrival" else ["bidder", "at"], maintain_order=True
    )
    bidders, prices = rows["bidder"].to_numpy(), rows["price"].to_numpy()
    moments = rows["at"].cast(pl.Int64).to_numpy()
    found = {}
    for label, span in (("60s", MINUTE_US), ("600s", LONG_US)):
        counts, sums = _scan(bidders, moments, prices, span, order == "range")
        found |= {f"bids_{label}": counts, f"spend_{label}": sums}
    return rows.select("bidder", "at").with_columns(**{name: pl.Series(values) for name, values in found.items()})


@kernel
def _scan(
    bidders: npt.NDArray[np.int64], moments: npt.NDArray[np.int64], prices: npt.NDArray[np.float64], span: int,
    ties: bool,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:  # fmt: skip
    """A scan back over the key's rows for each row; disorder is below a second, so it ends one beyond the span."""
    counts, sums = np.zeros(bidders.size, np.int64), np.zeros(bidders.size, np.float64)
    for row in range(bidders.size):
        at = row
        while at >= 0 and bidders[at] == bidders[row] and moments[at] > moments[row] - span - 1_000_000:
            if moments[row] - span < moments[at] <= moments[row]:
                counts[row] += 1
                sums[row] += prices[at]
            at -= 1
        at = row + 1
        while ties and at < bidders.size and bidders[at] == bidders[row] and moments[at] == moments[row]:
            counts[row] += 1
            sums[row] += prices[at]
            at += 1
    return counts, sums


@dataclass(frozen=True, slots=True)
class Sums:
    """What two outputs share if they hold the same rows in any order."""

    rows: int
    number: float
    digest: int

    @classmethod
    def of(cls, frame: pl.DataFrame, contract: Contract) -> Sums:
        """Rows, the sum of one column, and the sum of the hashes of all rows in their contract's bytes."""
        rows = frame.filter(pl.col("bidder") < BIDDERS)
        number = next(name for name in ("spend_600s", "spend", "price") if name in rows.columns)
        encoded = Encoder(contract.avro).encode(rows, schema_id=None)
        digest = hash_bytes(encoded.buffer, encoded.starts, encoded.ends).sum(dtype=np.uint64)
        return cls(rows.height, float(rows[number].sum()), int(digest))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.rows + other.rows, self.number + other.number, (self.digest + other.digest) % (1 << 64))
