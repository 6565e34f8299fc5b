"""The decorator that makes a function a kernel: compiled to machine code at the first call, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba as nb

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The compiled function, with the types that it was written with (numba's own decorator loses them).

    Other threads run while it does: it sees only arrays that nobody changes meanwhile.
    """
    return cast(Callable[P, R], nb.njit(cache=True, nogil=True)(function))
