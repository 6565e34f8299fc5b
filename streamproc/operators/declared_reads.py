"""What a person's own step says that it reads is what it gets: one more column that it looks for stops it by name.

The plan cannot see what a function reads, so the run does not let it: a frame that holds the declared columns only.
What is read is then never more than what is declared, whatever path the function takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from streamproc.errors import StreamprocError, UndeclaredRead, UnknownColumn

_QUOTED = re.compile(r'"([^"]+)"')


@contextmanager
def declared_reads(read: tuple[str, ...] | None, who: str) -> Iterator[None]:
    """Turns a look for another column, within, into UndeclaredRead; with `read` None every error passes.

    >>> with declared_reads(("a",), "step 'custom'"):
    ...     pl.DataFrame({"a": [1]}).get_column("b")
    Traceback (most recent call last):
    streamproc.errors.UndeclaredRead: step 'custom' reads 'b', and declares a; add it to reads=..., and have the scope \
locked anew if it may
    """
    try:
        yield
    except StreamprocError as error:
        if read is None or not isinstance(error, UnknownColumn):
            raise
        found = re.search(r"'([^']+)'", error.message)
        raise _undeclared(read, who, found[1] if found else "another column") from error
    except pl.exceptions.ColumnNotFoundError as error:
        if read is None:
            raise
        found = _QUOTED.search(str(error))
        raise _undeclared(read, who, found[1] if found else "another column") from error


def _undeclared(read: tuple[str, ...], who: str, column: str) -> UndeclaredRead:
    return UndeclaredRead(
        f"{who} reads '{column}', and declares {', '.join(read)}",
        hint="add it to reads=..., and have the scope locked anew if it may",
    )
