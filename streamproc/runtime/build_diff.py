"""Two builds of a topology over the same offsets: which rows of a sink differ, from which event on, and why.

Both builds run by event time into logs of their own. Rows are paired by identity, a hash of the row's coordinate and of
the step that makes it: a row of one source record, of one window, of one pair. So a value that changed is told apart
from a row that is missing, without a key and in any order.

What is the same in both, while values drift away, is the world: a test with a stated time between false alarms, long
against what is compared, watches the columns of the first build, of rows so far apart that they hardly depend on each
other. A column whose values differ
between the builds has another logic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.drifting.drift import drift
from streamproc.engine.leaving import HEADER
from streamproc.errors import InputError, UnknownColumn, did_you_mean
from streamproc.operators.key_by import key_by
from streamproc.operators.ordered import ordered
from streamproc.planning.column_versions import column_versions
from streamproc.planning.plan import PlannedSink
from streamproc.planning.topology import Sink, Topology
from streamproc.ports import Block, Log, TopicPartition
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.reading import TopicReader, read_blocks
from streamproc.runtime.replay import replay_by_event_time

_ALARMS: Final = "world-alarms"
_PLACE: Final = ("_partition", "_offset")
_IDENTITY: Final = ("_id_low", "_id_high")
_RUN_LENGTH: Final = 1_000_000
_IN_A_HUNDRED: Final = 100
"""Rows between false alarms of the test that watches the world, on average: at least a million, and at least a hundred
times what is compared, so that of a hundred comparisons over an unchanged world one at most says otherwise."""


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """One column that both builds have.

    version_a, version_b  see `column_versions`; the same if all that makes it is
    differs   how many of the paired rows have another value
    world     where its values, as the first build gives them, are no longer distributed as before: a place in the
              sink's topic as (partition, offset) of the source record that gave the alarm; None if nothing was seen
    promise   what the test says of its own promise, "" without an alarm
    """

    name: str
    version_a: str
    version_b: str
    differs: int
    world: tuple[int, int] | None = None
    promise: str = ""

    @property
    def verdict(self) -> str:
        """What changed: "logic changed", "world changed", both, "other code, same values", or "same"."""
        said = ["logic changed"] if self.differs else []
        said += ["world changed"] if self.world is not None else []
        if said:
            return ", ".join(said)
        return "same" if self.version_a == self.version_b else "other code, same values"


@dataclass(frozen=True, slots=True)
class BuildDiff:
    """Rows of a sink under two builds.

    same, mismatch  paired rows with equal and with other values; `missing` are only in A, `extra` only in B
    only_a, only_b  columns that the other build does not have
    first           the first row that differs, by event time where the rows have it: which one, and what differs
    """

    topic: str
    rows_a: int
    rows_b: int
    same: int
    mismatch: int
    missing: int
    extra: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    columns: tuple[ColumnDiff, ...]
    first: Mapping[str, Any] | None

    @property
    def equal(self) -> bool:
        """Whether the builds give the same."""
        return not (self.mismatch or self.missing or self.extra or self.only_a or self.only_b)


def diff_builds(
    a: Topology, b: Topology, topic: str, log: Log, registries: tuple[Registry, Registry], scratch: tuple[Log, Log], *,
    starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], key: Sequence[str] = (),
    close: bool = True, world: bool = True,
) -> BuildDiff:  # fmt: skip
    """Replays both builds over the same offsets and compares what they write to a sink.

    topic         the sink's name, or its topic
    registries    one each: contracts that are derived under one name may differ
    starts, ends  offsets of all partitions of all sources of both
    key           columns that say which rows are one, instead of their identity
    world         whether the columns of A are watched for drift

    Touches nothing live. Raises InputError for a sink that a build does not have, or if no row of A is one of B;
    UnknownColumn for a key that is none. Cost: two replays.
    """
    sinks = tuple(_sink_of(one, topic, registry) for one, registry in zip((a, b), registries, strict=True))
    versions = []
    for one, registry, sink in zip((a, b), registries, sinks, strict=True):
        plan = plan_topology(_alone(one, sink), registry)
        versions.append(column_versions(plan, plan.sinks[0]))
    watched = _watched(sinks[0], key) if world else ()
    run_length = max(_RUN_LENGTH, _IN_A_HUNDRED * sum(ends[place] - at for place, at in starts.items()))
    frames, alarms = [], pl.DataFrame()
    for one, registry, sink, to in zip((a, b), registries, sinks, scratch, strict=True):
        alone = _alone(replace(one, name=a.name), sink, watched if one is a else (), run_length)
        read = {place: at for place, at in starts.items() if place.topic in _sources(one, registry)}
        until = {place: ends[place] for place in read}
        binding, run, _ = replay_by_event_time(alone, log, registry, to, close=close, starts=read, ends=until)
        topics = {planned.name: planned.topic for planned in binding.plan.sinks}
        frames.append(_identified(run, registry, topics[sink.name], sink.contract.schema.polars()))
        if _ALARMS in topics:
            alarms = _rows(run, registry, topics[_ALARMS])
    return _compared(sinks[0], frames, versions, _on(key, frames, topic), _changes(alarms))


def _sources(topology: Topology, registry: Registry) -> set[str]:
    return {getattr(node.origin, "topic", "") for node in plan_topology(topology, registry).sources}


def _sink_of(topology: Topology, topic: str, registry: Registry) -> PlannedSink:
    sinks = plan_topology(topology, registry).sinks
    for sink in sinks:
        if topic in (sink.name, sink.topic):
            return sink
    raise InputError(
        f"'{topic}' is no sink of '{topology.name}' version {topology.version}",
        hint=did_you_mean(topic, [sink.name for sink in sinks]),
    )


def _watched(sink: PlannedSink, key: Sequence[str]) -> tuple[str, ...]:
    """Columns with a distribution: numbers that do not name anything."""
    named = {*key, *(sink.type.keyed_by or ()), *(sink.key or ())}
    return tuple(
        field.name
        for field in sink.type.schema
        if field.name not in named and (field.dtype.is_float() or field.dtype.is_integer() or field.dtype == pl.Boolean)
    )


def _alone(
    topology: Topology, sink: PlannedSink, watched: tuple[str, ...] = (), run_length: int = _RUN_LENGTH
) -> Topology:
    """The topology with that sink only, its records with an identity, and with a test of its columns."""
    leaf = topology.sink(sink.name)
    leaves: dict[str, Any] = {sink.name: replace(leaf, identified=True, latest=False, topic="")}
    if watched:
        together = leaf.stream | key_by()
        # Said here, for the columns that ordered the rows so far need not be among those of the sink.
        together = together | ordered() if sink.type.ordered else together
        leaves[_ALARMS] = Sink(together | drift(*watched, run_length=run_length, serial="thin"))
    return replace(topology, sinks=leaves, late="count")


def _rows(log: Log, registry: Registry, topic: str) -> pl.DataFrame:
    reader = TopicReader(registry)
    frames = [frame for block in read_blocks(log, topic) for frame in reader.frames(block)]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def _identified(log: Log, registry: Registry, topic: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a topic in offset order, with the identity that their header tells."""
    reader = TopicReader(registry)
    frames = []
    for block in read_blocks(log, topic):
        identities = _identities(block)
        frames += [frame.join(identities, on=list(_PLACE), how="left") for frame in reader.frames(block)]
    if frames:
        return pl.concat(frames, how="diagonal_relaxed")
    own = {"_partition": pl.Int64, "_offset": pl.Int64, **dict.fromkeys(_IDENTITY, pl.UInt64)}
    return pl.DataFrame(schema={**schema, **own})


