"""The worker's clock as a port: the machine's in production, a scheduler's in a simulation."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a worker may know of time. Results never depend on it: every verdict that does is in the journal."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    def now_us(self) -> int:
        """The moment, µs since 1970 UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def now_us(self) -> int:
        """The moment, µs since 1970 UTC."""
        return time.time_ns() // 1_000

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)
