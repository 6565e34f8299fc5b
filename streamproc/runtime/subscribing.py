"""A topic's rows for whoever wants them: an iterator, sync or async, that a group can resume."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from streamproc.contracts.registry import Registry
from streamproc.errors import InputError, UnknownTopic, did_you_mean
from streamproc.event_time import instant_us
from streamproc.ports import Block, Log, Producer, TopicPartition
from streamproc.reaction import Event
from streamproc.runtime.reactions.receiving import received
from streamproc.runtime.reading import TopicReader
from streamproc.runtime.workspace import workspace_of

_BLOCK: Final = 4096
_WAIT_US: Final = 200_000
_PAUSE_S: Final = 0.05
_REMEMBER_S: Final = 1.0


class Subscription:
    """Records of one topic, partition by partition in offset order; see `subscribe` for the arguments.

    Iterate over it (`for` or `async for`) for events, or over `blocks()` for records in columns. Records that no known
    contract reads are no events; `unreadable` counts them.

    With a group, an event counts as dealt with when the next one is asked for. That is remembered at the end of each
    block, every second, and at the end; after a crash what was not remembered comes again, and nothing is missing. A
    second subscriber of the same group and topic takes over: the first one meets `Fenced`.
    """

    def __init__(
        self,
        topic: str,
        log: Log,
        registry: Registry,
        *,
        group: str | None = None,
        start: str | None = None,
        until: str | None = None,
        follow: bool = False,
        limit: int | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        if follow and until is not None:
            raise InputError("a subscription that follows never ends", hint="use one of follow and until")
        self._log, self._reader, self._close = log, TopicReader(registry), close
        settings = log.topics().get(topic)
        if settings is None:
            names = [name for name in log.topics() if not name.endswith(".tasks") and ".edge." not in name]
            raise UnknownTopic(f"the log has no topic '{topic}'", hint=did_you_mean(topic, names))
        places = [TopicPartition(topic, number) for number in range(settings.partitions)]
        self._group = None if group is None else f"subscribe.{group}"
        self._producer: Producer | None = None
        if self._group is not None:
            # An older subscriber of the group is refused from here on; what it committed before is seen.
            self._producer = log.producer(f"{self._group}.{topic}")
        committed = log.committed(self._group) if self._group is not None else {}
        self._at = {
            place: max(committed[place], log.start_offset(place))
            if start is None and place in committed
            else offset_of(log, place, start or "earliest")
            for place in places
        }
        self._remembered = {place: committed.get(place, -1) for place in places}
        self._remembered_at = time.monotonic()
        self._ends = None if follow else {place: offset_of(log, place, until or "latest") for place in places}
        self._left = limit
        self._stopped = False
        self.unreadable = 0

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_close(self, close: Callable[[], None]) -> None:
        """What `close` does last."""
        self._close = close

    def stop(self) -> None:
        """Ends iterations after the event or block that is under way; from a signal handler, too."""
        self._stopped = True

    def close(self) -> None:
        """Remembers what is dealt with and lets go of what `subscribe` opened."""
        try:
            if self._producer is not None:
                self._remember(self._at)
                self._producer.close()
                self._producer = None
        finally:
            if self._close is not None:
                self._close()
                self._close = None

    def blocks(self) -> Iterator[Block]:
        """The records in columns; a block counts as dealt with when the next one is asked for."""
        while (block := self._next()) is not None or self._goes_on():
            if block is None:
                self._log.wait(self._at, _WAIT_US)
                continue
            yield block
            self._dealt_with(block, int(block.offsets[-1]) + 1)
            self._remember(self._at)

    def __iter__(self) -> Iterator[Event]:
        while (block := self._next()) is not None or self._goes_on():
            if block is None:
                self._log.wait(self._at, _WAIT_US)
                continue
            for event in self._events(block):
                if self._stopped:
                    return
                yield event
                self._dealt_with(block, event.offset + 1)
            self._dealt_with(block, int(block.offsets[-1]) + 1)
            self._remember(self._at)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (block := self._next()) is not None or self._goes_on():
            if block is None:
                await asyncio.sleep(_PAUSE_S)
                continue
            for event in self._events(block):
                if self._stopped:
                    return
                yield event
                self._dealt_with(block, event.offset + 1)
                # Other work of the loop must not wait for a long block.
                await asyncio.sleep(0)
            self._dealt_with(block, int(block.offsets[-1]) + 1)
            self._remember(self._at)

    def _goes_on(self) -> bool:
        return not self._stopped and self._ends is None and self._left != 0

    def _next(self) -> Block | None:
        """The next block that is there; partitions take turns."""
        if self._stopped or self._left == 0:
            return None
        for place in sorted(self._at, key=self._at.__getitem__) if self._ends is None else self._at:
            at = self._at[place]
            # What has come already: to ask for the end would be a question over the network each time.
            end = self._log.available(place, at) if self._ends is None else self._ends[place]
            if at >= end:
                continue
            most = min(_BLOCK, end - at) if self._left is None else min(_BLOCK, end - at, self._left)
            block = self._log.read(place, at, max_records=most)
            if len(block) and int(block.offsets[-1]) >= end:
                block = block.slice(0, int(np.searchsorted(block.offsets, end)))
            if not len(block):
                # Only markers of transactions lie there.
                self._at[place] = end
                continue
            if self._left is not None:
                self._left -= len(block)
            return block
        return None

    def _events(self, block: Block) -> Iterator[Event]:
        for record in received(block, self._reader):
            if record.event is None:
                self.unreadable += 1
            else:
                yield record.event

    def _dealt_with(self, block: Block, position: int) -> None:
        self._at[TopicPartition(block.topic, block.partition)] = position
        if self._group is not None and time.monotonic() - self._remembered_at > _REMEMBER_S:
            self._remember(self._at)

    def _remember(self, at: dict[TopicPartition, int]) -> None:
        moved = {place: offset for place, offset in at.items() if self._remembered[place] != offset}
        if self._producer is None or self._group is None or not moved:
            return
        transaction = self._producer.begin()
        transaction.commit_offsets(self._group, moved)
        transaction.commit()
        self._remembered |= moved
        self._remembered_at = time.monotonic()


def subscribe(
    topic: str,
    *,
    bind: str | Path | None = None,
    log: Log | str | Path | None = None,
    contracts: Registry | Sequence[str | Path] | None = None,
    group: str | None = None,
    start: str | None = None,
    until: str | None = None,
    follow: bool = False,
    limit: int | None = None,
) -> Subscription:
    """A topic's rows as events; `streamproc subscribe` is the same on a command line.

    bind       a binding file, as --bind names it: it says where log (or Kafka) and contracts are
    log        instead of that a log, or the file of an embedded one; by default ".streamproc/log.db"
    contracts  a registry, or folders of contracts, by default ("schemas_avro",); those that ship, and those that runs
               derived beside the log, are known besides
    group      remembers the place under this name, and goes on there next time; without it the place is forgotten
    start      "earliest", "latest", an offset, or a moment of record time; by default the group's place, else earliest
    until      likewise; by default "latest", what is there now
    follow     goes on when the end is reached, until `stop`
    limit      ends after so many records

    Raises UnknownTopic, and InputError for places and files that cannot be used.

        with sp.subscribe("retail.alerts", bind="kafka.toml", group="desk", follow=True) as alerts:
            for alert in alerts:            # or, in a coroutine: async for alert in alerts
                print(alert.row["reason"])
    """
    if bind is not None:
        if log is not None or contracts is not None:
            raise InputError(
                f"the binding '{bind}' says which log and contracts are meant, and others are named too",
                hint="use either bind= or log= and contracts=",
            )
        with contextlib.ExitStack() as opening:
            workspace = workspace_of(Path(bind))
            opening.callback(workspace.close)
            bound = opening.enter_context(workspace.log())
            subscription = Subscription(
                topic, bound, workspace.reading_registry(), group=group, start=start, until=until, follow=follow,
                limit=limit,
            )  # fmt: skip
            subscription.on_close(opening.pop_all().close)
        return subscription
    log = ".streamproc/log.db" if log is None else log
    contracts = ("schemas_avro",) if contracts is None else contracts
    if not isinstance(log, str | Path):
        registry = _registry(contracts, None)
        return Subscription(topic, log, registry, group=group, start=start, until=until, follow=follow, limit=limit)
    from connectors.embedded import EmbeddedLog

    path = Path(log)
    if not path.exists():
        raise InputError(f"there is no log at '{path}'", hint="name the file of an embedded log")
    registry = _registry(contracts, path)
    opened = EmbeddedLog(path, create=False)
    try:
        return Subscription(
            topic, opened, registry, group=group, start=start, until=until, follow=follow, limit=limit,
            close=opened.close,
        )  # fmt: skip
    except BaseException:
        opened.close()
        raise


def offset_of(log: Log, place: TopicPartition, text: str) -> int:
    """The offset of a partition that a text means: earliest, latest, an offset, or a moment of record time.

    Raises InputError for another text. An offset that the partition does not have means the nearest that it has.
    """
    start, end = log.start_offset(place), log.end_offset(place)
    if text == "earliest":
        return start
    if text == "latest":
        return end
    if text.lstrip("-").isdigit():
        if int(text) < 0:
            raise InputError(f"offset {text} is below zero", hint="offsets count from 0")
        return int(np.clip(int(text), start, end))
    return log.offset_at(place, instant_us(text))


def _registry(contracts: Registry | Sequence[str | Path], log: Path | None) -> Registry:
    if not isinstance(contracts, Sequence):
        return contracts
    from connectors.registry import FolderRegistry

    derived = () if log is None else (log.parent / f"{log.stem}.contracts",)
    return FolderRegistry((*map(Path, contracts), Path(str(files("schemas_avro"))), *derived))
