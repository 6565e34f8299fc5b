"""What the sources of a simulated topology get: random rows of their contracts, clean or with what goes wrong in rows.

The same rows lie in the same order in the same partitions of every run of a variant, whatever offsets they get there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from streamproc.contracts.model import Contract
from streamproc.contracts.registry import Registry
from streamproc.graph import Source
from streamproc.planning.plan import Plan
from streamproc.ports import Block, TopicPartition, TopicSettings, block_of
from streamproc.testing.drive import append_frame
from streamproc.testing.memory_log import MemoryLog
from streamproc.testing.random_rows import random_frame
from streamproc.testing.simulation.faults import INPUTS
from streamproc.testing.simulation.partition import joined

BEGIN: Final = 1_700_000_000_000_000
"""Event time of the first row, µs."""
NOW: Final = 1_800_000_000_000_000
"""Where the clock of a simulated run stands at its beginning, µs; it may jump by some days."""
AHEAD: Final = 2_200_000_000_000_000
"""A record's timestamp that is the future for every clock of a run."""
_FAR: Final = 40 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """All records of all source partitions, and what was done to their rows."""

    blocks: Mapping[TopicPartition, Block]
    flags: frozenset[str]


def random_inputs(
    plan: Plan, registry: Registry, seed: int, *, rows: int, partitions: int, unit_us: int | None = None
) -> Inputs:
    """Records of every source of a plan, which depend on the seed alone.

    rows     at most, of each source
    unit_us  what lies between two rows at most; by default a fifth of the source's lateness, or a second
    """
    random = np.random.default_rng((seed, 71))
    flags = frozenset(name for name in INPUTS[:-1] if random.random() < 0.5)
    if np.random.default_rng((seed, 73)).random() < 0.3:
        flags |= {INPUTS[-1]}
    frames: dict[str, pl.DataFrame] = {}
    for node in plan.sources:
        if isinstance(node.origin, Source) and node.contract is not None and node.origin.topic not in frames:
            unit = unit_us or max(1, (node.origin.lateness_us or 5_000_000) // 5)
            count = int(random.integers(rows // 2, rows + 1))
            frames[node.origin.topic] = _frame(random, node.contract, node.origin, count, unit, flags)
    return of_frames(plan, registry, frames, seed=seed, partitions=partitions, flags=flags)


def of_frames(
    plan: Plan,
    registry: Registry,
    frames: Mapping[str, pl.DataFrame],
    *,
    seed: int = 0,
    partitions: int = 1,
    flags: frozenset[str] = frozenset(),
) -> Inputs:
    """The rows of frames as records; `flags` adds records from the future and such that nobody can read."""
    random = np.random.default_rng((seed, 72))
    log = MemoryLog()
    blocks: dict[TopicPartition, Block] = {}
    for node in plan.sources:
        origin, contract = node.origin, node.contract
        if not isinstance(origin, Source) or contract is None or origin.topic in log.topics():
            continue
        frame = frames.get(origin.topic, contract.schema.empty())
        moment = origin.event_time or contract.event_time
        stamp = _stamp(frame, moment)
        if "future" in flags and frame.height:
            ahead = frame.sample(2, with_replacement=True, seed=seed)
            frame = pl.concat([frame, _moved(ahead, moment, stamp + origin.max_future_skew_us + _FAR)])
            at = np.concatenate([np.arange(frame.height - 2), random.integers(0, frame.height, 2) - 0.5])
            frame = frame[np.argsort(at, kind="stable")]
        log.create_topic(origin.topic, TopicSettings(partitions))
        append_frame(log, registry, origin.topic, contract, frame)
        for number in range(partitions):
            place = TopicPartition(origin.topic, number)
            block = log.read(place, 0, max_records=1 << 20)
            stamps = np.full(len(block), stamp, np.int64)
            if "ahead" in flags and len(block):
                stamps[np.random.default_rng((seed, 74, number)).integers(0, len(block), 2)] = AHEAD
            block = replace(block, timestamps=stamps)
            blocks[place] = _poisoned(random, block, stamp) if "poison" in flags else block
    return Inputs(blocks, flags)


def portions(random: Sequence[float], block: Block) -> list[Block]:
    """A partition's records cut where the numbers (0 to 1) say."""
    cuts = sorted({0, len(block), *(int(cut * len(block)) for cut in random)})
    return [block.slice(a, b) for a, b in pairwise(cuts)]


def _frame(
    random: np.random.Generator, contract: Contract, source: Source, rows: int, unit: int, flags: frozenset[str]
) -> pl.DataFrame:
    lateness = source.lateness_us
    frame = random_frame(random, contract.schema, rows, wild=bool(random.random() < 0.3))
    for column in contract.schema:
        # Small pools of values let keys meet; a column of numbers is as often one that tells rows apart.
        if column.dtype == pl.Int64 and column.name not in contract.key and random.random() < 0.8:
            frame = frame.with_columns(pl.Series(column.name, np.arange(rows)))
    steps = random.integers(0, unit + 1, rows)
    back = random.integers(0, lateness // 2 + 1, rows) * (random.random(rows) < 0.4)
    if "late" in flags:
        back = back + (random.random(rows) < 0.08) * (3 * lateness + unit)
    frame = _moved(frame, source.event_time or contract.event_time, BEGIN + np.cumsum(steps) - back)
    if "hot key" in flags and contract.key and rows:
        hot = random.random(rows) < 0.8
        frame = frame.with_columns(
            pl.when(pl.Series(hot)).then(pl.lit(frame[name][0], frame.schema[name])).otherwise(pl.col(name)).alias(name)
            for name in contract.key
        )
    if "duplicates" in flags and rows:
        again = random.integers(0, rows, max(1, rows // 8))
        order = np.argsort(np.concatenate([np.arange(rows), again + random.integers(0, 9, again.size)]), kind="stable")
        frame = pl.concat([frame, frame[again]])[order]
    return frame


def _moved(frame: pl.DataFrame, name: str, moments: np.ndarray[tuple[int], np.dtype[np.int64]] | int) -> pl.DataFrame:
    """The frame with other event times (µs) in a column."""
    dtype = frame.schema[name]
    column = pl.Series(name, np.broadcast_to(np.asarray(moments, np.int64), frame.height))
    if dtype.is_temporal():
        column = column.cast(pl.Datetime("us", "UTC"))
    return frame.with_columns(column.cast(dtype))


def _stamp(frame: pl.DataFrame, name: str) -> int:
    """The record timestamp of all rows: the newest event time among them."""
    if not frame.height:
        return BEGIN
    column = frame[name]
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us", "UTC")).to_physical()
    return int(column.cast(pl.Int64).max() or BEGIN)  # type: ignore[arg-type]  # Polars types a column's maximum loosely


def _poisoned(random: np.random.Generator, block: Block, stamp: int) -> Block:
    """The block with two records that nobody can read."""
    at = sorted(random.integers(0, len(block) + 1, 2).tolist())
    bad = [
        replace(block_of(block.topic, block.partition, [value], timestamps=[stamp]), offsets=np.zeros(1, np.int64))
        for value in (b"rubbish", None)
    ]
    parts = [block.slice(0, at[0]), bad[0], block.slice(at[0], at[1]), bad[1], block.slice(at[1], len(block))]
    return joined([part for part in parts if len(part)])
