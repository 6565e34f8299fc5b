"""What a step frees stays with the process for the next one: the kernel would have to clear each page again."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT: Final = 128 << 20
_LARGE: Final = 32 << 20
"""The most that glibc takes; arrays beyond it are given back at once, as before."""


def keep_freed_memory() -> bool:
    """Lets the allocator keep up to 128 MiB that nobody uses; tells whether it can: only glibc's is known.

    A step makes arrays of some megabytes and frees them at its end. By default they go back to the kernel, which hands
    out zeroed pages again in the next step: a sixth of the time of a topology that only passes records on. Source:
    mallopt(3).

    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # Another C library, or Windows, which has no handle for all of it.
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
