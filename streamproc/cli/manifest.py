"""`manifest`: a compose file and Kubernetes manifests for a topology's workers."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import click

from streamproc.cli.deployment import HOME, Deployment
from streamproc.cli.render import put_json
from streamproc.cli.workspace import load_topology, workspace_options
from streamproc.errors import InputError
from streamproc.event_time import span_us
from streamproc.planning.topology import Topology
from streamproc.runtime.workspace import Workspace

_SECRET: Final = re.compile(r"password|passwd|secret|token|credential|private", re.IGNORECASE)
_USERINFO: Final = re.compile(r"//[^/@\s]+:[^/@\s]+@")
_AMOUNT: Final = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")
_PLACE: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@click.command()
@click.argument("topology")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where the files go; those of the same names are written anew.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["compose", "kubernetes", "all"]),
    default="all",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--image",
    metavar="NAME",
    help=f"The image, with the project in {HOME}.  [default: the topology's name and version]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="How many: pods on Kafka, else processes in one.",
)
@click.option(
    "--drain-timeout",
    default="30s",
    show_default=True,
    metavar="SPAN",
    help="How long a stop may take; the platform waits a little longer.",
)
@click.option("--cpu", default="1", show_default=True, metavar="CORES", help="Of one worker.")
@click.option("--memory", default="2Gi", show_default=True, metavar="BYTES", help="Of one worker.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.  [default: text]")
@workspace_options
def manifest(
    topology: str,
    out: Path,
    form: str,
    image: str | None,
    workers: int,
    drain_timeout: str,
    cpu: str,
    memory: str,
    as_json: bool,
    workspace: Workspace,
) -> None:
    """Write what deploys the workers of TOPOLOGY: compose.yaml, kubernetes.yaml, and the binding that they mount.

    The topology and --bind are named as seen from the project's folder, which the image has as /app. Secrets are
    referred to by name, never written.
    """
    for name, value in (("--cpu", cpu), ("--memory", memory)):
        if not _AMOUNT.fullmatch(value):
            raise click.UsageError(f"{name} {value} is no amount: write 1, 500m, 512Mi or 2Gi")
    deployment = _deployment(
        topology,
        load_topology(topology),
        workspace,
        image=image,
        workers=workers,
        drain_s=max(1, -(-span_us(drain_timeout) // 1_000_000)),
        cpu=cpu,
        memory=memory,
    )
    written = [_write(out / name, text) for name, text in _texts(deployment, form)]
    if as_json:
        put_json({"name": deployment.name, "files": [str(path) for path in written]})
        return
    for path in written:
        click.echo(f"wrote {path}")
    if deployment.variables:
        click.echo(f"secrets are read from these variables: {', '.join(deployment.variables)}", err=True)


def _texts(deployment: Deployment, form: str) -> Iterator[tuple[str, str]]:
    # The library for YAML loads only where it is used.
    from streamproc.cli.manifest_compose import compose_text
    from streamproc.cli.manifest_kubernetes import kubernetes_text

    if form != "kubernetes":
        yield "compose.yaml", compose_text(deployment)
        if deployment.binding is not None:
            path, text = deployment.binding
            yield path.name, text
    if form != "compose":
        yield "kubernetes.yaml", kubernetes_text(deployment)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _deployment(
    named: str,
    topology: Topology,
    workspace: Workspace,
    *,
    image: str | None,
    workers: int,
    drain_s: int,
    cpu: str,
    memory: str,
) -> Deployment:
    place, _, name = named.partition(":")
    if place.endswith(".py"):
        named = str(_in_project(Path(place), "the topology")) + (f":{name}" if name else "")
    options = dict(zip(workspace.options[::2], workspace.options[1::2], strict=False))
    settings: dict[str, Any] = {}
    binding = None
    if "--bind" in options:
        path = Path(options["--bind"])
        text = path.read_text(encoding="utf-8")
        settings, binding = tomllib.loads(text), (_in_project(path, "the binding"), text)
        _refuse_secrets(settings, path)
    flags: tuple[str, ...] = ("--insecure",) if "--insecure" in workspace.options else ()
    if "--log" in options:
        flags += ("--log", str(HOME / _in_project(Path(options["--log"]), "the log")))
    folders = []
    kept = (workspace.log_path,) if workspace.checkpoint_topic else (workspace.log_path, workspace.checkpoints_path)
    for path in kept:
        folder = HOME / PurePosixPath(os.path.normpath(path)).parent
        if folder == HOME or ".." in folder.parts:
            raise InputError(
                f"'{path}' lies in the project's own folder, or above it: a container keeps whole folders",
                hint='give log and checkpoints a folder of their own: path = "data/log.db"',
            )
        folders.append(folder)
    state = sorted({folder for folder in folders if not any(other in folder.parents for other in folders)})
    kafka = settings.get("kafka")
    tls = kafka.get("tls") if isinstance(kafka, dict) else None
    files = [value for value in (tls.values() if isinstance(tls, dict) else ()) if isinstance(value, str)]
    files += [path for kind, path in _references(settings) if kind == "file"]
    return Deployment(
        name=f"{topology.name.replace('_', '-').rstrip('-')}-v{topology.version}",
        topology=named,
        version=topology.version,
        owner=topology.owner,
        image=image or f"{topology.name}:v{topology.version}",
        binding=binding,
        flags=flags,
        state=tuple(state),
        variables=tuple(sorted({name for kind, name in _references(settings) if kind == "env"})),
        files=tuple(sorted({HOME / PurePosixPath(path) for path in files})),
        on_kafka=isinstance(kafka, dict),
        workers=workers,
        drain_s=drain_s,
        cpu=cpu,
        memory=memory,
        bounded=workspace.memory is not None,
    )


def _in_project(path: Path, what: str) -> PurePosixPath:
    """A path as seen from the project's folder."""
    if path.is_absolute():
        try:
            path = path.resolve().relative_to(Path.cwd())
        except ValueError:
            raise InputError(
                f"{what} '{path}' lies outside the folder from which the image is made",
                hint="run this in the project's folder",
            ) from None
    inner = PurePosixPath(os.path.normpath(path))
    if not _PLACE.fullmatch(str(inner)) or ".." in inner.parts:
        raise InputError(
            f"{what} '{path}' lies outside the project, or has odd letters", hint="run this in the project's folder"
        )
    return inner


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """Every `{ env = "NAME" }` and `{ file = "PATH" }` of a binding."""
    if isinstance(value, Mapping):
        if len(value) == 1:
            ((kind, name),) = value.items()
            if kind in ("env", "file") and isinstance(name, str):
                yield kind, name
                return
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _refuse_secrets(settings: Mapping[str, Any], path: Path, table: str = "") -> None:
    """Raises InputError for a value that looks like a secret: the binding becomes a ConfigMap, which is none."""
    for key, value in settings.items():
        name = f"{table}.{key}" if table else key
        if isinstance(value, Mapping):
            _refuse_secrets(value, path, name)
        elif isinstance(value, str) and (_SECRET.search(key) or _USERINFO.search(value)):
            raise InputError(
                f"'{name}' in the binding '{path}' looks like a secret, and a manifest is no place for one",
                hint=f'write {key} = {{ env = "NAME" }} or {{ file = "/run/secrets/name" }}',
            )
