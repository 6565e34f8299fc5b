"""How answers look: tables for people, JSON for machines, a progress bar only where somebody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

FATES = ("in", "emitted", "held", "filtered", "late", "dead_lettered")


def put_json(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())


def put_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; numbers to the right. Plain text in a pipe."""
    table = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row)
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def fates_by_source(
    fates: Mapping[str, Mapping[str, Mapping[str, int]]], sources: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Rows by fate of each source, over all tasks that read it."""
    total: dict[str, dict[str, int]] = {}
    for inputs in fates.values():
        for name, row in inputs.items():
            if name in sources:
                sums = total.setdefault(name, dict.fromkeys(FATES, 0))
                for fate in FATES:
                    sums[fate] += row[fate]
    return total


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on stderr while a person watches; the answer takes the number done so far."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def update(done: int) -> None:
            speed = bar.tasks[0].speed or 0
            bar.update(task, completed=done, rate=f"{speed:,.0f}/s")

        yield update
