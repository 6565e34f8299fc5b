"""The settings of Kafka's clients: what is forced, so that the log's promises hold, and what a binding may set.

Forced is whatever a promise rests on: no automatic commits, no silent reset of offsets, idempotent producers that wait
for all replicas, committed records only, checksums. A binding says where the brokers are, how to prove who one is, and
how much memory reading may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streamproc.errors import LogError, did_you_mean

TRANSACTION_TIMEOUT_S: Final = 20.0
"""A dead worker's open transaction hides what came after it from readers for so long."""
LARGEST_RECORD: Final = 16 << 20
"""Bytes of the largest record that is written: a journal entry of a large step takes some megabytes."""

GroupProtocol = Literal["classic", "consumer"]

SIZES: Final = {
    "fetch_wait_ms": "fetch.wait.max.ms",
    "receive_bytes": "fetch.max.bytes",
    "receive_partition_bytes": "max.partition.fetch.bytes",
    "linger_ms": "linger.ms",
    "batch_bytes": "batch.size",
    "compression": "compression.type",
}
"""What a binding may set of sizes and waiting, and librdkafka's name for it."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach a cluster.

    brokers         "host:port", several with commas
    security        librdkafka's settings of security.protocol, sasl.* and ssl.*, secrets included: never printed
    sizes           of `SIZES`
    memory_bytes    records that wait in this process for the engine, at most, over all partitions
    group_protocol  "classic": cooperative-sticky; "consumer": KIP-848, for brokers from 4.0 on
    session_s       after so long without a heartbeat the group gives a worker's tasks away; None: as the worker says
    """

    brokers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    memory_bytes: int = 256 << 20
    group_protocol: GroupProtocol = "classic"
    session_s: float | None = None
    replication: int = -1

    def __post_init__(self) -> None:
        for name in sorted(set(self.sizes) - set(SIZES)):
            raise LogError(f"'{name}' is no size of a Kafka client", hint=did_you_mean(name, SIZES))
        if self.group_protocol not in ("classic", "consumer"):
            raise LogError(f"group_protocol '{self.group_protocol}' is unknown", hint="write 'classic' or 'consumer'")

    def common(self) -> dict[str, Any]:
        """What every client gets."""
        return {
            "bootstrap.servers": self.brokers,
            **self.security,
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
        return {
            **self.common(),
            "fetch.wait.max.ms": 20,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "fetch.max.bytes": 50 << 20,
            "max.partition.fetch.bytes": 8 << 20,
            "queued.min.messages": 400_000,
            **self._sized("fetch_wait_ms", "receive_bytes", "receive_partition_bytes"),
            "queued.max.messages.kbytes": max(1_024, self.memory_bytes // 1_024),
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
        if self.group_protocol == "consumer":
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
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "retry.backoff.ms": 10,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1 << 20,
            **self._sized("linger_ms", "batch_bytes", "compression"),
            "batch.num.messages": 50_000,
            "message.max.bytes": LARGEST_RECORD,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(1_000 * TRANSACTION_TIMEOUT_S),
            "enable.idempotence": True,
            "acks": "all",
        }

    def _sized(self, *names: str) -> dict[str, Any]:
        return {SIZES[name]: self.sizes[name] for name in names if name in self.sizes}
