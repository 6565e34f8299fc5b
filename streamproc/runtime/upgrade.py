"""The take-over: a new version goes on where an older one ended, with the state that it would have had.

The older version ended at offsets O (`drain`). The new one begins there, in one transaction that commits O in its own
group, with one of three states, the first that there is:
its *shadow's*, a run beside the live one that has come to O; the *older version's*, if the fingerprints allow it; or
that of a *muted replay*, which computes history up to O beside the live run and is read by nobody.
So every source record is in the sinks once: below O as the older version saw it, from O on as the new one does.
Going back is the same step with the old code under a higher version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import SHADOW, Names
from streamproc.errors import ForeignFingerprint, InputError
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.backfill import Span, backfill_worker, open_backfill
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.checkpoint import save_state
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.drain import drained_at, unfinished
from streamproc.runtime.first_start import begin, begun_tasks, refuse_begun
from streamproc.runtime.future import recorded_verdicts
from streamproc.runtime.handover import begun_head, hand_over
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.offsets import source_places
from streamproc.runtime.restore import journal_head, last_entry
from streamproc.runtime.reuse import differences, last_checkpoint, taken_over
from streamproc.runtime.seeds import seed_name
from streamproc.runtime.task import Task
from streamproc.runtime.worker import Progress, Worker

REPLAY: Final = "upgrade"
"""The id of a muted replay."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a take-over did.

    at     the offsets where the older version ended and the new one begins
    state  "shadow", "reused" or "replayed"
    why    what kept the older version's state from being reused
    """

    old: int
    at: Mapping[TopicPartition, int]
    state: str
    why: tuple[str, ...] = ()


def older_versions(topology: Topology, log: Log) -> list[int]:
    """Versions below this one that ever ran on the log, newest first."""
    pattern = re.compile(re.escape(topology.name) + r"\.v(\d+)\.tasks")
    found = [int(match[1]) for topic in log.topics() if (match := pattern.fullmatch(topic))]
    return sorted((v for v in found if v < topology.version and _ran(Names(topology.name, v), log)), reverse=True)


def take_over(
    topology: Topology,
    log: Log,
    registry: Registry,
    checkpoints: CheckpointStore,
    *,
    old: int,
    adopt: Collection[str] = (),
    reuse: bool = True,
    on_commit: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> TakenOver:
    """Lets a version begin where an older one ended; done twice, it tells what was done.

    adopt  steps whose state is taken over although what comes to them is made otherwise
    reuse  False: compute the state from history even where it could be taken over, a shadow's too

    Raises InputError if the older version has not ended, the new one has begun otherwise, or a step to adopt is not
    there; ForeignFingerprint if a step to adopt holds something else.
    """
    live = bind(topology, log, registry)
    names = Names(topology.name, old)
    at = drained_at(names, log)
    left = "no drain is in force for it" if at is None else unfinished(names, log, at)
    if at is None or left:
        raise InputError(
            f"version {old} of '{topology.name}' has not ended: {left}",
            hint="end it first, with its own code: 'streamproc drain'",
        )
    # Of partitions that the older version did not know it read nothing, and they never held its time back.
    at = {**{place: log.start_offset(place) for place in source_places(live.plan, log)}, **at}
    its_groups = [group for group in log.groups() if group.startswith(f"{names.prefix}.s")]
    silent = set(at) - {place for group in its_groups for place in log.committed(group)}
    known = {node.name for node in live.plan.nodes}
    if missing := sorted(set(adopt) - known):
        raise InputError(f"'{topology.name}' has no step '{missing[0]}'", hint=f"there are: {', '.join(sorted(known))}")
    if begun_tasks(live, log):
        done = _done(live, log, checkpoints, old)
        if done is not None:
            return TakenOver(old, at, *done)
        refuse_begun(live, log)
    note = {"upgrade": {"from": old, "adopted": sorted(adopt)}}
    shadow = _shadow(topology, log, registry) if reuse else None
    if shadow is not None:
        Worker(
            shadow, log, checkpoints=checkpoints, member="upgrade", until_end=at, on_commit=on_commit, clock=clock,
            future=recorded_verdicts(topology.name, log, (clock or SystemClock()).now_us),
        ).run()  # fmt: skip
        hand_over(shadow, live, log, checkpoints, at, note=_noted(note, "shadow"), clock=clock)
        return TakenOver(old, at, "shadow")
    why = _reuse(live, names, log, checkpoints, at, note, adopt, clock) if reuse else ["it was not asked for"]
    if not why:
        return TakenOver(old, at, "reused")
    if adopt:
        raise ForeignFingerprint(
            f"the state of version {old} cannot be taken over: {'; '.join(why)}",
            hint="leave --adopt out to compute the state from history",
        )
    starts = {place: min(log.start_offset(place), end) for place, end in at.items()}
    side = open_backfill(topology, log, registry, REPLAY, Span(starts, at, close=False), checkpoints=checkpoints)
    backfill_worker(side, checkpoints=checkpoints, on_commit=on_commit, clock=clock, silent=silent).run()
    hand_over(side.binding, live, log, checkpoints, at, note=_noted(note, "replayed", why), clock=clock)
    return TakenOver(old, at, "replayed", tuple(why))


def taken_over_by(names: Names, log: Log, checkpoints: CheckpointStore | None) -> int | None:
    """The version that took over from this one, if one did."""
    pattern = re.compile(re.escape(names.topology) + r"\.v(\d+)\.tasks")
    newer = sorted(int(match[1]) for topic in log.topics() if (match := pattern.fullmatch(topic)))
    for version in (v for v in newer if v > names.version):
        new = Names(names.topology, version)
        place = TopicPartition(new.tasks, 0)
        found = next(journal_entries(log, place, log.start_offset(place), log.end_offset(place)), None)
        head = None if found is None else journal_head(f"{new.prefix}.s0.t0", log, place, found[1], checkpoints)
        told = (head or {}).get("upgrade")
        # A journal of which nobody knows the beginning, over a version that was drained: nothing else ends one.
        if told["from"] == names.version if told else found is not None and head is None and drained_at(names, log):
            return version
    return None


def refuse_taken_over(names: Names, log: Log, checkpoints: CheckpointStore | None) -> None:
    """Raises InputError for a version whose successor writes its sinks: what both read would be in them twice."""
    successor = taken_over_by(names, log, checkpoints)
    if successor is not None:
        raise InputError(
            f"version {successor} of '{names.topology}' took over from version {names.version}, which stays where it "
            "ended: both would write the same sinks",
            hint=f"to go back, drain version {successor} and let the old code take over under version="
            f"{successor + 1}, with 'streamproc upgrade'",
        )


def refuse_live(topology: Topology, log: Log) -> None:
    """Raises InputError for the shadow of a version that is live already."""
    if _ran(Names(topology.name, topology.version), log):
        raise InputError(
            f"version {topology.version} of '{topology.name}' is live: a shadow runs before the take-over",
            hint=f"give the changed topology version={topology.version + 1} and run that one with --shadow",
        )


def refuse_beside_older(topology: Topology, log: Log) -> None:
    """Raises InputError for a version that has not begun where an older one wrote the sinks that it would write."""
    if _ran(Names(topology.name, topology.version), log):
        return
    older = older_versions(topology, log)
    if older:
        raise InputError(
            f"version {older[0]} of '{topology.name}' ran on this log: version {topology.version} would write what it "
            "read into the same sinks once more",
            hint="choose: (a) 'streamproc drain' with the old code, then 'streamproc upgrade'; (b) 'streamproc run "
            f"--shadow', which writes to '<sink>.v{topology.version}' until it takes over; (c) begin all the same, "
            "with 'streamproc run --from latest' or --from another place",
        )


def _reuse(
    live: Binding,
    old: Names,
    log: Log,
    checkpoints: CheckpointStore,
    at: Mapping[TopicPartition, int],
    note: Mapping[str, Any],
    adopt: Collection[str],
    clock: Clock | None,
) -> list[str]:
    """Begins with the older version's state; gives the reasons where that cannot be."""
    found = []
    why: list[str] = []
    for number in range(live.task_count):
        task = Task(live, number, log)
        manifest = last_checkpoint(old, number, task.stage.stage.index, task.index, log, checkpoints)
        if manifest is None:
            return ["its last checkpoint is not in this store"]
        why += [reason for reason in differences(manifest, old, task, adopt) if reason not in why]
        found.append((task, manifest))
    if why:
        return why
    heads: dict[int, dict[str, Any]] = {}
    fates: dict[int, dict[str, dict[str, int]]] = {}
    for task, manifest in found:
        state = taken_over(manifest, task, checkpoints)
        chain = f"{manifest.task}@{manifest.step}:{manifest.chain}"
        save_state(
            checkpoints,
            state,
            task=seed_name(task.name),
            step=0,
            chain=chain,
            fingerprint=live.plan.logic,
            head={"from": manifest.task, "step": manifest.step},
        )
        heads[task.number] = {"seed": chain, **_noted(note, "reused")}
        fates[task.number] = state.ledger.summary([inlet.name for inlet in task.stage.stage.inputs])
    begin(live, log, at, heads=heads, fates=fates, clock=clock)
    return []


def _noted(note: Mapping[str, Any], state: str, why: Collection[str] = ()) -> dict[str, Any]:
    return {"upgrade": {**note["upgrade"], "state": state, "why": list(why)}}


def _done(
    live: Binding, log: Log, checkpoints: CheckpointStore, old: int
) -> tuple[str, tuple[str, ...]] | None:
    """How a live run that has begun took over from the older version, if it did."""
    told = begun_head(live, 0, log, checkpoints).get("upgrade")
    return (told["state"], tuple(told["why"])) if told and told["from"] == old else None


def _shadow(topology: Topology, log: Log, registry: Registry) -> Binding | None:
    names = Names(topology.name, topology.version, SHADOW)
    return bind(topology, log, registry, run=SHADOW) if _ran(names, log) else None


def _ran(names: Names, log: Log) -> bool:
    settings = log.topics().get(names.tasks)
    return settings is not None and any(
        last_entry(log, TopicPartition(names.tasks, number)) is not None for number in range(settings.partitions)
    )
