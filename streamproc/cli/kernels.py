"""The kernels' first run: compiling takes a while, and a person who waits is told why."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import click
from numba.core import event


class Compiling(event.Listener):
    """Watches Numba compile: says so once on stderr, and adds up how long it took, in `seconds`.

    Nothing is said where all kernels come from the cache on disk, which is every run but the first.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._began = 0.0

    def on_start(self, _: event.Event) -> None:
        """A kernel begins to compile, perhaps as a part of another one."""
        if not self._depth:
            if not self.seconds:
                click.echo("compiling kernels, first run only: this may take a minute", err=True)
            self._began = time.perf_counter()
        self._depth += 1

    def on_end(self, _: event.Event) -> None:
        """It is compiled."""
        self._depth -= 1
        if not self._depth:
            self.seconds += time.perf_counter() - self._began


@contextlib.contextmanager
def compiling() -> Iterator[Compiling]:
    """Tells of kernels that are compiled within."""
    watch = Compiling()
    listen: Any = event.register
    forget: Any = event.unregister
    listen("numba:compile", watch)
    try:
        yield watch
    finally:
        forget("numba:compile", watch)
        if watch.seconds > 1:
            click.echo(f"kernels compiled in {watch.seconds:.0f} s, kept on disk", err=True)
