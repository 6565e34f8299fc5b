"""streamproc as a contender: one worker of its own, live, until it is told to stop.

Arguments: WORKLOAD BROKERS SOURCE TABLE OUT FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

from benchmarks.kafka_throughput import log_of
from benchmarks.rivals.workloads import BID, PROFILE, topology
from connectors.checkpoints import DirectoryCheckpoints
from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.binding import bind
from streamproc.runtime.worker import Worker


def main(workload: str, brokers: str, source: str, table: str, out: str, folder: str) -> None:
    registry = MemoryRegistry([BID, PROFILE])
    with log_of(brokers) as log:
        binding = bind(topology(workload, out, source, table, out), log, registry)
        worker = Worker(binding, log, checkpoints=DirectoryCheckpoints(Path(folder)))
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
