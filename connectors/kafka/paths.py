"""The ways in which records move: in blocks through librdkafka's own interface, or as confluent-kafka's objects.

Where the binding says `direct`, brokers are written to without librdkafka if they speak its transactions; whether they
do is asked whenever a producer is opened, for a cluster may learn it while a worker runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection
from connectors.kafka.profile import Profile
from connectors.kafka.reading import MessageReader, Reader
from connectors.kafka.transaction import Sender
from connectors.kafka.writing import MakeSender
from connectors.kafka.writing_direct import DirectSender
from connectors.kafka.writing_messages import MessageSender
from streamproc.errors import LogError

logger = logging.getLogger(__name__)


class DataPath(NamedTuple):
    """What opens readers, and the clients of producers."""

    reader: Callable[[Profile, Admin], Reader]
    sender: MakeSender


def data_path(blocks: bool | None = None) -> DataPath:
    """The path by blocks, or by objects where that was asked for or the library cannot be called directly.

    Raises LogError if blocks were asked for and are not possible.
    """
    if blocks is not False:
        try:
            from connectors.kafka.reading_blocks import BlockReader
            from connectors.kafka.writing_blocks import BlockSender
        except (LogError, OSError, AttributeError) as missing:
            if blocks:
                raise LogError(f"librdkafka cannot be called directly: {missing}") from missing
            logger.info("Kafka's records move as objects, several times slower: %s", missing)
        else:
            logger.info("Kafka's records move in blocks")
            return DataPath(BlockReader, _Directly(BlockSender.opened))
    return DataPath(MessageReader, _Directly(MessageSender.opened))


class _Directly:
    """Opens a producer that writes directly where that is wanted and possible, else the other one."""

    def __init__(self, otherwise: MakeSender) -> None:
        self._otherwise = otherwise
        self._said: str | None = None

    def __call__(self, profile: Profile, admin: Admin, transactional_id: str, connection: Connection) -> Sender:
        if not profile.settings.direct:
            return self._otherwise(profile, admin, transactional_id, connection)
        sender, why = DirectSender.opened(profile, admin, transactional_id, connection)
        if why != self._said:
            self._said = why
            if why:
                logger.info("Kafka is written to through librdkafka: %s", why)
            else:
                logger.info("Kafka is written to directly, in transactions of version 2")
        return self._otherwise(profile, admin, transactional_id, connection) if sender is None else sender
