"""librdkafka's public C API by ctypes: what the adapter calls of it, and nothing of what the calls are for.

The library is the one that the installed confluent_kafka uses; its symbols are found through that extension module, so
no path is guessed.  Everything is driven by polling queues of events: no C thread ever calls into Python.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, cimpl

from connectors.kafka.answers import Connection
from streamproc.errors import LogError

logger = logging.getLogger(__name__)

PRODUCER: Final = 0
CONSUMER: Final = 1
EVENT_DELIVERIES: Final = 0x1
EVENT_ERROR: Final = 0x8
PURGE_ALL: Final = 0x1 | 0x2
_LEAST_VERSION: Final = 0x020C0000
_DESTROY_S: Final = 10.0
_NO_CONSUMER_CLOSE: Final = 0x8
_TEXT: Final = 512

_P, _I, _I32, _I64, _S, _Z = (
    ctypes.c_void_p, ctypes.c_int, ctypes.c_int32, ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t,
)  # fmt: skip
_SIGNATURES: Final[Mapping[str, tuple[Any, ...]]] = {
    "version": (_I,),
    "conf_new": (_P,),
    "conf_destroy": (None, _P),
    "conf_set": (_I, _P, _S, _S, _S, _Z),
    "conf_set_events": (None, _P, _I),
    "conf_interceptor_add_on_new": (_I, _P, _S, _P, _P),
    "interceptor_add_on_request_sent": (_I, _P, _S, _P, _P),
    "conf_set_log_cb": (None, _P, _P),
    "new": (_P, _I, _P, _S, _Z),
    "destroy_flags": (None, _P, _I),
    "purge": (_I, _P, _I),
    "last_error": (_I,),
    # queues and events
    "queue_get_main": (_P, _P),
    "queue_get_partition": (_P, _P, _S, _I32),
    "queue_io_event_enable": (None, _P, _I, _P, _Z),
    "queue_destroy": (None, _P),
    "queue_poll": (_P, _P, _I),
    "event_type": (_I, _P),
    "event_error": (_I, _P),
    "event_error_string": (_S, _P),
    "event_message_count": (_Z, _P),
    "event_message_array": (_Z, _P, _P, _Z),
    "event_destroy": (None, _P),
    # errors
    "error_code": (_I, _P),
    "error_string": (_S, _P),
    "error_is_fatal": (_I, _P),
    "error_is_retriable": (_I, _P),
    "error_txn_requires_abort": (_I, _P),
    "error_destroy": (None, _P),
    # topics, partitions, positions
    "topic_new": (_P, _P, _S, _P),
    "topic_destroy": (None, _P),
    "topic_name": (_S, _P),
    "topic_partition_list_new": (_P, _I),
    "topic_partition_list_add": (_P, _P, _S, _I32),
    "topic_partition_list_set_offset": (_I, _P, _S, _I32, _I64),
    "topic_partition_list_destroy": (None, _P),
    # reading
    "consume_start": (_I, _P, _I32, _I64),
    "consume_stop": (_I, _P, _I32),
    "consume_batch_queue": (ctypes.c_ssize_t, _P, _I, _P, _Z),
    "message_errstr": (_S, _P),
    "message_destroy": (None, _P),
    "message_timestamp": (_I64, _P, _P),
    "message_headers": (_I, _P, _P),
    "header_cnt": (_Z, _P),
    "header_get_all": (_I, _P, _Z, _P, _P, _P),
    # groups
    "consumer_group_metadata_read": (_P, ctypes.POINTER(_P), _P, _Z),
    "consumer_group_metadata_destroy": (None, _P),
    # writing
    "init_transactions": (_P, _P, _I),
    "begin_transaction": (_P, _P),
    "send_offsets_to_transaction": (_P, _P, _P, _P, _I),
    "commit_transaction": (_P, _P, _I),
    "abort_transaction": (_P, _P, _I),
    "produce_batch": (_I, _P, _I32, _I, _P, _I),
    "produceva": (_P, _P, _P, _Z),
}


class Library:
    """The functions of the table above without their prefix, and `address` of each for kernels."""

    def __init__(self) -> None:
        library = ctypes.CDLL(cimpl.__file__)
        missing = [name for name in _SIGNATURES if not hasattr(library, f"rd_kafka_{name}")]
        if missing:
            raise LogError(
                f"confluent_kafka at {cimpl.__file__} brings a librdkafka without {', '.join(missing[:3])}",
                hint="install confluent-kafka 2.12 or newer",
            )
        self._library = library
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(library, f"rd_kafka_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        if self.version() < _LEAST_VERSION:
            raise LogError(
                f"librdkafka {self.version():#010x} is too old", hint="install confluent-kafka 2.12 or newer"
            )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def address(self, name: str) -> int:
        """Where a function lies: kernels call it by this."""
        found = ctypes.cast(getattr(self._library, f"rd_kafka_{name}"), ctypes.c_void_p).value
        assert found is not None
        return found


rd: Final = Library()


def check(error: int | None) -> None:
    """Raises KafkaException from an rd_kafka_error_t, and frees it."""
    if error:
        found = KafkaError(
            rd.error_code(error),
            rd.error_string(error).decode(errors="replace"),
            bool(rd.error_is_fatal(error)),
            bool(rd.error_is_retriable(error)),
            bool(rd.error_txn_requires_abort(error)),
        )
        rd.error_destroy(error)
        raise KafkaException(found)


def check_code(code: int) -> None:
    """Raises KafkaException from a bare response code."""
    if code:
        raise KafkaException(KafkaError(code))


class PartitionList:
    """A list of partitions with offsets, freed with the `with` that holds it."""

    def __init__(self, offsets: Mapping[tuple[str, int], int]) -> None:
        self.at: int = rd.topic_partition_list_new(len(offsets))
        for (topic, partition), offset in offsets.items():
            rd.topic_partition_list_add(self.at, topic.encode(), partition)
            rd.topic_partition_list_set_offset(self.at, topic.encode(), partition, offset)

    def __enter__(self) -> int:
        return self.at

    def __exit__(self, *_: object) -> None:
        rd.topic_partition_list_destroy(self.at)


class Client:
    """One librdkafka client and its queue of events; what it says of brokers goes to a `Connection`.

    `watch` gets the configuration before the client is made of it.
    """

    def __init__(
        self, kind: int, settings: Mapping[str, Any], connection: Connection, *, deliveries: bool = False,
        watch: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        configuration = rd.conf_new()
        text = ctypes.create_string_buffer(_TEXT)
        for key, value in settings.items():
            word = str(value).lower() if isinstance(value, bool) else str(value)
            if rd.conf_set(configuration, key.encode(), word.encode(), text, _TEXT):
                rd.conf_destroy(configuration)
                raise LogError(f"Kafka client: {text.value.decode()}", hint="look at [kafka] in the binding")
        # What ends a client for good it would print besides; an error says it.
        rd.conf_set_log_cb(configuration, None)
        rd.conf_set_events(configuration, EVENT_ERROR | (EVENT_DELIVERIES if deliveries else 0))
        if watch is not None:
            watch(configuration)
        handle = rd.new(kind, configuration, text, _TEXT)
        if not handle:
            rd.conf_destroy(configuration)
            raise LogError(f"Kafka client: {text.value.decode()}", hint="look at [kafka] in the binding")
        self.at: int = handle
        self.connection = connection
        self._queue: int = rd.queue_get_main(self.at)

    def events(self, timeout_s: float = 0.0) -> Iterator[tuple[int, int]]:
        """(type, address) of events other than errors, waiting for the first one at most so long.

        An event is freed when the next one is asked for.
        """
        until = time.monotonic() + timeout_s
        while True:
            left = max(0, int((until - time.monotonic()) * 1_000))
            event = rd.queue_poll(self._queue, left)
            if not event:
                if left == 0:
                    return
                continue
            try:
                kind = rd.event_type(event)
                if kind == EVENT_ERROR:
                    text = rd.event_error_string(event).decode(errors="replace")
                    self.connection(KafkaError(rd.event_error(event), text))
                else:
                    yield kind, event
                    until = 0.0
            finally:
                rd.event_destroy(event)

    def serve(self) -> None:
        """Takes up what the client has to say, without waiting; raises LogError if the brokers refuse it."""
        for _ in self.events():
            pass
        self.connection.check()

    def close(self) -> bool:
        """Lets go; what was not sent is forgotten. False where the library does not come back: it is left behind then.

        Destroying a client waits for its threads, which now and then wait for each other (librdkafka 5434, 5476).
        """
        rd.queue_destroy(self._queue)
        ending = threading.Thread(target=rd.destroy_flags, args=(self.at, _NO_CONSUMER_CLOSE), daemon=True)
        ending.start()
        ending.join(_DESTROY_S)
        if ending.is_alive():
            logger.warning("librdkafka does not let go of a client after %.0f s: it is left behind", _DESTROY_S)
        return not ending.is_alive()
