"""A proxy before the brokers that knows where a request begins, and holds back requests of transactions.

A client that bootstraps at the advertised ports meets it on every connection. A request that ends a transaction
(EndTxn) is passed on, held for a while, or held while its connection is cut: then the client sends it again elsewhere,
and the one that was held arrives later, on a connection that only the proxy still has. One that is kept arrives at the
worst moment: right before the end of the next transaction.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

END_TXN, TXN_OFFSET_COMMIT = 26, 28


class EndTxnProxy:
    """Listens on ports and passes on to others; `with EndTxnProxy(targets, seed=1) as proxy`.

    share     how many of the ends are held, 0 to 1; may be changed while it runs
    keep      the kind of request of which the next one is kept, its connection cut; None again when that is done
    counts    ends that passed, were held, and were cut; `late` are those that arrived after their connection was cut
    """

    def __init__(self, targets: Mapping[int, int], *, seed: int, longest_s: float = 3.0) -> None:
        self.share = 0.0
        self.keep: int | None = None
        self.longest_s = longest_s
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._began = time.monotonic()
        self._targets = dict(targets)
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._kept: tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._ends = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> EndTxnProxy:
        self._thread.start()
        assert self._ready.wait(10), "the proxy does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = [
            self._loop.run_until_complete(
                asyncio.start_server(lambda r, w, to=target: self._accept(r, w, to), "127.0.0.1", port)
            )
            for port, target in self._targets.items()
        ]
        self._ready.set()
        self._loop.run_forever()
        for server in servers:
            server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for writer in self._writers:
            writer.close()
        self._loop.run_until_complete(asyncio.sleep(0.01))  # Closing takes a turn of the loop.
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        with suppress(asyncio.CancelledError):  # At the end of the proxy, whatever a connection was doing.
            await self._serve(reader, writer, target)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, to_broker}
        back = asyncio.ensure_future(self._answers(from_broker, writer))
        try:
            await self._requests(reader, writer, from_broker, to_broker, back)
        except (asyncio.IncompleteReadError, OSError):
            to_broker.close()
        with suppress(OSError, asyncio.CancelledError):
            await back
        writer.close()

    async def _answers(self, from_broker: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await from_broker.read(1 << 16):
                # A broker's late answer to a connection that was cut goes nowhere.
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_broker: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter, back: asyncio.Future[None],
    ) -> None:  # fmt: skip
        while True:
            head = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack(">i", head)[0])
            kind = struct.unpack(">h", body[:2])[0]
            if kind == self.keep:
                self.keep, self._ends = None, 0
                self.counts["kept"] += 1
                back.cancel()
                with suppress(asyncio.CancelledError):
                    await back
                self._kept = head + body, from_broker, to_broker
                return
            if kind == END_TXN and self._kept is not None:
                self._ends += 1
                if self._ends == 2:  # The first one ends the transaction of the request that is kept.
                    await self._deliver()
            if kind == END_TXN:
                fate, span = self._draw()
                self.counts[fate] += 1
                if fate == "cut":
                    self.notes.append(f"{time.monotonic() - self._began:7.2f} s  cut, to arrive {span:.2f} s later")
                    writer.close()
                    await asyncio.sleep(span)
                    to_broker.write(head + body)
                    await to_broker.drain()
                    self.counts["late"] += 1
                    await asyncio.sleep(1.0)  # A broker drops what came on a connection that is closed at once.
                    to_broker.close()
                    return
                await asyncio.sleep(span)
            to_broker.write(head + body)
            await to_broker.drain()

    async def _deliver(self) -> None:
        assert self._kept is not None
        (request, from_broker, to_broker), self._kept = self._kept, None
        to_broker.write(request)
        size = struct.unpack(">i", await from_broker.readexactly(4))[0]
        await from_broker.readexactly(size)
        to_broker.close()
        self.counts["delivered"] += 1

    def _draw(self) -> tuple[str, float]:
        if self._dice.random() >= self.share:
            return "passed", 0.0
        # Mostly so short that the late one can meet the next transaction, which begins within a commit interval.
        span = self._dice.uniform(0.01, 0.6) if self._dice.random() < 0.7 else self._dice.uniform(0.6, self.longest_s)
        return self._dice.choice(("held", "cut", "cut")), span
