"""`diff --topic`: what two builds of a topology make of the same offsets."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from connectors.embedded import EmbeddedLog
from streamproc.cli.backfill import Asked
from streamproc.cli.kernels import compiling
from streamproc.cli.render import counted, put_json, put_table
from streamproc.cli.workspace import Workspace, load_topology
from streamproc.planning.topology import Topology
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.build_diff import BuildDiff, diff_builds


def diff_of_builds(
    a: str, b: str, topic: str, key: tuple[str, ...], asked: Asked, *, as_json: bool, workspace: Workspace
) -> None:
    """Replays both builds and tells what differs; exit 1 if anything does."""
    builds = (loaded_apart(a), loaded_apart(b))
    registries = (workspace.registry(), workspace.registry())
    with workspace.log() as log, compiling(), tempfile.TemporaryDirectory(prefix="streamproc-diff-") as folder:
        spans = [
            asked.span(plan_topology(build, registry), log)
            for build, registry in zip(builds, registries, strict=True)
        ]
        with EmbeddedLog(Path(folder) / "a.db") as left, EmbeddedLog(Path(folder) / "b.db") as right:
            found = diff_builds(
                *builds, topic, log, registries, (left, right),
                starts={**spans[1].starts, **spans[0].starts}, ends={**spans[1].until, **spans[0].until},
                key=key, close=asked.close,
            )  # fmt: skip
    _tell(found, as_json=as_json)
    if not found.equal:
        raise click.exceptions.Exit(1)


def loaded_apart(text: str) -> Topology:
    """The topology that a word names; modules beside its file are forgotten again.

    So another build, whose modules have the same names in another folder, gets its own.
    """
    known = set(sys.modules)
    build = load_topology(text)
    place = text.partition(":")[0]
    if place.endswith(".py"):
        folder = os.path.dirname(os.path.abspath(place)) + os.sep
        for name in set(sys.modules) - known:
            if os.path.abspath(getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
                del sys.modules[name]
    return build


def _tell(found: BuildDiff, *, as_json: bool) -> None:
    if as_json:
        put_json(
            {
                "equal": found.equal, "topic": found.topic, "rows_a": found.rows_a, "rows_b": found.rows_b,
                "same": found.same, "mismatch": found.mismatch, "missing": found.missing, "extra": found.extra,
                "only_a": found.only_a, "only_b": found.only_b, "first": found.first,
                "columns": {
                    one.name: {
                        "version_a": one.version_a, "version_b": one.version_b, "differs": one.differs,
                        "verdict": one.verdict, "world_at": one.world, "promise": one.promise,
                    }
                    for one in found.columns
                },
            }
        )  # fmt: skip
        return
    click.echo(
        f"{found.topic}: {counted(found.rows_a, 'row')} of A, {found.rows_b:,} of B; {found.same:,} the same, "
        f"{found.mismatch:,} mismatch, {found.missing:,} missing in B, {found.extra:,} extra in B"
    )
    for build, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            click.echo(f"only {build} has {', '.join(names)}")
    put_table(
        "",
        ("column", "version A", "version B", "rows that differ", "verdict"),
        [(one.name, one.version_a, one.version_b, one.differs, one.verdict) for one in found.columns],
    )
    for one in found.columns:
        if one.world is not None:
            partition, offset = one.world
            kept = "" if one.promise == "holds" else f" ({one.promise})"
            click.echo(f"'{one.name}' of A is distributed otherwise since record {partition}@{offset}{kept}")
    if found.first is not None:
        click.echo(f"first difference: {_said(found.first)}")
    elif found.equal:
        click.echo("equal: the builds give the same rows")


def _said(first: Mapping[str, Any]) -> str:
    row = ", ".join(f"{name}={value}" for name, value in first["row"].items() if name != first.get("column"))
    if first["kind"] == "mismatch":
        return f"column '{first['column']}' is {first['a']!r} in A, {first['b']!r} in B, of {row}"
    return f"{'missing in B' if first['kind'] == 'missing' else 'extra in B'}: {row}"
