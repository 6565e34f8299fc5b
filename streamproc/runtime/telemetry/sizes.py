"""How much memory a state takes, told without touching its contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import polars as pl

from streamproc.state import Packed


def state_bytes(value: Any) -> int:
    """Bytes of all arrays, frames, texts and bytes below a value; what is shared counts once.

    A model counts as the bytes of its last checkpoint.
    Cost O(objects), so nothing per key or row where state is kept in arrays.

    >>> state_bytes((np.zeros(10, np.int64), {"a": b"xyz"}))
    83
    """
    return _bytes(value, set())


def _bytes(value: Any, seen: set[int]) -> int:
    if value is None or isinstance(value, bool | int | float) or id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        whole = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
        if whole is not value and id(whole) in seen:
            return 0
        seen.add(id(whole))
        return int(whole.nbytes)
    if isinstance(value, pl.DataFrame | pl.Series):
        return int(value.estimated_size())
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Packed):
        return value.last_bytes
    if isinstance(value, Mapping):
        return sum(_bytes(part, seen) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(_bytes(part, seen) for part in value)
    if isinstance(value, type) or callable(value):
        return 0
    if is_dataclass(value):
        return sum(_bytes(getattr(value, part.name), seen) for part in fields(value))
    names = [*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", ())]
    return sum(_bytes(getattr(value, name, None), seen) for name in names if isinstance(name, str))
