"""Avro bodies behind Confluent's five bytes, by fastavro; no part of streamproc is on a peer's path."""

from __future__ import annotations

import io
import json
import os
from collections import deque
from pathlib import Path
from typing import Any

import fastavro

_SCHEMAS = {
    name: fastavro.parse_schema(schema)
    for name, schema in json.loads(Path(os.environ["RIVALS_SCHEMAS"]).read_text()).items()
}
_HEADER = bytes(5)
MINUTE_US, LONG_US = 60_000_000, 600_000_000


def reader(name: str):
    """Bytes to a dict; moments stay integers of microseconds: the schema's logical type is left off."""
    schema = _SCHEMAS[name]

    def read(value: bytes) -> dict[str, Any]:
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)

    return read


def writer(name: str):
    """A dict to bytes."""
    schema = _SCHEMAS[name]

    def write(row: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(_HEADER)
        fastavro.schemaless_writer(out, schema, row)
        return out.getvalue()

    return write


def look_back(seen: deque, bid: dict[str, Any]) -> dict[str, Any]:
    """Adds the bid to those of its bidder, in order of arrival, and tells what it sees; disorder is below a second."""
    at = bid["at"]
    seen.append((at, bid["price"]))
    while seen[0][0] <= at - LONG_US - 1_000_000:
        seen.popleft()
    bids60 = bids600 = 0
    spend60 = spend600 = 0.0
    for moment, price in seen:
        if at - LONG_US < moment <= at:
            bids600 += 1
            spend600 += price
            if moment > at - MINUTE_US:
                bids60 += 1
                spend60 += price
    return {
        "bidder": bid["bidder"], "at": at, "bids_60s": bids60, "spend_60s": spend60, "bids_600s": bids600,
        "spend_600s": spend600,
    }  # fmt: skip
