"""`train-linkage`, `explain-match`, `judge-linkage`: learn a linkage, say why two records match, judge entities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamproc.cli.entity_quality import curve, put_quality, quality_json, require_column
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, put_json
from streamproc.cli.workspace import Workspace, workspace_options
from streamproc.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import polars as pl


@click.command("train-linkage")
@click.argument("records")
@click.option(
    "--compare",
    "compared",
    multiple=True,
    metavar="COLUMN:HOW[:frequencies]",
    help="How a column is compared, e.g. surname:name:frequencies.  [default: proposed from the records]",
)
@click.option(
    "--block",
    "blocked",
    multiple=True,
    metavar="PART[,PART]",
    help="Pairs that agree in all parts are compared, e.g. surname[:3],postcode.  [default: proposed]",
)
@click.option("--columns", default="", help="The columns to propose from, apart by commas.  [default: all text]")
@click.option("--source", default="", help="The column that says which source a record is from.")
@click.option("--sources", type=click.Choice(["both", "across", "within"]), default="both", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where the model goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def train_linkage(
    records: str, compared: tuple[str, ...], blocked: tuple[str, ...], columns: str, source: str, sources: str,
    out: Path, as_json: bool, workspace: Workspace,
) -> None:  # fmt: skip
    """Learn a linkage from RECORDS, a file (.csv, .parquet) or a topic, without labels.

    The same records give the same model. What has not been said is proposed by the rules of docs/entities.md.
    """
    import polars as pl

    from streamproc.entities.comparisons import block, compare
    from streamproc.entities.proposing import propose_blocks, propose_comparisons
    from streamproc.entities.training import train

    frame = _read(records, workspace)
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String and name != source]
    chosen = [name for name in columns.split(",") if name] or texts
    for name in [*chosen, *([source] if source else [])]:
        require_column(frame, name, records)
    comparisons = tuple(
        compare(parts[0], parts[1] if len(parts) > 1 else "exact", frequencies="frequencies" in parts[2:])  # type: ignore[arg-type]
        for parts in (one.split(":") for one in compared)
    ) or propose_comparisons(frame, chosen)
    for one in comparisons:
        require_column(frame, one.column, records)
    blocks = tuple(block(*one.split(",")) for one in blocked) or propose_blocks(
        frame, [one.column for one in comparisons if one.form == "text"]
    )
    for name in dict.fromkeys(name for rule in blocks for name in rule.columns):
        require_column(frame, name, records)
    with compiling():
        trained = train(frame, comparisons, blocks, source=source, sources=sources)
    out.write_text(trained.model.to_json(), encoding="utf-8")
    model = trained.model
    if as_json:
        put_json(
            {
                "model": str(out), "version": model.version, "records": frame.height, "pairs": trained.pairs,
                "expected_matches": trained.matches, "prior": model.prior, "unlearned": list(trained.unlearned),
                "blocks": [str(one) for one in model.blocks],
                "weights": {one.column: dict(zip(one.names, row, strict=True))
                            for one, row in zip(model.comparisons, model.weights(), strict=True)},
            }
        )  # fmt: skip
        return
    click.echo(f"{counted(frame.height, 'record')}, {counted(trained.pairs, 'pair')} in {len(model.blocks)} blocks: "
               f"{', '.join(str(one) for one in model.blocks)}")  # fmt: skip
    click.echo(f"{trained.matches:,.0f} matches expected, prior 1 in {1 / model.prior:,.0f}")
    for one, row in zip(model.comparisons, model.weights(), strict=True):
        told = ", ".join(f"{name} {weight:+.1f}" for name, weight in zip(one.names, row, strict=True))
        click.echo(f"  {one.column}: {told}")
    for name in trained.unlearned:
        click.echo(f"  no block could teach '{name}': add one that does not read it", err=True)
    click.echo(f"written to {out}")


@click.command("explain-match")
@click.argument("left")
@click.argument("right")
@click.option(
    "--model",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The linkage, as train-linkage wrote it.",
)
@click.option("--records", required=True, help="A file (.csv, .parquet) or a topic that holds both records.")
@click.option("--record", "column", default="record_id", show_default=True, help="The column of a record's id.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Also draw a waterfall there (.svg).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def explain_match(
    left: str, right: str, model: Path, records: str, column: str, picture: Path | None, as_json: bool,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Say why the records LEFT and RIGHT match, or do not: prior + one weight a field = posterior.

    Of a record that came several times, the last one is looked at.
    """
    import polars as pl

    from streamproc.entities.explanation import explain_match as explained
    from streamproc.entities.linkage_model import LinkageModel

    frame = _read(records, workspace)
    require_column(frame, column, records)
    rows = []
    for name in (left, right):
        found = frame.filter(pl.col(column).cast(pl.String) == name)
        if not found.height:
            raise InputError(f"'{records}' has no record '{name}' in '{column}'", hint="--record names another column")
        rows.append(found.tail(1))
    linkage = LinkageModel.from_json(model.read_text(encoding="utf-8"))
    for name in {name for one in linkage.blocks for name in one.columns} | {one.column for one in linkage.comparisons}:
        require_column(frame, name, records)
    with compiling():
        told = explained(linkage, pl.concat(rows), names=(left, right))
    if picture is not None:
        picture.write_text(told.to_svg(), encoding="utf-8")
    if as_json:
        put_json(told.to_dict())
    else:
        click.echo(told.to_text())


