"""`contracts`: the folder of contracts, as a registry, and the way from it to a schema registry."""

from __future__ import annotations

import click

from streamproc.cli.render import put_json, put_table
from streamproc.cli.workspace import workspace_options
from streamproc.contracts.model import Contract
from streamproc.errors import ContractError, IncompatibleEvolution, InputError
from streamproc.runtime.workspace import Workspace


@click.group()
def contracts() -> None:
    """Contracts of the project: schemas with owners, units, retention, and ids that never change."""


@contracts.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
@workspace_options
def list_contracts(as_json: bool, workspace: Workspace) -> None:
    """List the contracts with version, id and owner."""
    registry = workspace.folders()
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
    registry = workspace.folders()
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
    findings = [(finding.place, finding.what, finding.mend) for finding in workspace.folders().check_all()]
    if as_json:
        put_json([dict(zip(("place", "what", "mend"), row, strict=True)) for row in findings])
    elif findings:
        put_table("findings", ("place", "what", "way out"), findings)
    else:
        click.echo("every contract is sound")
    if findings:
        raise click.exceptions.Exit(1)


@contracts.command("push")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.  [default: text]")
@workspace_options
def push(name: str | None, dry_run: bool, as_json: bool, workspace: Workspace) -> None:
    """Register contract NAME, or all of the project's, at the schema registry of the binding's [registry].

    Everything is checked before anything is written; a second push changes nothing. Exit 1 if a contract does not fit
    what is registered.
    """
    from connectors.confluent_registry import RegistryClient, push_contracts

    if workspace.access is None:
        raise InputError(
            "no schema registry is named", hint='write [registry] and url = "https://host" into the file of --bind'
        )
    chosen = _chosen(workspace, name)
    client = RegistryClient(workspace.access)
    try:
        done = push_contracts(client, chosen, dry_run=dry_run)
    except IncompatibleEvolution as refused:
        click.echo(f"{type(refused).__name__}: {refused}", err=True)
        raise click.exceptions.Exit(1) from None
    finally:
        client.close()
    if as_json:
        put_json(
            [
                {
                    "contract": str(item.contract),
                    "subject": item.subject,
                    "id": item.schema_id,
                    "new": item.is_new,
                    "compatibility": item.mode,
                    "compatibility_before": item.mode_before or None,
                }
                for item in done
            ]
        )
        return
    new = "would be registered" if dry_run else "registered"
    modes = {item.subject: item.mode for item in done}
    put_table(
        "",
        ("contract", "subject", "id", "", "compatibility"),
        [
            (
                str(item.contract),
                item.subject,
                "-" if item.schema_id is None else str(item.schema_id),
                new if item.is_new else "there already",
                modes[item.subject]
                + (f" (was {item.mode_before or 'not set'})" if item.mode_before != modes[item.subject] else ""),
            )
            for item in done
        ],
    )
    if dry_run:
        click.echo("nothing was written")


def _chosen(workspace: Workspace, name: str | None) -> list[Contract]:
    """The contracts to push: the one that is named, or all in the project's own folders, if nothing is wrong there."""
    from connectors.registry import FolderRegistry

    if name is not None:
        return [workspace.folders().contract(name)]
    project = FolderRegistry(workspace.contracts)
    if problems := [finding for finding in project.check_all() if not finding.is_without_id]:
        raise ContractError("the contracts cannot be pushed:\n" + "\n".join(f"  - {item}" for item in problems))
    chosen = [
        project.contract(f"{subject}.v{version}")
        for subject in project.subjects()
        for version in project.versions(subject)
    ]
    if not chosen:
        places = ", ".join(str(folder) for folder in workspace.contracts)
        raise InputError(f"there is no contract in {places}", hint="name another folder in [contracts]")
    return chosen
