"""What of the past is kept: checkpoints, the journal that stands behind them, and the internal topics that they need.

A restore needs the newest sound checkpoint and the journal after it; the one before is kept too, for the case that the
newest is damaged. An *audit* (`replay --as-recorded`, `verify`) needs more: the journal as far back as somebody wants
to prove it, and a checkpoint to begin with. So one checkpoint per audit interval is kept, back to the first one that is
older than the interval, and everything before it goes.

The interval is what the topology declares (`settings={"audit": "30d"}`, or "all"). Without a declaration it is the
shortest time for which a source keeps its records, for no step can be run again once its input has gone; where all
sources keep everything, so does the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from streamproc.errors import InputError
from streamproc.event_time import span_text, span_us
from streamproc.graph import Source
from streamproc.planning.plan import Plan
from streamproc.ports import CheckpointManifest, Log, TopicPartition, TopicSettings

_LEAST_RETENTION_US: Final = 600_000_000
"""Two checkpoints and a restart fit into it with room to spare."""
_CHECKPOINTS_PER_RETENTION: Final = 4


def declared_audit_us(plan: Plan) -> int | None:
    """The audit interval that a topology declares: µs, None for "all" and for nothing; raises InputError."""
    declared = plan.topology.settings.get("audit", "all")
    if declared == "all":
        return None
    try:
        return span_us(declared)
    except InputError as wrong:
        raise InputError(
            f"topology '{plan.topology.name}' sets audit to '{declared}': {wrong.message}",
            hint='write a span, settings={"audit": "30d"}, or "all"',
        ) from None


def audit_us(plan: Plan, topics: Mapping[str, TopicSettings]) -> int | None:
    """How long steps must be able to be run again as recorded; None: for ever."""
    if "audit" in plan.topology.settings:
        return declared_audit_us(plan)
    held = _held(plan, topics)
    if not held:
        return None
    spans = [settings.retention_us for settings in held.values() if settings.retention_us is not None]
    # Where only size bounds a topic, nobody knows how long that is.
    return min(spans) if len(spans) == len(held) else 0


def checkpoint_every_us(plan: Plan, topics: Mapping[str, TopicSettings]) -> int | None:
    """A task that does little must write checkpoints too, or its oldest one would outlive the input that it needs."""
    spans = [s.retention_us for s in _held(plan, topics).values() if s.retention_us is not None]
    return min(spans) // _CHECKPOINTS_PER_RETENTION if spans else None


def retention_findings(plan: Plan, topics: Mapping[str, TopicSettings]) -> list[str]:
    """What is wrong with the retention of the sources, as far as their settings tell, and the way out."""
    findings = []
    audit = declared_audit_us(plan)
    for topic, settings in sorted(_held(plan, topics).items()):
        if settings.retention_us is None:
            continue
        have = span_text(settings.retention_us)
        if audit is not None and settings.retention_us < audit:
            findings.append(
                f"source '{topic}' keeps records for {have}, the topology wants to audit {span_text(audit)}: give the "
                "topic a longer retention, or the topology a shorter audit"
            )
        elif settings.retention_us < _LEAST_RETENTION_US:
            findings.append(
                f"source '{topic}' keeps records for {have}: a worker that restarts reads again what came after its "
                f"older checkpoint, so give the topic at least {span_text(_LEAST_RETENTION_US)}"
            )
    return findings


def _held(plan: Plan, topics: Mapping[str, TopicSettings]) -> dict[str, TopicSettings]:
    """The sources whose records go one day."""
    names = {node.origin.topic for node in plan.sources if isinstance(node.origin, Source)}
    return {
        name: settings
        for name, settings in topics.items()
        if name in names and (settings.retention_us is not None or settings.retention_bytes is not None)
    }


def kept_checkpoints(
    sound: Sequence[CheckpointManifest], audit: int | None
) -> tuple[list[CheckpointManifest], CheckpointManifest | None]:
    """Which checkpoints stay, newest first, and the one at which the past may begin; None: nothing may go.

    sound  those that the journal vouches for, newest first

    >>> at = [CheckpointManifest("t", 9 - n, "", "", {"at": 100 - 10 * n}) for n in range(9)]
    >>> kept, reach = kept_checkpoints(at, 30)
    >>> [manifest.head["at"] for manifest in kept], reach.head["at"]
    ([100, 90, 60], 60)
    """
    newest = list(sound[:2])
    if audit is None or len(newest) < 2:
        return newest, None
    if audit == 0:
        return newest, newest[1]
    firsts = {_at(manifest) // audit: manifest for manifest in sound}
    spaced = [firsts[interval] for interval in sorted(firsts, reverse=True)]
    old = [manifest for manifest in spaced if _at(manifest) <= _at(newest[0]) - audit]
    reach = old[0] if old else None
    kept = {manifest.step: manifest for manifest in newest}
    kept.update({manifest.step: manifest for manifest in spaced if reach is None or manifest.step >= reach.step})
    if reach is not None and reach.step > newest[1].step:
        reach = newest[1]
    return [kept[step] for step in sorted(kept, reverse=True)], reach


def trim_task(log: Log, journal: TopicPartition, edges: frozenset[str], reach: CheckpointManifest) -> None:
    """Deletes what lies before a checkpoint: journal records, and the rows of internal topics that it had consumed.

    edges  internal topics that the task reads: each of their partitions has this reader alone
    """
    offset = reach.head.get("journal_offset")
    if isinstance(offset, int):
        _delete_before(log, journal, offset)
    positions = reach.head.get("positions")
    for topic, partition, position in positions if isinstance(positions, list | tuple) else ():
        if topic in edges:
            _delete_before(log, TopicPartition(topic, partition), position)


def _delete_before(log: Log, place: TopicPartition, offset: int) -> None:
    if log.start_offset(place) < offset:
        log.delete_records(place, offset)


def _at(manifest: CheckpointManifest) -> int:
    at = manifest.head.get("at")
    return at if isinstance(at, int) else 0
