"""`replay`: the journal to the letter, or history afresh."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from connectors.embedded import EmbeddedLog
from connectors.files.sink import FileSink
from streamproc.cli.fates import added_fates, of_sources, rows_read, source_names
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json, put_table, seconds_text
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError, UnknownTopic
from streamproc.event_time import instant_us
from streamproc.graph import Source
from streamproc.planning.plan import Plan, PlannedSink
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding, bind, plan_topology
from streamproc.runtime.reading import TopicReader, read_blocks
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time


@click.command()
@click.argument("topology")
@click.option(
    "--as-recorded",
    "mode",
    flag_value="as-recorded",
    default="as-recorded",
    help="Follow the journal; every digest must agree.  [default]",
)
@click.option(
    "--by-event-time",
    "mode",
    flag_value="by-event-time",
    help="Compute history afresh, in order of event time; touches nothing live.  [default: as recorded]",
)
@click.option(
    "--from-checkpoint",
    is_flag=True,
    help="As recorded, where old steps were trimmed: begin at the oldest checkpoint kept.  [default: refuse]",
)
@click.option(
    "--since",
    metavar="TIME",
    help="With --by-event-time: only records written from this moment on: 2026-11-01T09:30:00Z.  [default: all]",
)
@click.option(
    "--until", metavar="TIME", help="With --by-event-time: only records written before this moment.  [default: all]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="With --by-event-time: write each sink to FOLDER/<sink>.parquet, or the only sink to FILE "
    "(.parquet, .csv, .jsonl, .avro).  [default: write none]",
)
@click.option(
    "--must-equal",
    is_flag=True,
    help="With --by-event-time: exit 1 unless every sink holds the rows of the live run.  [default: only say it]",
)
@click.option(
    "--no-close",
    is_flag=True,
    help="With --by-event-time: leave open windows open at the end of history.  [default: close them]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def replay(
    topology: str,
    mode: str,
    from_checkpoint: bool,
    since: str | None,
    until: str | None,
    out: Path | None,
    must_equal: bool,
    no_close: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run TOPOLOGY's history again. Writes nothing to the log."""
    value = load_topology(topology)
    if mode == "as-recorded":
        if since or until or out or must_equal or no_close:
            raise click.UsageError("--since, --until, --out, --must-equal and --no-close go with --by-event-time")
        _as_recorded(value, workspace, from_checkpoint=from_checkpoint, as_json=as_json)
        return
    if from_checkpoint:
        raise click.UsageError("--from-checkpoint goes with --as-recorded")
    if out is not None:
        _check_out(value, out)
    with workspace.log() as log, compiling(), tempfile.TemporaryDirectory(prefix="streamproc-replay-") as folder:
        equal = _by_event_time(
            value, log, workspace, Path(folder), since=since, until=until, out=out, close=not no_close, as_json=as_json
        )
    if must_equal and equal is None:
        raise InputError(
            "there is no live run to compare with: --must-equal needs one, over the same history",
            hint="run the topology first, and leave --since and --until out",
        )
    if must_equal and not equal:
        raise click.exceptions.Exit(1)


def _as_recorded(topology: Topology, workspace: Workspace, *, from_checkpoint: bool, as_json: bool) -> None:
    with workspace.log() as log, compiling():
        _must_have_run(topology, log)
        binding = bind(topology, log, workspace.registry(), create=False)
        places = [TopicPartition(binding.names.tasks, n) for n in range(binding.task_count)]
        total = sum(log.end_offset(place) - log.start_offset(place) for place in places)
        with progress_bar(f"replaying {topology.name}", total) as update:
            result = replay_as_recorded(
                binding,
                log,
                checkpoints=workspace.checkpoints() if from_checkpoint else None,
                on_step=lambda done, _: update(done),
            )
    if as_json:
        put_json(
            {
                "mode": "as-recorded",
                "equal": True,
                "steps": result.steps,
                "rows": result.units,
                "sums": {t: {"rows": s.rows, "sum": s.sum} for t, s in result.sums.items()},
            }
        )
        return
    click.echo(
        f"{topology.name} version {topology.version}: {counted(result.steps, 'recorded step')} ran again over "
        f"{counted(result.units, 'row')} of all stages, every digest agrees"
    )


