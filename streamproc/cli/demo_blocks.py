"""What blocking of the retail story could have found at most, where the truth is known.

The blocks of a writing hang on how its fields were harmonised, which no topic of the story tells. So the part of the
topology above its `resolve` runs again, in memory, on the sources as the log has them.
"""

from __future__ import annotations

import polars as pl

from streamproc.entities.block_keys import NO_BLOCK, block_keys
from streamproc.entities.resolve import Resolve
from streamproc.graph import Stream
from streamproc.operators.columns import Select
from streamproc.planning.topology import Topology
from streamproc.ports import Log
from streamproc.runtime.binding import Binding, plan_topology
from streamproc.runtime.reading import read_topic
from streamproc.testing.drive import drive


def written_blocks(binding: Binding, log: Log) -> pl.DataFrame:
    """`writing`, and `blocks`: the names of the blocks that it is in; no two rules name theirs alike.

    Cost that of the steps above `resolve`, over all rows of the three sources that persons come from.
    """
    stream, resolve = _resolved(binding.plan.topology)
    columns = dict.fromkeys(name for rule in resolve.model.blocks for name in rule.columns)
    chosen = Stream(Select(tuple((name, None) for name in (resolve.record, *columns))), (stream,))
    topology = Topology("writings", sinks={"writings": chosen})
    frames = {}
    for node in plan_topology(topology, binding.registry).sources:
        assert node.contract is not None
        topic = node.origin.topic  # type: ignore[union-attr]  # a source
        rows = read_topic(log, binding.registry, topic, node.contract.schema.polars()).drop("_partition", "_offset")
        # Partition after partition most rows would be late.
        frames[topic] = rows.sort(node.contract.event_time, maintain_order=True)
    rows = drive(topology, frames, registry=binding.registry)["writings"]
    keys = block_keys(rows, resolve.model).tolist()
    blocks = pl.Series("blocks", [[key for key in mine if key != NO_BLOCK] for mine in keys], pl.List(pl.Int64))
    return pl.DataFrame([rows[resolve.record].alias("writing"), blocks])


def recall_of_blocks(judged: pl.DataFrame, blocks: pl.DataFrame) -> float:
    """Of all pairs of events of one person, the share whose writings are one, or agree in a block: what clusters can
    find at most, but for what hangs together through others.  1 where there is no pair.

    judged  of `judged_events`
    Raises ValueError for a writing whose blocks are not known: recall would be too bad.
    """
    known = judged.group_by("person", "writing").len("n").cast({"n": pl.Int64}).join(blocks, on="writing", how="left")
    if known["blocks"].null_count():
        raise ValueError(f"the blocks of {known['blocks'].null_count()} writings are not known")
    n = known["n"]
    true = known.group_by("person").agg(pl.col("n").sum())["n"]
    pairs = int((true * (true - 1) // 2).sum())
    both = known.join(known, on="person", suffix="_b").filter(pl.col("writing") < pl.col("writing_b"))
    agree = both["blocks"].list.set_intersection(both["blocks_b"]).list.len() > 0
    found = int((n * (n - 1) // 2).sum()) + int((both["n"] * both["n_b"]).filter(agree).sum())
    return found / pairs if pairs else 1.0


def _resolved(topology: Topology) -> tuple[Stream, Resolve]:
    """The records that the topology's `resolve` reads, and that step."""
    todo, seen = [topology.sink(name).stream for name in topology.sinks], set[int]()
    for stream in todo:  # It grows.
        if isinstance(stream.origin, Resolve):
            return stream.inputs[0], stream.origin
        todo += [above for above in stream.inputs if id(above) not in seen]
        seen |= {id(above) for above in stream.inputs}
    raise AssertionError("the retail story resolves persons")
