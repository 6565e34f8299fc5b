"""The three public sets that the story is made of, as frames: shipped ones, or files of your own in the same form."""

from __future__ import annotations

import io
import zipfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import polars as pl

LINES: Final = {
    "InvoiceNo": pl.String(), "StockCode": pl.String(), "Description": pl.String(), "Quantity": pl.Int64(),
    "InvoiceDate": pl.String(), "UnitPrice": pl.Float64(), "CustomerID": pl.String(), "Country": pl.String(),
}  # fmt: skip
"""Columns of Online Retail."""
_RATES_SINCE: Final = "2010-11-01"


class SourceError(ValueError):
    """A source that is not what it should be; the text names file and fault."""


def invoice_lines(path: Path | None = None) -> pl.DataFrame:
    """Lines of Online Retail, in the order of time; the shipped ones are those of `topologies.refunds`.

    Raises SourceError for a file that cannot be read, has other columns, or is not in the order of time.
    """
    if path is None:
        with as_file(files("topologies.refunds") / "data" / "online_retail_slice.parquet") as shipped:
            return pl.read_parquet(shipped)
    lines = _parquet(path)
    missing = [name for name in LINES if name not in lines.columns]
    if missing:
        raise SourceError(f"'{path}' has no column '{missing[0]}'; it has {', '.join(lines.columns)}")
    try:
        lines = lines.select(pl.col(name).cast(dtype) for name, dtype in LINES.items())
    except pl.exceptions.PolarsError as problem:
        raise SourceError(f"'{path}' does not hold invoice lines: {problem}") from None
    if not lines["InvoiceDate"].is_sorted():
        raise SourceError(f"'{path}' is not sorted by InvoiceDate; sort it, keeping the order of equal times")
    return lines


def persons(folder: Path | None = None) -> pl.DataFrame:
    """Persons of Febrl 4: person (its number), file ("a" or "b") and the fields as text, null where empty.

    Raises SourceError for a folder without the two files, or with files that cannot be read.
    """
    if folder is None:
        with as_file(files("topologies.retail") / "data" / "febrl4.parquet") as shipped:
            return pl.read_parquet(shipped)
    frames = []
    for name in ("a", "b"):
        path = folder / f"dataset4{name}.csv"
        try:
            frame = pl.read_csv(path, infer_schema=False)
        except (OSError, pl.exceptions.PolarsError) as problem:
            raise SourceError(f"'{path}' cannot be read: {problem}") from None
        frame = frame.rename({column: column.strip() for column in frame.columns})
        if "rec_id" not in frame.columns:
            raise SourceError(f"'{path}' has no column 'rec_id'; it has {', '.join(frame.columns)}")
        number = pl.col("rec_id").str.extract(r"^rec-(\d+)-").cast(pl.Int64).alias("person")
        frames.append(frame.select(number, pl.lit(name).alias("file"), pl.exclude("rec_id", "soc_sec_id")))
    clean = pl.col(pl.String).str.strip_chars().replace("", None)
    return pl.concat(frames).with_columns(clean).sort("person", "file")


def reference_rates(path: Path | None = None) -> pl.DataFrame:
    """Rates of the ECB since November 2010: date, currency, rate (units of the currency for one euro).

    Raises SourceError for a file that is no history of the ECB.
    """
    if path is None:
        with as_file(files("topologies.retail") / "data" / "ecb_rates.parquet") as shipped:
            return pl.read_parquet(shipped)
    try:
        with zipfile.ZipFile(path) as archive:
            wide = pl.read_csv(io.BytesIO(archive.read("eurofxref-hist.csv")), infer_schema=False)
    except (OSError, KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as problem:
        raise SourceError(f"'{path}' is no history of the ECB's rates: {problem}") from None
    if "Date" not in wide.columns:
        raise SourceError(f"'{path}' has no column 'Date'; it has {', '.join(wide.columns[:5])}, ...")
    currencies = [name for name in wide.columns if len(name) == 3 and name.isupper()]
    return (
        wide.filter(pl.col("Date") >= _RATES_SINCE)
        .unpivot(currencies, index="Date", variable_name="currency", value_name="rate")
        .filter(pl.col("rate") != "N/A")
        .select(pl.col("Date").str.to_date().alias("date"), "currency", pl.col("rate").cast(pl.Float64))
        .sort("date", "currency")
    )


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as problem:
        raise SourceError(f"'{path}' cannot be read: {problem}") from None
