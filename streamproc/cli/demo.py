"""`demo`: the retail story through the shipped topology, scored by the truth, and the proof that replays agree."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import polars as pl

from connectors.embedded import EmbeddedLog
from connectors.files.produce import produce_frame
from connectors.registry import FolderRegistry
from streamproc.cli.compile_ahead import compile_ahead
from streamproc.cli.demo_facts import story_facts, story_topics
from streamproc.cli.demo_page import demo_page
from streamproc.cli.demo_pictures import demo_pictures
from streamproc.cli.demo_text import tell_facts
from streamproc.cli.fates import Counts, fates_in, of_sources, put_fates, rows_read, source_names
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json, put_table, seconds_text
from streamproc.cli.workspace import load_topology
from streamproc.contracts.registry import Registry
from streamproc.errors import InputError
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, replay_by_event_time, source_ends
from streamproc.runtime.worker import Progress, Worker
from streamproc.runtime.workspace import shipped_contracts

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
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
def demo(folder: Path, partitions: int, as_json: bool) -> None:
    """Run the retail story, 156,000 events of five processes that share no key: who is who, what they are worth, what
    to do with each order. Replays it twice, and compares all digests."""
    _make_room(folder)
    compiled_ahead = compile_ahead(TOPOLOGY)
    topology = load_topology(TOPOLOGY)
    registry = FolderRegistry((shipped_contracts(),))
    with EmbeddedLog(folder / "log.db") as log, compiling() as compiled:
        _say("loading a web shop's events (UCI Online Retail, Febrl 4, ECB; see topologies/retail/data/README.md)")
        loaded, truth = load_story(log, registry, partitions)
        compiled_ahead()  # Whatever is bound is tried on no rows, which compiles too.
        binding = bind(topology, log, registry)
        _say(f"running topology '{topology.name}' on {counted(sum(loaded.values()), 'event')} of {len(loaded)} topics")
        before = compiled.seconds
        progress = _run(binding, log, sum(loaded.values()))
        # Compiling is work of the first run only; a rate with it says nothing.
        seconds = progress.seconds - (compiled.seconds - before)
        fates = fates_in(binding, log)
        topics = story_topics(binding, log)
        facts = story_facts(topics, truth)
        _say("replaying it as recorded: same steps, every digest must agree")
        recorded = _replay_recorded(binding, log)
        _say("replaying it by event time: from the sources alone, every topic must hold the same rows")
        by_time = _replay_by_time(binding, log, folder, sum(loaded.values()))
    live = recorded_sums_of_sinks(binding, recorded)
    equal = by_time == live
    answer = {
        "sources": of_sources(fates, binding.plan),
        "inputs": fates,
        "rows": sum(loaded.values()),
        "rows_per_second": round(sum(loaded.values()) / seconds),
        "seconds": round(seconds, 3),
        "compile_seconds": round(compiled.seconds, 3),
        "topics": {topic: {"rows": value.rows, "digest": value.sum} for topic, value in sorted(live.items())},
        **facts,
        "replay_equal": equal,
        "log": str(folder / "log.db"),
        "report": str(folder / "report.html"),
    }
    pictures = demo_pictures(binding.plan, answer, topics, truth)
    (folder / "report.html").write_text(demo_page(answer, pictures), encoding="utf-8")
    if as_json:
        put_json(answer)
    else:
        _tell(answer, progress.steps, fates, folder)
    if not equal:
        raise click.exceptions.Exit(1)


def load_story(log: Log, registry: Registry, partitions: int) -> tuple[dict[str, int], pl.DataFrame]:
    """Writes the shipped events to their topics; gives the number of rows of each, and the truth, which stays here."""
    load: Any = import_module("topologies.retail.load")
    story = load.shipped_story()
    loaded = {}
    for topic, frame in story.topics.items():
        contract = registry.contract(load.CONTRACTS[topic])
        log.create_topic(topic, TopicSettings(partitions))
        loaded[topic] = produce_frame(log, frame, topic, contract=contract, schema_id=registry.adopt(contract)).rows
    return loaded, story.truth


def _run(binding: Binding, log: Log, rows: int) -> Progress:
    sources = source_names(binding.plan)
    with progress_bar("running", rows) as update:
        worker = Worker(
            binding,
            log,
            member="demo",
            until_end=source_ends(binding, log),
            close=True,
            on_commit=lambda done: update(rows_read(done.fates, sources)),
        )
        return worker.run()


def _replay_recorded(binding: Binding, log: Log) -> dict[str, Any]:
    total = sum(log.end_offset(TopicPartition(binding.names.tasks, n)) for n in range(binding.task_count))
    with progress_bar("replaying as recorded", total) as update:
        return dict(replay_as_recorded(binding, log, on_step=lambda done, _: update(done)).sums)


def _replay_by_time(binding: Binding, log: Log, folder: Path, rows: int) -> dict[str, Any]:
    sources = source_names(binding.plan)
    scratch_path = folder / "replay.db"
    try:
        with EmbeddedLog(scratch_path) as scratch, progress_bar("replaying by event time", rows) as update:
            replayed, run, _ = replay_by_event_time(
                binding.plan.topology,
                log,
                binding.registry,
                scratch,
                on_commit=lambda done: update(rows_read(done.fates, sources)),
            )
            return recorded_sums_of_sinks(replayed, recorded_sums(replayed, run))
    finally:
        for path in folder.glob("replay.db*"):
            path.unlink()


def recorded_sums_of_sinks(binding: Binding, sums: dict[str, Any]) -> dict[str, Any]:
    """The sums of the topics that leave the topology."""
    names = {sink.topic for sink in binding.plan.sinks} | {binding.names.late, binding.names.dead_letters}
    return {topic: value for topic, value in sums.items() if topic in names}


def _tell(answer: dict[str, Any], steps: int, fates: dict[str, Counts], folder: Path) -> None:
    click.echo(
        f"{counted(answer['rows'], 'event')} in {seconds_text(answer['seconds'])}: "
        f"{answer['rows_per_second']:,} rows/s on one core, in {counted(steps, 'committed step')}"
    )
    put_fates("\nwhat became of each row (in = all others added); sources first, then what stages hand on", fates)
    put_table(
        "written",
        ("topic", "rows", "digest of all rows"),
        [(topic, value["rows"], value["digest"][:16]) for topic, value in answer["topics"].items()],
    )
    tell_facts(answer)
    if answer["replay_equal"]:
        click.echo("replayed as recorded:    every digest of every step agrees")
        click.echo("replayed by event time:  every topic holds the same rows")
    else:
        click.echo("the replay by event time does NOT hold the same rows")
    log = folder / "log.db"
    click.echo(f"\nall of it with pictures: {answer['report']}\n\ntry next:")
    for command, what in (
        (f"streamproc subscribe retail.decisions --log {log} --limit 3", "decisions as JSON lines"),
        (f"streamproc explain {TOPOLOGY} --log {log}", "every decision made again, to the byte"),
        (f"streamproc dlq list {TOPOLOGY} --log {log}", "what was refused, and why"),
        (f"streamproc verify {TOPOLOGY} --log {log}", "the log against its journal"),
        (f"streamproc replay {TOPOLOGY} --by-event-time --out out --log {log}", "the results as Parquet files"),
        (f"streamproc describe {TOPOLOGY}", "its stages, steps and schemas"),
    ):
        click.echo(f"  {command}  # {what}")


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


def _say(text: str) -> None:
    click.echo(text, err=True)
