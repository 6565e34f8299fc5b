"""`produce`: a file's rows to a topic."""

from __future__ import annotations

from pathlib import Path

import click
import polars as pl

from connectors.files.produce import produce_file
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, progress_bar, put_json
from streamproc.cli.workspace import workspace_options
from streamproc.errors import InputError, StreamprocError
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("topic")
@click.option(
    "--contract",
    "contract_name",
    required=True,
    metavar="NAME",
    help="Contract of the records: payment.v2, or payment for its newest version.  [required]",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 4096),
    default=None,
    help="Create the topic with so many partitions.  [default: 4]",
)
@click.option(
    "--key",
    multiple=True,
    metavar="FIELD",
    help="Fields that choose the partition, in order.  [default: the contract's key]",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="COLUMN=FIELD",
    help="A file column under another name than its field.  [default: the same names]",
)
@click.option(
    "--event-time",
    default=None,
    metavar="COLUMN",
    help="The file column that holds the event time.  [default: the contract's]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FIELD=FORMAT",
    help="How a time is written: '%d/%m/%Y %H:%M', epoch_s, epoch_ms, epoch_us.  [default: ISO 8601]",
)
@click.option("--zone", default="UTC", show_default=True, help="Zone of times that say none.")
@click.option(
    "--file-format",
    type=click.Choice(["csv", "jsonl", "parquet", "avro"]),
    default=None,
    help="Where the file's name does not tell.  [default: by its ending]",
)
@click.option("--separator", default="", help="Of CSV.  [default: a comma; a tab in .tsv]")
@click.option(
    "--bad-rows",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the first 1,000 rows that cannot be used here, as CSV with line and reason.  [default: show five]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def produce(
    file: Path,
    topic: str,
    contract_name: str,
    partitions: int | None,
    key: tuple[str, ...],
    mapping: tuple[str, ...],
    event_time: str | None,
    formats: tuple[str, ...],
    zone: str,
    file_format: str | None,
    separator: str,
    bad_rows: Path | None,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Write the rows of FILE (CSV, JSON Lines, Parquet, Avro) to TOPIC; a second call writes them again.

    Exit 1 if some rows could not be used.
    """
    registry = workspace.registry()
    contract = registry.contract(contract_name)
    schema_id = registry.adopt(contract)
    if not file.exists():
        raise InputError(f"there is no file '{file}'", hint="name a .csv, .jsonl, .parquet or .avro file")
    if bad_rows is not None and not bad_rows.parent.is_dir():
        raise InputError(f"there is no folder '{bad_rows.parent}' for --bad-rows", hint="create it first")
    with workspace.log(create=True) as log, compiling():
        have = log.topics().get(topic)
        if have is None:
            log.create_topic(topic, TopicSettings(partitions or 4, retention_us=contract.retention_us))
        elif partitions is not None and have.partitions != partitions:
            raise InputError(
                f"topic '{topic}' has {have.partitions} partitions, not {partitions}", hint="leave --partitions out"
            )
        try:
            with progress_bar(f"producing {topic}", None) as update:
                report = produce_file(
                    log,
                    file,
                    topic,
                    contract=contract,
                    schema_id=schema_id,
                    key=key or None,
                    mapping=_pairs("--map", mapping),
                    event_time=event_time,
                    formats=_pairs("--format", formats),
                    zone=zone,
                    file_format=file_format or "",
                    separator=separator,
                    progress=update,
                )
        except StreamprocError:
            # A file that cannot be used leaves no empty topic behind.
            if have is None and not any(log.end_offset(TopicPartition(topic, p)) for p in range(partitions or 4)):
                log.delete_topic(topic)
            raise
    if bad_rows is not None:
        try:
            _readable(report.examples).write_csv(bad_rows)
        except OSError as error:
            raise InputError(f"cannot write '{bad_rows}': {error.strerror}", hint="name another file") from None
    if as_json:
        put_json(
            {
                "topic": topic,
                "contract": str(contract),
                "rows": report.rows,
                "bad": report.bad,
                "first_bad": _readable(report.examples).head(5).to_dicts(),
                "partitions": dict(report.partitions),
            }
        )
    else:
        click.echo(
            f"{counted(report.rows, 'row')} written to '{topic}' under {contract}"
            + (f", {report.bad:,} could not be used" if report.bad else "")
        )
        for line, reason, raw in _readable(report.examples).head(5).rows():
            click.echo(f"  line {line}: {reason}: {raw[:100]}", err=True)
        if report.bad > 5:
            click.echo(f"  and {report.bad - 5:,} more; --bad-rows FILE keeps them", err=True)
    if report.bad:
        raise click.exceptions.Exit(1)


def _readable(examples: pl.DataFrame) -> pl.DataFrame:
    """The bad rows with what stands there as text, as far as it is text."""
    raw = [value.decode(errors="backslashreplace") for value in examples["raw"].to_list()]
    return examples.select("line", "reason", pl.Series("raw", raw, pl.String))


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        left, sign, right = value.partition("=")
        if not sign or not left or not right:
            raise click.UsageError(f"{option} '{value}' is not of the form LEFT=RIGHT")
        pairs[left] = right
    return pairs
