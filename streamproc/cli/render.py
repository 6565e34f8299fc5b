"""How answers look: tables for people, columns in a pipe, JSON for machines, a progress bar where somebody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import orjson


def put_json(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())


def put_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout, numbers to the right: fitted to a terminal's width; in a pipe each row is one line."""
    numeric = [bool(rows) and all(isinstance(row[n], int | float) for row in rows) for n in range(len(columns))]
    texts = [[_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _put_fitted(title, columns, texts, numeric)
        return
    widths = [max(len(line[n]) for line in (columns, *texts)) for n in range(len(columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in (columns, *texts)
    ]
    click.echo("\n".join([*([title] if title else []), *lines, *([""] if title else [])]))


def _put_fitted(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        # A cell is data: brackets in it are no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def _text(cell: Any) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int):
        return str(cell).replace("\n", " ")
    return f"{cell:,}"


def seconds_text(seconds: float) -> str:
    """How long something took, as a person says it.

    >>> seconds_text(0.042), seconds_text(7.25), seconds_text(75.4)
    ('42 ms', '7.2 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def watched() -> bool:
    """Whether somebody watches a terminal."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on stderr while a person watches; the answer takes the number done so far."""
    if not watched():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
