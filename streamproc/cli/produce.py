"""`produce`: a file's rows to a topic."""

from __future__ import annotations

from pathlib import Path

import click

from connectors.files.produce import produce_file
from streamproc.cli.render import progress_bar, put_json
from streamproc.cli.workspace import Workspace, workspace_options
from streamproc.errors import InputError
from streamproc.ports import TopicSettings


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("topic")
@click.option(
    "--contract",
    "contract_name",
    required=True,
    metavar="NAME",
    help="Contract of the records: payment, or payment.v2.",
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
    "--map", "mapping", multiple=True, metavar="COLUMN=FIELD", help="A file column under another name than its field."
)
@click.option("--event-time", default=None, metavar="COLUMN", help="The file column that holds the event time.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FIELD=FORMAT",
    help="How a time is written: '%d/%m/%Y %H:%M', epoch_s, epoch_ms, epoch_us.",
)
@click.option("--zone", default="UTC", show_default=True, help="Zone of times that say none.")
@click.option(
    "--file-format",
    type=click.Choice(["csv", "jsonl", "parquet", "avro"]),
    default=None,
    help="Where the file's name does not tell.",
)
@click.option("--separator", default="", help="Of CSV.  [default: a comma; a tab in .tsv]")
@click.option(
    "--bad-rows",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write rows that cannot be used here, with reason and line.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
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
    """Write the rows of FILE (CSV, JSON Lines, Parquet, Avro) to TOPIC under a contract. Exit 1 if some rows could not be used."""
    registry = workspace.registry()
    contract = registry.contract(contract_name)
    schema_id = registry.adopt(contract)
    if not file.exists():
        raise InputError(f"there is no file '{file}'", hint="name a .csv, .jsonl, .parquet or .avro file")
    with workspace.log(create=True) as log:
        have = log.topics().get(topic)
        if have is None:
            log.create_topic(topic, TopicSettings(partitions or 4, retention_us=contract.retention_us))
        elif partitions is not None and have.partitions != partitions:
            raise InputError(
                f"topic '{topic}' has {have.partitions} partitions, not {partitions}", hint="leave --partitions out"
            )
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
    if bad_rows is not None:
        report.examples.write_csv(bad_rows)
    if as_json:
        put_json(
            {
                "topic": topic,
                "contract": str(contract),
                "rows": report.rows,
                "bad": report.bad,
                "partitions": dict(report.partitions),
            }
        )
    else:
        click.echo(f"{report.rows:,} rows written to '{topic}' under {contract}, {report.bad:,} could not be used")
        for line, reason, raw in report.examples.head(5).select(report.examples.columns[:3]).rows():
            click.echo(f"  line {line}: {reason}: {str(raw)[:100]}", err=True)
    if report.bad:
        raise click.exceptions.Exit(1)


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        left, sign, right = value.partition("=")
        if not sign or not left or not right:
            raise click.UsageError(f"{option} '{value}' is not of the form LEFT=RIGHT")
        pairs[left] = right
    return pairs
