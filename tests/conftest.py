"""What all tests share: each of several test processes takes its share of the cores."""

from __future__ import annotations

import os
import sys

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1 and "polars" not in sys.modules:
    # Polars begins a thread for each core in each process: where the processes alone keep all cores busy, its steps
    # of a few rows would wait for each other. Read once, when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))
