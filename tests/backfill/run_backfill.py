"""A backfill in a process of its own, which tells after each commit that it lives: `run_backfill.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from orders import opened, registry, topology

from connectors.checkpoints import DirectoryCheckpoints
from streamproc.runtime.backfill import backfill_worker, open_backfill

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    log = opened(folder)
    store = DirectoryCheckpoints(folder / "checkpoints")
    backfill = open_backfill(topology(), log, registry(), "b", checkpoints=store)
    worker = backfill_worker(
        backfill, checkpoints=store, checkpoint_every_s=0.05, step_units=30,
        on_commit=lambda done: print(done.units, flush=True),
    )  # fmt: skip
    worker.run()
    log.close()
