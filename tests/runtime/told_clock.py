"""A worker's clock that stands still until a test says otherwise."""

from __future__ import annotations

from streamproc.runtime.clock import SystemClock


class Told(SystemClock):
    """Goes on by what is slept, and by what is added to `seconds`."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
