"""Does a feature look ahead? Three trials of a person's own topology on their own rows.

*Future*: every number of every row after a moment is changed, as if a coin had written its label there. What rows up to
that moment say must not tell the two worlds apart: each feature scores an AUC of exactly 0.5, and no row differs.

*Brute force*: a sample of rows is computed again, row at a time with fractions, from the rows that came before.

*Delay*: the rows of one source are taken to be published later than they happened. How many values of the others change
says how much of what a model learns from history it would not have had live. That is a measure, not a fault.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.errors import DefinitionError
from streamproc.feature.derived import Derived
from streamproc.feature.operator import Features
from streamproc.feature.plan import SOURCE
from streamproc.graph import Source, Stream
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.event_records import EVER
from streamproc.operators.follow import is_followed
from streamproc.planning.topology import Topology
from streamproc.runtime.binding import plan_topology
from streamproc.testing.drive import drive
from streamproc.testing.naive import Row
from streamproc.testing.naive_features import Wish, compute

_OWN: Final = ("_partition", "_offset")
_ENDS: Final = ("", "_known", "_status", "_age")


@dataclass(frozen=True, slots=True)
class Tried:
    """A features step under audit: its rows, its event-time column, its keys.

    of_entities  it is below `follow`: what its rows see depends on which leaves belonged to their entity then
    """

    name: str
    operator: Features
    at: str
    key: tuple[str, ...]
    made: tuple[str, ...]
    of_entities: bool


@dataclass(slots=True)
class Audit:
    """What was found.

    rows       feature rows that were looked at, by step
    auc        by step and feature: how well it tells a future that was changed; 0.5 is no better than a coin
    looks_ahead  features with rows that the changed future changed, with an example
    recomputed how many values were computed again; `wrong` those that differ
    not_recomputed  steps below `follow`: brute force looks at rows by key, and knows nothing of leaves
    delayed    by source, step and feature: the share of values that its delay changes
    """

    rows: dict[str, int] = field(default_factory=dict)
    auc: dict[str, dict[str, float]] = field(default_factory=dict)
    looks_ahead: list[str] = field(default_factory=list)
    recomputed: int = 0
    wrong: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)
    delayed: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nothing looks ahead and nothing differs."""
        return not self.looks_ahead and not self.wrong


def audit_features(
    topology: Topology,
    frames: Mapping[str, pl.DataFrame],
    registry: Registry,
    *,
    sample: int = 200,
    seed: int = 0,
    delays: Mapping[str, int] | None = None,
) -> Audit:
    """Runs the trials over rows of the topology's sources, in memory.

    sample  rows of each step that are computed again
    delays  source topic to µs

    Raises DefinitionError for a topology without features, or where their rows have no column of event time.
    """
    tried, under = _steps(topology, registry)
    audit = Audit()
    ran = drive(under, frames, registry=registry)
    true = {step.name: ran[step.name] for step in tried}
    times = _event_times(topology, registry)
    moments = _moments(frames, times)
    for step in tried:
        audit.rows[step.name] = true[step.name].height
        if step.of_entities:
            audit.not_recomputed.append(step.name)
        else:
            _recompute(step, true[step.name], sample, random.Random(seed), audit)
    for moment in moments:
        changed = drive(under, _with_another_future(frames, times, moment), registry=registry)
        for step in tried:
            _compare(step, true[step.name], changed[step.name], moment, audit)
    for topic, delay_us in (delays or {}).items():
        if topic not in times:
            raise DefinitionError(f"'{topic}' is no source of '{topology.name}'", hint=f"it reads {', '.join(times)}")
        later = frames[topic].with_columns(pl.col(times[topic]) + pl.duration(microseconds=delay_us))
        delayed = drive(under, {**frames, topic: later}, registry=registry)
        audit.delayed[topic] = {step.name: _shares(step, true[step.name], delayed[step.name]) for step in tried}
    return audit


