"""What memory alone costs a row of keyed state: the floor beside which figures over table sizes are read."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

BATCH: Final = 65_536
ROUNDS: Final = 16
"""Batches of a measurement: together they touch far more than the processor's caches hold."""
RECORD_WORDS: Final = 8


def gather_ns(size: int) -> float:
    """CPU ns a row of gathering random records of 64 bytes, one cache line, out of `size`; the best of three."""
    rng = np.random.default_rng(2)
    records = np.ones((size, RECORD_WORDS), np.int64)
    rows = [rng.integers(0, size, BATCH) for _ in range(ROUNDS)]
    out = np.empty((BATCH, RECORD_WORDS), np.int64)
    spent = []
    for _ in range(3):
        begin = time.process_time()
        for part in rows:
            np.take(records, part, axis=0, out=out, mode="clip")
        spent.append(time.process_time() - begin)
    return min(spent) / (ROUNDS * BATCH) * 1e9
