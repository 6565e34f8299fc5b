"""Apache Kafka as a log: the only code that touches a Kafka client for anything that must be exact."""

from __future__ import annotations

from connectors.kafka.binding import KafkaSettings, kafka_settings
from connectors.kafka.log import KafkaLog
from connectors.kafka.profile import Profile

__all__ = ["KafkaLog", "KafkaSettings", "Profile", "kafka_settings", "open_kafka_log"]


def open_kafka_log(settings: KafkaSettings) -> KafkaLog:
    """Opens a cluster as a log; asks it for its topics, so that a wrong address or password shows now.

    Raises LogUnavailable where no broker answers within seconds, LogError where they refuse.
    """
    log = KafkaLog(Profile(settings))
    try:
        log.topics()
    except BaseException:
        log.close()
        raise
    return log
