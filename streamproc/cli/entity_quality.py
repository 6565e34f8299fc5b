"""How good entities were at parts of a stream, where the truth is known: for `run`, at its end, and `judge-linkage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from streamproc.cli.render import put_table
from streamproc.entities.entity_views import EntityRows
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.quality_curve import QualityAt, quality_curve
from streamproc.entities.resolve import Resolve
from streamproc.entities.sharding import ResolvePairs
from streamproc.errors import InputError, UnknownColumn, did_you_mean
from streamproc.planning.plan import Plan, PlannedSink
from streamproc.planning.topology import Truth
from streamproc.ports import Log
from streamproc.runtime.binding import Binding
from streamproc.runtime.reading import read_topic


def judged_sinks(binding: Binding, log: Log) -> dict[str, list[QualityAt]]:
    """Of each sink with a truth the quality of its entities, by topic.

    The linkage is found in the plan, and so is a sink of all records of the same `resolve` with the columns of its
    blocks: with one, the recall of blocks is told too.
    Raises InputError for a truth that is not there, a topic without order, and rows that are no entity events;
    UnknownColumn for a truth without the columns that were named.
    """
    out = {}
    for sink in binding.plan.sinks:
        truth = binding.plan.topology.sink(sink.name).truth
        if truth is None:
            continue
        events = read_topic(log, binding.registry, sink.topic, sink.contract.schema.polars())
        model, rows = _blocked(binding, log, sink)
        out[sink.topic] = curve(events, sink.topic, _known(truth, binding, log), truth, model=model, records=rows)
    return out


def curve(
    events: pl.DataFrame, topic: str, known: pl.DataFrame, truth: Truth, *, model: LinkageModel | None,
    records: pl.DataFrame | None,
) -> list[QualityAt]:  # fmt: skip
    """The quality of what `topic` told, by a truth.

    records  with the record's id as text in `record`, and the columns of the model's blocks

    Raises InputError for a topic of several partitions, UnknownColumn for missing columns.
    """
    for name in ("event", "entity_id", "records"):
        require_column(events, name, topic)
    if "_partition" in events.columns and events["_partition"].n_unique() > 1:
        raise InputError(
            f"'{topic}' has several partitions, and so no order", hint="run it with one partition of this topic"
        )
    for name in (truth.record, truth.person):
        require_column(known, name, truth.known if isinstance(truth.known, str) else "the truth")
    people = known.select(record=pl.col(truth.record).cast(pl.String), person=pl.col(truth.person).cast(pl.String))
    return quality_curve(events, people.drop_nulls(), model=model, records=records)


def put_quality(title: str, told: Sequence[QualityAt]) -> None:
    """The table."""
    put_table(
        title,
        ("of the stream", "records", "people", "found", "precision", "recall", "F1", "B-cubed F1", "recall of blocks"),
        [(f"{one.share} %", one.records, one.people, one.entities, f"{one.quality.precision:.4f}",
          f"{one.quality.recall:.4f}", f"{one.quality.f1:.4f}", f"{one.quality.b_cubed_f1:.4f}",
          "" if one.blocking_recall is None else f"{one.blocking_recall:.4f}") for one in told],
    )  # fmt: skip


def quality_json(told: dict[str, list[QualityAt]]) -> list[dict[str, Any]]:
    """The same for machines, as `judge-linkage --json` gives it."""
    return [{"events": topic, "curve": [asdict(one) for one in curve]} for topic, curve in told.items()]


def require_column(frame: pl.DataFrame, column: str, of: str) -> None:
    """Raises UnknownColumn where `of` does not have it."""
    if column not in frame.columns:
        raise UnknownColumn(f"'{of}' has no column '{column}'", hint=did_you_mean(column, frame.columns))


def _known(truth: Truth, binding: Binding, log: Log) -> pl.DataFrame:
    if not isinstance(truth.known, str):
        try:
            return truth.known()
        except (OSError, pl.exceptions.PolarsError) as problem:
            raise InputError(f"the truth cannot be read: {problem}", hint="see the sink's sp.Truth(...)") from None
    if truth.known not in log.topics():
        raise InputError(f"there is no topic '{truth.known}'", hint=did_you_mean(truth.known, log.topics()))
    return read_topic(log, binding.registry, truth.known)


def _blocked(binding: Binding, log: Log, sink: PlannedSink) -> tuple[LinkageModel | None, pl.DataFrame | None]:
    """The linkage behind a sink of events, and all records with the columns of its blocks, where a sink has them."""
    rank = _resolving(binding.plan, sink)
    step = binding.plan.nodes[rank].operator if rank is not None else None
    resolve = step.resolve if isinstance(step, ResolvePairs) else step
    if isinstance(resolve, Resolve):
        wanted = {resolve.record, *(name for rule in resolve.model.blocks for name in rule.columns)}
        for other in binding.plan.sinks:
            if _resolving(binding.plan, other, "records") == rank and wanted <= set(other.contract.schema.names):
                rows = read_topic(log, binding.registry, other.topic, other.contract.schema.polars())
                return resolve.model, rows.with_columns(record=pl.col(resolve.record).cast(pl.String))
    return None, None


def _resolving(plan: Plan, sink: PlannedSink, kind: str = "events") -> int | None:
    """The rank of the `resolve` of which a sink holds this kind of rows as they are."""
    node = plan.nodes[sink.port[0]]
    if sink.port[1] == "rows" and isinstance(node.origin, EntityRows) and node.origin.kind == kind:
        return node.inputs[0][0]
    return None
