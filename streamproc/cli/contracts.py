"""`contracts`: the folder of contracts, as a registry."""

from __future__ import annotations

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, workspace_options


@click.group()
def contracts() -> None:
    """Contracts of the project: schemas with owners, units, retention, and ids that never change."""


@contracts.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@workspace_options
def list_contracts(as_json: bool, workspace: Workspace) -> None:
    """List the contracts with version, id and owner."""
    registry = workspace.registry()
    found = [
        registry.contract(f"{subject}.v{version}")
        for subject in registry.subjects()
        for version in registry.versions(subject)
    ]
    rows = [
        (str(c), registry.adopt(c), c.owner or "-", c.event_time or "-", ", ".join(c.key) or "-", len(c.schema.names))
        for c in found
    ]
    if as_json:
        put_json(
            [dict(zip(("contract", "id", "owner", "event_time", "key", "fields"), row, strict=True)) for row in rows]
        )
    else:
        put_table("", ("contract", "id", "owner", "event time", "key", "fields"), rows)


@contracts.command("register")
@click.argument("name", required=False)
@workspace_options
def register(name: str | None, workspace: Workspace) -> None:
    """Give contract NAME, or all contracts of the folder, an id in ids.json; refuses what breaks its compatibility mode."""
    registry = workspace.registry()
    if name is None:
        registered = registry.register_all()
        click.echo(f"{len(registered)} contracts have an id; commit ids.json with them")
        return
    contract = registry.contract(name)
    click.echo(f"{contract} has id {registry.register(contract)}; commit ids.json with it")


@contracts.command("check")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@workspace_options
def check_contracts(as_json: bool, workspace: Workspace) -> None:
    """Check every contract: Avro, lint, attributes, compatibility with its history, ids. Exit 1 for a finding."""
    findings = [(finding.place, finding.what, finding.mend) for finding in workspace.registry().check_all()]
    if as_json:
        put_json([dict(zip(("place", "what", "mend"), row, strict=True)) for row in findings])
    elif findings:
        put_table("findings", ("place", "what", "way out"), findings)
    else:
        click.echo("every contract is sound")
    if findings:
        raise click.exceptions.Exit(1)
