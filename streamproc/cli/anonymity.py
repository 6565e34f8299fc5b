"""`anonymity`: how few persons share what a topology's topics say of them, before and after records are linked."""

from __future__ import annotations

from dataclasses import asdict

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.runtime.anonymity import topology_anonymity
from streamproc.runtime.binding import plan_topology


@click.command()
@click.argument("topology")
@click.option(
    "--least", default=5, show_default=True, type=click.IntRange(1),
    help="How many persons should share each combination of values.",
)  # fmt: skip
@click.option("--require", is_flag=True, help="Exit 1 if a topic that TOPOLOGY writes has a smaller group.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def anonymity(topology: str, least: int, require: bool, as_json: bool, workspace: Workspace) -> None:
    """Count how few persons share what TOPOLOGY's topics say of them: k-anonymity before and after linking.

    Looks at columns of class "quasi" in the sources' contracts, and at the columns of sinks that are made of them.
    Persons are told apart by key or pseudonym, where a topic has one, else each row is somebody. Reads the topics
    whole, writes nothing.
    """
    plan = plan_topology(load_topology(topology), workspace.registry())
    with workspace.log() as log:
        found = topology_anonymity(plan, log, workspace.reading_registry(), least=least)
    if as_json:
        put_json({"topology": plan.topology.name, "least": least, "topics": [asdict(one) for one in found]})
    elif not found:
        click.echo(f"no source of '{plan.topology.name}' has a column of class \"quasi\"")
    else:
        put_table(
            "persons that share all of the columns",
            ("topic", "", "k", "persons", "groups", f"in groups below {least}", "columns", "told apart by"),
            [
                (one.topic, "written" if one.written else "read", one.k, one.individuals, one.groups, one.exposed,
                 ", ".join(one.columns), ", ".join(one.by) or "row")
                for one in found
            ],
        )  # fmt: skip
    if require and any(one.written and one.groups and one.k < least for one in found):
        raise click.exceptions.Exit(1)
