"""Header columns of a block, from a list of all headers of its records."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np

from connectors.kafka import kernels
from streamproc.ports import Block, HeaderColumn, Int64s


def with_headers(
    block: Block, rows: Int64s, names: Int64s, name_sizes: Int64s, starts: Int64s, ends: Int64s
) -> Block:
    """The block with a column for each name, in the order of names.

    rows    the record of each header; names, name_sizes  where in memory its name is, and how long
    starts  bounds of its value in the block's buffer; one that starts at -1 is null, which counts as none
    """
    ids, firsts = np.empty((2, rows.size), np.int64)
    known = kernels.number_names(names, name_sizes, ids, firsts)
    words = [ctypes.string_at(int(names[at]), int(name_sizes[at])) for at in firsts[:known]]
    columns = []
    for word, number in sorted(zip(words, range(known), strict=True)):
        # Of several headers with one name in a record the first counts: written last, it stays.
        mine = np.flatnonzero((ids == number) & (starts >= 0))[::-1]
        column = np.full((2, len(block)), -1, np.int64)
        column[0, rows[mine]] = starts[mine]
        column[1, rows[mine]] = ends[mine]
        columns.append(HeaderColumn(word.decode(errors="replace"), column[0], column[1]))
    return replace(block, headers=tuple(columns))