def _identities(block: Block) -> pl.DataFrame:
    header = next(column for column in block.headers if column.name == HEADER)
    words = block.buffer[header.starts[:, None] + np.arange(16)].reshape(-1).view(np.uint64).reshape(-1, 2)
    partition = np.full(len(block), block.partition, np.int64)
    return pl.DataFrame(dict(zip((*_PLACE, *_IDENTITY), (partition, block.offsets, *words.T), strict=True)))


def _on(key: Sequence[str], frames: Sequence[pl.DataFrame], topic: str) -> list[str]:
    for column in key:
        for frame, build in zip(frames, "AB", strict=True):
            if column not in frame.columns:
                raise UnknownColumn(
                    f"'{topic}' of {build} has no column '{column}'", hint=did_you_mean(column, frame.columns)
                )
    if key:
        return list(key)
    left, right = (frame.select(_IDENTITY) for frame in frames)
    if left.height and right.height and left.join(right, on=list(_IDENTITY), how="semi").is_empty():
        raise InputError(
            f"no row of '{topic}' has the same identity in both builds: the step that makes it has another name, or "
            "window results have another key or span",
            hint="name the columns that say which rows are one, with --key, or name the step alike: name=...",
        )
    return list(_IDENTITY)


def _changes(alarms: pl.DataFrame) -> dict[str, tuple[tuple[int, int], str]]:
    """By column, the first record at which it no longer is distributed as before, and whether the promise holds."""
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for row in alarms.iter_rows(named=True):
        for column in row["columns"]:
            found.setdefault(column, ((row["partition"], row["last_offset"]), row["promise"]))
    return found


