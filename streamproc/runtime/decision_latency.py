"""How long decisions took: from a record's place in the log to that of the decision about it.

Nothing of it is written with a decision: the line in the decision log is the same in every run, and when it was written
is what the log itself says of the record. A decision's id is a hash of the coordinate of its row, so the record that it
was made of is found again by computing the ids of all records. So no clock is read where decisions are made, and a
replay, which writes at other moments, gives the same bytes and the same chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.graph import Source
from streamproc.hashing import mix64
from streamproc.operators.union import Union
from streamproc.planning.plan import Node, Plan
from streamproc.ports import Log
from streamproc.runtime.reading import TopicReader, read_blocks

_WRITTEN = pl.DataFrame(schema=dict.fromkeys(("decision", "_offset", "written_at"), pl.Int64()))
_CAME = pl.DataFrame(
    schema={**dict.fromkeys(("decision", "partition", "offset", "came_at"), pl.Int64()), "topic": pl.String()}
)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of decisions of which the record is still in the log.

    rows  by decision: topic, partition, offset of the record that was decided, and µs until the decision was written
    """

    rows: pl.DataFrame

    def of(self, decision: int) -> Mapping[str, object] | None:
        """What is known of one decision; None where its record is gone, or it was made of a window or a join."""
        found = self.rows.filter(pl.col("decision") == decision)
        return found.row(0, named=True) if found.height else None

    def told(self) -> dict[str, int]:
        """Decisions, and the latencies in µs that half of them, 99 in a hundred and all keep; {} without any."""
        if not self.rows.height:
            return {}
        taken = self.rows["latency_us"]
        at = np.sort(taken.to_numpy())
        p50, p99, most = (int(at[min(int(share * at.size), at.size - 1)]) for share in (0.5, 0.99, 1.0))
        return {"decisions": self.rows.height, "p50_us": p50, "p99_us": p99, "most_us": most}


def decision_latencies(plan: Plan, log: Log, registry: Registry, node: Node, topic: str, column: str) -> Latencies:
    """How long each decision of a step took.

    topic, column  of its log, and of the decisions' ids there

    Reads the log's topic and the topics of the sources above it once: no record is decoded but the lines of the log.
    """
    reader, lines = TopicReader(registry), []
    for block in read_blocks(log, topic):
        stamps = pl.DataFrame({"_offset": block.offsets, "written_at": block.timestamps})
        lines += [
            frame.select(pl.col(column).alias("decision"), "_offset").join(stamps, on="_offset")
            for frame in reader.frames(block)
        ]
    written = pl.concat([_WRITTEN, *lines]).unique("decision", keep="first", maintain_order=True)
    came = [_CAME]
    for source in _sources(plan, node):
        assert isinstance(source.origin, Source), "it was chosen so"
        for block in read_blocks(log, source.origin.topic):
            n = len(block)
            first = np.full(n, source.rank << 32 | block.partition, np.int64)
            ids = mix64(np.full(n, node.rank), first, block.offsets, np.zeros(n, np.int64), np.zeros(n, np.int64))
            came.append(
                pl.DataFrame({
                    "decision": ids.view(np.int64), "partition": np.full(n, block.partition), "offset": block.offsets,
                    "came_at": block.timestamps,
                }).with_columns(topic=pl.lit(block.topic)).join(written, on="decision", how="semi")
            )  # fmt: skip
    rows = written.join(pl.concat(came), on="decision", maintain_order="left")
    return Latencies(
        rows.select("decision", "topic", "partition", "offset", latency_us=pl.col("written_at") - pl.col("came_at"))
    )


def _sources(plan: Plan, node: Node) -> list[Node]:
    """Sources whose rows may come to a step as they are."""
    found, waiting = {}, [node]
    while waiting:
        one = waiting.pop()
        for rank, port in one.inputs if isinstance(one.origin, Union) else one.inputs[:1]:
            above = plan.nodes[rank]
            if isinstance(above.origin, Source):
                found[rank] = above
            elif port in ("rows", "late"):
                waiting.append(above)
    return [found[rank] for rank in sorted(found)]
