"""Calls into the client that have a time of their own, and are not believed to keep it.

librdkafka waits without an end where the search for a group's coordinator gets an answer that it does not expect, and
all connections are well: nothing wakes it. So such calls run on a thread of their own. One that does not come back is
left behind with its client, for nobody may free a client while a call is inside it; the threads end with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

GRACE_S: Final = 2.0
"""So much later than it was told to does a call come back at most."""
_LEFT_BEHIND: Final[list[Any]] = []


class Calls:
    """Runs the calls of one client, one at a time, on a thread that is started with the first."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._todo: SimpleQueue[tuple[Callable[[float], Any], float, SimpleQueue[Any]] | None] | None = None
        self.stuck = False

    def __call__(
        self,
        call: Callable[[float], Any],
        timeout_s: float,
        *,
        meanwhile: Callable[[], object] | None = None,
        every_s: float = 0.005,
    ) -> None:
        """Runs call(timeout_s); raises what it raises, and a time-out if it does not come back.

        meanwhile  what is done every so many seconds, here, while the call is waited for
        """
        if self._todo is None:
            self._todo = SimpleQueue()
            threading.Thread(target=_serve, args=(self._todo,), name="kafka-calls", daemon=True).start()
        answers: SimpleQueue[Any] = SimpleQueue()
        self._todo.put((call, timeout_s, answers))
        until = time.monotonic() + timeout_s + GRACE_S
        while True:
            left = until - time.monotonic()
            try:
                problem = answers.get(timeout=max(0.0, left if meanwhile is None else min(left, every_s)))
                break
            except Empty:
                if left <= 0:
                    self.stuck = True
                    _LEFT_BEHIND.append(self._client)
                    said = f"the client did not come back within {timeout_s + GRACE_S:.0f} s"
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, said)) from None
                if meanwhile is not None:
                    meanwhile()
        if problem is not None:
            raise problem

    def close(self) -> None:
        """Lets the thread end."""
        if self._todo is not None:
            self._todo.put(None)


class Here:
    """Runs the calls of a client that keeps its time by itself, on the caller's thread."""

    stuck = False

    def __call__(
        self,
        call: Callable[[float], Any],
        timeout_s: float,
        *,
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        """Runs call(timeout_s); raises what it raises."""
        call(timeout_s)

    def close(self) -> None:
        """There is nothing to end."""


def _serve(todo: SimpleQueue[tuple[Callable[[float], Any], float, SimpleQueue[Any]] | None]) -> None:
    while (task := todo.get()) is not None:
        call, timeout_s, answers = task
        try:
            call(timeout_s)
            answers.put(None)
        except BaseException as problem:
            answers.put(problem)
