"""Copies scattered spans of a buffer one after another: the only per-record loop of the embedded log."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

from streamproc.hashing import frozen
from streamproc.kernels import unlocked
from streamproc.ports import Bytes, Int64s

_memcpy: Any = cgutils.raw_memcpy
_types: Any = types


def _type_copy(typing_context: Any, out: Any, at: Any, buffer: Any, start: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        make_array: Any = arrayobj.make_array
        into = make_array(signature.args[0])(context, builder, args[0]).data
        source = make_array(signature.args[2])(context, builder, args[2]).data
        _memcpy(builder, builder.gep(into, [args[1]]), builder.gep(source, [args[3]]), args[4], 1)
        return context.get_dummy_value()

    return _types.void(out, _types.int64, buffer, _types.int64, _types.int64), generate


_copy: Final[Any] = intrinsic(_type_copy)
"""Copies `length` bytes of `buffer` from `start` on to `out` at `at`: a slice, without NumPy's rules for shapes."""


@unlocked
def _copy_spans(buffer: Bytes, starts: Int64s, ends: Int64s, out: Bytes) -> None:
    at = 0
    for row in range(starts.size):
        start = starts[row]
        length = ends[row] - start
        if start < 0 or length == 0:
            continue
        _copy(out, at, buffer, start, length)
        at += length


def gather(buffer: Bytes, starts: Int64s, ends: Int64s, size: int) -> Bytes:
    """The bytes of all spans in row order, `size` in all; a start of -1 has none.  The bounds must be valid."""
    out = np.empty(size, np.uint8)
    _copy_spans(frozen(buffer), frozen(starts), frozen(ends), out)
    return out
