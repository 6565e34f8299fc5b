"""One worker in a process of its own: `run_worker.py LOG MEMBER`."""

from __future__ import annotations

import sys

from payments import PAYMENT, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker

if __name__ == "__main__":
    log = EmbeddedLog(sys.argv[1])
    binding = bind(topology(), log, MemoryRegistry((PAYMENT,)))
    worker = Worker(
        binding, log, member=sys.argv[2], until_end=source_ends(binding, log), close=True, in_stages=True,
        steps=(11 for _ in range(100_000)),
    )  # fmt: skip
    worker.run()
    log.close()
