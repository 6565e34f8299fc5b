"""Events, logs of alerts, and planes on them, for tests of reactions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from connectors.embedded import EmbeddedLog
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import Log, TopicPartition, TopicSettings, block_of
from streamproc.reaction import Event
from streamproc.runtime.reactions.definition import Reactions
from streamproc.runtime.reactions.log_feed import LogFeed
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.plane import Deeds, ReactionPlane
from streamproc.runtime.reactions.records import Writer
from streamproc.runtime.reading import read_topic

ALERT = parse_contract("""{"type": "record", "name": "alert", "sp:version": 1, "sp:owner": "tests", "fields": [
    {"name": "number", "type": "long"}, {"name": "service", "type": "string"}]}""")
ANSWER = parse_contract("""{"type": "record", "name": "answer", "sp:version": 1, "sp:owner": "tests", "fields": [
    {"name": "number", "type": "long"}, {"name": "said", "type": "string"}]}""")


def registry() -> MemoryRegistry:
    """A registry with both contracts."""
    known = MemoryRegistry([ALERT, ANSWER])
    for contract in (ALERT, ANSWER):
        known.adopt(contract)
    return known


def event(**row: Any) -> Event:
    """An event as a handler gets it."""
    row = row or {"number": 7, "service": "till"}
    return Event("a1b2", "alerts", 0, 17, 1_700_000_000_000_000, b"k", row, orjson.dumps(row))


def write_alerts(
    log: Log,
    numbers: Iterable[int],
    *,
    topic: str = "alerts",
    partitions: int = 2,
    service: Callable[[int], str] = lambda number: "till",
    headers: Callable[[int], dict[str, bytes]] | None = None,
) -> None:
    """Alerts with these numbers, each in the partition that its number says."""
    if topic not in log.topics():
        log.create_topic(topic, TopicSettings(partitions))
    writer = Writer(ALERT, registry())
    transaction = log.producer("tests").begin()
    for partition in range(partitions):
        mine = [number for number in numbers if number % partitions == partition]
        if mine:
            transaction.append(
                block_of(
                    topic,
                    partition,
                    writer.payloads([{"number": number, "service": service(number)} for number in mine]),
                    keys=[service(number).encode() for number in mine],
                    headers=None if headers is None else [headers(number) for number in mine],
                )
            )
    transaction.commit()


def opener(path: Path) -> Callable[[], contextlib.AbstractContextManager[Log]]:
    """Opens the embedded log of a path where it is used."""

    @contextlib.contextmanager
    def opened() -> Iterator[Log]:
        with EmbeddedLog(path) as log:
            yield log

    return opened


async def react(
    path: Path, reactions: Reactions, *, until_end: bool = True, member: str = "tests", **settings: Any
) -> Deeds:
    """Runs reactions on an embedded log, to the end of what is there."""
    async with LogThread(opener(path)) as log:
        plane = ReactionPlane(reactions, log, registry(), **settings)
        return await plane.run(LogFeed(log, plane.group, plane.topics, member), until_end=until_end)


def rows(path: Path, topic: str) -> list[dict[str, Any]]:
    """All rows of a topic."""
    with EmbeddedLog(path) as log:
        return read_topic(log, registry(), topic).to_dicts()


def committed(path: Path, group: str) -> dict[TopicPartition, int]:
    """What a group committed."""
    with EmbeddedLog(path) as log:
        return log.committed(group)


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """One column of rows."""
    return pl.DataFrame(rows)[name].to_list() if rows else []
