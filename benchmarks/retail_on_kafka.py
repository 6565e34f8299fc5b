"""The retail story exactly once on a real broker, beside the embedded run of the same call.

One worker and one partition a topic both ways, on the same machine, which the broker shares. Figures are of the
engine's process alone, with all its threads: rows a second by the clock, and CPU seconds. Sources are written once;
each round runs the topology under another name, so that it has topics and groups of its own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks.kafka import cluster
from benchmarks.kafka_throughput import log_of
from connectors.files.produce import produce_frame
from connectors.registry import FolderRegistry
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.runtime.workspace import shipped_contracts
from topologies.retail import retail
from topologies.retail.load import CONTRACTS
from topologies.retail.make_story import Story

GOAL = 0.6
"""Of the embedded rate."""


def runs_on_kafka(story: Story, rounds: int, brokers: str | None = None) -> list[dict[str, Any]]:
    """Rates of so many runs on a broker of their own, or on those that are named, after one that is not counted.

    As the embedded log's first one, it warms what is fresh: here the broker's JVM, which compiles too.
    """
    registry = FolderRegistry((shipped_contracts(),))
    with cluster(brokers) as where, log_of(where) as log:
        rows = 0
        for topic, frame in story.topics.items():
            contract = registry.contract(CONTRACTS[topic])
            log.create_topic(topic, TopicSettings(1))
            rows += produce_frame(log, frame, topic, contract=contract, schema_id=registry.adopt(contract)).rows
        made = []
        for number in range(1 + rounds):
            binding = bind(replace(retail, name=f"retail_{number}"), log, registry)
            ends = source_ends(binding, log)
            wall, cpu = time.perf_counter(), time.process_time()
            progress = Worker(binding, log, until_end=ends, close=True).run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            made.append({"rows": rows, "rows_per_second": rows / wall, "seconds": wall, "cpu_seconds": cpu,
                         "steps": progress.steps})  # fmt: skip
    return made[1:]
