"""Reads a file as rows of a contract, in bounded pieces, and loses nothing silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from connectors.files.avro_container import container_columns, container_frames
from connectors.files.binding import Source, bind, columns_of
from connectors.files.cells import ABSENT, COUNT, GOOD, NESTED, REASONS, TOO_LONG, Cells
from connectors.files.formats import Format, format_of, open_bytes
from connectors.files.from_text import from_text
from connectors.files.from_typed import from_typed
from connectors.files.parquet_frames import parquet_columns, parquet_frames
from connectors.files.rows import Converted, FileRows, FramePiece, bad_frame, judge
from connectors.files.text_pieces import MAX_RECORD, csv_header, csv_pieces, json_pieces
from streamproc.contracts.model import Contract
from streamproc.errors import InputError
from streamproc.ports import Int64s

PIECE = 100_000
_PEEK = 1_000


def read_file(
    path: str | Path,
    *,
    contract: Contract,
    mapping: Mapping[str, str] | None = None,
    event_time: str | None = None,
    formats: Mapping[str, str] | None = None,
    zone: str = "UTC",
    file_format: str = "",
    separator: str = "",
    rows: int = PIECE,
    max_record: int = MAX_RECORD,
) -> Iterator[FileRows]:
    """The file's rows in file order, in pieces of at most `rows`, with exactly the contract's columns and types.

    mapping      file column -> field; other fields take the column of their name; columns nobody asks for are passed by
    event_time   the file column that is the contract's event time
    formats      field -> how the file writes it: "%d/%m/%Y %H:%M", epoch_s, epoch_ms, epoch_us, epoch_ns; else ISO 8601
    zone         where times without a zone are local, an IANA name
    file_format  csv, jsonl, parquet or avro where the file's name does not tell; CSV and JSON Lines may be gzipped
    separator    of CSV; "" is a comma, in .tsv a tab
    max_record   bytes of one line; a longer one is a bad row

    A row that cannot be converted is a row of `FileRows.bad` with its line, reason and raw text. A field that is
    absent takes the contract's default, or null.  Memory: one piece, and some chunks of the file.
    Raises InputError at the call for a file, column, field or format that cannot be used, and while reading for a file
    that turns out damaged.
    """
    file = Path(path)
    form, zipped = format_of(file, named=file_format)
    _check(zone, separator, rows)
    separator = separator or ("\t" if ".tsv" in file.suffixes else ",")
    present = _present(file, form, zipped, separator, max_record)
    sources = bind(
        file, contract, present, mapping=mapping, event_time=event_time, formats=formats, open_ended=form == "jsonl"
    )
    if form == "csv":
        pieces = csv_pieces(file, zipped=zipped, separator=separator, rows=rows, limit=max_record)
        return _text_rows(pieces, contract, sources, present, zone, csv=True)
    names = columns_of(sources)
    if form == "jsonl":
        pieces = json_pieces(file, names, zipped=zipped, rows=rows, limit=max_record)
        return _text_rows(pieces, contract, sources, names, zone, csv=False)
    if form == "parquet":
        return _typed_rows(file, parquet_frames(file, names, rows=rows), contract, sources, zone)
    return _typed_rows(file, container_frames(file, names, rows=rows), contract, sources, zone)


def _check(zone: str, separator: str, rows: int) -> None:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"there is no time zone '{zone}'", hint="write an IANA name such as Europe/London") from None
    if separator and (len(separator) != 1 or ord(separator) > 126 or separator in '"\r\n'):
        raise InputError(f"{separator!r} cannot separate cells", hint="give one ASCII character such as ',' or ';'")
    if rows < 1:
        raise InputError(f"a piece of {rows} rows", hint="give at least 1")


def _present(path: Path, form: Format, zipped: bool, separator: str, limit: int) -> list[str]:
    """The columns that the file has; of JSON Lines the keys in its first lines."""
    if form == "csv":
        return csv_header(path, zipped=zipped, separator=separator)
    if form == "parquet":
        return parquet_columns(path)
    if form == "avro":
        return container_columns(path)
    open_bytes(path, zipped=zipped).close()
    keys: dict[str, None] = {}
    lines = 0
    for cells in json_pieces(path, [], zipped=zipped, rows=_PEEK, limit=limit):
        for row in np.flatnonzero(cells.verdicts == GOOD):
            keys |= dict.fromkeys(json.loads(cells.raw(int(row))))
        lines += len(cells)
        if lines >= _PEEK:
            break
    if not lines:
        raise InputError(f"'{path}' has no line", hint="check how it was made")
    return list(keys)


def _text_rows(
    pieces: Iterator[Cells], contract: Contract, sources: Sequence[Source], columns: Sequence[str], zone: str,
    *, csv: bool,
) -> Iterator[FileRows]:  # fmt: skip
    places = {name: place for place, name in enumerate(columns)}
    for cells in pieces:
        good = np.flatnonzero(cells.verdicts == GOOD)
        fields = [_text_field(cells, good, source, places, zone, csv=csv) for source in sources]
        kept, reasons = judge(contract, fields)
        bad = [(int(good[row]), reason) for row, reason in reasons]
        bad += [(int(row), _broken(cells, int(row), len(columns))) for row in np.flatnonzero(cells.verdicts != GOOD)]
        yield _rows(
            fields, kept, cells.lines[good][kept], [(int(cells.lines[r]), why, cells.raw(r)) for r, why in sorted(bad)]
        )


def _broken(cells: Cells, row: int, columns: int) -> str:
    verdict = int(cells.verdicts[row])
    if verdict == COUNT:
        return f"{int(cells.counts[row])} cells, and the header has {columns}"
    return REASONS[verdict] + (" (only its beginning is kept)" if verdict == TOO_LONG else "")


def _text_field(
    cells: Cells, good: Int64s, source: Source, places: Mapping[str, int], zone: str, *, csv: bool
) -> Converted:
    field = source.field
    if source.column is None:
        raw = pl.Series(field.name, [source.default] * good.size, dtype=pl.String)
        return Converted(source, raw, from_text(raw, field.dtype))
    place = places[source.column]
    raw = cells.text(place, good).alias(field.name)
    kinds = cells.kinds[place, good]
    wrong = None
    if isinstance(field.dtype, pl.String):
        if csv and not field.nullable:
            raw = raw.fill_null("")
        elif (kinds == NESTED).any():
            wrong = pl.Series(kinds == NESTED)
    elif csv and not isinstance(field.dtype, pl.Binary):
        # Many writers quote every cell: an empty one means null wherever it cannot mean an empty text.
        raw = raw.set(raw.str.strip_chars() == "", None)
    if not csv and source.default is not None:
        raw = pl.select(pl.when(pl.Series(kinds == ABSENT)).then(pl.lit(source.default)).otherwise(raw)).to_series()
    return Converted(source, raw, from_text(raw, field.dtype, form=source.form, zone=zone), wrong)


def _typed_rows(
    path: Path, frames: Iterator[FramePiece], contract: Contract, sources: Sequence[Source], zone: str
) -> Iterator[FileRows]:
    for before, frame, damaged in frames:
        fields = [_typed_field(path, frame, contract, source, zone) for source in sources]
        kept, reasons = judge(contract, fields)
        shown = frame[[row for row, _ in reasons]].to_dicts() if reasons else []
        bad = [
            (before + row + 1, why, json.dumps(values, default=str, ensure_ascii=False).encode())
            for (row, why), values in zip(reasons, shown, strict=True)
        ]
        yield _rows(fields, kept, kept + before + 1, [*bad, *damaged])


def _typed_field(path: Path, frame: pl.DataFrame, contract: Contract, source: Source, zone: str) -> Converted:
    field = source.field
    if source.column is None:
        raw = pl.Series(field.name, [source.default] * frame.height, dtype=pl.String)
        return Converted(source, raw, from_text(raw, field.dtype))
    raw = frame[source.column]
    values = from_typed(raw, field.dtype, form=source.form, zone=zone)
    if values is None:
        raise InputError(
            f"column '{source.column}' of '{path}' is {raw.dtype}, and '{field.name}' of '{contract}' is {field.dtype}",
            hint="map another column to it, or declare a time format for numbers",
        )
    return Converted(source, raw, values)


def _rows(fields: Sequence[Converted], kept: Int64s, lines: Any, bad: list[tuple[int, str, bytes]]) -> FileRows:
    frame = pl.DataFrame([field.values.alias(field.source.field.name) for field in fields])
    if kept.size < frame.height:
        frame = frame[kept]
    return FileRows(frame, np.ascontiguousarray(lines, np.int64), bad_frame(bad))
