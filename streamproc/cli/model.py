"""`model`: versions of models, kept, shown, compared, made again, and carried from one place to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from streamproc.cli.kernels import compiling
from streamproc.cli.model_answers import brief, difference_form, form, put_difference, put_version
from streamproc.cli.model_retrain import retrain_models
from streamproc.cli.render import counted, progress_bar, put_json, put_table
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.learning.linear_form import linear_form
from streamproc.learning.onnx_form import onnx_form
from streamproc.models.version import SHOWN, ModelVersion, saved_model, write_version
from streamproc.runtime.binding import bind
from streamproc.runtime.model_rebuild import diff_versions, rebuild
from streamproc.runtime.model_store import ModelStore, load_version, write_model_file
from streamproc.runtime.model_versions import chosen_learner, current_versions, learners_of
from streamproc.runtime.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def model() -> None:
    """Versions of models: what a learner had become at a moment, named by a hash of all of it.

    A VERSION is an id, the beginning of one, or a file.
    """


def _common(command: F) -> F:
    for option in (
        workspace_options,
        click.option("--json", "as_json", is_flag=True, help="JSON.  [default: text]"),
        click.option(
            "--key",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Versions are signed with what this file holds (HMAC-SHA-256).  [default: by their plain digest]",
        ),
    ):
        command = option(command)
    return command


@model.command("list")
@click.argument("topology", required=False)
@_common
def list_models(topology: str | None, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Show the versions that are kept; with TOPOLOGY, also what its learners are now.

    Files that are not to be believed are listed with the reason, and end the command with 1.
    """
    kept, refused = [], []
    for path, found in _store(workspace, key).versions():
        if isinstance(found, ModelVersion):
            kept.append(found)
        else:
            refused.append({"file": str(path), "why": str(found)})
    now = [] if topology is None else _current(topology, "", workspace)
    ids = {one.id for one in kept}
    if as_json:
        put_json(
            {
                "now": [{**brief(one), "kept": one.id in ids} for one in now],
                "kept": [brief(one) for one in kept],
                "refused": refused,
            }
        )
    else:
        columns = ("version", "topology", "learner", "task", "made", "labels", "brier/mae", "champion")
        for title, versions in (("now", now), ("kept", kept)):
            if versions:
                put_table(title, columns, [_line(one) for one in versions])
        if not (now or kept or refused):
            click.echo("no version is kept here; 'streamproc model keep TOPOLOGY' keeps what its learners are now")
        for one in refused:
            click.echo(one["why"], err=True)
    if refused:
        raise click.exceptions.Exit(1)


