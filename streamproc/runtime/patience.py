"""How long a log that is away is waited for, and how soon it is tried again."""

from __future__ import annotations

from typing import Final

from streamproc.runtime.clock import Clock

PATIENCE_S: Final = 300.0
_AGAIN_S: Final = (0.1, 10.0)
"""First and longest pause before the log is tried again."""


class Patience:
    """Trouble that goes on, from the first failure until something succeeds.

    most_s  trouble that lasts longer is not waited out

    >>> from streamproc.runtime.clock import SystemClock
    >>> patience = Patience(60.0, SystemClock())
    >>> patience.ran_out(), patience.pause(), patience.pause()
    (False, 0.1, 0.2)
    >>> patience.calm()
    >>> patience.pause()
    0.1
    """

    def __init__(self, most_s: float, clock: Clock) -> None:
        self._most_s, self._clock = most_s, clock
        self._since: float | None = None
        self._again_s = _AGAIN_S[0]

    def ran_out(self) -> bool:
        """Notes a failure; tells whether there have been nothing but failures for too long."""
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > self._most_s

    def pause(self) -> float:
        """Seconds before the next attempt: twice as many as before the one before it."""
        pause, self._again_s = self._again_s, min(2 * self._again_s, _AGAIN_S[1])
        return pause

    def calm(self) -> None:
        """Something succeeded."""
        self._since, self._again_s = None, _AGAIN_S[0]
