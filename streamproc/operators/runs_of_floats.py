"""Exact sums of many floats at once, over integers: for a run of events that enters or leaves a window.

Floats of like size are whole multiples of one power of two, so a run of them is added up in a 128-bit integer, which
rounds nothing and waits for nothing, and the integer goes into the exact sum in three pieces. A float that does not fit
the grid of its run (zero apart) is added by itself. The sum is exact either way, so no result tells which way it took.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamproc.kernels import inlined, tight
from streamproc.operators.event_records import BEFORE, TIME, VALID, Table
from streamproc.operators.exact import SumArrays, add_exact

_BELOW: Final = 31
"""The grid begins so many binary orders below the first float, and reaches as far above it: 62 + 53 bits."""
_AT_MOST: Final = 4096
"""Terms of a run: 2**12 of 115 bits are within 127."""
_LEAST: Final = 200
_GREATEST: Final = 1800
"""Biased exponents of a first float that makes a grid: no piece leaves the range of normal floats."""
_MANTISSA: Final = np.int64((1 << 52) - 1)
_PIECE: Final = np.int64((1 << 48) - 1)
_TO_48: Final = 2.0**48
_TO_96: Final = 2.0**96


@inlined
def _add_pieces(sums: SumArrays, at: int, low: np.uint64, high: np.int64, grid: np.int64) -> None:
    scale = np.int64((grid - 52) << 52).view(np.float64)
    first = np.int64(low) & _PIECE
    second = ((np.int64(low) >> 48) & np.int64(0xFFFF)) | ((high << 16) & _PIECE)
    third = high >> 32
    if first != 0:
        add_exact(sums, at, np.float64(first) * scale, 1)
    if second != 0:
        add_exact(sums, at, np.float64(second) * scale * _TO_48, 1)
    if third != 0:
        add_exact(sums, at, np.float64(third) * scale * _TO_96, 1)


@tight
def add_run(events: Table, event: int, since: int, value: int, word: int, sums: SumArrays, at: int, sign: int) -> None:
    """Adds sign times the values of the events from one back to, but without, a moment; for kernels.

    value  the bit of `VALID` that says whether an event has one
    word   where it stands
    """
    grid, terms = np.int64(0), 0
    low, high = np.uint64(0), np.int64(0)
    while event >= 0 and events[event, TIME] > since:
        if (events[event, VALID] >> value) & 1:
            bits = events[event, word]
            exponent = (bits >> 52) & 0x7FF
            if grid == 0 and _LEAST < exponent < _GREATEST:
                grid = exponent - _BELOW
            shift = exponent - grid
            if grid != 0 and 0 <= shift <= 2 * _BELOW:
                mantissa = np.uint64((bits & _MANTISSA) | (np.int64(1) << 52))
                part = mantissa << np.uint64(shift)
                over = np.int64((mantissa >> np.uint64(1)) >> np.uint64(63 - shift))
                # Without a branch on the sign, which would be guessed wrong half of the time.
                negative = (bits >> 63) ^ (np.int64(-1) if sign < 0 else np.int64(0))
                part ^= np.uint64(negative)
                one = np.uint64(negative & 1)
                with_one = part + one
                carried = np.int64(with_one < one)
                low += with_one
                carried += np.int64(low < with_one)
                high += (over ^ negative) + carried
                terms += 1
                if terms == _AT_MOST:
                    _add_pieces(sums, at, low, high, grid)
                    low, high, terms = np.uint64(0), np.int64(0), 0
            elif (bits << 1) != 0:
                add_exact(sums, at, np.int64(bits).view(np.float64), sign)
        event = events[event, BEFORE]
    if terms:
        _add_pieces(sums, at, low, high, grid)
