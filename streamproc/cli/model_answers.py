"""How versions of models and their differences look."""

from __future__ import annotations

from typing import Any, Final

import click

from streamproc.cli.render import counted, put_json, put_table
from streamproc.models.parameters import parameters
from streamproc.models.version import SHOWN, ModelVersion
from streamproc.runtime.model_rebuild import VersionDiff

_MOST: Final = 60
"""Lines of parameters that a person is shown; JSON has all."""


def brief(version: ModelVersion) -> dict[str, Any]:
    """A version in a line."""
    content, origin = version.content, version.origin
    (now,) = [
        row
        for row in content["metrics"]
        if (row["delay"], row["contender"], row["segment"]) == ("label", "model", None)
    ]
    return {
        "version": version.id,
        "topology": f"{origin['topology']}.v{origin['version']}",
        "learner": origin["learner"],
        "task": origin["task"],
        "made": origin["made"] if origin["made"] == "replayed" else f"step {origin['step']}",
        "request": origin.get("request") or None,
        "labels_learned": content["labels_learned"],
        "loss": now["brier"] if content["kind"] == "binary" else now["mae"],
        "champion": content["champion"],
    }


def form(version: ModelVersion) -> dict[str, Any]:
    """All of a version but the tables of its models, whose parameters are told."""
    told = {name: parameters(version.table(name)) for name in version.models}
    return {"version": version.id, **version.content, "origin": dict(version.origin), "parameters": told}


def put_version(version: ModelVersion) -> None:
    """A version for a person."""
    content, origin = version.content, version.origin
    click.echo(f"version   {version.id}")
    click.echo(f"learner   {origin['learner']} of {origin['topology']} version {origin['version']}, {content['kind']}")
    click.echo(f"champion  {content['champion']} of {', '.join(version.models)}")
    click.echo(f"labels    {content['labels_learned']:,}")
    click.echo("libraries " + ", ".join(f"{name} {number}" for name, number in sorted(content["libraries"].items())))
    click.echo("")
    put_table("inputs", ("input", "type", "definition"), [
        (name, told["type"], told["version"]) for name, told in content["inputs"].items()
    ])  # fmt: skip
    put_table("offsets", ("partition", "from", "to"), [
        (f"{topic}-{number}", "" if first is None else first, f"{end}" + (f"+{skip}" if skip else ""))
        for topic, number, first, end, skip in content["offsets"]
    ])  # fmt: skip
    put_table("metrics", ("delay", "contender", "segment", "n", "log loss", "brier", "auc", "mae"), [
        tuple(_shown(row[name]) for name in ("delay", "contender", "segment", "n", "log_loss", "brier", "auc", "mae"))
        for row in content["metrics"]
    ])  # fmt: skip
    rows = [
        (name, path, _shown(value)) for name in version.models
        for path, value in parameters(version.table(name)).items()
    ]  # fmt: skip
    put_table("parameters", ("model", "parameter", "value"), rows[:_MOST])
    if len(rows) > _MOST:
        click.echo(f"and {counted(len(rows) - _MOST, 'parameter')} more: --json has all", err=True)


def difference_form(difference: VersionDiff) -> dict[str, Any]:
    """A difference as JSON."""
    return {
        "equal": difference.equal,
        "models_with_other_bits": difference.bits,
        "parameters": [{"path": path, "a": a, "b": b} for path, a, b in difference.parameters],
        "content": [{"path": path, "a": a, "b": b} for path, a, b in difference.content],
    }


def put_difference(difference: VersionDiff, *, as_json: bool) -> None:
    """A difference of two versions."""
    if as_json:
        put_json(difference_form(difference))
        return
    if difference.equal:
        click.echo("the versions are the same")
        return
    for title, rows in (("what it is made of", difference.content), ("parameters", difference.parameters)):
        if rows:
            put_table(title, ("what", "A", "B"), [(path, _shown(a), _shown(b)) for path, a, b in rows[:_MOST]])
            if len(rows) > _MOST:
                click.echo(f"and {counted(len(rows) - _MOST, 'difference')} more: --json has all", err=True)
    if difference.bits and not difference.parameters:
        click.echo(f"other bits and equal parameters: {', '.join(difference.bits)}")


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 5 * SHOWN else text[: 5 * SHOWN - 1] + "…"
