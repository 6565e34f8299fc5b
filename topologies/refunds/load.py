"""Real events of a web shop, from its invoice lines: three frames in the form of three contracts.

    sales.orders          sales_order.v1          one row an invoice that is not a cancellation
    service.returns       service_return.v1       one row a cancellation (its number begins with C)
    inventory.movements   inventory_movement.v1   one row an invoice line, cancellations included

The dirt of the source stays in: orders of nothing or below nothing (stock corrections, bad-debt adjustments "A..."),
lines with price 0 or below, lines without description, exact copies, customers unknown. A topology has to deal with it.

**Time.** The source has the shop's wall clock without a zone. The shop is British, so it is read as Europe/London and
given as UTC: summer time began on 2011-03-27. An hour that the clock showed twice is taken as the first one.
An invoice counts at its last line's minute, because its total is not known before (38 invoices span two minutes).

**Money.** Prices have at most 3 decimals, so amounts are added as whole thousandths of a pound and divided once:
each total is the double next to the exact amount, in whatever order its lines come.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Final

import polars as pl

ZONE: Final = "Europe/London"
ORDERS: Final = "sales.orders"
RETURNS: Final = "service.returns"
MOVEMENTS: Final = "inventory.movements"
CONTRACTS: Final = {ORDERS: "sales_order.v1", RETURNS: "service_return.v1", MOVEMENTS: "inventory_movement.v1"}
"""The contract of each topic."""


def read_slice() -> pl.DataFrame:
    """The invoice lines that ship with the package, as the source has them: 320,705 rows, in time order.

    Columns: InvoiceNo, StockCode, Description, InvoiceDate, CustomerID, Country (text), Quantity (int64),
    UnitPrice (float64, GBP). `data/README.md` tells source and licence.
    """
    with as_file(files("topologies.refunds") / "data" / "online_retail_slice.parquet") as path:
        return pl.read_parquet(path)


def events(lines: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each topic, by topic name, each sorted by event time."""
    return {ORDERS: orders(lines), RETURNS: returns(lines), MOVEMENTS: movements(lines)}


def orders(lines: pl.DataFrame) -> pl.DataFrame:
    """One row an invoice: what was bought, when, by whom, for how much.

    >>> orders(_example()).select("invoice_no", "customer_id", "ordered_at", "line_count", "gross").rows()
    [('536365', '17850', datetime.datetime(2010, 12, 1, 8, 26, tzinfo=zoneinfo.ZoneInfo(key='UTC')), 2, 35.64)]
    """
    invoices = _invoices(lines.filter(~_is_cancellation()))
    return invoices.select(
        "invoice_no", "customer_id", "country", ordered_at="at", line_count="line_count", gross=_pounds("thousandths")
    )


def returns(lines: pl.DataFrame) -> pl.DataFrame:
    """One row a cancellation: the refund as a positive amount, and the text of its dearest line as it was typed.

    The text is a product's name or a note such as "Manual" or "Discount"; of equal lines the first one speaks.

    >>> returns(_example()).select("invoice_no", "customer_id", "refund", "description").rows()
    [('C536379', '14527', 27.5, 'Discount')]
    """
    invoices = _invoices(lines.filter(_is_cancellation()))
    return invoices.select(
        "invoice_no", "customer_id", "country", "description", returned_at="at", line_count="line_count",
        refund=_pounds(-pl.col("thousandths")),
    )  # fmt: skip


def movements(lines: pl.DataFrame) -> pl.DataFrame:
    """One row an invoice line: pieces that left the shelf, or came back (quantity below 0).

    >>> movements(_example()).select("invoice_no", "stock_code", "quantity", "unit_price").rows()
    [('536365', '85123A', 6, 2.55), ('536365', '71053', 6, 3.39), ('C536379', 'D', -1, 27.5)]
    """
    return lines.select(
        invoice_no="InvoiceNo", stock_code="StockCode", description="Description", quantity="Quantity",
        unit_price="UnitPrice", customer_id=_customer(), country="Country", moved_at=_utc(),
    ).sort("moved_at", maintain_order=True)  # fmt: skip


def _invoices(lines: pl.DataFrame) -> pl.DataFrame:
    """One row an invoice, sorted by time, then by the source's order."""
    price = (pl.col("UnitPrice") * 1000).round().cast(pl.Int64)
    priced = lines.with_columns(thousandths=pl.col("Quantity") * price, at=_utc(), customer_id=_customer())
    return (
        priced.group_by("InvoiceNo", maintain_order=True)
        .agg(
            pl.col("customer_id", "Country").first(),
            pl.col("at").max(),
            pl.len().cast(pl.Int64).alias("line_count"),
            pl.col("Description").get(pl.col("thousandths").arg_min()).alias("description"),
            pl.col("thousandths").sum(),
        )
        .rename({"InvoiceNo": "invoice_no", "Country": "country"})
        .sort("at", maintain_order=True)
    )


def _is_cancellation() -> pl.Expr:
    return pl.col("InvoiceNo").str.starts_with("C")


def _customer() -> pl.Expr:
    """Customer numbers went through a spreadsheet: "17850.0" is the customer "17850"."""
    return pl.col("CustomerID").str.strip_suffix(".0")


def _utc() -> pl.Expr:
    wall_clock = pl.col("InvoiceDate").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us")
    return wall_clock.dt.replace_time_zone(ZONE, ambiguous="earliest").dt.convert_time_zone("UTC")


def _pounds(thousandths: str | pl.Expr) -> pl.Expr:
    amount = pl.col(thousandths) if isinstance(thousandths, str) else thousandths
    return amount.cast(pl.Float64) / 1000


def _example() -> pl.DataFrame:
    """Three lines of the source, for the examples above."""
    return pl.DataFrame(
        {
            "InvoiceNo": ["536365", "536365", "C536379"],
            "StockCode": ["85123A", "71053", "D"],
            "Description": ["WHITE HANGING HEART T-LIGHT HOLDER", "WHITE METAL LANTERN", "Discount"],
            "Quantity": [6, 6, -1],
            "InvoiceDate": ["2010-12-01 08:26:00", "2010-12-01 08:26:00", "2010-12-01 09:41:00"],
            "UnitPrice": [2.55, 3.39, 27.5],
            "CustomerID": ["17850.0", "17850.0", "14527.0"],
            "Country": ["United Kingdom"] * 3,
        }
    )
