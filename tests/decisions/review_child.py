"""Claims a case, says which, opens the desk once more and waits to be killed: its producer is never closed."""

from __future__ import annotations

import sys
import time

from reviewing import CONTRACTS, MINUTE, Standing, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import block_of
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.review_desk import ReviewDesk

registry = MemoryRegistry(CONTRACTS)
for sink in plan_topology(topology(), registry).sinks:
    registry.adopt(sink.contract)
clock = Standing()
clock.us = int(sys.argv[2])
log = EmbeddedLog(sys.argv[1])
(case,) = ReviewDesk(log, registry, "desk.review", clock=clock).claim("mortal", count=1, lease_us=15 * MINUTE)
producer = log.producer("desk.answers.desk")
producer.begin().append(block_of("desk.answers", 0, [b"half an answer"]))
print(case.case, flush=True)
time.sleep(600)
