"""Parts of arrays set and copied by plain loops, for kernels.

`row[:] = 0` in a kernel brings NumPy's rules for shapes with it, and the texts of their errors: compiling that takes
longer than compiling most kernels, and each kernel that has such a line carries it into all that call it.
"""

from __future__ import annotations

from streamproc.kernels import inlined
from streamproc.ports import Int64s


@inlined
def fill(row: Int64s, value: int) -> None:
    """Sets all of a row to a value."""
    for k in range(row.size):
        row[k] = value


@inlined
def copy(source: Int64s, into: Int64s, number: int) -> None:
    """Copies the first `number` values."""
    for k in range(number):
        into[k] = source[k]


@inlined
def copy_rows(source: Int64s, into: Int64s, number: int) -> None:
    """Copies the first `number` rows of a table to one that is as wide."""
    for i in range(number):
        for k in range(source.shape[1]):
            into[i, k] = source[i, k]
