"""Byte strings as columns, for the tests of keys and state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from streamproc.batch import Keys
from streamproc.hashing import hash_bytes

SHORT_KEYS = st.one_of(
    st.binary(max_size=3),
    st.lists(st.sampled_from([0, 97, 98]), max_size=20).map(bytes),
    st.integers(0, 300).map(lambda n: b"customer-%06d" % n),
)


def column(values: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buffer, starts and ends of byte strings, one byte apart so that no kernel may read over the end."""
    ends = np.cumsum([len(value) + 1 for value in values], dtype=np.int64) - 1
    starts = ends - np.array([len(value) for value in values], np.int64)
    return np.frombuffer(b"\x5a".join([*values, b""]), np.uint8), starts, ends


def keys_from(values: Sequence[bytes]) -> Keys:
    """Keys of these bytes."""
    if not values:
        return Keys(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
    buffer, starts, ends = column(values)
    return Keys(buffer, starts, ends, hash_bytes(buffer, starts, ends))


def texts(keys: Keys) -> list[bytes]:
    """Each key as bytes."""
    return [keys.get(row) for row in range(len(keys))]