def _steps(topology: Topology, registry: Registry) -> tuple[list[Tried], Topology]:
    """The features steps, and a topology in which each of them is a sink."""
    streams: dict[str, Stream] = {}
    for name in topology.sinks:
        for stream in _above(topology.sink(name).stream):
            if isinstance(stream.origin, Features) and all(known is not stream for known in streams.values()):
                streams[f"{stream.name or 'features'}{len(streams) or ''}".lower()] = stream
    if not streams:
        raise DefinitionError(f"'{topology.name}' has no features", hint="sp.features(...) makes them")
    under = replace(topology, name=f"{topology.name}-audit", sinks=streams)
    plan = plan_topology(under, registry)
    marked = {
        f"{node.contract.name}.{node.contract.event_time}"
        for node in plan.sources
        if node.contract is not None and node.contract.event_time
    }
    tried = []
    for sink in plan.sinks:
        operator = streams[sink.name].origin
        assert isinstance(operator, Features)  # chosen so
        found = [
            column.name
            for column in sink.type.schema
            if isinstance(column.dtype, pl.Datetime) and {_unversioned(origin) for origin in column.origins} & marked
        ]
        if not found:
            raise DefinitionError(
                f"the rows of '{sink.name}' have no column of event time", hint="keep it: sp.select(..., at=...)"
            )
        made = tuple(f"{name}{end}" for name, _ in operator.made for end in _ENDS)
        names = tuple(name for name in made if name in sink.type.schema)
        (rows_of, _), *_ = plan.nodes[sink.port[0]].inputs
        of_entities = is_followed(plan.nodes[rows_of].type.schema)
        tried.append(Tried(sink.name, operator, found[0], sink.type.keyed_by or (), names, of_entities))
    return tried, under


def _unversioned(origin: str) -> str:
    contract, _, column = origin.rpartition(".")
    head, _, version = contract.rpartition(".v")
    return f"{head if version.isdigit() else contract}.{column}"


def _above(stream: Stream) -> Iterator[Stream]:
    yield stream
    for other in stream.inputs:
        yield from _above(other)


def _event_times(topology: Topology, registry: Registry) -> dict[str, str]:
    return {
        node.origin.topic: node.origin.event_time or node.contract.event_time
        for node in plan_topology(topology, registry).sources
        if isinstance(node.origin, Source) and node.contract is not None
    }


