"""Events as JSON lines on stdout, for pipes."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from streamproc.reaction import Event


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Writes each event's envelope as one line to stdout and flushes it."""

    async def __call__(self, event: Event) -> None:
        """Writes one line; a reader of the pipe that is gone makes it fail."""
        # In a thread: a reader that is slow must not stop everything else.
        await asyncio.to_thread(_write, event.envelope() + b"\n")


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
