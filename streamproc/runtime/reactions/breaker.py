"""A circuit breaker: no calls to what fails, one probe at a time to see whether it is well again.

Closed, calls are made and the share of failures among the last ones is judged. Open, none are made until the wait is
over; the first caller then is the probe, and everybody else is refused until it has answered. The state is stored
before the probe goes out, so that a process that dies and its successor do not both send one, and a probe has a
moment at which it has failed, so that one that hangs cannot keep the breaker half open.

Source: M. Nygard, *Release It!*, "Circuit Breaker".
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from streamproc.errors import StreamprocError
from streamproc.event_time import span_us
from streamproc.runtime.reactions.definition import Breaker

_VARIES: Final = 0.1


class BreakerOpen(StreamprocError):
    """No call is made now; `until` is the moment (µs) at which it makes sense to ask again."""

    def __init__(self, name: str, until: int) -> None:
        super().__init__(f"the breaker '{name}' lets no call through", hint="what it calls has failed too often")
        self.until = until


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What is stored of a breaker; see `sp_breaker` for the fields. Moments and spans in µs."""

    state: Literal["closed", "open", "half_open"] = "closed"
    since: int = 0
    until: int = 0
    wait_us: int = 0
    probes: int = 0


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one call; `probe` counts the probes, 0 means that the breaker was closed."""

    began: int
    probe: int = 0


class CircuitBreaker:
    """One breaker of one event loop.

    save    stores a state durably; awaited before a probe's permit is given
    now_us  the moment, µs since 1970 UTC: the machine's, because the state outlives the process
    """

    def __init__(
        self,
        name: str,
        settings: Breaker,
        *,
        save: Callable[[str, BreakerState], Awaitable[None]],
        now_us: Callable[[], int],
        state: BreakerState | None = None,
    ) -> None:
        self._name, self._settings, self._save, self._now_us = name, settings, save, now_us
        self._state = state if state is not None else BreakerState(since=now_us())
        self._failed: deque[bool] = deque(maxlen=settings.window)
        self._first_wait, self._longest_wait = span_us(settings.wait), span_us(settings.longest_wait)
        self._probe_us = span_us(settings.probe_timeout)
        self._slow_us = None if settings.slow is None else span_us(settings.slow)

    @property
    def state(self) -> BreakerState:
        """Where it stands."""
        return self._state

    async def enter(self) -> Permit:
        """The right to call, or BreakerOpen. The state of a probe is stored by then."""
        now = self._now_us()
        state = self._state
        if state.state == "closed":
            return Permit(now)
        if not self._due(state, now):
            raise BreakerOpen(self._name, state.until)
        if state.state == "half_open":
            await self._open(now)
            raise BreakerOpen(self._name, self._state.until)
        # Nothing is awaited between the look and this assignment: one caller alone becomes the probe.
        self._state = BreakerState("half_open", now, now + self._probe_us, state.wait_us, state.probes + 1)
        try:
            await self._save(self._name, self._state)
        except BaseException:
            self._state = state
            raise
        return Permit(now, self._state.probes)

    async def leave(self, permit: Permit, *, succeeded: bool) -> None:
        """Says how the call went. A probe that answers after it was given up changes nothing any more."""
        now = self._now_us()
        if self._slow_us is not None and now - permit.began > self._slow_us:
            succeeded = False
        if permit.probe:
            if self._state.state != "half_open" or self._state.probes != permit.probe:
                return
            if not succeeded:
                await self._open(now)
                return
            self._failed.clear()
            self._state = BreakerState("closed", now)
            await self._save(self._name, self._state)
            return
        if self._state.state != "closed" or permit.began < self._state.since:
            return
        self._failed.append(not succeeded)
        if len(self._failed) >= self._settings.at_least and (
            sum(self._failed) >= self._settings.failures * len(self._failed)
        ):
            await self._open(now)

    def _due(self, state: BreakerState, now: int) -> bool:
        """Whether the wait is over; one that lies further ahead than any wait can is of a clock that was set back."""
        longest = self._probe_us if state.state == "half_open" else self._longest_wait * (1 + _VARIES)
        return now >= state.until or state.until - now > longest

    async def _open(self, now: int) -> None:
        before = self._state
        wait = self._first_wait if before.state == "closed" else min(2 * before.wait_us, self._longest_wait)
        varied = int(wait * random.uniform(1 - _VARIES, 1 + _VARIES))
        self._state = BreakerState("open", now, now + varied, wait, before.probes)
        await self._save(self._name, self._state)
