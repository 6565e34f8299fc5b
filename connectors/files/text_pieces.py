"""Reads a text file in bounded pieces of records: CSV or JSON Lines, plain or gzipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np

from connectors.files.cells import Cells, check_utf8, new_cells
from connectors.files.csv_cells import first_record, header_of, split_csv
from connectors.files.formats import BROKEN, open_bytes, unreadable
from connectors.files.json_cells import Names, split_json
from streamproc.errors import InputError

CHUNK: Final = 4 << 20
MAX_RECORD: Final = 1 << 20
"""Bytes that one line of a file may have: what Kafka lets a message have by default."""
_GRID: Final = 2_000_000  # cells of a piece: bounds its memory in tables of very many columns
_BOM: Final = b"\xef\xbb\xbf"


class _Split(Protocol):
    def __call__(self, cells: Cells, start: int, *, last: bool, line: int) -> tuple[int, int, int, bool]: ...


@dataclass(slots=True)
class _Text:
    """An open text file: what is read and not yet split, and where it stands."""

    path: Path
    stream: IO[bytes]
    chunk: int = CHUNK
    rest: bytes = b""
    last: bool = False
    line: int = field(default=1)

    def more(self) -> None:
        """Reads another chunk behind the rest."""
        try:
            chunk = self.stream.read(self.chunk)
        except BROKEN as error:
            raise unreadable(self.path, error, place=f" after line {self.line}") from None
        self.rest += chunk
        self.last = not chunk

    def start(self) -> None:
        """Reads the first chunk, and takes a byte order mark off; other encodings than UTF-8 are refused."""
        self.more()
        if self.rest[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"'{self.path}' is UTF-16 text", hint="save it as UTF-8")
        self.rest = self.rest.removeprefix(_BOM)

    def pieces(self, split: _Split, *, columns: int, rows: int) -> Iterator[Cells]:
        """The records from here on, in pieces."""
        capacity = max(1, min(rows, _GRID // max(1, columns)))
        at = 0
        skipping = False
        while not (self.last and at >= len(self.rest)):
            if at >= len(self.rest) or not self.last:
                self.rest = self.rest[at:]
                at = 0
                self.more()
            if skipping:
                found = self.rest.find(b"\n")
                at = len(self.rest) if found < 0 else found + 1
                skipping = found < 0
                self.line += 0 if skipping else 1
            buffer = np.frombuffer(self.rest, np.uint8)
            while at < buffer.size:
                cells = new_cells(buffer, columns, capacity)
                count, at, self.line, skipping = split(cells, at, last=self.last, line=self.line)
                if count:
                    cells = cells.head(count)
                    check_utf8(cells)
                    yield cells
                if skipping or count < capacity:
                    break


def csv_header(path: Path, *, zipped: bool, separator: str) -> list[str]:
    """The column names in a CSV file's first line."""
    with open_bytes(path, zipped=zipped) as stream:
        return _header(_Text(path, stream), separator)


def _header(text: _Text, separator: str) -> list[str]:
    text.start()
    while (found := first_record(text.rest, separator, last=text.last)) is None:
        if text.last or len(text.rest) > MAX_RECORD:
            raise InputError(f"line 1 of '{text.path}' is not a header of CSV", hint="check its quotes and line ends")
        text.more()
    end, after = found
    record = text.rest[:end]
    try:
        names = header_of(record, separator)
    except UnicodeDecodeError:
        raise InputError(f"line 1 of '{text.path}' is not UTF-8 text", hint="save the file as UTF-8") from None
    text.line += text.rest[:after].count(b"\n")
    text.rest = text.rest[after:]
    if not any(names):
        raise InputError(f"line 1 of '{text.path}' names no column", hint="the first line of a CSV file is its header")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"line 1 of '{text.path}' has two columns '{name}'", hint="rename one of them")
    return names


def csv_pieces(
    path: Path, *, zipped: bool, separator: str, rows: int, limit: int, chunk: int = CHUNK
) -> Iterator[Cells]:
    """The records of a CSV file behind its header, with a cell for each of its columns.

    The file is read by `chunk` bytes; where a chunk ends changes the pieces, never the records.
    """
    with open_bytes(path, zipped=zipped) as stream:
        text = _Text(path, stream, chunk)
        names = _header(text, separator)
        split = partial(split_csv, limit=limit, separator=separator)
        yield from text.pieces(split, columns=len(names), rows=rows)


def json_pieces(
    path: Path, names: list[str], *, zipped: bool, rows: int, limit: int, chunk: int = CHUNK
) -> Iterator[Cells]:
    """The records of a JSON Lines file, with a cell for each of the named keys; `chunk` as in `csv_pieces`."""
    with open_bytes(path, zipped=zipped) as stream:
        text = _Text(path, stream, chunk)
        text.start()
        yield from text.pieces(partial(split_json, limit=limit, names=Names(names)), columns=len(names), rows=rows)
