"""Arrays that grow in steps without a pause: how the columns of a state make room for more slots."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

_STEP: Final = 1 << 20
"""Elements by which a large array grows: growing by a factor would stop a step for as long as copying it all takes."""

T = TypeVar("T", bound=npt.NDArray[Any])


def room(have: int, need: int) -> int:
    """The new capacity of something that holds `have` and must hold `need`.

    Doubles while small, then adds a fixed step, so that no single growth takes long.

    >>> room(0, 1), room(64, 65), room(1 << 21, (1 << 21) + 1) - (1 << 21)
    (64, 128, 1048576)
    """
    if need <= have:
        return have
    return max(need, 64, have + min(have, _STEP))


def grown(array: T, rows: int, *, fill: int = 0) -> T:
    """An array with at least `rows` rows, the old ones first, new ones filled; the old array must not be used any more.

    Large blocks are extended in place where nothing else refers to them: the operating system then moves page tables
    instead of bytes (mremap), which costs about a millisecond for 80 MB.
    """
    old = array.shape[0]
    if rows <= old:
        return array
    bigger = np.empty((rows, *array.shape[1:]), array.dtype)
    bigger[:old] = array
    bigger[old:] = fill
    return bigger  # type: ignore[return-value]