@click.command("judge-linkage")
@click.argument("events")
@click.option("--truth", required=True, help="A file or a topic that says of which person each record is.")
@click.option("--record", "column", default="record_id", show_default=True, help="Its column of a record's id.")
@click.option("--person", default="person", show_default=True, help="Its column of the person.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The linkage, for the recall of its blocks; needs --records.",
)
@click.option("--records", default="", help="A file or a topic of the records, for the recall of blocks.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def judge_linkage(
    events: str, truth: str, column: str, person: str, model: Path | None, records: str, as_json: bool,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Hold EVENTS, what `entity_rows("events")` wrote of a run, against a known truth: how good were entities after 10,
    25, 50 and 100 % of the records?

    EVENTS is a topic of one partition, or a file (.parquet) of its rows in order.
    """
    import polars as pl

    from streamproc.entities.linkage_model import LinkageModel
    from streamproc.planning.topology import Truth

    told, known = _read(events, workspace), _read(truth, workspace)
    linkage, rows = None, None
    if (model is None) != (not records):
        raise InputError("the recall of blocks needs both --model and --records")
    if model is not None:
        linkage, rows = LinkageModel.from_json(model.read_text(encoding="utf-8")), _read(records, workspace)
        for name in (column, *dict.fromkeys(name for rule in linkage.blocks for name in rule.columns)):
            require_column(rows, name, records)
        rows = rows.with_columns(record=pl.col(column).cast(pl.String))
    with compiling():
        quality = curve(told, events, known, Truth(truth, column, person), model=linkage, records=rows)
    if as_json:
        put_json(quality_json({events: quality})[0])
        return
    put_quality(f"entities of {events} against {truth}: what had been told after so much of the stream", quality)


def _read(records: str, workspace: Workspace) -> pl.DataFrame:
    """The rows of a file or a topic."""
    import polars as pl

    path = Path(records)
    if path.suffix in (".csv", ".parquet"):
        if not path.is_file():
            raise InputError(f"there is no file '{records}'")
        try:
            return pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
        except pl.exceptions.PolarsError as problem:
            raise InputError(f"'{records}' cannot be read: {problem}") from None
    from streamproc.runtime.reading import read_topic

    with workspace.log() as log:
        if records not in log.topics():
            raise InputError(f"there is no topic '{records}'", hint=did_you_mean(records, log.topics()))
        return read_topic(log, workspace.reading_registry(), records)
