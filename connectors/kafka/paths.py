"""The two ways in which records move: in blocks through librdkafka's own interface, or as confluent-kafka's objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from connectors.kafka.admin import Admin
from connectors.kafka.profile import Profile
from connectors.kafka.reading import MessageReader, Reader
from connectors.kafka.writing import MakeSender
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
            return DataPath(BlockReader, BlockSender.opened)
    return DataPath(MessageReader, MessageSender.opened)
