"""What Kafka's clients say, in the words of the log port."""

from __future__ import annotations

import threading
import time
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from streamproc.errors import Fenced, LogError, LogUnavailable, StaleMember, UnknownOutcome, UnknownTopic

_REFUSED: Final = {
    KafkaError._AUTHENTICATION: "the brokers refuse the user name or password",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the brokers refuse the user name or password",
    KafkaError._SSL: "the TLS handshake fails",
}
OVER_SIZE: Final = "receive.message.max.bytes"
"""What the client's words for an answer that is too large name."""
_STALE: Final = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    getattr(KafkaError, "STALE_MEMBER_EPOCH", 113),
    getattr(KafkaError, "FENCED_MEMBER_EPOCH", 110),
}
_FENCED: Final = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
}
_TORN: Final = {
    KafkaError._STATE,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.UNKNOWN,  # A broker that fell over its own state: seen at a commit while another producer took its id.
}
_GIVEN_UP: Final = {
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_PRODUCER_ID,
    getattr(KafkaError, "TRANSACTION_ABORTABLE", 120),
}
"""The brokers cannot go on with this transaction; nothing is wrong with the next one."""
_AWAY: Final = {
    # The client's own words for it.
    KafkaError._NOENT,  # No leader is known for a partition.
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._WAIT_COORD,
    KafkaError._WAIT_CACHE,
    KafkaError._NODE_UPDATE,
    KafkaError._UNKNOWN_BROKER,
    KafkaError._ISR_INSUFF,
    KafkaError._RETRY,
    getattr(KafkaError, "_DESTROY_BROKER", -137),  # The brokers said meanwhile that this one is none of theirs.
    # What the protocol calls retriable: a leader, a coordinator or an answer is on its way.
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.NOT_CONTROLLER,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LISTENER_NOT_FOUND,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
    KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.THROTTLING_QUOTA_EXCEEDED,
}


class Connection:
    """What a client's connections report, from the thread on which it calls back: the only place where a wrong password
    or certificate shows at all."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._lock = threading.Lock()
        self._refused: KafkaError | None = None
        self._trouble: tuple[float, KafkaError] | None = None
        self._too_large = ""

    def __call__(self, error: KafkaError) -> None:
        """The client's error callback."""
        with self._lock:
            if error.code() in _REFUSED:
                self._refused = error
            elif error.code() == KafkaError._BAD_MSG and OVER_SIZE in error.str():
                self._too_large = error.str()
            else:
                self._trouble = (time.monotonic(), error)

    def check(self) -> None:
        """Raises LogError if the brokers refuse this client for good."""
        with self._lock:
            refused, self._refused = self._refused, None
        if refused is not None:
            raise LogError(
                f"Kafka at {self._brokers}: {_REFUSED[refused.code()]} ({refused.str()})",
                hint="look at [kafka] in the binding: user, password, ca",
            )

    def too_large(self) -> str:
        """What was said of an answer that is larger than the client takes, once; "" if there was none.

        It is the answer to a fetch whose first batch is that large, and nobody says of which partition: the client asks
        for it again and again, and gets nothing else from that broker.
        """
        with self._lock:
            said, self._too_large = self._too_large, ""
        return said

    def away(self, what: str) -> LogUnavailable:
        """The error for brokers that did not answer, with the last thing that was heard of them."""
        with self._lock:
            trouble = self._trouble
        heard = f": {trouble[1].str()}" if trouble is not None and time.monotonic() - trouble[0] < 60 else ""
        return LogUnavailable(
            f"Kafka at {self._brokers} did not answer ({what}){heard}", hint="are the brokers running, and reachable?"
        )


def error_of(problem: KafkaException | KafkaError) -> KafkaError:
    """The client's error inside an exception."""
    if isinstance(problem, KafkaException):
        found: KafkaError = problem.args[0]
        return found
    return problem


def refusal(error: KafkaError, what: str, connection: Connection) -> LogError:
    """A LogError for something that was refused, or not answered, and left nothing behind."""
    code = error.code()
    if code in _AWAY:
        return connection.away(what)
    if code in _GIVEN_UP:
        return LogUnavailable(f"{what}: {error.str()} ({error.name()})", hint="what it was to write is done again")
    if is_unknown(error):
        return UnknownTopic(f"{what}: Kafka has no such topic or partition", hint="see 'streamproc topics'")
    if code in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ):
        return LogError(f"{what}: Kafka does not allow it ({error.str()})", hint="give the user the rights (ACLs)")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return LogError(f"{what}: a record is larger than the topic takes", hint="raise the topic's max.message.bytes")
    return LogError(f"{what}: {error.str()} ({error.name()})", hint="see the brokers' log")


def is_unknown(error: KafkaError) -> bool:
    """Whether there is no such topic or partition."""
    return error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


def is_stale(error: KafkaError) -> bool:
    """Whether the group refused a member."""
    return error.code() in _STALE


def is_fenced(error: KafkaError) -> bool:
    """Whether a newer producer has the id, or the transaction took too long: brokers say the same for both."""
    return error.code() in _FENCED


def is_torn(error: KafkaError) -> bool:
    """Whether the brokers do not know, or do not say, what became of the transaction that the client has open."""
    return error.code() in _TORN


def fenced(transactional_id: str) -> Fenced:
    """The error of a producer whose id somebody else took."""
    return Fenced(
        f"producer '{transactional_id}' was fenced: another one opened under its id",
        hint="run each worker under a name of its own; restore the tasks before going on",
    )


def stale(member: str, group: str, why: str) -> StaleMember:
    """The error of a commit that the group refuses."""
    return StaleMember(
        f"'{member}' is not what group '{group}' takes it for: {why}", hint="poll the group, and restore the tasks"
    )


def unknown(what: str, error: KafkaError | str) -> UnknownOutcome:
    """The error of a transaction of which nobody knows whether it was committed."""
    said = error if isinstance(error, str) else f"{error.str()} ({error.name()})"
    return UnknownOutcome(
        f"{what}: {said}; it may be committed or not", hint="open the producer anew and believe committed offsets only"
    )
