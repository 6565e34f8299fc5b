"""Arrays as content-addressed blocks, so that a checkpoint stores only what changed since the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamproc.errors import CorruptSnapshot
from streamproc.hashing import content_id

BLOCK_BYTES: Final = 64 << 10


def blocks_of(array: npt.NDArray[Any], *, size: int = BLOCK_BYTES, more: bytes = b"") -> list[tuple[str, bytes]]:
    """Consecutive pieces of an array's bytes with their content ids; the last one may be shorter.

    A change of some rows changes the ids of their blocks only; appended rows change the last block and add new ones.

    more  what every piece ends with besides: the same bytes under another id

    >>> [(name[:8], len(data)) for name, data in blocks_of(np.zeros(3, np.int64), size=16)]
    [('e5189a95', 16), ('2c0a8a99', 8)]
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    pieces = [data[at : at + size].tobytes() + more for at in range(0, data.size, size)]
    return [(content_id(piece), piece) for piece in pieces]


def array_of(dtype: str, shape: tuple[int, ...], pieces: Iterable[bytes]) -> npt.NDArray[Any]:
    """The array that these blocks make, writable.  Raises CorruptSnapshot if their size is not that of the shape.

    >>> array_of("<i8", (3,), [bytes(16), bytes(8)])
    array([0, 0, 0])
    """
    data = b"".join(pieces)
    kind = np.dtype(dtype)
    expected = math.prod(shape) * kind.itemsize
    if kind.hasobject or len(data) != expected:
        raise CorruptSnapshot(
            f"an array of {dtype} {shape} has {len(data)} bytes instead of {expected}",
            hint="use an older checkpoint; the journal re-executes what came after it",
        )
    return np.frombuffer(bytearray(data), kind).reshape(shape)