def _moments(frames: Mapping[str, pl.DataFrame], times: Mapping[str, str]) -> list[Any]:
    columns = [frames[topic][times[topic]] for topic in times if topic in frames]
    every = pl.concat([column.cast(pl.Datetime("us", "UTC")) for column in columns]).drop_nulls().sort()
    return sorted({every[len(every) * quarter // 4] for quarter in (1, 2, 3)}) if len(every) else []


def _with_another_future(
    frames: Mapping[str, pl.DataFrame], times: Mapping[str, str], moment: Any
) -> dict[str, pl.DataFrame]:
    """The same rows; numbers of those after a moment are others."""
    changed = {}
    for topic, frame in frames.items():
        after = pl.col(times[topic]) > moment
        numbers = [
            name for name, dtype in frame.schema.items() if dtype.is_numeric() and not isinstance(dtype, pl.Decimal)
        ]
        changed[topic] = frame.with_columns(
            pl.when(after).then((pl.col(name) * 2 + 1).cast(frame.schema[name])).otherwise(pl.col(name)).alias(name)
            for name in numbers
        )
    return changed


def _compare(step: Tried, true: pl.DataFrame, changed: pl.DataFrame, moment: Any, audit: Audit) -> None:
    early, others = (frame.filter(pl.col(step.at) <= moment).drop(_OWN) for frame in (true, changed))
    scores = audit.auc.setdefault(step.name, {})
    for name, _ in step.operator.made:
        if early.schema[name].is_numeric():
            score = auc(early[name], others[name])
            if abs(score - 0.5) >= abs(scores.get(name, 0.5) - 0.5):
                scores[name] = score
    if early.height != others.height:
        told = f"{early.height} rows up to {moment}, {others.height} with another future"
        audit.looks_ahead.append(f"{step.name}: {told}")
        return
    for name in step.made:
        differs = (early[name].ne_missing(others[name])).arg_true()
        if len(differs):
            row = int(differs[0])
            key = {column: early[column][row] for column in step.key}
            audit.looks_ahead.append(
                f"{step.name}: '{name}' of {key} at {early[step.at][row]} is {early[name][row]!r}, and with another "
                f"future after {moment} {others[name][row]!r}"
            )


def auc(zeros: pl.Series, ones: pl.Series) -> float:
    """The chance that one of `ones` is above one of `zeros`, ties counted half; 0.5 where a side is empty.

    >>> auc(pl.Series([1.0, 2.0]), pl.Series([1.0, 2.0])), auc(pl.Series([1.0]), pl.Series([2.0]))
    (0.5, 1.0)
    """
    zeros, ones = zeros.drop_nulls().cast(pl.Float64), ones.drop_nulls().cast(pl.Float64)
    if not len(zeros) or not len(ones):
        return 0.5
    ranks = pl.concat([zeros, ones]).rank("average")
    above = float(ranks[len(zeros) :].sum()) - len(ones) * (len(ones) + 1) / 2
    return above / (len(zeros) * len(ones))


def _recompute(step: Tried, rows: pl.DataFrame, sample: int, chance: random.Random, audit: Audit) -> None:
    """A sample of values from the rows before, each by itself."""
    operator = step.operator
    if not rows.height:
        return
    aggregates = [(name, one) for name, one in operator.made if not isinstance(one, Derived)]
    aggregates = [(name, one) for name, one in aggregates if one.kind != "contributors"]
    rows = rows.with_columns(_at=pl.col(step.at).cast(pl.Datetime("us", "UTC")).dt.epoch("us"))
    rows = rows.with_columns(
        _condition(one).fill_null(False).alias(f"_if_{name}") for name, one in aggregates
    )
    partitions = dict(rows.group_by(*step.key, maintain_order=True))
    for place in sorted(chance.sample(range(rows.height), min(sample, rows.height))):
        row = rows.row(place, named=True)
        mine = partitions[tuple(row[name] for name in step.key)]
        mine = mine.filter((pl.col("_offset") <= row["_offset"]) & (pl.col("_at") <= row["_at"]))
        for name, one in aggregates:
            if operator.status and row[f"{name}_status"] != "VALUE":
                continue
            if row[name] is None and (operator.coverage or operator.max_lag_us is not None):
                continue
            expected = _again(one, name, mine, row)
            if expected is _SKIPPED:
                continue
            audit.recomputed += 1
            if row[name] != expected and one.absent.kind != "carry":
                audit.wrong.append(
                    f"{step.name}: '{name}' at offset {row['_offset']} is {row[name]!r}, computed again {expected!r}"
                )


_SKIPPED: Final = object()


def _condition(one: Aggregate) -> pl.Expr:
    parts = [] if one.where_ is None else [one.where_]
    if one.sources:
        parts.append(pl.col(SOURCE).cast(pl.String).is_in(list(one.sources)))
    return pl.all_horizontal(parts) if parts else pl.lit(True)


def _again(one: Aggregate, name: str, mine: pl.DataFrame, row: dict[str, Any]) -> Any:
    wish = Wish(
        one.kind, one.column, one.span_us if one.span_us < EVER else None, amount=one.amount, k=one.k,
        hop_us=one.hop_us, error=one.error, bound=one.bound,
    )  # fmt: skip
    since = wish.begin(row["_at"])
    seen = mine.filter((pl.col("_at") > since) & pl.col(f"_if_{name}"))
    if one.column:
        column = pl.col(one.column)
        seen = seen.filter(column.is_not_null())
        if mine.schema[one.column].is_float():
            seen = seen.filter(column.is_finite())
    if one.kind in ("first", "last") and seen.height:
        edge = seen["_at"].min() if one.kind == "first" else seen["_at"].max()
        if (seen["_at"] == edge).sum() > 1:
            return _SKIPPED  # Coordinates decide, which rows of a topic do not tell.
    rows = [Row(values, values["_at"], 0, (0, 0, 0)) for values in seen.iter_rows(named=True)]
    itself = next((other for other in rows if other.values["_offset"] == row["_offset"]), None)
    dtype = mine.schema[one.column] if one.column else pl.Int64()
    zero: Any = 0.0 if dtype.is_float() else Decimal(0) if isinstance(dtype, pl.Decimal) else 0
    if one.kind == "distinct" and 0 <= one.bound < seen[one.column].n_unique():
        return _SKIPPED  # An estimate.
    value = compute(replace(wish, zero=zero), rows, itself or Row(row, row["_at"], 0, (0, 0, 0)))
    return one.absent.value if value is None and one.absent.kind in ("default", "indicator") else value


def _shares(step: Tried, true: pl.DataFrame, delayed: pl.DataFrame) -> dict[str, float]:
    """Of the rows that both runs have, how many have another value, by feature."""
    names: Sequence[str] = [name for name, _ in step.operator.made]
    under = [name for name in true.columns if name not in step.made and name not in _OWN]
    left, right = (
        frame.drop(_OWN).with_columns(_same=pl.int_range(pl.len()).over(under)) for frame in (true, delayed)
    )
    both = left.join(right, on=[*under, "_same"], how="inner", nulls_equal=True, suffix="_delayed")
    if not both.height:
        return {}
    return {n: len(both[n].ne_missing(both[f"{n}_delayed"]).arg_true()) / both.height for n in names}
