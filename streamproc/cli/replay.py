"""`replay`: the journal to the letter, or history afresh."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from connectors.embedded import EmbeddedLog
from streamproc.cli.backfill import Asked, check_out, replay_with_id, write_sinks
from streamproc.cli.fates import added_fates, of_sources, rows_read, source_names
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json, put_table, seconds_text
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.errors import InputError, UnknownTopic
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time
from streamproc.runtime.since_event import since_event
from streamproc.runtime.workspace import Workspace


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
    metavar="WHERE",
    help="By event time: begin at records written at this moment (2026-11-01T09:30:00Z), or at an offset of each "
    "partition (payments:0=120,payments:1=99).  [default: all]",
)
@click.option("--until", metavar="WHERE", help="By event time: end before this moment or offset.  [default: all]")
@click.option(
    "--since-event", metavar="TIME", help="By event time: leave out rows whose event time is earlier.  [default: none]"
)
@click.option(
    "--id",
    "run_id",
    metavar="ID",
    help="By event time, resumable: results go to the topics <sink>.v<version>.ID, and the same command goes on after "
    "a stop.  [default: keep nothing in the log]",
)
@click.option(
    "--hand-over",
    is_flag=True,
    help="With --id: at its end, let the live run begin where the replay ended, with its state.  [default: no]",
)
@click.option("--drop", is_flag=True, help="With --id: delete the replay and its topics.  [default: keep them]")
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
    since_event: str | None,
    run_id: str | None,
    hand_over: bool,
    drop: bool,
    out: Path | None,
    must_equal: bool,
    no_close: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Run TOPOLOGY's history again. Touches nothing live; without --id it writes nothing to the log."""
    value = load_topology(topology)
    if run_id is None and (hand_over or drop):
        raise click.UsageError("--hand-over and --drop go with --id")
    if run_id is not None:
        if must_equal or from_checkpoint:
            raise click.UsageError("--must-equal and --from-checkpoint do not go with --id")
        if out is not None:
            check_out(value, out)
        asked = Asked(since, until, since_event, close=not (no_close or hand_over))
        replay_with_id(value, workspace, run_id, asked, out=out, hands_over=hand_over, drop=drop, as_json=as_json)
        return
    if mode == "as-recorded":
        if since or until or since_event or out or must_equal or no_close:
            raise click.UsageError(
                "--since, --until, --since-event, --out, --must-equal and --no-close go with --by-event-time or --id"
            )
        _as_recorded(value, workspace, from_checkpoint=from_checkpoint, as_json=as_json)
        return
    if from_checkpoint:
        raise click.UsageError("--from-checkpoint goes with --as-recorded")
    if out is not None:
        check_out(value, out)
    with workspace.log() as log, compiling(), tempfile.TemporaryDirectory(prefix="streamproc-replay-") as folder:
        equal = _by_event_time(
            value,
            log,
            workspace,
            Path(folder),
            Asked(since, until, since_event, close=not no_close),
            out=out,
            as_json=as_json,
        )
    if must_equal and equal is None:
        raise InputError(
            "there is no live run to compare with: --must-equal needs one, over the same history",
            hint="run the topology first, and leave out what bounds the replay",
        )
    if must_equal and not equal:
        raise click.exceptions.Exit(1)


def _as_recorded(topology: Topology, workspace: Workspace, *, from_checkpoint: bool, as_json: bool) -> None:
    with workspace.log() as log, compiling():
        _must_have_run(topology, log)
        binding = bind(topology, log, workspace.registry(), create=False)
        places = [TopicPartition(binding.names.tasks, n) for n in range(binding.task_count)]
        total = sum(log.end_offset(place) - log.start_offset(place) for place in places)
        with (
            progress_bar(f"replaying {topology.name}", total) as update,
            workspace.checkpoints(log, f"{binding.names.prefix}.replay") as checkpoints,
        ):
            result = replay_as_recorded(
                binding,
                log,
                checkpoints=checkpoints,
                from_checkpoint=from_checkpoint,
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
    asked: Asked,
    *,
    out: Path | None,
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
    span = asked.span(plan, log)
    total = sum(end - span.starts[place] for place, end in span.until.items())
    if span.since_event_us is not None:
        topology = since_event(topology, registry, span.since_event_us)
    with EmbeddedLog(folder / "scratch.db") as scratch:
        with progress_bar(f"replaying {topology.name}", total) as update:
            binding, run, progress = replay_by_event_time(
                topology,
                log,
                registry,
                scratch,
                close=span.close,
                starts=span.starts,
                ends=span.until,
                on_commit=lambda done: update(rows_read(done.fates, names)),
            )
        sums = recorded_sums(binding, run)
        if out is not None:
            write_sinks(binding, run, registry, out)
    recorded = recorded_sums(live, log) if live is not None and asked.everything else {}
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
