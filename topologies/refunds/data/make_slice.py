"""Makes `online_retail_slice.parquet` again from its source: `python make_slice.py SOURCE.parquet [TARGET.parquet]`.

SOURCE has the columns of UCI Online Retail as text and numbers, one row an invoice line, sorted by time (README.md).
The slice is every line from 2010-12-01 to 2011-08-31, nothing changed. The same Polars version gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import polars as pl

FIRST_DAY: Final = "2010-12-01"
LAST_DAY: Final = "2011-08-31"
COLUMNS: Final = {
    "InvoiceNo": pl.String(), "StockCode": pl.String(), "Description": pl.String(), "Quantity": pl.Int64(),
    "InvoiceDate": pl.String(), "UnitPrice": pl.Float64(), "CustomerID": pl.String(), "Country": pl.String(),
}  # fmt: skip
MAX_BYTES: Final = 3_000_000


def make_slice(source: Path, target: Path) -> int:
    """Writes the slice and gives its number of lines; raises ValueError where the source is another one."""
    lines = pl.read_parquet(source)
    if dict(lines.schema) != COLUMNS:
        raise ValueError(f"{source} has the columns {dict(lines.schema)}, not those that README.md lists")
    day = pl.col("InvoiceDate").str.slice(0, 10)
    kept = lines.filter(day.is_between(pl.lit(FIRST_DAY), pl.lit(LAST_DAY)))
    if not kept.get_column("InvoiceDate").is_sorted():
        raise ValueError(f"{source} is not sorted by InvoiceDate; sort it, keeping the order of equal times")
    kept.write_parquet(target, compression="zstd", compression_level=22, statistics=False, row_group_size=len(kept))
    if target.stat().st_size > MAX_BYTES:
        raise ValueError(f"{target} is larger than {MAX_BYTES} bytes; choose fewer days")
    return len(kept)


if __name__ == "__main__":
    written = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("online_retail_slice.parquet")
    sys.stdout.write(f"{make_slice(Path(sys.argv[1]), written)} lines in {written}\n")
