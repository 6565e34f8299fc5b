"""Kernels: functions over arrays that Numba compiles, once for each type, and keeps on disk.

How kernels that call kernels are put together is in `kernel_parts`, and why in docs/decisions/kernels.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba as nb
from numba.core import types

from streamproc.kernel_parts import Part, Polished, Whole

F = TypeVar("F", bound=Callable[..., Any])
_types: Any = types


def kernel(function: F) -> F:
    """The function compiled by Numba at its first call, cached on disk, with its type kept for the checker."""
    return _compiled(function)


def unlocked(function: F) -> F:
    """As `kernel`; other threads run while it does, so it sees only arrays that nobody changes meanwhile."""
    return _compiled(function, nogil=True)


def tight(function: F) -> F:
    """As `kernel`, for functions that only touch arrays they are given: nothing is allocated, no reference counted.

    Numba counts references of arrays around each call, atomically, which doubles the time of a loop of small calls.
    """
    return _compiled(function, _nrt=False)


def inlined(function: F) -> F:
    """As `tight`, and its code stands in each caller: for a short search in a hot loop.

    A call passes seven words for each array, so that the processor sees too few rows ahead to wait for them at once.
    """
    return _compiled(function, _nrt=False, forceinline=True)


def polished(function: F) -> F:
    """As `tight`, for a kernel that is measured to be slower where LLVM sees it with all its callees at once.

    They are then optimised as Numba does it, each on its own before its callers, which takes twice as long.
    """
    whole: Any = _compiled(function, _nrt=False)
    compile_for = whole.compile

    def callees_first(signature: Any) -> Any:
        before, _CALLEES_FIRST[0] = _CALLEES_FIRST[0], True
        try:
            return compile_for(signature)
        finally:
            _CALLEES_FIRST[0] = before

    whole.compile = callees_first
    return cast(F, whole)


_CALLEES_FIRST: Final = [False]
"""Whether a polished kernel is being compiled."""


def _compiled(function: F, **options: bool) -> F:
    """For Python, kept on disk, and as a part of other kernels (see `kernel_parts`), each when it is first asked for.

    One compilation for each type of argument: a constant is an int64 as any other. Numba would compile a callee again
    for each constant that a caller gives it, and all that it calls. What a constant makes simpler LLVM finds itself
    where it inlines. Nor do we hand kernels to C, so there is no entry for it.
    """
    njit: Any = nb.njit  # `_nrt` is missing in Numba's stubs
    options |= {"no_cfunc_wrapper": True}
    whole: Any = njit(cache=True, error_model="numpy", pipeline_class=Whole, **options)(function)
    part, first = (
        njit(error_model="numpy", pipeline_class=one, no_cpython_wrapper=True, **options)(function)
        for one in (Part, Polished)
    )

    def of_types(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        plain: Any = _types.unliteral
        callee = first if _CALLEES_FIRST[0] else part
        return callee.get_call_template(tuple(map(plain, args)), {name: plain(kind) for name, kind in kws.items()})

    def overload(args: tuple[Any, ...]) -> Any:
        # Either will do where there are both; there is the one that was asked for when types were found.
        one, other = (first, part) if _CALLEES_FIRST[0] else (part, first)
        return (one if tuple(args) in one.overloads else other).overloads[tuple(args)].entry_point

    whole.get_call_template = of_types
    whole.get_overload = overload
    return cast(F, whole)
