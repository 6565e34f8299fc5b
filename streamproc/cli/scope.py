"""`scope`: what a topology reads, writes and does, held against what was locked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import orjson

from streamproc.cli.render import put_json
from streamproc.cli.workspace import Workspace, load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.planning.scope import scope_changes, scope_of, unscoped
from streamproc.runtime.binding import plan_topology

_WRITTEN: Final = "it is written by 'streamproc scope --lock'"


@click.command()
@click.argument("topology")
@click.option("--lock", is_flag=True, help="Write what is found to the file.  [default: compare]")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("scope.lock"),
    show_default=True,
    help="Where scopes are locked: one file for all topologies.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def scope(topology: str, lock: bool, path: Path, as_json: bool, workspace: Workspace) -> None:
    """Hold what TOPOLOGY reads, writes and does against its locked scope; exit 1 where they differ.

    The scope names inputs with the fields that are read, outputs with the fields that are written, and a hash of each
    step's rule, which layout and comments do not change. Steps of your own must say what they read. Runs nothing.
    """
    plan = plan_topology(load_topology(topology), workspace.registry())
    name, found, known = plan.topology.name, scope_of(plan), _read(path)
    findings = [f"step '{step}' does not say what it reads; give it reads=(...)" for step in unscoped(plan)]
    if not lock:
        if name not in known:
            raise InputError(
                f"'{path}' holds no scope of '{name}'", hint=f"write it with 'streamproc scope {topology} --lock'"
            )
        findings += scope_changes(known[name], found)
    elif not findings:
        _write(path, known | {name: found})
    if as_json:
        put_json({"ok": not findings, "findings": findings, "topology": name, "scope": found})
    else:
        for finding in findings:
            click.echo(finding)
        if not findings:
            click.echo(f"the scope of '{name}' is {'locked' if lock else 'as locked'}: {found['hash'][:12]}")
        elif not lock:
            click.echo(f"have it looked at, then lock it anew: streamproc scope {topology} --lock", err=True)
    if findings:
        raise click.exceptions.Exit(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        known = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"'{path}' cannot be read: {error}", hint=_WRITTEN) from None
    if not isinstance(known, dict) or not all(isinstance(one, dict) for one in known.values()):
        raise InputError(f"'{path}' holds no scopes", hint=_WRITTEN)
    return known


def _write(path: Path, scopes: dict[str, Any]) -> None:
    text = orjson.dumps(scopes, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    try:
        path.write_bytes(text)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}", hint="name another with --file") from None
