"""Arrays with one row a slot, which grow without a pause.

A column below a mebibyte is copied when it grows.  Beyond that it is a view of a reservation of a gibibyte: memory that
the system commits page by page as it is written, so growing it copies nothing.  Where the system refuses a reservation
the column is copied instead.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_COPIED_BELOW: Final = 1 << 20
_RESERVED: Final = 1 << 30
_STEP: Final = 1 << 16
_APART: Final = 1 << 18
_STAGGERED: Final = itertools.cycle(range(8))
"""Columns grow together; were they to begin at the same place of a page of 2 MiB, all would meet a new one at once."""


class _Reservation(np.ndarray[Any, Any]):
    """Zeroed memory set aside for one growing column; rows from `reached` on were never handed out, so are zero."""

    reached: int = 0


def grow(array: npt.NDArray[Any], rows: int, *, fill: float | None = 0) -> npt.NDArray[Any]:
    """The array with `rows` rows along its first axis, the new ones holding `fill`; the array itself if it has as many.

    With fill None the new rows hold anything: the owner writes each before it reads it, and memory is touched as rows
    come into use instead of at once.  The argument is consumed: result and argument may share memory, so keep only the
    result.

    >>> grow(np.array([1, 2]), 4, fill=-1)
    array([ 1,  2, -1, -1])
    """
    held = array.shape[0]
    if rows <= held:
        return array
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    if rows * row_bytes < _COPIED_BELOW:
        out = np.empty((rows, *array.shape[1:]), array.dtype)
        out[:held] = array
        if fill is not None:
            out[held:] = fill
        return out
    reservation = _reservation_under(array)
    if reservation is None or reservation.shape[0] < rows:
        reservation = _reserve(rows, row_bytes, array)
        reservation[:held] = array
    grown = reservation[:rows].view(np.ndarray)
    if fill is not None:
        # Zeros beyond what was reached are there already: writing them would touch all of that memory at once, in
        # every column of an operator in the same call.
        grown[held : max(held, reservation.reached) if fill == 0 else rows] = fill
    reservation.reached = max(reservation.reached, rows)
    return grown


def next_rows(rows: int, needed: int) -> int:
    """How many rows a column of `rows` should get so that it has `needed`: doubled while small, then 2^16 at a time.

    So one growth step fills at most half a mebibyte of an int64 column.

    >>> next_rows(256, 300), next_rows(1 << 20, (1 << 20) + 1)
    (512, 1114112)
    """
    rows = max(rows, 64)
    while rows < needed:
        rows += min(rows, _STEP) if needed - rows < _STEP else needed - rows
    return rows


def _reservation_under(array: npt.NDArray[Any]) -> _Reservation | None:
    owner: Any = array
    while isinstance(owner, np.ndarray) and not isinstance(owner, _Reservation):
        owner = owner.base
    if not isinstance(owner, _Reservation):
        return None
    while isinstance(owner.base, _Reservation):
        owner = owner.base
    same = owner.dtype == array.dtype and owner.shape[1:] == array.shape[1:]
    starts_there = owner.__array_interface__["data"][0] == array.__array_interface__["data"][0]
    return owner if same and starts_there and array.flags.c_contiguous else None


def _reserve(rows: int, row_bytes: int, like: npt.NDArray[Any]) -> _Reservation:
    generous = max(_RESERVED // row_bytes, 2 * rows)
    skipped = next(_STAGGERED) * _APART // row_bytes
    try:
        memory = np.zeros((skipped + generous, *like.shape[1:]), like.dtype)[skipped:]
    except MemoryError:
        memory = np.zeros((rows, *like.shape[1:]), like.dtype)
    return memory.view(_Reservation)
