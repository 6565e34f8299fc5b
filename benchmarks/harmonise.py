"""Ten fields brought to canonical form, and fifty rules that fail: what they cost, beside plain Python.

    python -m benchmarks.harmonise [--json] [--rows N]

Harmonising: batches of 65,536 orders through the operator, in process, on one core. Times are all different, amounts
nearly so; phones, addresses, names and places come from a few thousand customers, as they do in a stream of orders. The
baseline does the same to each row with the same libraries (`zoneinfo`, `Decimal`, `bisect`, `phonenumbers`, ...).

Rules: a worker from log to log in memory (decode, a column, encode, journal), without rules and with 50 of which each
row breaks every one, a window a batch and 20. All alert; the output is compared by its digest.
"""

from __future__ import annotations

import bisect
import json
import os
import time
import unicodedata
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any
from zoneinfo import ZoneInfo

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import click
import email_validator
import numpy as np
import phonenumbers
import polars as pl
from rich.console import Console
from rich.table import Table

import streamproc as sp
from streamproc.batch import ROW, WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.operator import StepTime, StreamType
from streamproc.operators.harmonising.people import name_parts
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import recorded_sums, source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing.drive import prepared

BATCH = 65_536
PLAIN_ROWS = 20_000
CUSTOMERS = 4_000
ECB = b"Date,USD,GBP,JPY,\n2026-10-30,1.1652,0.8331,178.21,\n2026-10-29,1.1601,0.8342,177.95,\n"
RATES = sp.canonical.ecb_rates(ECB)
AT = int(datetime(2026, 10, 30, 16, tzinfo=UTC).timestamp()) * 1_000_000
UNITS = {"kg": "kg", "g": "g", "lbs": "[lb_av]"}
FIELDS: dict[str, Any] = {
    "placed_at": sp.canonical.instant("placed", formats="%d.%m.%Y %H:%M:%S", zone="Europe/Berlin"),
    "sent_at": sp.canonical.instant("sent", epoch="ms"),
    "total": sp.canonical.money("amount", currency_column="currency", to="EUR", rates=RATES, decimal=","),
    "weight_kg": sp.canonical.quantity("weight", to="kg", unit_column="unit", units=UNITS),
    "height_cm": sp.canonical.quantity("height", unit="[in_i]", to="cm"),
    "title": sp.canonical.text("product", case="lower"),
    "tel": sp.canonical.phone("phone", region="DE"),
    "mail": sp.canonical.email("email"),
    "who": sp.canonical.person_name("customer"),
    "land": sp.canonical.country("country", names=("de",)),
}


def orders(seed: int, rows: int = BATCH) -> pl.DataFrame:
    """Orders as a shop writes them."""
    random = np.random.default_rng(seed)
    who = random.integers(0, CUSTOMERS, rows)
    numbers = pl.Series(who).cast(pl.String)
    placed = pl.Series(random.integers(1_735_689_600, 1_767_225_600, rows) * 1_000_000).cast(pl.Datetime("us"))
    cents = random.integers(1, 10_000_000, rows)
    return pl.DataFrame(
        {
            "placed": placed.dt.strftime("%d.%m.%Y %H:%M:%S"),
            "sent": random.integers(1_735_689_600_000, 1_767_225_600_000, rows),
            "amount": (
                pl.Series(cents // 100).cast(pl.String) + "," + pl.Series(cents % 100).cast(pl.String).str.zfill(2)
            ),
            "currency": pl.Series(["EUR", "USD", "GBP", "JPY"]).gather(random.integers(0, 4, rows)),
            "weight": np.round(random.uniform(0, 100, rows), 3),
            "unit": pl.Series(["kg", "g", "lbs"]).gather(random.integers(0, 3, rows)),
            "height": np.round(random.uniform(0, 100, rows), 2),
            "product": " ＰRODUCT  Nr. " + pl.Series(random.integers(0, 5_000, rows)).cast(pl.String) + " ",
            "phone": "030 " + pl.Series(1_000_000 + who * 17).cast(pl.String),
            "email": " Customer." + numbers + "@EXAMPLE.com",
            "customer": "Dr. ANNA-" + numbers.str.replace_many(list("0123456789"), list("abcdefghij")) + " van BERG",
            "country": pl.Series(["Deutschland", "USA", "gb", "FRA", "Japan"]).gather(who % 5),
        }
    )


def batch_of(frame: pl.DataFrame) -> Batch:
    """All rows at one moment."""
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, 0] = AT
    meta[:, ROW] = 2 * np.arange(frame.height) + 1
    return Batch(frame, meta)


