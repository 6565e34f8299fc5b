"""Splits CSV into records and cells, byte by byte, so that one broken line costs only itself.

RFC 4180 with the freedoms that files take: lines end with LF or CRLF, the last one may lack its end, blank lines are
skipped (in a file of one column they are nulls), a quote inside an unquoted cell is a letter like any other.
Where a quote is never closed, or text follows a closing quote, only the record's first line is lost and reading goes
on with the next line: the damage cannot swallow the rest of the file.
"""

from __future__ import annotations

import csv
import io
from typing import Final

import numpy as np

from connectors.files.cells import (
    AFTER_QUOTE,
    COUNT,
    DOUBLED,
    GOOD,
    PLAIN,
    QUOTED,
    TOO_LONG,
    UNCLOSED,
    Bytes,
    Cells,
    Int64s,
)
from streamproc.kernels import kernel

_LF: Final = 10
_CR: Final = 13
_QUOTE: Final = 34
_MORE: Final = -1  # the record goes on beyond the buffer


@kernel
def _record(
    buf: Bytes, p: int, stop: int, last: int, separator: int, row: int,
    cell_starts: Int64s, cell_ends: Int64s, kinds: Int64s,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """One record at p: verdict, cells found, its end, the place of the next one, lines inside quotes.

    Of a broken record the end is the byte that told so.
    """
    columns = cell_starts.shape[0]
    cell = 0
    inner = 0
    at = p
    while True:
        kind = PLAIN
        first = at
        if at < stop and buf[at] == _QUOTE:
            kind = QUOTED
            first = at + 1
            at = first
            closed = False
            while at < stop:
                c = buf[at]
                if c == _QUOTE:
                    if at + 1 == stop and last == 0:
                        return _MORE, 0, 0, 0, 0
                    if at + 1 < stop and buf[at + 1] == _QUOTE:
                        kind = DOUBLED
                        at += 2
                        continue
                    closed = True
                    break
                if c == _LF:
                    inner += 1
                at += 1
            if not closed:
                return (UNCLOSED if last == 1 else _MORE), cell, stop, 0, 0
            end = at
            at += 1
        else:
            while at < stop and buf[at] != separator and buf[at] != _LF:
                at += 1
            end = at
            if (at == stop or buf[at] == _LF) and end > first and buf[end - 1] == _CR:
                end -= 1
        if at >= stop and last == 0:
            return _MORE, 0, 0, 0, 0
        if cell < columns:
            cell_starts[cell, row] = first
            cell_ends[cell, row] = end
            kinds[cell, row] = kind
        cell += 1
        done = end if kind == PLAIN else at
        if at >= stop:
            return GOOD, cell, done, stop, inner
        c = buf[at]
        if c == separator:
            at += 1
        elif c == _LF:
            return GOOD, cell, done, at + 1, inner
        elif c == _CR and at + 1 < stop and buf[at + 1] == _LF:
            return GOOD, cell, done, at + 2, inner
        elif c == _CR and at + 1 == stop:
            if last == 0:
                return _MORE, 0, 0, 0, 0
            return GOOD, cell, done, stop, inner
        else:
            # Behind a carriage return it is the next byte that tells.
            return AFTER_QUOTE, cell, at + 1 if c == _CR else at, 0, 0


@kernel
def _split(
    buf: Bytes, start: int, last: int, line: int, limit: int, separator: int,
    starts: Int64s, ends: Int64s, lines: Int64s, verdicts: Int64s, counts: Int64s,
    cell_starts: Int64s, cell_ends: Int64s, kinds: Int64s,
) -> tuple[int, int, int, int]:  # fmt: skip
    columns = cell_starts.shape[0]
    stop = buf.size
    p = start
    row = 0
    while row < starts.size and p < stop:
        if columns > 1 and (buf[p] == _LF or (buf[p] == _CR and p + 1 < stop and buf[p + 1] == _LF)):
            p += 1 if buf[p] == _LF else 2
            line += 1
            continue
        verdict, found, end, after, inner = _record(buf, p, stop, last, separator, row, cell_starts, cell_ends, kinds)
        if verdict == _MORE and stop - p <= limit:
            break
        # The byte that decided, line ends included, must lie within the limit: else it would matter where a chunk ends.
        decided = end
        if verdict == GOOD:
            decided = after - 1 if buf[after - 1] == _LF else stop
        if verdict == _MORE or decided - p > limit:
            verdict = TOO_LONG
        skip = 0
        if verdict == GOOD:
            if found != columns:
                verdict = COUNT
        else:
            end = p
            while end < stop and buf[end] != _LF:
                end += 1
            skip = 1 if end == stop and last == 0 else 0
            if verdict == AFTER_QUOTE and skip == 1 and stop - p <= limit:
                break
            after = min(end + 1, stop)
            inner = 0
            if end > p and buf[end - 1] == _CR:
                end -= 1
            end = min(end, p + limit)
        starts[row] = p
        ends[row] = end
        lines[row] = line
        verdicts[row] = verdict
        counts[row] = found
        row += 1
        p = after
        line += inner + 1
        if skip == 1:
            return row, stop, line - 1, 1
    return row, p, line, 0


def split_csv(
    cells: Cells, start: int, *, last: bool, line: int, limit: int, separator: str
) -> tuple[int, int, int, bool]:
    """Fills `cells` with the records from `start`: gives how many, the next place and line, and whether to skip on.

    `last` says that the buffer ends where the file ends; else an incomplete record at its end is left for later.
    A record over `limit` bytes is not read: if its line does not end in the buffer, the caller skips to the line's end.
    """
    rows, at, line, skip = _split(
        cells.buffer, start, int(last), line, limit, ord(separator), cells.starts, cells.ends, cells.lines,
        cells.verdicts, cells.counts, cells.cell_starts, cells.cell_ends, cells.kinds,
    )  # fmt: skip
    return int(rows), int(at), int(line), bool(skip)


def header_of(record: bytes, separator: str) -> list[str]:
    """The names in a header record.

    >>> header_of(b'a,"b, c"', ",")
    ['a', 'b, c']
    """
    return next(csv.reader(io.StringIO(record.decode(), newline=""), delimiter=separator, strict=False), [])


def first_record(buffer: bytes, separator: str, *, last: bool) -> tuple[int, int] | None:
    """End and next place of the record at the start of the buffer, or None if it does not end in it."""
    text, grid = np.frombuffer(buffer, np.uint8), np.zeros((0, 1), np.int64)
    verdict, _, end, after, _ = _record(text, 0, len(buffer), int(last), ord(separator), 0, grid, grid, grid)
    return (int(end), int(after)) if verdict == GOOD else None
