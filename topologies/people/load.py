"""Records of made-up people, in the form of the contract `person_record.v1`, and the truth about them.

The records are Febrl's data set 3 (see `data/README.md`): 5,000 records of 2,000 people, up to five of them altered
copies. They come in a fixed order, one a second; which people they are of is in `truth`, which no topology reads.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Final

import polars as pl

RECORDS: Final = "people.records"
FIELDS: Final = ("given_name", "surname", "street_number", "address_1", "address_2", "suburb", "postcode", "state",
                 "date_of_birth", "soc_sec_id")  # fmt: skip
_START_US: Final = 1_767_225_600_000_000


def read_records() -> pl.DataFrame:
    """record_id, the fields and recorded_at, in the order in which they come; null where a value is missing."""
    with as_file(files("topologies.people") / "data" / "febrl3.parquet") as path:
        frame = pl.read_parquet(path)
    seconds = pl.int_range(pl.len(), dtype=pl.Int64) * 1_000_000
    moment = (seconds + _START_US).cast(pl.Datetime("us", "UTC")).alias("recorded_at")
    return frame.select(pl.format("r{}", pl.int_range(pl.len())).alias("record_id"), *FIELDS, moment)


def truth() -> pl.DataFrame:
    """record_id and the person it is of."""
    with as_file(files("topologies.people") / "data" / "febrl3.parquet") as path:
        frame = pl.read_parquet(path)
    return frame.select(pl.format("r{}", pl.int_range(pl.len())).alias("record_id"), person="person")
