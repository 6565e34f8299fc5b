"""One event and its handler: attempts with time-outs and back-off, behind a breaker where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import tenacity

from streamproc.errors import StreamprocError
from streamproc.event_time import span_us
from streamproc.reaction import Event, GiveUp, TryLater
from streamproc.runtime.reactions.breaker import BreakerOpen, BreakerState, CircuitBreaker
from streamproc.runtime.reactions.definition import Breaker, Reaction
from streamproc.runtime.reactions.receiving import Received
from streamproc.runtime.reactions.records import Writer

_SECOND: Final = 1e6
_DETAIL: Final = 500
"""Characters that are kept of what an error says."""


class _Failed(Exception):
    """One attempt that did not succeed, and why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event. Moments in µs since 1970 UTC; `answers` are payloads for the answer topic."""

    outcome: Literal["delivered", "dead_lettered"]
    attempts: int
    started_at: int
    ended_at: int
    reason: str = ""
    detail: str = ""
    answers: tuple[bytes, ...] = ()


class Delivery:
    """Delivers the events of one partition to one handler.

    place    names the partition, and with it its breakers
    answers  encodes what the handler returns, where the reaction has answers
    save     stores a breaker's state; `states` are those that were stored by now
    """

    def __init__(
        self,
        reaction: Reaction,
        place: str,
        *,
        answers: Writer | None,
        save: Callable[[str, BreakerState], Awaitable[None]],
        states: Mapping[str, BreakerState],
        now_us: Callable[[], int],
    ) -> None:
        self._reaction, self._place, self._answers, self._now_us = reaction, place, answers, now_us
        self._save, self._states = save, states
        self._breakers: dict[str, CircuitBreaker] = {}
        self._timeout = span_us(reaction.timeout) / _SECOND
        retry = reaction.retry
        self._longest = span_us(retry.longest) / _SECOND
        self._pause = tenacity.wait_random_exponential(multiplier=2 * span_us(retry.first) / _SECOND, max=self._longest)

    async def deliver(self, received: Received) -> Outcome:
        """Tries until it succeeds, is given up, or the attempts are spent; never raises what the handler raised.

        Raises LogError if a breaker's state cannot be stored.
        """
        started = self._now_us()
        if received.event is None:
            return Outcome("dead_lettered", 0, started, started, "unreadable", "no known contract reads the record")
        attempts = 0
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._reaction.retry.attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self._tries_again),
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    value = await self._attempt(received.event, attempts)
        except BreakerOpen as refused:
            return self._given_up(received.event, attempts - 1, started, "breaker_open", str(refused))
        except _Failed as failed:
            reason = type(failed.cause).__name__
            return self._given_up(received.event, attempts, started, reason, str(failed.cause))
        try:
            payloads = self._encoded(value)
        except Exception as error:
            return self._given_up(received.event, attempts, started, "bad_answer", str(error))
        return Outcome("delivered", attempts, started, self._now_us(), answers=payloads)

    async def _attempt(self, event: Event, number: int) -> Any:
        event = replace(event, attempt=number)
        settings = self._reaction.breaker
        if settings is None:
            return await self._called(event, self._timeout)
        breaker = self._breaker(event, settings)
        permit = None
        while permit is None:
            try:
                permit = await breaker.enter()
            except BreakerOpen as refused:
                if self._reaction.answers is not None and self._reaction.answers.failed is not None:
                    raise
                await asyncio.sleep(max(refused.until - self._now_us(), 1_000) / _SECOND)
        timeout = min(self._timeout, span_us(settings.probe_timeout) / _SECOND) if permit.probe else self._timeout
        try:
            value = await self._called(event, timeout)
        except _Failed as failed:
            # A request that nothing could serve says nothing about the service.
            await breaker.leave(permit, succeeded=isinstance(failed.cause, GiveUp))
            raise
        await breaker.leave(permit, succeeded=True)
        return value

    async def _called(self, event: Event, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._reaction.handler(event)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _Failed(cancelled) from None
        except TimeoutError as error:
            text = str(error) or f"no answer within {self._reaction.timeout}"
            raise _Failed(TimeoutError(text)) from error
        except (Exception, SystemExit) as error:
            raise _Failed(error) from error

    def _breaker(self, event: Event, settings: Breaker) -> CircuitBreaker:
        value = f"/{event.row.get(settings.per)}" if settings.per else ""
        name = f"{self._place}{value}"
        if name not in self._breakers:
            self._breakers[name] = CircuitBreaker(
                name, settings, save=self._save, now_us=self._now_us, state=self._states.get(name)
            )
        return self._breakers[name]

    def _tries_again(self, error: BaseException) -> bool:
        if not isinstance(error, _Failed):
            return False
        return not isinstance(error.cause, (GiveUp, *self._reaction.retry.never))

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Back-off by chance up to a bound that doubles, and not before the other side's own word, up to `longest`."""
        pause = self._pause(state)
        error = state.outcome.exception() if state.outcome is not None else None
        cause = error.cause if isinstance(error, _Failed) else None
        asked = cause.after_us / _SECOND if isinstance(cause, TryLater) else 0.0
        return min(max(pause, asked), self._longest)

    def _given_up(self, event: Event, attempts: int, started: int, reason: str, detail: str) -> Outcome:
        payloads: tuple[bytes, ...] = ()
        answers = self._reaction.answers
        if answers is not None and answers.failed is not None:
            try:
                payloads = self._encoded(answers.failed(event, reason))
            except Exception as error:
                detail = f"{detail}; and answers.failed gave no answer: {type(error).__name__}: {error}"
        return Outcome("dead_lettered", attempts, started, self._now_us(), reason, detail[:_DETAIL], payloads)

    def _encoded(self, value: Any) -> tuple[bytes, ...]:
        if self._answers is None or value is None:
            return ()
        rows = [value] if isinstance(value, Mapping) else value
        if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
            raise StreamprocError(
                f"the handler returned {type(value).__name__}, which is no answer",
                hint="return a mapping of the contract's columns, a list of mappings, or None",
            )
        return tuple(self._answers.payloads(rows))
