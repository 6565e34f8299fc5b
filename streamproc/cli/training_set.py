"""`training-set`: features of a topology, replayed by event time, with the labels that were known by a moment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import polars as pl

from connectors.embedded import EmbeddedLog
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, put_json
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.errors import InputError, UnknownTopic, did_you_mean
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_by_event_time
from streamproc.runtime.splits import splits
from streamproc.runtime.training_set import Labels, training_set


@click.command("training-set")
@click.argument("topology")
@click.argument("sink")
@click.argument("labels")
@click.option("--on", multiple=True, required=True, metavar="COLUMN", help="Columns of both: whose label it is.")
@click.option("--label", required=True, metavar="COLUMN", help="The column to learn.")
@click.option("--available-at", required=True, metavar="COLUMN", help="When a label was known.")
@click.option("--about", default="", metavar="COLUMN", help="The moment that a label is about.  [default: none]")
@click.option("--at", default="", metavar="COLUMN", help="Event time of the features; needed with --about.")
@click.option("--until", default=None, metavar="MOMENT", help="Leave out what was known later.  [default: nothing]")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet file.")
@click.option("--splits", "splits_out", default=None, type=click.Path(path_type=Path, dir_okay=False),
              help="Also write which rows to learn and to test, a .parquet file; needs --at.")  # fmt: skip
@click.option("--folds", default=5, show_default=True, help="Tests, with --splits.")
@click.option("--embargo", default="0s", show_default=True, help="A label is known so long before a test.")
@click.option("--entity", multiple=True, metavar="COLUMN", help="No entity is on both sides.  [default: not asked]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def training_set_command(
    topology: str,
    sink: str,
    labels: str,
    on: tuple[str, ...],
    label: str,
    available_at: str,
    about: str,
    at: str,
    until: str | None,
    out: Path,
    splits_out: Path | None,
    folds: int,
    embargo: str,
    entity: tuple[str, ...],
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Replay TOPOLOGY by event time and join rows of its SINK with LABELS, a topic or a .parquet file.

    A label counts if it was available by --until. It gets the feature row that --on names, or with --about the newest
    row at or before the moment that it is about. What is written is what the live run wrote at that moment, below
    `ordered` bit for bit.

    --splits cuts the rows into tests by --at. Before each only rows are learned whose label was known by then; the file
    has a row for each row and test: fold, row, role (train, test, dropped), reason.
    """
    if splits_out is not None and (splits_out.suffix != ".parquet" or not at):
        raise InputError("--splits needs a .parquet file, and --at", hint="--splits splits.parquet --at at")
    if out.suffix != ".parquet":
        raise InputError(f"'{out}' is no .parquet file", hint="name one with --out")
    value = load_topology(topology)
    if sink not in value.sinks:
        raise InputError(f"'{value.name}' has no sink '{sink}'", hint=did_you_mean(sink, value.sinks))
    registry = workspace.registry()
    with workspace.log() as log, compiling(), tempfile.TemporaryDirectory(prefix="streamproc-training-") as folder:
        if labels.endswith(".parquet"):
            if not Path(labels).exists():
                raise InputError(f"there is no file '{labels}'", hint="name a .parquet file or a topic")
            known = pl.read_parquet(labels)
        elif labels in log.topics():
            known = read_topic(log, workspace.reading_registry(), labels).drop("_partition", "_offset")
        else:
            raise UnknownTopic(f"'{labels}' is neither a file nor a topic", hint=did_you_mean(labels, log.topics()))
        with EmbeddedLog(Path(folder) / "scratch.db") as scratch:
            binding, run, _ = replay_by_event_time(value, log, registry, scratch)
            planned = next(one for one in binding.plan.sinks if one.name == sink)
            rows = read_topic(run, registry, planned.topic, planned.contract.schema.polars())
            features = rows.drop("_partition", "_offset")
    made = training_set(features, known, Labels(on, label, available_at, about), until=until, at=at)
    out.parent.mkdir(parents=True, exist_ok=True)
    made.write_parquet(out)
    report = None
    if splits_out is not None:
        done = splits(made, at=at, folds=folds, embargo=embargo, entity=entity)
        splits_out.parent.mkdir(parents=True, exist_ok=True)
        done.fates.write_parquet(splits_out)
        report = done.report
    if as_json:
        told = {"rows": made.height, "features": features.height, "labels": known.height, "out": str(out)}
        put_json(told if report is None else {**told, "splits": report.to_dicts()})
    else:
        click.echo(
            f"{counted(made.height, 'row')} with a label, of {counted(features.height, 'feature row')} and "
            f"{counted(known.height, 'label')}; written to '{out}'"
        )
        for fold, role, reason, rows in () if report is None else report.iter_rows():
            click.echo(f"test {fold + 1}: {role}{f' ({reason})' if reason else ''}: {counted(rows, 'row')}")
