"""Parquet files as Polars frames, in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PanicException

from connectors.files.cells import is_utf8
from connectors.files.formats import open_bytes, unreadable
from connectors.files.rows import FramePiece
from streamproc.errors import InputError

_parquet: Any = pq
_arrow: Any = pa


def parquet_columns(path: Path) -> list[str]:
    """The names of the top-level columns; raises InputError where the file is not Parquet."""
    open_bytes(path).close()
    try:
        with _parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is not a Parquet file: {error}", hint="check how it was made") from None
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{path}' has two columns '{name}'", hint="rename one of them")
    return names


def parquet_frames(path: Path, names: Sequence[str], *, rows: int) -> Iterator[FramePiece]:
    """Frames of at most `rows` rows with the named columns, each with the bad rows behind it: text that is not UTF-8.

    Before each frame stands how many rows come before it in the file.
    Memory is one row group's pages of these columns at most.
    """
    done = 0
    try:
        with _parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(names), use_threads=False):
                start = 0
                for row, column in _not_text(batch):
                    raw = batch.column(column)[row].cast(_arrow.binary()).as_py()
                    reason = f"column '{column}' is not UTF-8 text"
                    yield done + start, _frame(batch.slice(start, row - start)), [(done + row + 1, reason, raw)]
                    start = row + 1
                yield done + start, _frame(batch.slice(start)), []
                done += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, PanicException) as error:
        raise unreadable(path, error, place=f" after row {done}") from None


def _not_text(batch: Any) -> list[tuple[int, str]]:
    """Rows, in order, with the first of their text columns that is not UTF-8. Polars would panic at them.

    Raises ArrowInvalid for a batch that is broken in another way.
    """
    bad: dict[int, str] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not (_arrow.types.is_string(column.type) or _arrow.types.is_large_string(column.type)):
                raise
            for row, value in enumerate(column.cast(_arrow.large_binary()).to_pylist()):
                if value is not None and not is_utf8(value):
                    bad.setdefault(row, name)
    return sorted(bad.items())


def _frame(batch: Any) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame
