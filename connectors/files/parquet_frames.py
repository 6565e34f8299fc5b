"""Parquet files as Polars frames, in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.files.formats import open_bytes, unreadable
from streamproc.errors import InputError

_parquet: Any = pq


def parquet_columns(path: Path) -> list[str]:
    """The names of the top-level columns; raises InputError where the file is not Parquet."""
    open_bytes(path).close()
    try:
        with _parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"'{path}' is not a Parquet file: {error}", hint="check how it was made") from None
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{path}' has two columns '{name}'", hint="rename one of them")
    return names


def parquet_frames(
    path: Path, names: Sequence[str], *, rows: int
) -> Iterator[tuple[pl.DataFrame, list[tuple[int, str, bytes]]]]:
    """Frames of at most `rows` rows with the named columns, each with its bad rows (of which Parquet has none).

    Memory is one row group's pages of these columns at most.
    """
    done = 0
    try:
        with _parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(names), use_threads=False):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame, []
                done += frame.height
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, place=f" after row {done}") from None
