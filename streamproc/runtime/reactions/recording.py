"""What was delivered, written so that it is known: the record of an event and the offset behind it are one transaction.

Each partition has a transactional id of its own. Whoever takes a partition over opens its producer, which refuses
everything that an older owner has not committed by then; so an event is recorded once, whoever believes to own it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import tenacity

from streamproc.errors import LogBusy, LogError, LogUnavailable, UnknownOutcome
from streamproc.ports import Block, Log, Membership, Producer, TopicPartition
from streamproc.runtime.reactions.log_thread import LogThread

T = TypeVar("T")

logger = logging.getLogger(__name__)

_PASSING: Final = (LogBusy, LogUnavailable, UnknownOutcome)


class Recorder:
    """Writes for one partition of one topic; `position` is one past the newest event that is dealt with.

    first  gives the offset at which a group that never was here begins
    """

    def __init__(
        self,
        log: LogThread,
        group: str,
        place: TopicPartition,
        membership: Membership | None,
        *,
        first: Callable[[Log, TopicPartition], int],
    ) -> None:
        self._log, self._group, self._place, self._membership, self._first = log, group, place, membership, first
        self._producer: Producer | None = None
        self._turn = asyncio.Lock()
        self.position = 0

    async def open(self) -> int:
        """Takes the partition over; gives its position, which from then on only this recorder moves."""

        def take(log: Log) -> tuple[int, int]:
            self._producer = self._opened(log)
            known = log.committed(self._group).get(self._place)
            start = log.start_offset(self._place)
            if known is not None:
                return known, start
            # Where it begins is decided once, and remembered before the first event.
            self.position = self._first(log, self._place)
            self._commit(log, [], None)
            return self.position, start

        position, start = await self._patiently(take)
        if position < start:
            logger.warning(
                "%s-%d: retention took offsets %d to %d before '%s' dealt with them",
                *self._place, position, start - 1, self._group,
            )  # fmt: skip
        self.position = max(position, start)
        return self.position

    async def record(self, blocks: Iterable[Block], position: int) -> None:
        """Commits what is written about events, and the offset behind them.

        Waits out a log that is busy or away. Raises Fenced if the partition has another owner.
        """
        written = list(blocks)
        async with self._turn:
            await self._patiently(lambda log: self._commit(log, written, position))
            self.position = max(self.position, position)

    async def store(self, block: Block) -> None:
        """Commits something that is no event; the offset goes with it, so that a former owner's is refused."""
        async with self._turn:
            await self._patiently(lambda log: self._commit(log, [block], None))

    async def close(self) -> None:
        """Lets go of the producer."""

        def close(log: Log) -> None:
            if self._producer is not None:
                self._producer.close()
                self._producer = None

        async with self._turn:
            await self._log(close)

    def _opened(self, log: Log) -> Producer:
        return log.producer(f"{self._group}.{self._place.topic}.{self._place.partition}")

    def _commit(self, log: Log, blocks: list[Block], position: int | None) -> None:
        if self._producer is None:
            # What the last attempt wrote is there or not: only what is committed is believed.
            self._producer = self._opened(log)
            if position is not None and log.committed(self._group).get(self._place, -1) >= position:
                return
        transaction = self._producer.begin()
        try:
            for block in blocks:
                transaction.append(block)
            transaction.commit_offsets(
                self._group,
                {self._place: self.position if position is None else position},
                membership=self._membership,
                owned=() if self._membership is None else (self._place.partition,),
            )
            transaction.commit()
        except BaseException as error:
            with contextlib.suppress(LogError):
                transaction.abort()
            if isinstance(error, _PASSING):
                producer, self._producer = self._producer, None
                with contextlib.suppress(LogError):
                    producer.close()
            raise

    async def _patiently(self, work: Callable[[Log], T]) -> T:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_PASSING),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            before_sleep=_told,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(self._log, work)


def _told(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if state.attempt_number in (1, 10, 100):
        logger.warning("the log is asked again: %s", error)
