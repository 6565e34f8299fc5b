"""`topics`: what the log holds."""

from __future__ import annotations

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, workspace_options
from streamproc.event_time import span_text
from streamproc.ports import TopicPartition


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also task topics and internal topics.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@workspace_options
def topics(everything: bool, as_json: bool, workspace: Workspace) -> None:
    """List the topics of the log with their records."""
    rows = []
    with workspace.log() as log:
        for name, settings in log.topics().items():
            if not everything and (name.endswith(".tasks") or ".edge." in name):
                continue
            places = [TopicPartition(name, p) for p in range(settings.partitions)]
            records = sum(log.end_offset(place) - log.start_offset(place) for place in places)
            kept = (
                "compacted"
                if settings.compacted
                else span_text(settings.retention_us)
                if settings.retention_us is not None
                else "for ever"
            )
            rows.append((name, settings.partitions, records, kept))
    if as_json:
        put_json([dict(zip(("topic", "partitions", "records", "kept"), row, strict=True)) for row in rows])
    else:
        put_table("", ("topic", "partitions", "records", "kept"), rows)
