"""A log whose process dies at a call of one's choice: nothing after it happens, not even what a `finally` tries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_PLAIN = ("topics", "available", "wait", "groups", "close")


class Killed(BaseException):
    """The process is gone."""


class DyingLog:
    """Counts calls that reach the log, of itself, its producers, transactions and memberships, and dies at one.

    at     the number of the call, from 0; `after` lets that call happen first, so that only its answer is lost
    """

    def __init__(self, log: Any, at: int, *, after: bool = False) -> None:
        self._log = log
        self.at = at
        self.after = after
        self.calls = 0
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return _Counted(self, self._log)[name]

    def reach(self, call: Callable[[], Any]) -> Any:
        """One call."""
        if self.dead:
            raise Killed
        if self.calls == self.at and not self.after:
            self.dead = True
            raise Killed
        self.calls += 1
        answer = call()
        if self.calls == self.at + 1 and self.after:
            self.dead = True
            raise Killed
        return answer


class _Counted:
    """An object of the log, whose calls count."""

    def __init__(self, owner: DyingLog, inner: Any) -> None:
        self._owner, self._inner = owner, inner

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __getitem__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        if name in _PLAIN:
            return found

        def call(*args: Any, **more: Any) -> Any:
            plain = [arg._inner if isinstance(arg, _Counted) else arg for arg in args]
            named = {key: arg._inner if isinstance(arg, _Counted) else arg for key, arg in more.items()}
            answer = self._owner.reach(lambda: found(*plain, **named))
            return _Counted(self._owner, answer) if name in ("producer", "join", "begin") else answer

        return call
