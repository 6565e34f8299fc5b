"""`audit-features`: trials for look-ahead, on a person's own topology and rows."""

from __future__ import annotations

import click
import polars as pl

from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.event_time import span_us
from streamproc.graph import Source
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.reading import read_topic


@click.command("audit-features")
@click.argument("topology")
@click.option("--rows", type=click.IntRange(1), default=100_000, show_default=True, help="First rows of each source.")
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Rows that are computed again.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which rows these are.")
@click.option(
    "--delay",
    multiple=True,
    metavar="TOPIC=SPAN",
    help="Take rows of a source to be published later, and say what that changes.  [default: none]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def audit_features_command(
    topology: str, rows: int, sample: int, seed: int, delay: tuple[str, ...], as_json: bool, workspace: Workspace
) -> None:
    """Try whether features of TOPOLOGY look ahead, on rows of the log. Exit 1 if one does, or is not what it should be.

    The numbers of all rows after a moment are changed: no feature up to that moment may tell (an AUC of 0.5). A sample
    of rows is computed again by brute force. With --delay, a source is taken to publish later than things happen.
    """
    from streamproc.testing.feature_audit import audit_features

    value = load_topology(topology)
    delays = {}
    for text in delay:
        topic, equals, span = text.partition("=")
        if not equals:
            raise InputError(f"--delay {text} names no span", hint="write for example --delay service.returns=6h")
        delays[topic] = span_us(span)
    registry = workspace.registry()
    frames: dict[str, pl.DataFrame] = {}
    with workspace.log() as log:
        for node in plan_topology(value, registry).sources:
            assert isinstance(node.origin, Source) and node.contract is not None  # sources are
            topic = node.origin.topic
            if topic in log.topics():
                frame = read_topic(log, workspace.reading_registry(), topic, node.contract.schema.polars())
                frames[topic] = frame.drop("_partition", "_offset").head(rows)
    with compiling():
        audit = audit_features(value, frames, registry, sample=sample, seed=seed, delays=delays)
    if as_json:
        put_json(
            {
                "ok": audit.fine, "rows": audit.rows, "auc": audit.auc, "looks_ahead": audit.looks_ahead,
                "recomputed": audit.recomputed, "wrong": audit.wrong, "not_recomputed": audit.not_recomputed,
                "delayed": audit.delayed,
            }
        )  # fmt: skip
    else:
        scores = [(step, name, f"{score:.4f}") for step, names in audit.auc.items() for name, score in names.items()]
        put_table("how well a feature tells another future", ("step", "feature", "AUC"), scores)
        for topic, steps in audit.delayed.items():
            shares = [(step, n, f"{share:.1%}") for step, names in steps.items() for n, share in names.items()]
            put_table(f"values that a delay of '{topic}' changes", ("step", "feature", "share"), shares)
        for finding in (*audit.looks_ahead, *audit.wrong):
            click.echo(finding)
        for step in audit.not_recomputed:
            click.echo(f"{step}: not computed again: brute force knows nothing of leaves that move")
        click.echo(
            f"{counted(sum(audit.rows.values()), 'feature row')}, {counted(audit.recomputed, 'value')} computed again: "
            + ("nothing looks ahead, nothing differs" if audit.fine else "see above")
        )
    if not audit.fine:
        raise click.exceptions.Exit(1)
