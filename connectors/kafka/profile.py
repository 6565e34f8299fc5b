"""The settings of Kafka's clients: what is forced, so that the log's promises hold, and what a binding may set.

Forced is whatever a promise rests on: no automatic commits, no silent reset of offsets, idempotent producers that wait
for all replicas, committed records only, checksums. A binding says where the brokers are, how to prove who one is, and
how much memory reading may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from connectors.kafka.binding import KafkaSettings

TRANSACTION_TIMEOUT_S: Final = 20.0
"""A dead worker's open transaction hides what came after it from readers for so long."""
LARGEST_RECORD: Final = 16 << 20
"""Bytes of the largest record that is written: a journal entry of a large step takes some megabytes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of each kind of client.

    settings   what the binding says
    session_s  after so long without a heartbeat the group gives a worker's tasks away; None: as the worker says
    """

    settings: KafkaSettings
    session_s: float | None = None

    @property
    def brokers(self) -> str:
        """The brokers' addresses, for messages."""
        return ",".join(self.settings.brokers)

    @property
    def waiting_bytes(self) -> int:
        """How much of one partition may wait in this process for the engine."""
        return self.settings.sizes.partition_bytes

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
        sizes = self.settings.sizes
        return {
            **self.common(),
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "fetch.max.bytes": max(50 << 20, sizes.fetch_bytes),
            "max.partition.fetch.bytes": sizes.fetch_bytes,
            "queued.min.messages": 400_000,
            "queued.max.messages.kbytes": max(1_024, sizes.partition_bytes // 1_024),
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
