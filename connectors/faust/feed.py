"""Agents that hand records of a group's partitions over to the reaction plane.

Faust takes part in the group, fetches, and calls an agent for each record; nothing that must be exact rests on it. The
plane commits the group's offsets, each in the transaction that records the delivery, and Faust begins there. A record
that Faust passes over is noticed by the gap in front of the next one and read from the log itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import ssl
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import faust
import numpy as np

from connectors.faust.transport import CommittedTransport
from streamproc.errors import LogError, LogUnavailable
from streamproc.ports import Block, Log, TopicPartition, block_of
from streamproc.reaction import Deliveries

_LOOK_S: Final = 0.1
_GAP_RECORDS: Final = 256
_SESSION_S: Final = 10.0
_QUIET_S: Final = 5.0
"""A partition from which nothing came for so long is looked at in the log."""


class FaustFeed:
    """Brings what Kafka's group gives to this process; one agent a topic, which takes one record at a time.

    connection  librdkafka's settings of bootstrap.servers, security.protocol, sasl.* and ssl.*
    group       the consumer group; whoever records deliveries commits its offsets
    ask         runs a function on the log, for what lies in a gap
    """

    def __init__(
        self,
        connection: Mapping[str, str],
        group: str,
        topics: Sequence[str],
        *,
        ask: Callable[[Callable[[Log], Block]], Awaitable[Block]],
    ) -> None:
        self._topics, self._ask, self._brokers = tuple(topics), ask, connection["bootstrap.servers"]
        # Faust makes a folder for tables, in the current one if it is not told otherwise; there are no tables here.
        self._folder = tempfile.mkdtemp(prefix="streamproc-react-")
        self._app = faust.App(
            group,
            datadir=self._folder,
            broker=[f"kafka://{address.strip()}" for address in self._brokers.split(",")],
            store="memory://",
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            consumer_auto_offset_reset="earliest",
            # Agents wait for the plane where it is full: a wait is no sign of trouble.
            broker_max_poll_interval=3_600.0,
            stream_processing_timeout=3_600.0,
            stream_wait_empty=False,
            # So long a killed process keeps its partitions from others.
            broker_session_timeout=_SESSION_S,
            broker_heartbeat_interval=_SESSION_S / 4,
            **_credentials(connection),
        )
        self._next: dict[TopicPartition, int] = {}
        self._seen: dict[TopicPartition, float] = {}
        self._turns: defaultdict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._started = False

    async def run(self, deliveries: Deliveries) -> None:
        """Offers records until it is cancelled; raises what keeps it from that."""
        app = self._app
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        app.transport = CommittedTransport(app.conf.broker_consumer, app)

        async def revoked(_: Any, partitions: Any, **__: Any) -> None:
            places = [TopicPartition(each.topic, each.partition) for each in partitions]
            for place in places:
                self._next.pop(place, None)
            await deliveries.withdraw(places)

        app.on_partitions_revoked.connect(revoked, weak=False)  # type: ignore[arg-type]  # it names what it uses
        for topic in self._topics:
            records = app.topic(
                topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=True
            )
            app.agent(records, name=f"{app.conf.id}.{topic}", concurrency=1)(self._agent(deliveries, failure))
        self._started = True
        try:
            await app.start()
        except Exception as error:
            raise LogUnavailable(
                f"the brokers at {self._brokers} are not reached: {error}", hint="see whether they run and who may read"
            ) from error
        while not failure.done():
            await asyncio.wait([failure], timeout=_LOOK_S)
            await self._look_after(deliveries)
            if app.should_stop and not failure.done():
                raise LogError("the consumer of the group has stopped", hint="start the reactions again") from (
                    app.crash_reason
                )
        failure.result()

    async def close(self) -> None:
        """Leaves the group."""
        try:
            if self._started:
                await self._app.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _agent(self, deliveries: Deliveries, failure: asyncio.Future[None]) -> Any:
        async def act(stream: Any) -> None:
            async for event in stream.events():
                try:
                    await self._take(event.message, deliveries)
                except Exception as error:
                    # Faust would pass over the record and begin the agent anew.
                    if not failure.done():
                        failure.set_exception(error)
                    return

        return act

    async def _take(self, message: Any, deliveries: Deliveries) -> None:
        place = TopicPartition(message.topic, message.partition)
        async with self._turns[place]:
            # Marks of transactions and what compaction took leave gaps, too: then there is nothing to read.
            await self._catch_up(place, deliveries, message.offset)
            await deliveries.offer(_block(message))
            self._next[place] = max(message.offset + 1, self._next[place])
            self._seen[place] = time.monotonic()

    async def _look_after(self, deliveries: Deliveries) -> None:
        """Reads from the log itself where a partition was lost and is still ours, and where nothing came for long."""
        for place in list(self._next):
            lost = deliveries.room(place) < 0
            if not lost and time.monotonic() - self._seen[place] < _QUIET_S:
                continue
            if self._turns[place].locked() or not self._is_ours(place):
                continue
            async with self._turns[place]:
                await self._catch_up(place, deliveries, None)
                self._seen[place] = time.monotonic()

    async def _catch_up(self, place: TopicPartition, deliveries: Deliveries, end: int | None) -> None:
        """Offers what lies between the newest record that was offered and `end`, or the end of the partition."""
        if deliveries.room(place) < 0:
            self._next[place] = await deliveries.begin(place)
            self._seen[place] = time.monotonic()
        while (at := self._next[place]) < (1 << 62 if end is None else end):
            block = await self._ask(partial(_gap, place, at, end))
            if not len(block):
                return
            await deliveries.offer(block)
            self._next[place] = int(block.offsets[-1]) + 1

    def _is_ours(self, place: TopicPartition) -> bool:
        return any((each.topic, each.partition) == place for each in self._app.consumer.assignment())


def _gap(place: TopicPartition, start: int, end: int | None, log: Log) -> Block:
    """Records from `start` on, below `end` where there is one; some of them, or none where there are none."""
    block = log.read(place, max(start, log.start_offset(place)), max_records=_GAP_RECORDS)
    return block if end is None else block.slice(0, int(np.searchsorted(block.offsets, end)))


def _block(message: Any) -> Block:
    headers = message.headers or ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    block = block_of(
        message.topic, message.partition, [message.value], keys=[message.key],
        headers=[{name: value for name, value in pairs if value is not None}],
    )  # fmt: skip
    return dataclasses.replace(
        block,
        offsets=np.array([message.offset], np.int64),
        timestamps=np.array([round(message.timestamp * 1_000) * 1_000], np.int64),
    )


def _credentials(security: Mapping[str, str]) -> dict[str, Any]:
    """Faust's settings of what librdkafka's say; raises LogError for a way in that Faust does not know."""
    protocol = security.get("security.protocol", "PLAINTEXT").upper()
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=security.get("ssl.ca.location"))
        if "ssl.certificate.location" in security:
            context.load_cert_chain(
                security["ssl.certificate.location"], security.get("ssl.key.location"), security.get("ssl.key.password")
            )
        if security.get("ssl.endpoint.identification.algorithm") == "none":
            context.check_hostname = False
    if not protocol.startswith("SASL"):
        return {} if context is None else {"broker_credentials": faust.SSLCredentials(context)}
    mechanism = security.get("sasl.mechanism", security.get("sasl.mechanisms", "PLAIN"))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise LogError(
            f"reactions cannot prove who they are by '{mechanism}'", hint="use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        )
    return {
        "broker_credentials": faust.SASLCredentials(
            username=security.get("sasl.username"),
            password=security.get("sasl.password"),
            mechanism=mechanism,
            ssl_context=context,
        )
    }
