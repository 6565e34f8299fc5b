"""Kernels that compile are progress: the first rows of a new machine may take minutes in which no turn ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from numba.core import event

from streamproc.runtime.telemetry.vital import Vital


class _Beats(event.Listener):
    def __init__(self, vital: Vital) -> None:
        self._vital = vital

    def on_start(self, _: event.Event) -> None:
        """A kernel begins to compile."""
        self._vital.beat()

    def on_end(self, _: event.Event) -> None:
        """It is compiled."""
        self._vital.beat()


@contextlib.contextmanager
def beating_while_compiling(vital: Vital) -> Iterator[None]:
    """Within, each kernel that compiles is a sign of life."""
    listen: Any = event.register
    forget: Any = event.unregister
    beats = _Beats(vital)
    listen("numba:compile", beats)
    try:
        yield
    finally:
        forget("numba:compile", beats)
