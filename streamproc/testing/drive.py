"""A topology run to its end in memory: frames in, frames out. No log to start, no file, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry, Registry
from streamproc.engine.intake import event_times
from streamproc.engine.rejects import REJECTED
from streamproc.engine.tombstones import delete_headers
from streamproc.errors import InputError, did_you_mean
from streamproc.graph import Source
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.planning.topology import Topology
from streamproc.ports import Block, HeaderColumn, Log, TopicSettings
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import TopicSum, recorded_sums, source_ends
from streamproc.runtime.worker import Progress, Worker
from streamproc.testing.memory_log import MemoryLog
from streamproc.wire import Encoder

_NOW = 2**60
"""The append time of driven records: later than any event, so that none is from the future."""


@dataclass(frozen=True, slots=True)
class Driven(Mapping[str, pl.DataFrame]):
    """What a driven topology did: a mapping of sink name to rows, in order of partition and offset.

    late, dead_letters  refused rows, as contract `sp_rejected`
    sums                per topic: rows and the order-free digest
    """

    sinks: Mapping[str, pl.DataFrame]
    late: pl.DataFrame
    dead_letters: pl.DataFrame
    progress: Progress
    sums: Mapping[str, TopicSum]
    binding: Binding
    log: Log

    def __getitem__(self, name: str) -> pl.DataFrame:
        if name not in self.sinks:
            raise InputError(f"the topology has no sink '{name}'", hint=did_you_mean(name, self.sinks))
        return self.sinks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sinks)

    def __len__(self) -> int:
        return len(self.sinks)

    def fates(self, source: str) -> dict[str, int]:
        """Rows of a source by fate, over all its tasks; in = emitted + held + late + filtered + dead_lettered."""
        total: dict[str, int] = {}
        for stages in self.progress.fates.values():
            for fate, rows in stages.get(source, {}).items():
                total[fate] = total.get(fate, 0) + rows
        return total


def drive(
    topology: Topology,
    frames: Mapping[str, pl.DataFrame] | None = None,
    /,
    *,
    registry: Registry | None = None,
    contracts: tuple[Contract, ...] = (),
    partitions: int = 1,
    close: bool = True,
    steps: Iterator[int] | None = None,
    **more: pl.DataFrame,
) -> Driven:
    """Runs a topology over frames, one per source topic, rows in order of arrival.

    In a frame of a `table`, the column `deleted` says which records have no value.

    registry    where contracts are looked up; by default one that holds `contracts`
    partitions  of each source topic; rows go by the contract's key (murmur2), those without a key in turn
    close       release at the end what waits for time
    steps       how many rows each step takes at most, to try other cuts

    >>> import streamproc as sp
    >>> from streamproc.contracts.avro_schema import parse_contract
    >>> pay = parse_contract('''{"type": "record", "name": "pay", "sp:version": 1, "fields": [
    ...     {"name": "amount", "type": "long"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}''')
    >>> big = sp.Topology("big", sinks={"out": sp.source("pays", contract=pay) | sp.where(pl.col("amount") > 1)})
    >>> drive(big, pays=pl.DataFrame({"amount": [1, 2], "at": [0, 1]}))["out"]["amount"].to_list()
    [2]
    """
    registry = registry if registry is not None else MemoryRegistry(contracts)
    log = prepared(topology, {**(frames or {}), **more}, registry, partitions=partitions)
    binding = bind(topology, log, registry)
    worker = Worker(binding, log, until_end=source_ends(binding, log), close=close, in_stages=True, steps=steps)
    progress = worker.run()
    return driven(binding, log, registry, progress)


def prepared(
    topology: Topology, frames: Mapping[str, pl.DataFrame], registry: Registry, *, partitions: int = 1
) -> MemoryLog:
    """A log in memory that holds the frames as the topology's sources; a source without a frame has no rows."""
    given = dict(frames)
    log = MemoryLog(now=_NOW)
    for node in plan_topology(topology, registry).sources:
        if isinstance(node.origin, Source) and node.contract is not None:
            topic = node.origin.topic
            if topic not in log.topics():
                log.create_topic(topic, TopicSettings(partitions))
                rows = given.pop(topic, node.contract.schema.empty())
                deletes = node.type.schema.deletes if node.origin.table else ""
                append_frame(log, registry, topic, node.contract, rows, deletes=deletes)
    if given:
        raise InputError(
            f"topology '{topology.name}' has no source '{min(given)}'", hint=did_you_mean(min(given), log.topics())
        )
    return log


def driven(binding: Binding, log: Log, registry: Registry, progress: Progress) -> Driven:
    """What the sinks of a finished run hold."""
    sinks = {
        sink.name: read_topic(log, registry, sink.topic, sink.contract.schema.polars()) for sink in binding.plan.sinks
    }
    rejected = REJECTED.schema.polars()
    return Driven(
        sinks,
        read_topic(log, registry, binding.names.late, rejected),
        read_topic(log, registry, binding.names.dead_letters, rejected),
        progress,
        recorded_sums(binding, log),
        binding,
        log,
    )


def append_frame(
    log: Log, registry: Registry, topic: str, contract: Contract, frame: pl.DataFrame, *, deletes: str = ""
) -> None:
    """Appends rows as records of a contract, each to the partition that its key chooses.

    deletes  a column, if the frame has it: where it is true the record has no value, so that its key is deleted
    """
    partitions = log.topics()[topic].partitions
    cast = frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in contract.schema.polars().items()
    )
    encoded = Encoder(contract.avro).encode(cast, schema_id=registry.adopt(contract))
    none = np.full(frame.height, -1, np.int64)
    empty = np.empty(0, np.int64)
    block = Block(topic, 0, empty, empty, encoded.buffer, encoded.starts, encoded.ends, none, none)
    where = np.arange(frame.height) % partitions
    if contract.key:
        keys = keys_of(cast, contract.key)
        shift = encoded.buffer.size
        block = replace(
            block,
            buffer=np.concatenate([encoded.buffer, keys.buffer]),
            key_starts=keys.starts + shift,
            key_ends=keys.ends + shift,
        )
        where = partitions_of(keys.buffer, keys.starts, keys.ends, partitions)
    if deletes and deletes in frame.columns and contract.key:
        gone = frame.get_column(deletes).fill_null(False).to_numpy().astype(np.bool_)
        header, told = delete_headers(event_times(cast[contract.event_time]).to_numpy(), gone, block.buffer.size)
        block = replace(
            block,
            buffer=np.concatenate([block.buffer, told]),
            value_starts=np.where(gone, -1, block.value_starts),
            value_ends=np.where(gone, -1, block.value_ends),
            headers=(header,),
        )
    transaction = log.producer(f"append.{topic}").begin()
    for partition in range(partitions):
        mine = np.flatnonzero(where == partition)
        if mine.size:
            transaction.append(
                replace(
                    block,
                    partition=partition,
                    value_starts=block.value_starts[mine],
                    value_ends=block.value_ends[mine],
                    key_starts=block.key_starts[mine],
                    key_ends=block.key_ends[mine],
                    headers=tuple(HeaderColumn(h.name, h.starts[mine], h.ends[mine]) for h in block.headers),
                )
            )
    transaction.commit()
