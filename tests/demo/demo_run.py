"""What one run of the demo left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from connectors.embedded import EmbeddedLog
from connectors.registry import FolderRegistry
from streamproc.ports import TopicPartition
from streamproc.runtime.reading import read_topic
from streamproc.runtime.workspace import shipped_contracts


@dataclass(frozen=True)
class DemoRun:
    """What `streamproc demo --json` printed, and the log that it left."""

    answer: dict[str, Any]
    told: str
    log: EmbeddedLog

    def rows(self, topic: str) -> pl.DataFrame:
        """A topic's rows."""
        return read_topic(self.log, FolderRegistry((shipped_contracts(),)), topic).drop("_partition", "_offset")

    def log_records(self, topic: str) -> int:
        """How many records a topic has."""
        places = (TopicPartition(topic, number) for number in range(self.log.topics()[topic].partitions))
        return sum(self.log.end_offset(place) for place in places)
