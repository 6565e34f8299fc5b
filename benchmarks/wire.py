"""How fast the wire codec is: decode, pruned decode and encode, beside fastavro record by record in the same run.

    python benchmarks/wire.py [--records 200000] [--rounds 5] [--json]

The records have eight fields, three of them texts, one nullable; about 65 bytes each.  "From and to a list" means what
a user of fastavro has: one bytes object per record; "block" is what the log port gives.  The best round counts, in
CPU time of this process; run it on an idle machine.
"""

from __future__ import annotations

import io
import json
import platform
import random
import time
from collections.abc import Callable, Mapping

import click
import fastavro
import numpy as np
from rich.console import Console
from rich.table import Table

from streamproc.wire import Decoder, Encoder, Reader

SCHEMA: Mapping[str, object] = {
    "type": "record",
    "name": "bid",
    "fields": [
        {"name": "auction", "type": "long"},
        {"name": "bidder", "type": "long"},
        {"name": "price", "type": "double"},
        {"name": "channel", "type": "string"},
        {"name": "url", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "note", "type": ["null", "string"]},
        {"name": "ok", "type": "boolean"},
    ],
}
ORACLE = fastavro.parse_schema(json.loads(json.dumps(SCHEMA).replace("logicalType", "ignored")))
SCHEMA_ID = 7


def bids(count: int) -> list[dict[str, object]]:
    """Records as fastavro takes them."""
    rnd = random.Random(1)
    return [
        {
            "auction": rnd.randrange(100_000),
            "bidder": rnd.randrange(20_000),
            "price": rnd.random() * 100,
            "channel": rnd.choice(("google", "apple", "facebook", "baidu")),
            "url": f"https://www.nexmark.com/{rnd.randrange(10**6)}/item.htm",
            "at": 1_700_000_000_000 + i,
            "note": None if i % 3 else "hello",
            "ok": i % 2 == 0,
        }
        for i in range(count)
    ]


def write_one(row: dict[str, object]) -> bytes:
    """One record by fastavro."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, ORACLE, row)
    return stream.getvalue()


def read_one(payload: bytes) -> object:
    """One record by fastavro."""
    return fastavro.schemaless_reader(io.BytesIO(payload), ORACLE)


def best(work: Callable[[], object], rounds: int) -> float:
    """Seconds of CPU time of the best round."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measured(records: int, rounds: int) -> dict[str, float]:
    """Records per second of everything that is compared."""
    rows = bids(records)
    payloads = [write_one(row) for row in rows]
    decoder, pruned, encoder = Decoder(SCHEMA), Decoder(SCHEMA, columns=["at"]), Encoder(SCHEMA)
    reader = Reader(SCHEMA, {SCHEMA_ID: SCHEMA}.get)
    frame = decoder.decode_payloads(payloads).frame
    block = encoder.encode(frame, schema_id=SCHEMA_ID)
    if encoder.encode(frame, schema_id=None).to_payloads() != payloads:
        raise SystemExit("the codec and fastavro disagree on the bytes: nothing was measured")
    starts, ends = np.asarray(block.starts), np.asarray(block.ends)
    work: dict[str, Callable[[], object]] = {
        "decode, fastavro's loop": lambda: [read_one(payload) for payload in payloads],
        "decode, from a list": lambda: decoder.decode_payloads(payloads),
        "decode, from a block": lambda: reader.decode(block.buffer, starts, ends),
        "decode one long of eight fields": lambda: pruned.decode_payloads(payloads),
        "encode, fastavro's loop": lambda: [write_one(row) for row in rows],
        "encode, to a list": lambda: encoder.encode(frame, schema_id=None).to_payloads(),
        "encode, to a block": lambda: encoder.encode(frame, schema_id=SCHEMA_ID),
    }
    return {name: records / best(function, rounds) for name, function in work.items()}


@click.command()
@click.option("--records", default=200_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(records: int, rounds: int, as_json: bool) -> None:
    """Measures the codec on this machine."""
    rates = measured(records, rounds)
    ratios = {name: rate / rates[f"{name[:6]}, fastavro's loop"] for name, rate in rates.items()}
    if as_json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "records": records}
        print(json.dumps({**machine, "records_per_second": rates, "times_fastavro": ratios}))
        return
    table = Table("", "records/s", "times fastavro", title=f"wire codec, {records:,} records of eight fields, one core")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{ratios[name]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