def harmonised(number: int) -> tuple[float, float, dict[str, float]]:
    """Rows per CPU second over all fields, for the first batch alone, and ns a row of each field by itself."""
    batches = [batch_of(orders(seed)) for seed in range(number)]
    schema = Schema(tuple(Field(name, dtype) for name, dtype in batches[0].frame.schema.items()))

    def spent(fields: dict[str, Any]) -> list[float]:
        operator: Any = sp.harmonise(**fields).operator
        operator.schema(StreamType(schema))
        operator.process(None, (batch_of(batches[0].frame.clear()),), StepTime(np.zeros(0, np.int64), 1))
        seconds = []
        for batch in batches:
            begin = time.process_time()
            _, output = operator.process(None, (batch,), StepTime(np.zeros(BATCH, np.int64), 1))
            seconds.append(time.process_time() - begin)
            assert not output.rejected and len(output.rows) == BATCH
        return seconds

    first, *later = spent(FIELDS)
    alone = {name: sorted(spent({name: field})[1:])[len(later) // 2] / BATCH * 1e9 for name, field in FIELDS.items()}
    return BATCH * len(later) / sum(later), BATCH / first, alone


def plain(rows: int) -> float:
    """Rows per CPU second, value by value."""
    here = ZoneInfo("Europe/Berlin")
    published = [AT - 86_400_000_000, AT - 3_600_000_000]
    rates = {
        "USD": [Decimal("1.1601"), Decimal("1.1652")],
        "GBP": [Decimal("0.8342"), Decimal("0.8331")],
        "JPY": [Decimal("177.95"), Decimal("178.21")],
    }
    digits = {"EUR": 2, "USD": 2, "GBP": 2, "JPY": 0}
    factors = {"kg": 1.0, "g": 0.001, "lbs": 0.45359237}
    lands = {"deutschland": "DE", "usa": "US", "gb": "GB", "fra": "FR", "japan": "JP"}
    given = orders(0, rows).to_dicts()
    out = []
    begin = time.process_time()
    for row in given:
        made = dict(row)
        local = datetime.strptime(row["placed"], "%d.%m.%Y %H:%M:%S").replace(tzinfo=here)
        made["placed_at"] = local.astimezone(UTC)
        made["sent_at"] = datetime.fromtimestamp(row["sent"] / 1000, UTC)
        amount = Decimal(row["amount"].replace(",", ".")).quantize(
            Decimal(1).scaleb(-digits[row["currency"]]), ROUND_HALF_EVEN
        )
        if row["currency"] != "EUR":
            amount /= rates[row["currency"]][bisect.bisect_right(published, AT) - 1]
        made["total"] = int((amount * 100).quantize(Decimal(1), ROUND_HALF_EVEN))
        made["weight_kg"] = row["weight"] * factors[row["unit"]]
        made["height_cm"] = row["height"] * 2.54
        made["title"] = " ".join(unicodedata.normalize("NFKC", row["product"]).split()).lower()
        number = phonenumbers.parse(row["phone"], "DE")
        if phonenumbers.is_valid_number(number):
            made["tel"] = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        made["mail"] = email_validator.validate_email(
            row["email"].strip(), check_deliverability=False
        ).normalized.lower()
        made["who"] = name_parts("given_first", row["customer"])
        made["land"] = lands[row["country"].casefold()]
        out.append(made)
    return rows / (time.process_time() - begin)


BID = parse_contract("""{"type": "record", "name": "bid", "sp:version": 1, "fields": [
    {"name": "auction", "type": "long"}, {"name": "bidder", "type": "long"}, {"name": "price", "type": "double"},
    {"name": "channel", "type": "string"}, {"name": "url", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")


def bids(rows: int, windows_per_batch: int) -> pl.DataFrame:
    random = np.random.default_rng(5)
    at = np.arange(rows) * (60_000_000 * windows_per_batch // BATCH)
    return pl.DataFrame(
        {
            "auction": random.integers(0, 10_000, rows), "bidder": random.integers(0, 10_000, rows),
            "price": np.round(random.uniform(1, 1000, rows), 2),
            "channel": pl.Series(["Apple", "Google", "Baidu"]).gather(random.integers(0, 3, rows)),
            "url": "https://auction.example/item/" + pl.Series(random.integers(0, 10_000, rows)).cast(pl.String),
            "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
        }
    )  # fmt: skip


def worked(rows: int, rules: int, windows_per_batch: int) -> tuple[float, Any]:
    """Rows per CPU second of a worker, and the digest of its output."""
    stream = sp.source("bids", contract=BID) | sp.with_columns(euros=pl.col("price") * 0.9)
    sinks: dict[str, Any] = {"out": sp.sink(stream, topic="out")}
    if rules:
        tests = {
            f"rule_{n}": (pl.col("price") < -n) if n % 2 else (pl.col("auction") > 10**6 + n) for n in range(rules)
        }
        checked = stream | sp.rules(**tests)
        sinks = {"out": sp.sink(checked, topic="out"), "alerts": checked.alerts}
    topology = sp.Topology("bids", sinks=sinks)
    registry = MemoryRegistry()
    best = 0.0
    for _ in range(3):
        log = prepared(topology, {"bids": bids(rows, windows_per_batch)}, registry)
        binding = bind(topology, log, registry)
        worker = Worker(binding, log, until_end=source_ends(binding, log), close=True, in_stages=True)
        begin = time.process_time()
        worker.run()
        best = max(best, rows / (time.process_time() - begin))
    return best, recorded_sums(binding, log)["out"]


@click.command(help=__doc__)
@click.option("--rows", default=20 * BATCH, show_default=True, help="Rows to harmonise.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def main(rows: int, as_json: bool) -> None:
    rate, cold, alone = harmonised(max(3, rows // BATCH))
    slow = plain(min(PLAIN_ROWS, rows))
    fields = [{"field": name, "ns_per_row": round(ns, 1)} for name, ns in alone.items()]
    ruled = []
    for windows in (1, 20):
        worked(BATCH, 50, windows)
        without, digest = worked(max(4, rows // BATCH // 4) * BATCH, 0, windows)
        with_rules, other = worked(max(4, rows // BATCH // 4) * BATCH, 50, windows)
        ruled.append({"windows_per_65536_rows": windows, "rows_per_second_without": round(without),
                      "rows_per_second_with_50": round(with_rules), "kept": round(with_rules / without, 3),
                      "same_output": digest == other})  # fmt: skip
    if as_json:
        print(json.dumps({"benchmark": "harmonise", "fields": len(FIELDS), "rows_per_second": round(rate),
                          "first_batch_rows_per_second": round(cold), "plain_rows_per_second": round(slow),
                          "times_plain": round(rate / slow, 1), "alone": fields, "rules": ruled}))  # fmt: skip
        return
    console = Console()
    table = Table("10 fields", "rows/s", title="harmonise, one core")
    table.add_row("streamproc", f"{rate:,.0f}")
    table.add_row("its first batch, which meets all values", f"{cold:,.0f}")
    table.add_row("plain Python, value by value", f"{slow:,.0f}")
    console.print(table)
    table = Table("field alone", "ns/row")
    for one in fields:
        table.add_row(str(one["field"]), f"{one['ns_per_row']:,}")
    console.print(table)
    table = Table("windows per 65,536 rows", "rows/s without", "with 50 failing rules", "kept", "output", title="rules")
    for case in ruled:
        table.add_row(str(case["windows_per_65536_rows"]), f"{case['rows_per_second_without']:,}",
                      f"{case['rows_per_second_with_50']:,}", f"{case['kept']:.0%}",
                      "the same" if case["same_output"] else "DIFFERS")  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
