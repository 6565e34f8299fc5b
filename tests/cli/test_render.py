"""Tables: each row a line in a pipe, fitted to the width of a terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from command_line import CommandLine

from streamproc.cli.app import cli
from streamproc.cli.render import put_table

ROWS = [("a [bold]name[/bold]", 1_234_567, "a reason that goes on and on, " * 4), ("b", 2, "short")]


class Terminal(io.StringIO):
    """A stdout that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_a_table_in_a_pipe_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    put_table("title", ("name", "rows", "why"), ROWS)
    assert capsys.readouterr().out == (
        "title\n"
        "name                      rows  why\n"
        f"a [bold]name[/bold]  1,234,567  {ROWS[0][2].rstrip()}\n"
        "b                            2  short\n"
        "\n"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_on_a_terminal_keeps_to_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    put_table("title", ("name", "rows", "why"), ROWS)
    lines = screen.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    assert any(re.match(r" *a \[bold\]name\[/bold\] +1,234,567 +a reason", line) for line in lines)


@pytest.mark.parametrize("verb", [*cli.commands, *cli.list_commands(None)])  # type: ignore[arg-type]  # it reads no context
def test_each_option_says_its_default(command: CommandLine, verb: str) -> None:
    text = " ".join(command.fine(verb, "--help").out.split())
    for name in ("--log FILE", "--bind FILE", "--json"):
        if name in text:
            assert "[default: " in text.split(name)[1][:160], f"{verb} {name}"
