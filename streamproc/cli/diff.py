"""`diff`: two topics or files, as sets of rows; or two builds of a topology over the same offsets."""

from __future__ import annotations

from pathlib import Path

import click
import polars as pl

from streamproc.cli.backfill import Asked
from streamproc.cli.build_diff import diff_of_builds
from streamproc.cli.render import put_json
from streamproc.cli.topics import visible
from streamproc.cli.workspace import workspace_options
from streamproc.errors import InputError, UnknownColumn, UnknownTopic, did_you_mean
from streamproc.runtime.compare import compare
from streamproc.runtime.reading import read_topic
from streamproc.runtime.workspace import Workspace

_READERS = {
    ".parquet": pl.read_parquet,
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
    ".csv": pl.read_csv,
    ".avro": None,
}
_TEXT = (".csv", ".jsonl", ".ndjson")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--key",
    multiple=True,
    metavar="COLUMN",
    help="Columns that say which rows of A and B are the same one; changed rows are told apart.  [default: all]",
)
@click.option(
    "--topic",
    metavar="SINK",
    help="A and B are builds of a topology (module:name or path/to/file.py:name): replay the same offsets under both "
    "and compare what they write there.  [default: A and B are topics or files]",
)
@click.option(
    "--since", metavar="WHERE", help="With --topic: begin at records of this moment, or these offsets.  [default: all]"
)
@click.option("--until", metavar="WHERE", help="With --topic: end before this moment or offset.  [default: all]")
@click.option("--no-close", is_flag=True, help="With --topic: leave open windows open at the end.  [default: close]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def diff(
    a: str,
    b: str,
    key: tuple[str, ...],
    topic: str | None,
    since: str | None,
    until: str | None,
    no_close: bool,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Compare A and B, each a topic or a file (.parquet, .csv, .jsonl, .avro), in any order. Exit 1 if they differ.

    With --topic they are builds of a topology: both replay the same offsets, rows are paired by their identity, and
    each column has its version in both. A column with other values has another logic; one whose values are distributed
    otherwise than before, in A alone, shows another world.
    """
    if topic is not None:
        asked = Asked(since, until, None, close=not no_close)
        diff_of_builds(a, b, topic, key, asked, as_json=as_json, workspace=workspace)
        return
    if since or until or no_close:
        raise click.UsageError("--since, --until and --no-close go with --topic")
    left, right = _rows(a, workspace), _rows(b, workspace)
    left, right = _typed_as(a, left, right), _typed_as(b, right, left)
    for column in key:
        for name, frame in ((a, left), (b, right)):
            if column not in frame.columns:
                raise UnknownColumn(f"'{name}' has no column '{column}'", hint=did_you_mean(column, frame.columns))
    result = compare(left, right, key=key)
    if as_json:
        put_json(
            {
                "equal": result.equal,
                "rows_a": left.height,
                "rows_b": right.height,
                "same": result.same,
                "changed": result.changed,
                "only_a": result.only_left,
                "only_b": result.only_right,
                "first": result.first,
            }
        )
    elif result.equal:
        click.echo(f"equal: {result.same:,} rows")
    else:
        click.echo(
            f"{result.same:,} rows are the same"
            + (f", {result.changed:,} changed" if key else "")
            + f", {result.only_left:,} only in {a}, {result.only_right:,} only in {b}"
        )
        click.echo(f"first difference: {result.first}")
    if not result.equal:
        raise click.exceptions.Exit(1)


def _rows(name: str, workspace: Workspace) -> pl.DataFrame:
    path = Path(name)
    if path.suffix in _READERS:
        if not path.exists():
            raise InputError(f"there is no file '{name}'", hint="name a file or a topic")
        try:
            frame = _avro(path) if path.suffix == ".avro" else _READERS[path.suffix](path)  # type: ignore[misc]  # None is .avro
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(
                f"'{name}' cannot be read: {error}", hint="name a file that streamproc or Polars wrote"
            ) from None
    else:
        with workspace.log() as log:
            if name not in log.topics():
                raise UnknownTopic(
                    f"'{name}' is neither a file nor a topic", hint=did_you_mean(name, visible(log.topics()))
                )
            frame = read_topic(log, workspace.reading_registry(), name)
    return frame.drop("_partition", "_offset", strict=False)


def _typed_as(name: str, rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The rows of a text file, which knows no types, with the types of the other side where all values have them."""
    if Path(name).suffix not in _TEXT:
        return rows
    typed = []
    for column in rows.get_columns():
        wanted = other.schema.get(column.name, column.dtype)
        if column.dtype == pl.String and isinstance(wanted, pl.Datetime):
            cast = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False).cast(wanted)
        else:
            cast = column.cast(wanted, strict=False) if column.dtype != wanted and not wanted.is_nested() else column
        typed.append(cast if cast.null_count() == column.null_count() else column)
    return pl.DataFrame(typed)


def _avro(path: Path) -> pl.DataFrame:
    from connectors.files.avro_container import container_columns, container_frames

    frames = [frame for _, frame, _ in container_frames(path, list(container_columns(path)), rows=100_000)]
    return pl.concat(frames) if frames else pl.DataFrame()
