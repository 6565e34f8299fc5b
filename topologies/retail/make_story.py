"""Makes the five topics of the retail story from three public sets, and the truth beside them.

    python -m topologies.retail.make_story --from 2011-04 --until 2011-08 --seed 7 --out story

Customer i of Online Retail, in ascending order of the customer's number over all months, *is* person i of Febrl 4:
number i with seed 0, the i-th of a shuffled list with any other. Sales writes a person as file A has it, service as
file B has it, with its errors; marketing draws A or B for each mail. Nobody writes the customer's number, and no
process knows the ids of another one. Rows without a customer are guests: they have no person.

    sales.orders          retail_order.v1       one row an invoice
    service.returns       retail_return.v1      one row a cancellation: what was given back, and no order
    inventory.movements   stock_movement.v1     one row an invoice line
    marketing.contacts    campaign_contact.v1   mails of a campaign a month to a third of the persons
    finance.rates         reference_rate.v1     reference rates of the ECB, at 16:00 of Frankfurt

`truth` says which person, and which customer, an order, return or mail is of. No topology reads it.
What `--retail`, `--febrl` and `--ecb` do not name comes with the package (data/README.md).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import click
import polars as pl

from topologies.retail.processes import PERSON
from topologies.retail.sources import SourceError, invoice_lines, persons, reference_rates

ORDERS: Final = "sales.orders"
RETURNS: Final = "service.returns"
MOVEMENTS: Final = "inventory.movements"
CONTACTS: Final = "marketing.contacts"
RATES: Final = "finance.rates"
CONTRACTS: Final = {
    ORDERS: "retail_order.v1", RETURNS: "retail_return.v1", MOVEMENTS: "stock_movement.v1",
    CONTACTS: "campaign_contact.v1", RATES: "reference_rate.v1",
}  # fmt: skip
"""The contract of each topic."""
SHOP: Final = "Europe/London"
BANK: Final = "Europe/Berlin"
_SHIFT: Final = 8


@dataclass(frozen=True, slots=True)
class Story:
    """The rows of each topic, by topic name, each sorted by event time; and `truth`, which is for scorers alone."""

    topics: dict[str, pl.DataFrame]
    truth: pl.DataFrame


def make_story(
    lines: pl.DataFrame, people: pl.DataFrame, rates: pl.DataFrame, *, first: str, last: str, seed: int = 0
) -> Story:
    """The story of the months `first` to `last` ("2010-12"), both included.

    lines   of `sources.invoice_lines`; people of `sources.persons`; rates of `sources.reference_rates`
    seed    deals persons to customers and mails to persons; 0 deals person i to customer i
    Raises SourceError where there are no such months, or fewer persons than customers.
    """
    begin, end = _month(first), _after(_month(last))
    dealt = _dealt(lines, people, seed)
    chosen = lines.filter(pl.col("InvoiceDate").is_between(pl.lit(f"{begin} "), pl.lit(f"{end} "), closed="left"))
    if not chosen.height:
        raise SourceError(f"there are no invoice lines from {first} to {last}")
    invoices = _invoices(chosen).join(dealt, on="customer_id", how="left", maintain_order="left")
    cancelled = pl.col("invoice_no").str.starts_with("C")
    ordered, returned = invoices.filter(~cancelled), invoices.filter(cancelled)
    mails = _mails(dealt, begin, end, seed)
    a, b = (people.filter(pl.col("file") == one).select("person", *PERSON) for one in ("a", "b"))
    topics = {
        ORDERS: _written(ordered, a).select(
            pl.col("invoice_no").alias("order_id"), *PERSON, "country", ordered_at="at", lines="line_count",
            gross=pl.col("thousandths").cast(pl.Float64) / 1000, currency=pl.lit("GBP"),
        ),
        RETURNS: _written(returned, b).select(
            pl.col("invoice_no").alias("return_id"), *PERSON, returned_at="at",
            amount=-pl.col("thousandths").cast(pl.Float64) / 1000, currency=pl.lit("GBP"),
        ),
        MOVEMENTS: _movements(chosen),
        CONTACTS: pl.concat([_written(mails.filter(pl.col("file") == one), frame)
                             for one, frame in (("a", a), ("b", b))])
        .sort("sent_at", "contact_id")
        .select("contact_id", "campaign", *PERSON, "sent_at"),
        RATES: _published(rates, begin, end),
    }  # fmt: skip
    known = [
        frame.select(topic=pl.lit(topic), id=column, person="person", customer_id="customer_id")
        for topic, column, frame in (
            (ORDERS, "invoice_no", ordered), (RETURNS, "invoice_no", returned), (CONTACTS, "contact_id", mails),
        )
    ]  # fmt: skip
    return Story(topics, pl.concat(known))


def _dealt(lines: pl.DataFrame, people: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Which person each customer is: customer_id, person."""
    customers = lines.select(customer_id=_customer()).drop_nulls().unique().sort("customer_id")
    numbers = people["person"].unique().sort().to_list()
    if len(numbers) < customers.height:
        raise SourceError(f"{customers.height} customers cannot be {len(numbers)} persons")
    if seed:
        random.Random(seed).shuffle(numbers)
    return customers.with_columns(person=pl.Series(numbers[: customers.height], dtype=pl.Int64))


