"""`topics`: what the log holds."""

from __future__ import annotations

from collections.abc import Mapping

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import workspace_options
from streamproc.event_time import span_text
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.workspace import Workspace


def visible(topics: Mapping[str, TopicSettings]) -> dict[str, TopicSettings]:
    """Topics that people write and read: neither journals nor what stages hand on."""
    return {name: made for name, made in topics.items() if not name.endswith(".tasks") and ".edge." not in name}


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also journals and what stages hand on.  [default: neither]")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
@workspace_options
def topics(everything: bool, as_json: bool, workspace: Workspace) -> None:
    """List the topics of the log with their records."""
    rows = []
    with workspace.log() as log:
        known = log.topics() if everything else visible(log.topics())
        for name, settings in known.items():
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
    elif not rows:
        click.echo("the log has no topics")
    else:
        put_table("", ("topic", "partitions", "records", "kept"), rows)
