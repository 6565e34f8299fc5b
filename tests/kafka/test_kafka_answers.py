"""What brokers answer while one of them changes its place is no end of the work: it is met by asking again."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from connectors.kafka.answers import Connection, is_torn, refusal
from streamproc.errors import LogUnavailable

RETRIABLE = (
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "REQUEST_TIMED_OUT",
    "REPLICA_NOT_AVAILABLE",
    "NETWORK_EXCEPTION",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "NOT_CONTROLLER",
    "CONCURRENT_TRANSACTIONS",
    "KAFKA_STORAGE_ERROR",
    "LISTENER_NOT_FOUND",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE",
    "PREFERRED_LEADER_NOT_AVAILABLE",
    "ELIGIBLE_LEADERS_NOT_AVAILABLE",
    "UNSTABLE_OFFSET_COMMIT",
    "THROTTLING_QUOTA_EXCEEDED",
)
"""What Kafka's protocol guide calls retriable, as far as an answer about offsets or a transaction has it."""


@pytest.mark.parametrize("name", RETRIABLE)
def test_an_answer_that_the_protocol_calls_retriable_is_waited_out(name: str) -> None:
    problem = refusal(KafkaError(getattr(KafkaError, name)), "offsets of t-0", Connection("here:9092"))
    assert isinstance(problem, LogUnavailable)


CLIENTS_OWN = ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_WAIT_COORD", "_WAIT_CACHE", "_NODE_UPDATE",
               "_UNKNOWN_BROKER", "_ISR_INSUFF", "_RETRY", "_DESTROY_BROKER")  # fmt: skip
"""What the client itself says while brokers come and go. The last one ended a worker: a broker that died in the middle
of a commit was taken out of the client's list before its answer was given up."""


@pytest.mark.parametrize("name", CLIENTS_OWN)
def test_what_the_client_says_while_brokers_come_and_go_is_waited_out(name: str) -> None:
    problem = refusal(KafkaError(getattr(KafkaError, name)), "a transaction", Connection("here:9092"))
    assert isinstance(problem, LogUnavailable)


def test_a_commit_to_which_a_broker_answers_with_an_error_of_its_own_has_an_unknown_outcome() -> None:
    """Seen where twelve producers took one id from each other: the work is done again by what is committed."""
    assert is_torn(KafkaError(KafkaError.UNKNOWN))
    assert not is_torn(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
