"""Replays with an id: resumable backfills, and their hand-over to the live run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from connectors.files.sink import FileSink
from streamproc.cli.fates import rows_read, source_names
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json, put_table, seconds_text
from streamproc.cli.stopping import stopping
from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import Names
from streamproc.errors import InputError
from streamproc.event_time import instant_us
from streamproc.planning.plan import Plan, PlannedSink
from streamproc.planning.topology import Topology
from streamproc.ports import CheckpointStore, Log
from streamproc.runtime.backfill import (
    Backfill,
    Span,
    backfill_worker,
    drop_backfill,
    open_backfill,
    recorded_span,
)
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.handover import Tile, hand_over
from streamproc.runtime.offsets import offsets_at, source_places
from streamproc.runtime.reading import TopicReader, read_blocks
from streamproc.runtime.replay import recorded_sums
from streamproc.runtime.since_event import first_offsets
from streamproc.runtime.worker import Progress
from streamproc.runtime.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Asked:
    """What bounds a replay, as it was written."""

    since: str | None
    until: str | None
    since_event: str | None
    close: bool

    @property
    def everything(self) -> bool:
        """Whether it has no bounds."""
        return not (self.since or self.until or self.since_event)

    def span(self, plan: Plan, log: Log, begun: Span | None = None) -> Span:
        """As offsets of the log as it is now; what is not bounded is as in the replay that was begun."""
        places = source_places(plan, log)
        moment = instant_us(self.since_event) if self.since_event else begun.since_event_us if begun else None
        if begun is not None and not self.since:
            starts = begun.starts
        else:
            starts = offsets_at(log, places, self.since or "earliest")
            if moment is not None:
                starts = {place: max(starts[place], first) for place, first in first_offsets(plan, log, moment).items()}
        until = begun.until if begun is not None and not self.until else offsets_at(log, places, self.until or "latest")
        return Span(starts, until, self.close, moment)


def replay_with_id(
    topology: Topology,
    workspace: Workspace,
    run: str,
    asked: Asked,
    *,
    out: Path | None,
    hands_over: bool,
    drop: bool,
    as_json: bool,
) -> None:
    """Begins a replay or goes on with it; then writes its files, hands over, or deletes it."""
    registry = workspace.registry()
    member = f"{topology.name}.v{topology.version}.{run}"
    with workspace.log() as log, compiling(), workspace.checkpoints(log, member) as checkpoints:
        begun = recorded_span(Names(topology.name, topology.version, run), log, checkpoints)
        span = asked.span(plan_topology(topology, registry), log, begun)
        backfill = open_backfill(topology, log, registry, run, span, checkpoints=checkpoints)
        if drop:
            gone = drop_backfill(backfill)
            for task in range(backfill.binding.task_count):
                stage, index = backfill.binding.task_of(task)
                name = f"{backfill.binding.names.prefix}.s{stage.stage.index}.t{index}"
                checkpoints.discard(name, keep_steps=())
            click.echo(f"dropped: {', '.join(gone)}")
            return
        workspace.keep_derived(backfill.binding.plan)
        progress, stopped = _run(backfill, checkpoints)
        found: list[Tile] = []
        if not stopped:
            if out is not None:
                write_sinks(backfill.binding, log, registry, out)
            if hands_over:
                live = bind(topology, log, registry)
                found = hand_over(backfill.binding, live, log, checkpoints, backfill.span.until)
        _tell(backfill, progress, found, stopped=stopped, out=out, as_json=as_json)
    if stopped:
        raise click.exceptions.Exit(130)
    if not all(tile.whole for tile in found):
        raise click.exceptions.Exit(1)


def _run(backfill: Backfill, checkpoints: CheckpointStore) -> tuple[Progress, bool]:
    names = source_names(backfill.binding.plan)
    total = sum(end - backfill.span.starts[place] for place, end in backfill.span.until.items())
    with progress_bar(f"replaying {backfill.binding.names.prefix}", total) as update:
        worker = backfill_worker(
            backfill,
            checkpoints=checkpoints,
            on_commit=lambda done: update(rows_read(done.fates, names)),
        )
        with stopping(worker.stop) as stopped:
            progress = worker.run()
    return progress, stopped.asked


def _tell(
    backfill: Backfill, progress: Progress, found: list[Tile], *, stopped: bool, out: Path | None, as_json: bool
) -> None:
    names = backfill.binding.names
    sums = recorded_sums(backfill.binding, backfill.log)
    sinks = [(s.name, s.topic, sums[s.topic].rows if s.topic in sums else 0) for s in backfill.binding.plan.sinks]
    if as_json:
        put_json(
            {
                "id": names.run,
                "finished": not stopped,
                "covers": backfill.span.described(),
                "rows_of_this_run": progress.units,
                "seconds": round(progress.seconds, 3),
                "sinks": {name: {"topic": topic, "rows": rows} for name, topic, rows in sinks},
                "out": str(out) if out is not None and not stopped else None,
                "hand_over": [
                    {
                        "topic": tile.place.topic,
                        "partition": tile.place.partition,
                        "from": tile.first,
                        "cut": tile.cut,
                        "live_from": tile.live_from,
                        "whole": tile.whole,
                    }
                    for tile in found
                ],
            }
        )
        return
    took = f"{counted(progress.units, 'row')} of all stages in {seconds_text(progress.seconds)}"
    if stopped:
        click.echo(f"replay '{names.run}' stopped after a commit, {took}; the same command goes on there")
        return
    click.echo(f"replay '{names.run}' is finished: {took}" if progress.units else f"replay '{names.run}' was finished")
    put_table("", ("sink", "topic", "rows"), sinks)
    if out is not None:
        click.echo(f"written to '{out}'")
    if found:
        put_table(
            "hand-over: every record is in one of the two",
            ("topic", "partition", "replayed from", "to", "live from", "meet"),
            [(*tile.place, tile.first, tile.cut, tile.live_from, "yes" if tile.whole else "NO") for tile in found],
        )
        click.echo(f"'streamproc run' of {names.topology} version {names.version} goes on from there")


def check_out(topology: Topology, out: Path) -> None:
    """Says before the work what could not be written after it."""
    sinks = len(topology.sinks)
    if out.suffix and sinks != 1:
        raise InputError(f"'{out}' is one file, '{topology.name}' has {sinks} sinks", hint="name a folder")
    if out.suffix and out.suffix not in (".parquet", ".csv", ".jsonl", ".avro"):
        raise InputError(f"'{out}' has no ending that tells a format", hint="use .parquet, .csv, .jsonl or .avro")
    folder = out.parent if out.suffix else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to '{folder}': {error.strerror}", hint="name a folder that can be written with --out"
        ) from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to '{folder}'", hint="name a folder that can be written with --out")


def write_sinks(binding: Binding, log: Log, registry: Registry, out: Path) -> None:
    """Writes what a run's sinks hold to a file or a folder."""
    sinks = binding.plan.sinks
    if out.suffix:
        targets = [(sinks[0], out)]
    else:
        targets = [(sink, out / f"{sink.name}.parquet") for sink in sinks]
    for sink, path in targets:
        _write_sink(sink, path, log, registry)


def _write_sink(sink: PlannedSink, path: Path, log: Log, registry: Registry) -> None:
    reader = TopicReader(registry)
    with FileSink(path, sink.contract.schema, positions=True) as target:
        for block in read_blocks(log, sink.topic):
            for frame in reader.frames(block):
                target.write(frame)