@model.command("keep")
@click.argument("topology")
@click.option("--learner", default="", metavar="NAME", help="Which of its learners.  [default: all]")
@_common
def keep_model(topology: str, learner: str, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Keep what the learners of TOPOLOGY are where its journal ends: one version for each task of each.

    May be done while workers run.
    """
    store = _store(workspace, key)
    versions = _current(topology, learner, workspace)
    kept = [(one, store.put(one)) for one in versions]
    if as_json:
        put_json([{**brief(one), "file": str(path)} for one, path in kept])
        return
    for one, path in kept:
        click.echo(f"{one.id[:SHOWN]} is kept: '{path}'")
    if not kept:
        click.echo("it never ran on this log: there is nothing to keep", err=True)


@model.command("show")
@click.argument("version")
@_common
def show_model(version: str, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Show what VERSION is made of: inputs, offsets, libraries, metrics, parameters."""
    found = _store(workspace, key).get(version, any_river=True)
    if as_json:
        put_json(form(found))
    else:
        put_version(found)


@model.command("diff")
@click.argument("a")
@click.argument("b")
@_common
def diff_models(a: str, b: str, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Compare versions A and B: parameters, inputs, offsets, libraries, metrics. Exit 1 where they differ."""
    store = _store(workspace, key)
    difference = diff_versions(*(store.get(one, any_river=True) for one in (a, b)))
    put_difference(difference, as_json=as_json)
    if not difference.equal:
        raise click.exceptions.Exit(1)


@model.command("rebuild")
@click.argument("version")
@click.argument("topology")
@click.option("--keep", is_flag=True, help="Keep what was made, also where it differs.  [default: only compare]")
@_common
def rebuild_model(
    version: str, topology: str, keep: bool, as_json: bool, key: Path | None, workspace: Workspace
) -> None:
    """Make VERSION again by replaying what TOPOLOGY had read, and compare it bit for bit. Exit 1 where it differs."""
    store = _store(workspace, key)
    wanted = store.get(version, any_river=True)
    value = load_topology(topology)
    with (
        workspace.log() as log,
        compiling(),
        workspace.checkpoints(log, f"{value.name}.v{value.version}.model") as checkpoints,
        progress_bar(f"rebuilding {wanted.id[:SHOWN]}", None) as update,
    ):
        made = rebuild(
            wanted, value, log, workspace.registry(), checkpoints, on_commit=lambda done: update(done.units)
        )
    path = store.put(made.version) if keep else None
    difference = diff_versions(wanted, made.version)
    told = {
        "version": wanted.id,
        "rebuilt": made.version.id,
        "equal": difference.equal,
        "steps": made.steps,
        "began_at_step": made.began,
        "steps_that_wrote_something_else": made.differs,
        "kept": None if path is None else str(path),
    }
    if as_json:
        put_json({**told, **difference_form(difference)})
    else:
        how = "a replay by event time" if made.steps is None else counted(made.steps, "recorded step")
        since = f", from the checkpoint of step {made.began} on" if made.began else ""
        if difference.equal:
            click.echo(f"{wanted.id[:SHOWN]} rebuilt by {how}{since}: equal bit for bit")
        else:
            click.echo(f"{wanted.id[:SHOWN]} rebuilt by {how}{since} is {made.version.id[:SHOWN]}:")
            put_difference(difference, as_json=False)
        if path is not None:
            click.echo(f"kept: '{path}'")
    if not difference.equal:
        raise click.exceptions.Exit(1)


@model.command("export")
@click.argument("version")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--form",
    "how",
    type=click.Choice(["file", "linear", "onnx"]),
    default="file",
    show_default=True,
    help="The whole version; or, of a linear model, for other systems its numbers as JSON, or its graph as ONNX.",
)
@click.option(
    "--model", "name", default="", metavar="NAME", help="For other systems: of a race which.  [default: the champion]"
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sign it with the key in this file instead, for another place.  [default: --key]",
)
@_common
def export_model(
    version: str,
    file: Path,
    how: str,
    name: str,
    sign: Path | None,
    as_json: bool,
    key: Path | None,
    workspace: Workspace,
) -> None:
    """Write VERSION to FILE."""
    found = _store(workspace, key).get(version, any_river=how == "file")
    if how == "file":
        data = write_version(found, key=_key(sign or key))
    else:
        saved = saved_model(found, name)
        numbers = {"version": found.id, "model": saved.name, **linear_form(saved.model, saved.inputs)}
        data = onnx_form(numbers) if how == "onnx" else orjson.dumps(numbers, option=orjson.OPT_INDENT_2)
    write_model_file(file, data)
    if as_json:
        put_json({"version": found.id, "file": str(file), "form": how, "bytes": len(data)})
    else:
        click.echo(f"{found.id[:SHOWN]} is written to '{file}'")


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_common
def import_model(file: Path, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Check the version in FILE and keep it here.

    Signature, id, library and the name of every class are judged before anything of it is made; then its models are
    made once, so that what is kept can be used.
    """
    found = load_version(file, key=_key(key))
    for name in found.models:
        saved_model(found, name)
    path = _store(workspace, key).put(found)
    if as_json:
        put_json({**brief(found), "file": str(path)})
    else:
        click.echo(f"{found.id[:SHOWN]} is kept: begin with it by sp.learn(sp.model_version('{path}'), ...)")


@model.command("retrain")
@click.argument("topology")
@click.option("--learner", default="", metavar="NAME", help="Which of its learners.  [default: the only one]")
@_common
def retrain_command(topology: str, learner: str, as_json: bool, key: Path | None, workspace: Workspace) -> None:
    """Make the models that sp.retrain in TOPOLOGY asked for, once each, and keep them.

    A request is done when its versions are kept: the command may be run as often as one likes, and again after a crash.
    It waits with a request until every source has reached the cut. Exit 1 where one waits.
    """
    waiting = retrain_models(load_topology(topology), learner, _store(workspace, key), workspace, as_json=as_json)
    if waiting:
        raise click.exceptions.Exit(1)


def _store(workspace: Workspace, key: Path | None) -> ModelStore:
    return ModelStore(workspace.models_path, key=_key(key))


def _key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        key = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"the key '{path}' cannot be read: {error.strerror}", hint="name a readable file") from None
    if len(key) < 16:
        raise InputError(f"the key '{path}' has {len(key)} bytes", hint="16 at least: openssl rand -hex 32 > FILE")
    return key


def _current(topology: str, learner: str, workspace: Workspace) -> list[ModelVersion]:
    value = load_topology(topology)
    with (
        workspace.log() as log,
        compiling(),
        workspace.checkpoints(log, f"{value.name}.v{value.version}.model") as checkpoints,
    ):
        binding = bind(value, log, workspace.registry(), create=False)
        learners = learners_of(binding)
        chosen = [chosen_learner(learners, value.name, learner)] if learner or not learners else learners
        return [one for each in chosen for one in current_versions(binding, each, log, checkpoints)]


def _line(version: ModelVersion) -> tuple[Any, ...]:
    told = brief(version)
    return (
        version.id[:SHOWN], told["topology"], told["learner"], told["task"], told["made"], told["labels_learned"],
        "" if told["loss"] is None else f"{told['loss']:.4f}", told["champion"],
    )  # fmt: skip
