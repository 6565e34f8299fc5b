"""`replay`: the journal to the letter, or history afresh."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from connectors.embedded import EmbeddedLog
from connectors.files.sink import FileSink
from streamproc.cli.render import fates_by_source, progress_bar, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError
from streamproc.event_time import instant_us
from streamproc.planning.plan import PlannedSink
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import Binding, bind
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
    help="Compute history afresh, in order of event time; touches nothing live.",
)
@click.option("--since", metavar="TIME", help="With --by-event-time: only records written at or after this moment.")
@click.option("--until", metavar="TIME", help="With --by-event-time: only records written before this moment.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="With --by-event-time: write each sink to FOLDER/<sink>.parquet, or the only sink to FILE (.parquet, .csv, .jsonl, .avro).",
)
@click.option(
    "--must-equal",
    is_flag=True,
    help="With --by-event-time: exit 1 unless every sink holds the rows that the live run wrote.",
)
@click.option("--no-close", is_flag=True, help="With --by-event-time: leave open windows open at the end of history.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@workspace_options
def replay(
    topology: str,
    mode: str,
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
        _as_recorded(value, workspace, as_json=as_json)
        return
    with workspace.log() as log, tempfile.TemporaryDirectory(prefix="streamproc-replay-") as folder:
        equal = _by_event_time(
            value, log, workspace, Path(folder), since=since, until=until, out=out, close=not no_close, as_json=as_json
        )
    if must_equal and not equal:
        raise click.exceptions.Exit(1)


def _as_recorded(topology: Topology, workspace: Workspace, *, as_json: bool) -> None:
    with workspace.log() as log:
        binding = bind(topology, log, workspace.registry(), create=False)
        total = sum(log.end_offset(TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count))
        with progress_bar(f"replaying {topology.name}", total) as update:
            result = replay_as_recorded(binding, log, on_step=lambda done, _: update(done))
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
        f"{topology.name}: {result.steps:,} recorded steps over {result.units:,} rows ran again, every digest agrees"
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
) -> bool:
    registry = workspace.registry()
    live = (
        bind(topology, log, registry, create=False)
        if f"{topology.name}.v{topology.version}.tasks" in log.topics()
        else None
    )
    places = _source_places(topology, log, registry)
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
                on_commit=lambda done: update(done.units),
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
            recorded[topic].rows if topic in recorded else "-",
            "-" if not recorded else "equal" if recorded.get(topic) == sums.get(topic) else "differs",
        )
        for topic, name in sorted(sinks.items())
    ]
    equal = all(row[3] != "differs" for row in rows)
    if as_json:
        put_json(
            {
                "mode": "by-event-time",
                "equal": equal if recorded else None,
                "rows": progress.units,
                "rows_per_second": round(progress.units / progress.seconds) if progress.seconds else 0,
                "sources": fates_by_source(progress.fates, [node.name for node in binding.plan.sources]),
                "sinks": {name: {"rows": n, "live_rows": m, "verdict": verdict} for name, n, m, verdict in rows},
            }
        )
        return equal
    click.echo(
        f"{topology.name}: {progress.units:,} rows by event time, {progress.units / max(progress.seconds, 1e-9):,.0f} rows/s"
    )
    put_table("", ("sink", "rows", "rows live", "same rows"), rows)
    if not equal:
        click.echo(
            "sinks that do not stand below sp.ordered may differ from a live run: rows of several partitions met in another order"
        )
    return equal


def _source_places(topology: Topology, log: Log, registry: Registry) -> list[TopicPartition]:
    from streamproc.graph import Source
    from streamproc.runtime.binding import plan_topology

    topics = log.topics()
    found = [node.origin.topic for node in plan_topology(topology, registry).sources if isinstance(node.origin, Source)]
    return [TopicPartition(topic, p) for topic in found if topic in topics for p in range(topics[topic].partitions)]


def _write(binding: Binding, log: Log, registry: Registry, out: Path) -> None:
    sinks = binding.plan.sinks
    if out.suffix:
        if len(sinks) != 1:
            raise InputError(
                f"'{out}' is one file, '{binding.names.topology}' has {len(sinks)} sinks", hint="name a folder"
            )
        targets = [(sinks[0], out)]
    else:
        out.mkdir(parents=True, exist_ok=True)
        targets = [(sink, out / f"{sink.name}.parquet") for sink in sinks]
    for sink, path in targets:
        _write_sink(sink, path, log, registry)


def _write_sink(sink: PlannedSink, path: Path, log: Log, registry: Registry) -> None:
    reader = TopicReader(registry)
    with FileSink(path, sink.contract.schema, positions=True) as target:
        for block in read_blocks(log, sink.topic):
            for frame in reader.frames(block):
                target.write(frame)
