"""Ctrl-C and SIGTERM as a request: the work comes to a good end, and the second Ctrl-C is not asked to wait."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Stopped:
    """Whether somebody asked to stop."""

    asked: bool = False


@contextlib.contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Stopped]:
    """Calls `stop` at the first SIGINT or SIGTERM within; a second SIGINT interrupts at once."""
    stopped = Stopped()

    def ask(*_: object) -> None:
        stopped.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
