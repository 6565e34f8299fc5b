"""`contracts`: the folder of contracts, as a registry."""

from __future__ import annotations

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import Workspace, workspace_options


@click.group()
def contracts() -> None:
    """Contracts of the project: schemas with owners, units, retention, and ids that never change."""


@contracts.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
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
        (
            str(c),
            str(registry.adopt(c)),
            c.owner or "-",
            c.event_time or "-",
            ", ".join(c.key) or "-",
            len(c.schema.names),
        )
        for c in found
    ]
    if as_json:
        put_json(
            [
                dict(zip(("contract", "id", "owner", "event_time", "key", "fields"), row, strict=True))
                | {"id": int(row[1])}
                for row in rows
            ]
        )
    else:
        put_table("", ("contract", "id", "owner", "event time", "key", "fields"), rows)


@contracts.command("register")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: id by contract.  [default: text]")
@workspace_options
def register(name: str | None, as_json: bool, workspace: Workspace) -> None:
    """Give contract NAME, or all of the folder, an id in ids.json; refuses what breaks its compatibility mode."""
    registry = workspace.registry()
    if name is None:
        registered = registry.register_all()
    else:
        contract = registry.contract(name)
        registered = {str(contract): registry.register(contract)}
    if as_json:
        put_json(registered)
    elif not registered:
        click.echo("every contract has its id already")
    else:
        put_table("", ("contract", "id"), [(name, str(number)) for name, number in registered.items()])
        click.echo("commit ids.json with them")


@contracts.command("check")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
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
