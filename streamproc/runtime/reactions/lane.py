"""One partition of one topic: its events in order, some under way at once, recorded in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from streamproc.runtime.reactions.delivery import Outcome
from streamproc.runtime.reactions.receiving import Received

WAITING: Final = 256
"""Events that wait in memory before a feed is made to wait."""


class Lane:
    """Delivers and records; with a concurrency of 1 an event is recorded before the next one is begun.

    deliver  gives what became of an event
    record   stores that durably; called for events in order, for some together where they ended meanwhile
    """

    def __init__(
        self,
        position: int,
        concurrency: int,
        *,
        deliver: Callable[[Received], Awaitable[Outcome]],
        record: Callable[[Sequence[tuple[Received, Outcome]]], Awaitable[None]],
    ) -> None:
        self._deliver, self._record = deliver, record
        self._next = position
        self._waiting: asyncio.Queue[Received] = asyncio.Queue(WAITING)
        self._under_way: deque[tuple[Received, asyncio.Future[Outcome]]] = deque()
        self._begun, self._settled = asyncio.Event(), asyncio.Event()
        self._settled.set()
        self._free = asyncio.Semaphore(concurrency)
        self._starting = asyncio.create_task(self._start())
        self._settling = asyncio.create_task(self._settle())

    @property
    def room(self) -> int:
        """How many events it takes without making a feed wait."""
        return WAITING - self._waiting.qsize()

    @property
    def idle(self) -> bool:
        """Whether everything that it took is recorded."""
        return self._waiting.empty() and not self._under_way

    def failure(self) -> BaseException | None:
        """What ended it, if anything did."""
        for task in (self._settling, self._starting):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                return error
        return None

    async def take(self, received: Received) -> None:
        """Takes one more event; one that it had, or that is recorded, is skipped. Waits while there is no room."""
        if received.offset < self._next:
            return
        self._next = received.offset + 1
        put = asyncio.ensure_future(self._waiting.put(received))
        try:
            await asyncio.wait([put, self._settling, self._starting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()

    async def close(self, drain_s: float) -> int:
        """Begins nothing more and waits for what is under way; gives how many handlers were cut off after that."""
        self._starting.cancel()
        settled = asyncio.ensure_future(self._settled.wait())
        await asyncio.wait([settled, self._settling], timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        cut = [task for _, task in self._under_way if not task.done()]
        tasks: list[asyncio.Future[Any]] = [settled, self._settling, self._starting, *cut]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return len(cut)

    async def _start(self) -> None:
        while True:
            await self._free.acquire()
            received = await self._waiting.get()
            self._under_way.append((received, asyncio.ensure_future(self._deliver(received))))
            self._settled.clear()
            self._begun.set()

    async def _settle(self) -> None:
        while True:
            while not self._under_way:
                self._begun.clear()
                await self._begun.wait()
            await asyncio.wait([self._under_way[0][1]])
            ended = []
            for received, task in self._under_way:
                if not task.done():
                    break
                ended.append((received, task.result()))
            await self._record(ended)
            for _ in ended:
                self._under_way.popleft()
                self._free.release()
            if not self._under_way:
                self._settled.set()
