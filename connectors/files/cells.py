"""Text split into records and cells: where each lies in its buffer, and whether the record can be trusted.

The splitters (`csv_cells`, `json_cells`) fill the same arrays, so that one conversion serves both formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from streamproc.kernels import kernel

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

# What a cell is.  Plain module integers: Numba freezes them into the kernels as constants.
ABSENT: Final = 0
NULL: Final = 1
PLAIN: Final = 2
QUOTED: Final = 3
DOUBLED: Final = 4  # quoted, with doubled quotes inside
ESCAPED: Final = 5  # a JSON string with backslashes
BARE: Final = 6  # a JSON number, true or false
NESTED: Final = 7  # a JSON object or array

# What is wrong with a record.
GOOD: Final = 0
COUNT: Final = 1
AFTER_QUOTE: Final = 2
UNCLOSED: Final = 3
TOO_LONG: Final = 4
NOT_JSON: Final = 5
TWICE: Final = 6
NOT_UTF8: Final = 7

REASONS: Final = {
    COUNT: "another number of cells than columns",
    AFTER_QUOTE: "text after a closing quote",
    UNCLOSED: "a quote that is never closed",
    TOO_LONG: "longer than a record may be",
    NOT_JSON: "not one JSON object",
    TWICE: "a JSON key that stands twice",
    NOT_UTF8: "not UTF-8 text",
}


@dataclass(frozen=True, slots=True)
class Cells:
    """Consecutive records of a text, and the cells of their columns.

    buffer       uint8[*]  the text
    starts, ends int64[n]  bounds of each record without its line end
    lines        int64[n]  the line on which each record starts, from 1
    verdicts     int64[n]  GOOD, or what is wrong
    counts       int64[n]  how many cells (CSV) were found
    cell_starts, cell_ends  int64[columns, n]; kinds int64[columns, n]; of no meaning where the verdict is not GOOD
    """

    buffer: Bytes
    starts: Int64s
    ends: Int64s
    lines: Int64s
    verdicts: Int64s
    counts: Int64s
    cell_starts: Int64s
    cell_ends: Int64s
    kinds: Int64s

    def __len__(self) -> int:
        return self.starts.size

    def head(self, rows: int) -> Cells:
        """The first records."""
        return Cells(
            self.buffer, self.starts[:rows], self.ends[:rows], self.lines[:rows], self.verdicts[:rows],
            self.counts[:rows], self.cell_starts[:, :rows], self.cell_ends[:, :rows], self.kinds[:, :rows],
        )  # fmt: skip

    def raw(self, row: int) -> bytes:
        """A record as it stands in the file."""
        return self.buffer[int(self.starts[row]) : int(self.ends[row])].tobytes()

    def text(self, column: int, rows: Int64s) -> pl.Series:
        """A column's texts in the given rows, unescaped; null where the cell is absent, null, or empty and unquoted."""
        kinds = np.ascontiguousarray(self.kinds[column, rows])
        starts = np.ascontiguousarray(self.cell_starts[column, rows])
        ends = np.ascontiguousarray(self.cell_ends[column, rows])
        present = (kinds > NULL) & ~((kinds == PLAIN) & (starts == ends))
        offsets = np.zeros(rows.size + 1, np.int64)
        out = np.empty(int(np.where(present, ends - starts, 0).sum()), np.uint8)
        _gather(self.buffer, starts, ends, kinds, present.astype(np.uint8), out, offsets)
        mask = np.packbits(present, bitorder="little")
        array = pa.LargeStringArray.from_buffers(
            rows.size, pa.py_buffer(offsets), pa.py_buffer(out), pa.py_buffer(mask)
        )
        series = pl.from_arrow(array)
        assert isinstance(series, pl.Series)
        return series


def new_cells(buffer: Bytes, columns: int, capacity: int) -> Cells:
    """Room for so many records."""
    ints = [np.zeros(capacity, np.int64) for _ in range(5)]
    grids = [np.zeros((columns, capacity), np.int64) for _ in range(3)]
    return Cells(buffer, *ints, *grids)


def check_utf8(cells: Cells) -> None:
    """Gives records that are not UTF-8 their verdict.  Costs nothing by row while all is well."""
    if not len(cells):
        return
    low, high = int(cells.starts.min()), int(cells.ends.max())
    if is_utf8(cells.buffer[low:high].tobytes()):
        return
    for row in np.flatnonzero(cells.verdicts == GOOD):
        if not is_utf8(cells.raw(int(row))):
            cells.verdicts[row] = NOT_UTF8


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8 text."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@kernel
def _hex4(buf: Bytes, p: int) -> int:
    value = 0
    for i in range(p, p + 4):
        c: Any = np.int64(buf[i])
        value = value * 16 + (c - 48 if c < 58 else (c & 95) - 55)
    return value


@kernel
def _gather(
    buf: Bytes, starts: Int64s, ends: Int64s, kinds: Int64s, present: Bytes, out: Bytes, offsets: Int64s
) -> None:
    """Copies cells one behind the other, and takes escapes away: a text never grows by that."""
    at = 0
    for row in range(starts.size):
        if present[row] == 1:
            p = starts[row]
            e = ends[row]
            if kinds[row] == DOUBLED:
                while p < e:
                    out[at] = buf[p]
                    at += 1
                    p += 2 if buf[p] == 34 else 1
            elif kinds[row] == ESCAPED:
                while p < e:
                    c: Any = np.int64(buf[p])
                    if c != 92:
                        out[at] = c
                        at += 1
                        p += 1
                        continue
                    c = np.int64(buf[p + 1])
                    p += 2
                    if c == 117:
                        point = _hex4(buf, p)
                        p += 4
                        if 0xD800 <= point < 0xDC00:  # the splitter saw to it that its other half follows
                            point = 0x10000 + ((point - 0xD800) << 10) + _hex4(buf, p + 2) - 0xDC00
                            p += 6
                        if point < 0x80:
                            out[at] = point
                            at += 1
                        elif point < 0x800:
                            out[at] = 0xC0 | point >> 6
                            out[at + 1] = 0x80 | point & 63
                            at += 2
                        elif point < 0x10000:
                            out[at] = 0xE0 | point >> 12
                            out[at + 1] = 0x80 | point >> 6 & 63
                            out[at + 2] = 0x80 | point & 63
                            at += 3
                        else:
                            out[at] = 0xF0 | point >> 18
                            out[at + 1] = 0x80 | point >> 12 & 63
                            out[at + 2] = 0x80 | point >> 6 & 63
                            out[at + 3] = 0x80 | point & 63
                            at += 4
                        continue
                    if c == 110:
                        c = 10
                    elif c == 116:
                        c = 9
                    elif c == 114:
                        c = 13
                    elif c == 98:
                        c = 8
                    elif c == 102:
                        c = 12
                    out[at] = c
                    at += 1
            else:
                while p < e:
                    out[at] = buf[p]
                    at += 1
                    p += 1
        offsets[row + 1] = at
