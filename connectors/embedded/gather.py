"""Copies scattered spans of a buffer one after another: the only per-record loop of the embedded log."""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from streamproc.ports import Bytes, Int64s

_FROZEN_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_FROZEN_INTS = types.Array(types.int64, 1, "C", readonly=True)


# The signature is given, with read-only inputs, because NumPy arrays over Python bytes are read-only and others are
# not: without it each mixture would be compiled and cached on its own.
@numba.njit(
    types.void(_FROZEN_BYTES, _FROZEN_INTS, _FROZEN_INTS, types.Array(types.uint8, 1, "C")), cache=True, nogil=True
)
def _copy_spans(buffer: Bytes, starts: Int64s, ends: Int64s, out: Bytes) -> None:
    at = 0
    for row in range(starts.size):
        start = starts[row]
        length = ends[row] - start
        if start < 0 or length == 0:
            continue
        out[at : at + length] = buffer[start : start + length]
        at += length


def gather(buffer: Bytes, starts: Int64s, ends: Int64s, size: int) -> Bytes:
    """The bytes of all spans in row order, `size` in all; a start of -1 has none.  The bounds must be valid."""
    out = np.empty(size, np.uint8)
    _copy_spans(
        np.ascontiguousarray(buffer), np.ascontiguousarray(starts), np.ascontiguousarray(ends), out
    )
    return out
