"""Apache Kafka as a log: the only code that touches a Kafka client for anything that must be exact."""

from __future__ import annotations

from connectors.kafka.log import KafkaLog
from connectors.kafka.profile import KafkaSettings

__all__ = ["KafkaLog", "KafkaSettings", "open_kafka_log"]


def open_kafka_log(settings: KafkaSettings) -> KafkaLog:
    """Opens a cluster as a log; asks it for its topics, so that a wrong address or password shows now.

    Raises LogUnavailable where no broker answers within seconds, LogError where they refuse.
    """
    log = KafkaLog(settings)
    log.topics()
    return log
