"""The one thread that talks to the log, so that no handler waits for a disk or a broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streamproc.ports import Log

T = TypeVar("T")


class LogThread:
    """Opens a log in a thread of its own and runs functions on it there, one after another.

    open_log  gives the log as a context manager, called in that thread: some logs belong to the thread that opened them

        async with LogThread(open_log) as log:
            topics = await log(lambda log: log.topics())
    """

    def __init__(self, open_log: Callable[[], contextlib.AbstractContextManager[Log]]) -> None:
        self._open_log = open_log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._closing = contextlib.ExitStack()
        self._log: Log | None = None

    async def __aenter__(self) -> LogThread:
        try:
            self._log = await self._run(lambda: self._closing.enter_context(self._open_log()))
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._run(self._closing.close)
        finally:
            self._thread.shutdown()

    async def __call__(self, work: Callable[[Log], T]) -> T:
        """Runs it in the thread. A caller who is cancelled meanwhile still waits for what has begun.

        Else nobody would know whether a commit happened.
        """
        log = self._log
        assert log is not None, "the log thread was not entered"
        return await self._run(lambda: work(log))

    async def _run(self, work: Callable[[], T]) -> T:
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise
