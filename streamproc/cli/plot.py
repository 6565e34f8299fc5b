"""`plot`: pictures of what learners report."""

from __future__ import annotations

from pathlib import Path

import click

from streamproc.cli.workspace import workspace_options
from streamproc.errors import InputError, UnknownTopic, did_you_mean
from streamproc.runtime.pictures import FIGURES, metrics_picture, reliability_picture, require_reports
from streamproc.runtime.reading import read_topic
from streamproc.runtime.workspace import Workspace


@click.command()
@click.argument("what", type=click.Choice(["metrics", "reliability"]))
@click.argument("topic")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="An .svg file.")
@click.option("--figure", default="brier", show_default=True, type=click.Choice(FIGURES), help="Of metrics, which one.")
@click.option("--zero", is_flag=True, help="Metrics as if labels came at once.  [default: as scored]")
@click.option("--segment", default="", metavar="NAME", help="One segment.  [default: all rows together]")
@click.option("--partition", default=None, type=click.IntRange(0), help="Whose task.  [default: the only one]")
@workspace_options
def plot(
    what: str, topic: str, out: Path, figure: str, zero: bool, segment: str, partition: int | None,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Draw the reports of a learner that TOPIC holds: metrics over time, or the reliability of its chances.

    TOPIC is that of a sink with stream.side("metrics"), or side("calibration") for the reliability. Each task of a
    stage has a model of its own, and reports of its own.
    """
    if out.suffix != ".svg":
        raise InputError(f"'{out}' is no .svg file", hint="name one with --out")
    with workspace.log() as log:
        if topic not in log.topics():
            raise UnknownTopic(f"there is no topic '{topic}'", hint=did_you_mean(topic, log.topics()))
        rows = read_topic(log, workspace.reading_registry(), topic)
    if not rows.height:
        raise InputError(f"'{topic}' holds no reports yet", hint="they come every so many labels: report= of sp.learn")
    require_reports(rows, "metrics" if what == "metrics" else "calibration")
    there = sorted(rows["_partition"].unique().to_list())
    if partition is None and len(there) > 1:
        raise InputError(f"'{topic}' has reports of {len(there)} tasks", hint=f"--partition {there[0]}")
    if partition is not None and partition not in there:
        raise InputError(f"'{topic}' has no reports in partition {partition}", hint=f"--partition {there[0]}")
    kept = rows if partition is None else rows.filter(rows["_partition"] == partition)
    if what == "metrics":
        drawn = metrics_picture(kept, figure=figure, delay="zero" if zero else "label", segment=segment)
    else:
        drawn = reliability_picture(kept, segment=segment)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(drawn, encoding="utf-8")
    click.echo(f"'{out}' is drawn")