def _by_event_time(
    topology: Topology,
    log: Log,
    workspace: Workspace,
    folder: Path,
    *,
    since: str | None,
    until: str | None,
    out: Path | None,
    close: bool,
    as_json: bool,
) -> bool | None:
    registry = workspace.registry()
    live = (
        bind(topology, log, registry, create=False)
        if f"{topology.name}.v{topology.version}.tasks" in log.topics()
        else None
    )
    plan = plan_topology(topology, registry)
    names = source_names(plan)
    places = _source_places(plan, log)
    starts = {place: log.offset_at(place, instant_us(since)) for place in places} if since else None
    ends = {place: log.offset_at(place, instant_us(until)) for place in places} if until else None
    total = sum(
        (ends[place] if ends else log.end_offset(place)) - (starts[place] if starts else log.start_offset(place))
        for place in places
    )
    with EmbeddedLog(folder / "scratch.db") as scratch:
        with progress_bar(f"replaying {topology.name}", total) as update:
            binding, run, progress = replay_by_event_time(
                topology,
                log,
                registry,
                scratch,
                close=close,
                starts=starts,
                ends=ends,
                on_commit=lambda done: update(rows_read(done.fates, names)),
            )
        sums = recorded_sums(binding, run)
        if out is not None:
            _write(binding, run, registry, out)
    recorded = recorded_sums(live, log) if live is not None and not since and not until else {}
    sinks = {sink.topic: sink.name for sink in binding.plan.sinks}
    rows = [
        (
            name,
            sums[topic].rows if topic in sums else 0,
            recorded[topic].rows if topic in recorded else 0,
            recorded.get(topic) == sums.get(topic),
        )
        for topic, name in sorted(sinks.items())
    ]
    equal = all(same for *_, same in rows) if recorded else None
    read = rows_read(progress.fates, names)
    if as_json:
        put_json(
            {
                "mode": "by-event-time",
                "equal": equal,
                "rows": read,
                "seconds": round(progress.seconds, 3),
                "rows_per_second": round(read / progress.seconds) if progress.seconds else 0,
                "sources": of_sources(added_fates(progress.fates, plan), plan),
                "sinks": {
                    name: {"rows": now, "live_rows": then if recorded else None, "equal": same if recorded else None}
                    for name, now, then, same in rows
                },
                "out": str(out) if out is not None else None,
            }
        )
        return equal
    click.echo(
        f"{topology.name} version {topology.version}: {counted(read, 'row')} by event time in "
        f"{seconds_text(progress.seconds)}, {read / max(progress.seconds, 1e-9):,.0f} rows/s"
    )
    if recorded:
        put_table(
            "",
            ("sink", "rows", "rows live", "same rows"),
            [(name, now, then, "yes" if same else "NO") for name, now, then, same in rows],
        )
    else:
        put_table("", ("sink", "rows"), [(name, now) for name, now, *_ in rows])
    if out is not None:
        click.echo(f"written to '{out}'")
    if equal is False:
        click.echo(
            "a live run that was not closed still holds its open windows: compare it with --no-close; sinks that do "
            "not stand below sp.ordered may differ, because rows of several partitions met in another order",
            err=True,
        )
    return equal


def _must_have_run(topology: Topology, log: Log) -> None:
    if f"{topology.name}.v{topology.version}.tasks" not in log.topics():
        raise UnknownTopic(
            f"topology '{topology.name}' version {topology.version} never ran on this log: there is nothing recorded",
            hint="run it first with 'streamproc run', or replay with --by-event-time",
        )


def _source_places(plan: Plan, log: Log) -> list[TopicPartition]:
    topics = log.topics()
    found = [node.origin.topic for node in plan.sources if isinstance(node.origin, Source)]
    return [TopicPartition(topic, p) for topic in found if topic in topics for p in range(topics[topic].partitions)]


def _check_out(topology: Topology, out: Path) -> None:
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


def _write(binding: Binding, log: Log, registry: Registry, out: Path) -> None:
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
