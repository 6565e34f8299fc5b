"""Golden files: what a run gave once, looked at by a person and kept; from then on every difference is a finding.

    agrees_with_golden(drive(topology, payments=frame)["spend"], Path(__file__).parent / "spend.json")

A new or wanted change is accepted by running the tests once with STREAMPROC_ACCEPT=1; look at the diff before it lands.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import polars as pl

from streamproc.contracts.registry import Registry
from streamproc.ports import Log
from streamproc.runtime.reading import read_topic
from streamproc.testing.comparison import first_difference

ACCEPT: Final = "STREAMPROC_ACCEPT"
"""The environment variable that writes golden files instead of comparing with them."""


class GoldenError(AssertionError):
    """A result is not the one that was accepted; the message names file, row, column and both values."""


def agrees_with_golden(frame: pl.DataFrame, path: Path, *, accept: bool | None = None) -> None:
    """Compares rows with a golden file, one JSON list per row below a line of column types.

    accept  write the file instead; by default whether STREAMPROC_ACCEPT is set

    Raises GoldenError with the first difference, or where there is no file yet.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.json"
    >>> agrees_with_golden(pl.DataFrame({"a": [1]}), file, accept=True)
    >>> agrees_with_golden(pl.DataFrame({"a": [1]}), file)
    """
    if accept is None:
        accept = bool(os.environ.get(ACCEPT))
    now = _text(frame)
    if accept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(now, encoding="utf-8")
        return
    if not path.exists():
        raise GoldenError(f"there is no golden file '{path}'; run once with {ACCEPT}=1 and look at what it holds")
    then = path.read_text(encoding="utf-8")
    if then == now:
        return
    old, new = _frame(then), _frame(now)
    found = first_difference(old, new)
    told = found.told("accepted is", "now it is") if found is not None else "the file is written another way"
    raise GoldenError(f"'{path.name}': {told}; if that is right, run once with {ACCEPT}=1")


def topic_agrees_with_golden(log: Log, registry: Registry, topic: str, path: Path) -> None:
    """Compares a topic's rows with a golden file, whatever their order: sorted, without partition and offset."""
    frame = read_topic(log, registry, topic).drop("_partition", "_offset")
    rows = sorted(_text(frame).splitlines()[1:])
    header = _text(frame.clear()).rstrip("\n")
    agrees_with_golden(_frame("\n".join([header, *rows]) + "\n"), path)


def _text(frame: pl.DataFrame) -> str:
    """One line of types, then a line per row; floats as their shortest text, everything else by its own."""
    head = json.dumps({name: str(dtype) for name, dtype in frame.schema.items()})
    rows = [json.dumps([_plain(cell) for cell in row], ensure_ascii=False) for row in frame.iter_rows()]
    return "\n".join([head, *rows]) + "\n"


def _plain(cell: object) -> object:
    if cell is None or isinstance(cell, bool | int | str):
        return cell
    if isinstance(cell, float):
        return {"float": repr(cell)}
    if isinstance(cell, list):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {name: _plain(item) for name, item in cell.items()}
    return str(cell)


def _frame(text: str) -> pl.DataFrame:
    """The lines as columns of text: enough to find and show a difference."""
    head, *rows = text.splitlines()
    names = [f"{name}" for name in json.loads(head)]
    cells = [[json.dumps(cell, ensure_ascii=False) for cell in json.loads(row)] for row in rows]
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient="row")
