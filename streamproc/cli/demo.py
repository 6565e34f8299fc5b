"""`demo`: real retail events through the shipped topology, and the proof that a replay gives the same."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import polars as pl

from connectors.embedded import EmbeddedLog
from connectors.files.produce import produce_frame
from streamproc.cli.render import FATES, fates_by_source, progress_bar, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time, source_ends
from streamproc.runtime.worker import Progress, Worker

TOPOLOGY: Final = "topologies.retail"
_MARK: Final = ".streamproc-demo"


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("streamproc-demo"),
    show_default=True,
    help="Where the demo keeps its log; made anew each time.",
)
@click.option("--partitions", type=click.IntRange(1, 64), default=4, show_default=True, help="Of each source topic.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@workspace_options
def demo(folder: Path, partitions: int, as_json: bool, workspace: Workspace) -> None:
    """Load 320,000 real events of a web shop as three topics, run the retail topology on them, replay it, and compare digests."""
    _make_room(folder)
    topology = load_topology(TOPOLOGY)
    registry = workspace.registry()
    with EmbeddedLog(folder / "log.db") as log:
        _say(as_json, "loading real events of a web shop (UCI Online Retail, CC BY 4.0)")
        loaded = load_events(log, registry, partitions)
        binding = bind(topology, log, registry)
        _say(as_json, f"running topology '{topology.name}' on {sum(loaded.values()):,} events of {len(loaded)} topics")
        progress = _run(binding, log, sum(loaded.values()))
        alerts = read_topic(log, registry, f"{topology.name}.alerts").sort("returned_at", "invoice_no")
        recorded = _replay_recorded(binding, log)
        by_time = _replay_by_time(topology, log, registry, folder, sum(loaded.values()))
    live = recorded_sums_of_sinks(binding, recorded)
    equal = by_time == live
    answer = _answer(progress, alerts, loaded)
    if as_json:
        put_json({**answer, "replay_equal": equal, "replay_steps": len(recorded), "log": str(folder / "log.db")})
    else:
        _tell(answer, progress, alerts, equal, live, folder)
    if not equal:
        raise click.exceptions.Exit(1)


def load_events(log: Log, registry: Registry, partitions: int) -> dict[str, int]:
    """Writes the shipped events to their topics; gives the number of rows of each."""
    load: Any = import_module("topologies.retail.load")
    loaded = {}
    for topic, frame in load.events(load.read_slice()).items():
        contract = registry.contract(load.CONTRACTS[topic])
        log.create_topic(topic, TopicSettings(partitions))
        loaded[topic] = produce_frame(log, frame, topic, contract=contract, schema_id=registry.adopt(contract)).rows
    return loaded


def _run(binding: Binding, log: Log, rows: int) -> Progress:
    with progress_bar("running", rows) as update:
        worker = Worker(
            binding,
            log,
            member="demo",
            until_end=source_ends(binding, log),
            close=True,
            on_commit=lambda done: update(done.units),
        )
        return worker.run()


def _replay_recorded(binding: Binding, log: Log) -> dict[str, Any]:
    total = sum(log.end_offset(TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count))
    with progress_bar("replaying as recorded", total) as update:
        return dict(replay_as_recorded(binding, log, on_step=lambda done, _: update(done)).sums)


def _replay_by_time(topology: Topology, log: Log, registry: Registry, folder: Path, rows: int) -> dict[str, Any]:
    scratch_path = folder / "replay.db"
    try:
        with EmbeddedLog(scratch_path) as scratch, progress_bar("replaying by event time", rows) as update:
            binding, run, _ = replay_by_event_time(
                topology, log, registry, scratch, on_commit=lambda done: update(done.units)
            )
            return recorded_sums_of_sinks(binding, recorded_sums(binding, run))
    finally:
        for path in folder.glob("replay.db*"):
            path.unlink()


def recorded_sums_of_sinks(binding: Binding, sums: dict[str, Any]) -> dict[str, Any]:
    """The sums of the topics that leave the topology."""
    names = {sink.topic for sink in binding.plan.sinks} | {binding.names.late, binding.names.dead_letters}
    return {topic: value for topic, value in sums.items() if topic in names}


def _answer(progress: Progress, alerts: pl.DataFrame, loaded: dict[str, int]) -> dict[str, Any]:
    return {
        "sources": fates_by_source(progress.fates, sorted(loaded)),
        "rows_per_second": round(sum(loaded.values()) / progress.seconds) if progress.seconds else 0,
        "seconds": round(progress.seconds, 3),
        "alerts": alerts.height,
        "last_alerts": alerts.tail(5).drop("_partition", "_offset").to_dicts(),
    }


def _tell(
    answer: dict[str, Any], progress: Progress, alerts: pl.DataFrame, equal: bool, live: dict[str, Any], folder: Path
) -> None:
    click.echo(
        f"\n{answer['rows_per_second']:,} rows/s: {sum(row['in'] for row in answer['sources'].values()):,} events in {answer['seconds']} s, {progress.steps} steps\n"
    )
    put_table(
        "rows by fate (in = all others added)",
        ("source", *FATES),
        [(name, *(row[fate] for fate in FATES)) for name, row in answer["sources"].items()],
    )
    put_table(
        "written",
        ("topic", "rows", "digest of all rows"),
        [(topic, value.rows, value.sum[:16]) for topic, value in live.items()],
    )
    put_table(
        f"the last five of {alerts.height} alerts",
        ("customer", "return", "at", "refund", "spent in 30 days", "severity", "why"),
        [
            (
                a["customer_id"],
                a["invoice_no"],
                f"{a['returned_at']:%Y-%m-%d %H:%M}",
                f"{a['refund']:,.2f}",
                "-" if a["spend_30d"] is None else f"{a['spend_30d']:,.2f}",
                a["severity"],
                a["reason"],
            )
            for a in answer["last_alerts"]
        ],
    )
    if equal:
        click.echo(
            "replayed as recorded: every digest of every step agrees; replayed by event time: every topic holds the same rows\n"
        )
    else:
        click.echo("the replay by event time does NOT hold the same rows\n")
    log = folder / "log.db"
    click.echo("try next:")
    for command in (
        f"streamproc subscribe retail.alerts --log {log} --limit 3",
        f"streamproc dlq list {TOPOLOGY} --log {log}",
        f"streamproc verify {TOPOLOGY} --log {log}",
        f"streamproc replay {TOPOLOGY} --by-event-time --out out --log {log}",
        f"streamproc describe {TOPOLOGY}",
    ):
        click.echo(f"  {command}")


def _make_room(folder: Path) -> None:
    """An empty folder of the demo's own; a folder with other things in it is left alone."""
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists()):
            raise InputError(f"'{folder}' is there already and is not the demo's", hint="name another with --dir")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise InputError(
            f"cannot write to '{folder}': {error.strerror}", hint="name a folder that can be written with --dir"
        ) from None


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text, err=True)