def _compared(
    sink: PlannedSink, frames: Sequence[pl.DataFrame], versions: Sequence[Mapping[str, str]], on: list[str],
    changes: Mapping[str, tuple[tuple[int, int], str]],
) -> BuildDiff:  # fmt: skip
    left, right = frames
    own = {*_PLACE, *_IDENTITY}
    both = [name for name in left.columns if name in right.columns and name not in own]
    only_a, only_b = (
        tuple(n for n in one.columns if n not in other.columns) for one, other in ((left, right), (right, left))
    )
    # Rows that share a key are paired in their order.
    left, right = (
        frame.with_columns(_n=pl.int_range(pl.len()).over(on), _row=pl.int_range(pl.len())) for frame in frames
    )
    joined = left.with_columns(_a=True).join(
        right.with_columns(_b=True), on=[*on, "_n"], how="full", nulls_equal=True, suffix="_other", coalesce=True
    )
    paired = joined.filter(pl.col("_a").is_not_null() & pl.col("_b").is_not_null())
    compared = [name for name in both if name not in on]
    differs = {name: _unlike(paired[name], paired[f"{name}_other"]) for name in compared}
    columns = tuple(
        ColumnDiff(
            name, versions[0].get(name, ""), versions[1].get(name, ""),
            int(differs[name].sum()) if name in differs else 0, *changes.get(name, (None, "")),
        )
        for name in both
    )  # fmt: skip
    changed = pl.Series([False] * paired.height, dtype=pl.Boolean)
    for one in differs.values():
        changed = changed | one
    missing, extra = joined.filter(pl.col("_b").is_null()), joined.filter(pl.col("_a").is_null())
    mismatch = int(changed.sum())
    first = _first(sink, paired.filter(changed), missing, extra, both, compared)
    return BuildDiff(
        sink.topic, left.height, right.height, paired.height - mismatch, mismatch, missing.height, extra.height,
        only_a, only_b, columns, first,
    )  # fmt: skip


def _unlike(left: pl.Series, right: pl.Series) -> pl.Series:
    """Where values differ; a value is itself, NaN too, and types count by their values."""
    if left.dtype != right.dtype and not (left.dtype.is_numeric() and right.dtype.is_numeric()):
        left, right = left.cast(pl.String, strict=False), right.cast(pl.String, strict=False)
    return left.ne_missing(right)


def _first(
    sink: PlannedSink, changed: pl.DataFrame, missing: pl.DataFrame, extra: pl.DataFrame, both: list[str],
    compared: list[str],
) -> dict[str, Any] | None:  # fmt: skip
    """The first row that is another, is missing or is extra; of several at one moment a changed one."""
    times = [field.name for field in sink.type.schema if isinstance(field.dtype, pl.Datetime) and field.name in both]
    found: list[tuple[Any, int, dict[str, Any]]] = []
    for rank, (kind, frame) in enumerate((("mismatch", changed), ("missing", missing), ("extra", extra))):
        if not frame.height:
            continue
        side = "_other" if kind == "extra" else ""
        at = [f"{name}{side}" if f"{name}{side}" in frame.columns else name for name in times]
        row = frame.sort(*at, f"_row{side}", nulls_last=True).row(0, named=True)
        shown = {n: row[f"{n}{side}"] if f"{n}{side}" in row else row[n] for n in both}
        told: dict[str, Any] = {"kind": kind, "row": shown}
        place = ("_partition" + side, "_offset" + side)
        told["partition"], told["offset"] = row[place[0]], row[place[1]]
        if kind == "mismatch":
            column = next(n for n in compared if bool(_unlike(*(pl.Series([row[m]]) for m in (n, f"{n}_other")))[0]))
            told |= {"column": column, "a": row[column], "b": row[f"{column}_other"]}
        found.append((tuple(str(shown[name]) for name in times), rank, told))
    return min(found, key=lambda one: one[:2])[2] if found else None
