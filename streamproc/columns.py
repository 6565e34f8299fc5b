"""Arrays with one row a slot, which grow without a pause.

A column below a quarter of a mebibyte is copied when it grows.  Beyond that it is a view of a reservation of four
gibibytes: memory that the system commits page by page as it is written, so growing it copies nothing.  Where the system
refuses a reservation the column is copied instead.

The first 4 MiB of a reservation have small pages, as they come into use: an operator may have forty columns, of which
each would leave half a large page unused.  Beyond that pages are of 2 MiB, because a look-up in a large table then
misses fewer translations of addresses.  A new page of 2 MiB costs up to 10 ms where the machine is virtual (measured),
and the columns of an operator go on in step; so such pages are made ready one at a time, a step of growth ahead: tables
call `ready_a_page` once a batch.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import weakref
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_COPIED_BELOW: Final = 1 << 18
_RESERVED: Final = 1 << 32
_STEP: Final = 1 << 16
_PAGE: Final = 1 << 21
_SMALL: Final = 2 * _PAGE
_APART: Final = 1 << 18
_STAGGERED: Final = itertools.cycle(range(8))
"""Columns grow together; were they to begin at the same place of a page, all would meet a new one at once."""

_OWN: Final = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
_HUGE_PAGES: Final = hasattr(mmap, "MADV_HUGEPAGE") and mmap.PAGESIZE == 4096
_NOT_COUNTED: Final = 0x4000 if hasattr(mmap, "MADV_HUGEPAGE") else 0
"""MAP_NORESERVE of Linux: the system need not have all of a reservation to spare."""
_POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux: makes pages ready as a write would, and leaves what they hold."""


class _Reservation(np.ndarray[Any, Any]):
    """Zeroed memory set aside for one growing column; rows from `reached` on were never handed out, so are zero."""

    reached: int = 0
    pages: _Pages | None = None


class _Pages:
    """The pages of a reservation, as places in its memory, in bytes.

    The column begins at `begin`; pages are ready before `ready`, which is the begin of one, and asked for before
    `wanted`.
    """

    __slots__ = ("__weakref__", "begin", "memory", "ready", "wanted")

    def __init__(self, memory: mmap.mmap, begin: int, ready: int) -> None:
        self.memory, self.begin, self.ready, self.wanted = memory, begin, ready, ready

    def column_grew(self, held: int, rows: int, row_bytes: int) -> None:
        """Asks for the pages of the next step of growth; those of the rows before have come with their writes."""
        waits = self.ready < self.wanted
        passed = self.begin + held * row_bytes - self.ready
        self.ready += max(0, -(-passed // _PAGE)) * _PAGE
        step = max(min(rows, _STEP), rows - held)
        self.wanted = min(self.begin + (rows + step) * row_bytes, len(self.memory) - _PAGE)
        if self.ready < self.wanted and not waits:
            _WAITING.append(weakref.ref(self))


_WAITING: Final[deque[weakref.ref[_Pages]]] = deque()
"""Reservations that want a page, each at most once.  Several threads may add and take."""


def ready_a_page() -> None:
    """Makes the next page ready that a growing column will soon reach, if any will: at most 2 MiB of new memory."""
    while _WAITING:
        try:
            waiting = _WAITING.popleft()
        except IndexError:
            return
        pages = waiting()
        if pages is None:
            continue
        at = pages.ready
        pages.ready += _PAGE
        if pages.ready < pages.wanted:
            _WAITING.append(waiting)
        try:
            pages.memory.madvise(_POPULATE_WRITE, at, _PAGE)
        except (OSError, ValueError):
            # An older system: the page comes with its first write.
            continue
        return


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
    if rows > reservation.reached:
        reservation.reached = rows
        if reservation.pages is not None:
            reservation.pages.column_grew(held, rows, row_bytes)
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
    """At least so many rows, zero; the column begins some way into the small pages, see `_STAGGERED`."""
    begin = next(_STAGGERED) * _APART
    generous = max(_RESERVED // row_bytes, 2 * rows)
    try:
        if not _OWN or like.dtype.hasobject:
            raise OSError
        memory = mmap.mmap(-1, begin + generous * row_bytes + _SMALL + _PAGE, flags=_OWN | _NOT_COUNTED)
    except (OSError, OverflowError, ValueError):
        return np.zeros((rows, *like.shape[1:]), like.dtype).view(_Reservation)
    whole = np.frombuffer(memory, np.uint8)
    first = -whole.__array_interface__["data"][0] % _PAGE
    numbers = whole[first + begin :][: generous * row_bytes].view(like.dtype)
    reservation = numbers.reshape(generous, *like.shape[1:]).view(_Reservation)
    if _HUGE_PAGES:
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE, 0, first + _SMALL)
            memory.madvise(mmap.MADV_HUGEPAGE, first + _SMALL, len(memory) // _PAGE * _PAGE - _SMALL)
            reservation.pages = _Pages(memory, first + begin, first + _SMALL)
    return reservation
