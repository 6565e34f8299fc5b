"""The settings of Kafka's clients: what is forced, so that the log's promises hold, and what a binding may set.

Forced is whatever a promise rests on: no automatic commits, no silent reset of offsets, idempotent producers that wait
for all replicas, committed records only, checksums. A binding says where the brokers are, how to prove who one is, and
how much memory reading may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from connectors.kafka.binding import LARGEST_RECORD, KafkaSettings

TRANSACTION_TIMEOUT_S: Final = 20.0
"""A dead worker's open transaction hides what came after it from readers for so long."""
_LEAST_WAITING: Final = 64 << 10
_LEAST_FETCH: Final = 16 << 10
_LEAST_RESPONSE: Final = 1 << 20
"""The client takes no less for all partitions of a broker."""
_UNFOLDS: Final = 64
"""How many times larger than what was fetched it may be: so much for text that repeats itself."""
_ANSWER_BYTES: Final = 64 << 10
"""What an answer takes besides records."""
_RECORD_BYTES: Final = 512
"""What a small record takes inside the client, about."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of each kind of client.

    settings   what the binding says
    session_s  after so long without a heartbeat the group gives a worker's tasks away; None: as the worker says
    ahead      bytes that may be fetched ahead, and of how many partitions together; None: as the sizes say of each
    """

    settings: KafkaSettings
    session_s: float | None = None
    ahead: tuple[int, int] | None = None

    @property
    def brokers(self) -> str:
        """The brokers' addresses, for messages."""
        return ",".join(self.settings.brokers)

    @property
    def waiting_bytes(self) -> int:
        """How much of one partition may wait in this process for the engine."""
        if self.ahead is None:
            return max(1 << 20, self.settings.sizes.partition_bytes)
        most, partitions = self.ahead
        return max(_LEAST_WAITING, min(self.settings.sizes.partition_bytes, most // max(1, partitions)))

    @property
    def outstanding_bytes(self) -> int:
        """How much may be on its way to the brokers."""
        sizes = self.settings.sizes
        return sizes.outstanding_bytes if self.ahead is None else min(sizes.outstanding_bytes, self.ahead[0])

    def common(self) -> dict[str, Any]:
        """What every client gets."""
        return {
            **self.settings.connection(),
            # What happens on connections is told through callbacks; librdkafka itself prints nothing.
            "log_level": 0,
            "socket.keepalive.enable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "socket.connection.setup.timeout.ms": 5_000,
            # Topics are made on purpose: a wrong name must stay an error.
            "allow.auto.create.topics": False,
        }

    def reader(self) -> dict[str, Any]:
        """A consumer that reads partitions which it is given, and commits nothing."""
        fetch, waiting, messages, response = self.settings.sizes.fetch_bytes, self.waiting_bytes, 400_000, 50 << 20
        most = self.settings.sizes.record_bytes
        if self.ahead is not None:
            # What is asked for comes on top of what waits, and it is asked for as it is packed; and a small record
            # takes more than its bytes.
            fetch = max(_LEAST_FETCH, min(fetch, waiting // _UNFOLDS))
            messages, response = max(1_000, waiting // _RECORD_BYTES), max(_LEAST_RESPONSE, self.ahead[0] // _UNFOLDS)
        return {
            **self.common(),
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "fetch.max.bytes": min(max(response, fetch), most),
            "max.partition.fetch.bytes": min(fetch, most),
            "receive.message.max.bytes": most + _ANSWER_BYTES,
            "queued.min.messages": min(messages, 400_000),
            "queued.max.messages.kbytes": max(1, waiting // 1_024),
            "group.id": "streamproc.reader",  # Needed by the client; nothing is committed under it.
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "enable.partition.eof": True,
        }

    def member(self, group: str, client: str, lease_s: float) -> dict[str, Any]:
        """A consumer that only takes part in a group."""
        session_ms = int(1_000 * (self.session_s or max(lease_s, 6.0)))
        settings = {
            **self.common(),
            "client.id": client,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            # A restore may take longer than any poll: whether a worker lives is for its heartbeats to say.
            "max.poll.interval.ms": max(900_000, session_ms),
        }
        if self.settings.group_protocol == "consumer":
            return {**settings, "group.protocol": "consumer"}
        return {
            **settings,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(100, session_ms // 10),
        }

    def writer(self, transactional_id: str) -> dict[str, Any]:
        """A transactional producer."""
        return {
            **self.common(),
            # Records come in whole blocks, and a commit waits for all of them: there is nothing to wait for.
            "linger.ms": 1,
            "batch.size": 1_000_000,
            # The transaction before is often still being closed when the next one begins: it is asked again soon.
            "retry.backoff.ms": 2,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1 << 20,
            "batch.num.messages": 50_000,
            "compression.type": self.settings.compression,
            "message.max.bytes": LARGEST_RECORD,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(1_000 * TRANSACTION_TIMEOUT_S),
            "enable.idempotence": True,
            "acks": "all",
        }
