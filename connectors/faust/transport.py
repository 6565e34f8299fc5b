"""Faust's consumer, made to read committed records only and to commit nothing.

Faust reads what transactions aborted, unless its own transactions are on, which are not used here; there is no setting.
It also commits an offset when an agent has moved on, which is earlier than when a delivery is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP


class CommittedThread(driver.AIOKafkaConsumerThread):
    """Makes the consumer; its isolation is private to aiokafka, and a test looks whether it has its effect."""

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commits nothing: an offset is committed with the record of its delivery."""
        return True


class CommittedConsumer(driver.Consumer):
    """A consumer on that thread."""

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)


class CommittedTransport(driver.Transport):
    """A transport of such consumers."""

    Consumer = CommittedConsumer
