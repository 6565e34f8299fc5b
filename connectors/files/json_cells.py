"""Splits JSON Lines into records and cells: each line one object, of which the wanted keys are found.

Numbers stay text, so that 64-bit integers and decimals arrive exactly; a nested value is one cell, parsed later.
A line that is not one JSON object (RFC 8259) is bad and costs only itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np

from connectors.files.cells import (
    ABSENT,
    BARE,
    ESCAPED,
    GOOD,
    NESTED,
    NOT_JSON,
    NULL,
    QUOTED,
    TOO_LONG,
    TWICE,
    Bytes,
    Cells,
    Int64s,
)
from streamproc.kernels import kernel

_BAD: Final = -1
_DEPTH: Final = 256  # of brackets inside one another


@kernel
def _blank(buf: Bytes, p: int, e: int) -> int:
    """The next place that is not white space."""
    while p < e and (buf[p] == 32 or buf[p] == 9 or buf[p] == 13):
        p += 1
    return p


@kernel
def _is_hex4(buf: Bytes, p: int, e: int) -> bool:
    if p + 4 > e:
        return False
    for i in range(p, p + 4):
        c = buf[i]
        if not (48 <= c <= 57 or 65 <= c <= 70 or 97 <= c <= 102):
            return False
    return True


@kernel
def _half(buf: Bytes, p: int) -> int:
    """1 where four hex digits are the first half of a surrogate pair, 2 for the second, else 0."""
    if buf[p] != 68 and buf[p] != 100:
        return 0
    c = buf[p + 1]
    if c in (56, 57, 65, 66, 97, 98):
        return 1
    return 0 if c < 56 else 2


@kernel
def _string(buf: Bytes, p: int, e: int) -> tuple[int, int]:
    """The place of the quote that closes the string whose text begins at p, and whether it has escapes; -1 if bad."""
    escaped = 0
    while p < e:
        c = buf[p]
        if c == 34:
            return p, escaped
        if c < 32:
            return _BAD, 0
        if c != 92:
            p += 1
            continue
        escaped = 1
        if p + 1 >= e:
            return _BAD, 0
        c = buf[p + 1]
        p += 2
        if c == 117:
            if not _is_hex4(buf, p, e):
                return _BAD, 0
            half = _half(buf, p)
            p += 4
            if half == 2:
                return _BAD, 0
            if half == 1:
                if p + 6 > e or buf[p] != 92 or buf[p + 1] != 117 or not _is_hex4(buf, p + 2, e):
                    return _BAD, 0
                if _half(buf, p + 2) != 2:
                    return _BAD, 0
                p += 6
        elif c not in (34, 92, 47, 98, 102, 110, 114, 116):
            return _BAD, 0
    return _BAD, 0


@kernel
def _digits(buf: Bytes, p: int, e: int) -> int:
    first = p
    while p < e and 48 <= buf[p] <= 57:
        p += 1
    return p if p > first else _BAD


@kernel
def _number(buf: Bytes, p: int, e: int) -> int:
    """The end of a number that begins at p, or -1."""
    if buf[p] == 45:
        p += 1
    if p < e and buf[p] == 48:
        p += 1
    else:
        p = _digits(buf, p, e)
    if p > 0 and p < e and buf[p] == 46:
        p = _digits(buf, p + 1, e)
    if p > 0 and p < e and (buf[p] == 101 or buf[p] == 69):
        p += 1
        if p < e and (buf[p] == 43 or buf[p] == 45):
            p += 1
        p = _digits(buf, p, e)
    return p


@kernel
def _literal(buf: Bytes, p: int, e: int) -> int:
    """The end of true, false or null at p, or -1."""
    c = buf[p]
    if c == 116 and p + 4 <= e and buf[p + 1] == 114 and buf[p + 2] == 117 and buf[p + 3] == 101:
        return p + 4
    if c == 110 and p + 4 <= e and buf[p + 1] == 117 and buf[p + 2] == 108 and buf[p + 3] == 108:
        return p + 4
    if c == 102 and p + 5 <= e and buf[p + 1] == 97 and buf[p + 2] == 108 and buf[p + 3] == 115 and buf[p + 4] == 101:
        return p + 5
    return _BAD


@kernel
def _scalar(buf: Bytes, p: int, e: int) -> int:
    """The end of a string, number, true, false or null at p, or -1."""
    c = buf[p]
    if c == 34:
        end, _ = _string(buf, p + 1, e)
        return end + 1 if end >= 0 else _BAD
    if c == 45 or 48 <= c <= 57:
        return _number(buf, p, e)
    return _literal(buf, p, e)


@kernel
def _key(buf: Bytes, p: int, e: int) -> int:
    """The place behind a key and its colon, or -1."""
    if p >= e or buf[p] != 34:
        return _BAD
    end, _ = _string(buf, p + 1, e)
    if end < 0:
        return _BAD
    p = _blank(buf, end + 1, e)
    return p + 1 if p < e and buf[p] == 58 else _BAD


@kernel
def _nested(buf: Bytes, p: int, e: int, stack: Bytes) -> int:
    """The end of an object or array that begins at p, or -1; `stack` bounds its depth."""
    depth = 0
    while True:
        p = _blank(buf, p, e)
        if p >= e:
            return _BAD
        c = buf[p]
        if c in (123, 91):
            if depth == stack.size:
                return _BAD
            stack[depth] = c
            depth += 1
            p = _blank(buf, p + 1, e)
            if p < e and buf[p] == c + 2:  # closed at once: the brackets are two code points apart
                depth -= 1
                p += 1
            elif c == 123:
                p = _key(buf, p, e)
                if p < 0:
                    return _BAD
                continue
            else:
                continue
        else:
            p = _scalar(buf, p, e)
            if p < 0:
                return _BAD
        while depth > 0:
            p = _blank(buf, p, e)
            if p >= e:
                return _BAD
            if buf[p] == 44:
                p = _blank(buf, p + 1, e)
                if stack[depth - 1] == 123:
                    p = _key(buf, p, e)
                    if p < 0:
                        return _BAD
                break
            if buf[p] != stack[depth - 1] + 2:
                return _BAD
            depth -= 1
            p += 1
        if depth == 0:
            return p


@kernel
def _column_of(buf: Bytes, p: int, e: int, names: Bytes, name_starts: Int64s, name_ends: Int64s) -> int:
    """Which of the wanted names stands at p..e, or -1."""
    for i in range(name_starts.size):
        s = name_starts[i]
        if name_ends[i] - s == e - p:
            k = 0
            while p + k < e and buf[p + k] == names[s + k]:
                k += 1
            if p + k == e:
                return i
    return -1


@kernel
def _object(
    buf: Bytes, p: int, e: int, row: int, names: Bytes, name_starts: Int64s, name_ends: Int64s, name_columns: Int64s,
    cell_starts: Int64s, cell_ends: Int64s, kinds: Int64s, stack: Bytes,
) -> int:  # fmt: skip
    """Reads the object at p..e into a row of cells; gives the verdict."""
    for column in range(kinds.shape[0]):
        kinds[column, row] = ABSENT
    p = _blank(buf, p, e)
    if p >= e or buf[p] != 123:
        return NOT_JSON
    p = _blank(buf, p + 1, e)
    if p < e and buf[p] == 125:
        return GOOD if _blank(buf, p + 1, e) == e else NOT_JSON
    while True:
        if p >= e or buf[p] != 34:
            return NOT_JSON
        end, _ = _string(buf, p + 1, e)
        if end < 0:
            return NOT_JSON
        known = _column_of(buf, p + 1, end, names, name_starts, name_ends)
        p = _blank(buf, end + 1, e)
        if p >= e or buf[p] != 58:
            return NOT_JSON
        p = _blank(buf, p + 1, e)
        if p >= e:
            return NOT_JSON
        c = buf[p]
        first = p
        if c == 34:
            end, escaped = _string(buf, p + 1, e)
            first = p + 1
            p = end + 1 if end >= 0 else _BAD
            kind = ESCAPED if escaped == 1 else QUOTED
        elif c in (123, 91):
            p = _nested(buf, p, e, stack)
            end = p
            kind = NESTED
        elif c == 45 or 48 <= c <= 57:
            p = _number(buf, p, e)
            end = p
            kind = BARE
        else:
            p = _literal(buf, p, e)
            end = p
            kind = NULL if c == 110 else BARE
        if p < 0:
            return NOT_JSON
        if known >= 0:
            column = name_columns[known]
            if kinds[column, row] != ABSENT:
                return TWICE
            cell_starts[column, row] = first
            cell_ends[column, row] = end
            kinds[column, row] = kind
        p = _blank(buf, p, e)
        if p >= e:
            return NOT_JSON
        if buf[p] == 125:
            return GOOD if _blank(buf, p + 1, e) == e else NOT_JSON
        if buf[p] != 44:
            return NOT_JSON
        p = _blank(buf, p + 1, e)


@kernel
def _split(
    buf: Bytes, start: int, last: int, line: int, limit: int,
    names: Bytes, name_starts: Int64s, name_ends: Int64s, name_columns: Int64s,
    starts: Int64s, ends: Int64s, lines: Int64s, verdicts: Int64s,
    cell_starts: Int64s, cell_ends: Int64s, kinds: Int64s,
) -> tuple[int, int, int, int]:  # fmt: skip
    stop = buf.size
    p = start
    row = 0
    stack = np.zeros(_DEPTH, np.uint8)
    while row < starts.size and p < stop:
        end = p
        while end < stop and buf[end] != 10:
            end += 1
        if end == stop and last == 0 and stop - p <= limit:
            break
        skip = 1 if end == stop and last == 0 else 0
        if end - p > limit:
            verdict = TOO_LONG
        else:
            if _blank(buf, p, end) == end:
                p = min(end + 1, stop)
                line += 1
                continue
            verdict = _object(
                buf, p, end, row, names, name_starts, name_ends, name_columns, cell_starts, cell_ends, kinds, stack
            )
        starts[row] = p
        ends[row] = min(end, p + limit)
        lines[row] = line
        verdicts[row] = verdict
        row += 1
        p = min(end + 1, stop)
        if skip == 1:
            return row, stop, line, 1
        line += 1
    return row, p, line, 0


class Names:
    """The wanted keys as the kernel compares them: also in the spelling that keeps to ASCII (`\\u00f6` for `ö`)."""

    __slots__ = ("columns", "ends", "starts", "text")

    def __init__(self, names: Sequence[str]) -> None:
        spelled: dict[bytes, int] = {}
        for column, name in enumerate(names):
            for ascii_only in (False, True):
                spelled[json.dumps(name, ensure_ascii=ascii_only)[1:-1].encode()] = column
        self.text = np.frombuffer(b"".join(spelled) or b" ", np.uint8)
        self.ends = np.cumsum([len(name) for name in spelled], dtype=np.int64)
        self.starts = np.concatenate([np.zeros(1, np.int64), self.ends])[: len(spelled)]
        self.columns = np.array(list(spelled.values()), np.int64)


def split_json(
    cells: Cells, start: int, *, last: bool, line: int, limit: int, names: Names
) -> tuple[int, int, int, bool]:
    """Fills `cells` with the records from `start`, as `split_csv` does."""
    rows, at, line, skip = _split(
        cells.buffer, start, int(last), line, limit, names.text, names.starts, names.ends, names.columns,
        cells.starts, cells.ends, cells.lines, cells.verdicts, cells.cell_starts, cells.cell_ends, cells.kinds,
    )  # fmt: skip
    return int(rows), int(at), int(line), bool(skip)
