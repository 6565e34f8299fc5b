"""Whether a worker gets on, and whether it is up to date: what `/health` and `/ready` answer.

Both are about the loop, not about the process. A worker is *healthy* if less than `stall_after_s` ago it came a step
further: it ended a turn in which the log answered, ran a recorded step again, or compiled a kernel. It is *ready* if it
also has no task left to restore, committed (or found nothing to do) since the last one, is within its bound of lag,
and is neither paused nor being drained.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

STALL_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer: yes or no, a word for it, and the facts behind it."""

    ok: bool
    status: str
    facts: dict[str, Any] = field(default_factory=dict)


class Vital:
    """Signs of life of one worker: written by its loop, read by other threads."""

    def __init__(
        self, *, stall_after_s: float = STALL_AFTER_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.stall_after_s = stall_after_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._beat_at = monotonic()
        self._trouble = ""
        self._waits_for = "its first turn"
        self._facts: dict[str, Any] = {}

    def beat(self) -> None:
        """The worker came a step further."""
        with self._lock:
            self._beat_at = self._monotonic()
            self._trouble = ""

    def troubled(self, why: str) -> None:
        """A turn failed: no sign of progress, but a reason for the answer."""
        with self._lock:
            self._trouble = why

    def tell(self, waits_for: str, **facts: Any) -> None:
        """What keeps the worker from being ready ("" for nothing), and facts that go with the answer."""
        with self._lock:
            self._waits_for, self._facts = waits_for, facts

    def health(self) -> Verdict:
        """Whether the worker got on lately."""
        with self._lock:
            quiet = self._monotonic() - self._beat_at
            trouble = self._trouble
        facts: dict[str, Any] = {"seconds_since_progress": round(quiet, 1), "stall_after_seconds": self.stall_after_s}
        if trouble:
            facts["trouble"] = trouble
        if quiet < self.stall_after_s:
            return Verdict(True, "troubled" if trouble else "working", facts)
        return Verdict(False, "stalled", facts)

    def ready(self) -> Verdict:
        """Whether the worker gets on and its results are as fresh as they should be."""
        health = self.health()
        with self._lock:
            waits_for, facts = self._waits_for, {**health.facts, **self._facts}
        if not health.ok:
            return Verdict(False, health.status, facts)
        return Verdict(not waits_for, waits_for or "ready", facts)