def _mails(dealt: pl.DataFrame, begin: date, end: date, seed: int) -> pl.DataFrame:
    """Mails of a campaign a month to a third of the persons: contact_id, campaign, sent_at, file, and the truth."""
    draw, rows, month = random.Random(f"mails {seed}"), [], begin
    everybody = dealt.rows()
    while month < end:
        hours = int((_after(month) - month).days) * 24
        for customer, person in draw.sample(everybody, len(everybody) // 3):
            at = datetime(month.year, month.month, 1, tzinfo=UTC) + timedelta(
                hours=draw.randrange(hours // 24) * 24 + 7 + draw.randrange(11), seconds=draw.randrange(3600)
            )
            rows.append((f"{month:%Y-%m}", customer, person, at, draw.choice("ab")))
        month = _after(month)
    columns = ("campaign", "customer_id", "person", "sent_at", "file")
    sent = pl.DataFrame(rows, schema=columns, orient="row").cast({"sent_at": pl.Datetime("us", "UTC")})
    # Numbered in the order of time: the number of a mail says nothing of whom it went to.
    return sent.sort("sent_at", "customer_id").with_row_index("n").with_columns(
        contact_id=pl.format("M{}", pl.col("n").cast(pl.String).str.zfill(6))
    )


def _written(rows: pl.DataFrame, file: pl.DataFrame) -> pl.DataFrame:
    """Rows with their person as a file has it; null all over where there is none."""
    return rows.join(file, on="person", how="left", maintain_order="left")


def _invoices(lines: pl.DataFrame) -> pl.DataFrame:
    """One row an invoice, at its last line's minute; amounts in whole thousandths of a pound, so sums are exact."""
    price = (pl.col("UnitPrice") * 1000).round().cast(pl.Int64)
    return (
        lines.with_columns(thousandths=pl.col("Quantity") * price, at=_moment(), customer_id=_customer())
        .group_by("InvoiceNo", maintain_order=True)
        .agg(
            pl.col("customer_id", "Country").first(), pl.col("at").max(), pl.col("thousandths").sum(),
            pl.len().cast(pl.Int64).alias("line_count"),
        )
        .rename({"InvoiceNo": "invoice_no", "Country": "country"})
        .sort("at", maintain_order=True)
    )  # fmt: skip


def _movements(lines: pl.DataFrame) -> pl.DataFrame:
    """One row a line. A movement's number counts lines: it says nothing of the invoice."""
    return (
        lines.select(
            stock_code="StockCode", description="Description", quantity="Quantity", unit_price="UnitPrice",
            moved_at=_moment(),
        )
        .sort("moved_at", maintain_order=True)
        .with_row_index("n")
        .select(pl.format("L{}", pl.col("n").cast(pl.String).str.zfill(7)).alias("movement_id"), pl.exclude("n"))
    )  # fmt: skip


def _published(rates: pl.DataFrame, begin: date, end: date) -> pl.DataFrame:
    """Rates from some days before the first event on, so that the first order has one."""
    days = pl.col("date").is_between(begin - timedelta(days=_SHIFT), end, closed="left")
    at = pl.col("date").cast(pl.Datetime("us")) + pl.duration(hours=16)
    return (
        rates.filter(days)
        .with_columns(published_at=at.dt.replace_time_zone(BANK).dt.convert_time_zone("UTC"))
        .select("currency", "rate", "published_at", rate_id=pl.format("ecb/{}/{}", "date", "currency"))
        .sort("published_at", "currency")
    )


def _customer() -> pl.Expr:
    return pl.col("CustomerID").str.strip_suffix(".0")


def _moment() -> pl.Expr:
    """The shop's wall clock as UTC; an hour that it showed twice is the first one."""
    wall = pl.col("InvoiceDate").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us")
    return wall.dt.replace_time_zone(SHOP, ambiguous="earliest").dt.convert_time_zone("UTC")


def _month(text: str) -> date:
    try:
        year, month = text.split("-")
        return date(int(year), int(month), 1)
    except ValueError:
        raise SourceError(f"'{text}' is no month; write it as 2011-03") from None


def _after(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


@click.command(help=__doc__)
@click.option("--from", "first", default="2010-12", show_default=True, help="The first month.")
@click.option("--until", "last", default="2011-03", show_default=True, help="The last month, included.")
@click.option("--seed", default=0, show_default=True, help="Deals persons to customers, and mails to persons.")
@click.option("--retail", type=click.Path(path_type=Path), help="Online Retail as Parquet; data/README.md.")
@click.option("--febrl", type=click.Path(path_type=Path), help="A folder with dataset4a.csv and dataset4b.csv.")
@click.option("--ecb", type=click.Path(path_type=Path), help="eurofxref-hist.zip of the ECB.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where the files go.")
def main(
    first: str, last: str, seed: int, retail: Path | None, febrl: Path | None, ecb: Path | None, out: Path
) -> None:
    try:
        story = make_story(
            invoice_lines(retail), persons(febrl), reference_rates(ecb), first=first, last=last, seed=seed
        )
    except SourceError as problem:
        raise click.ClickException(str(problem)) from None
    (out / "truth").mkdir(parents=True, exist_ok=True)
    for topic, frame in story.topics.items():
        frame.write_parquet(out / f"{topic}.parquet", compression="zstd")
        click.echo(f"{topic}: {frame.height:,} rows")
    story.truth.write_parquet(out / "truth" / "truth.parquet", compression="zstd")
    click.echo(f"written to {out}; truth/ is for scorers alone")


if __name__ == "__main__":
    main()
