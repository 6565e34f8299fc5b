"""A transactional producer without librdkafka: records leave blocks as batches, and each transaction has its own epoch.

It speaks the transactions of KIP-890 (`transaction.version` 2, Kafka 4.0 and newer): partitions and groups join a
transaction with the first record or offset that comes for them, and the answer to its end names producer id and epoch
of the next one. So whatever is late of a transaction that has ended is refused by its epoch, and a request that was
sent twice hurts nobody. There is no thread: what can be sent and taken up is whenever the worker asks for anything.
What a transaction means, and what each error of one means, is `transaction`'s.
"""

from __future__ import annotations

import struct
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from connectors.kafka import written_batches
from connectors.kafka.admin import Admin
from connectors.kafka.answers import Connection
from connectors.kafka.coordinators import END, GROUP, INIT, OFFSETS, TRANSACTION, Coordinators, Question
from connectors.kafka.deliveries import Deliveries
from connectors.kafka.fields import NO_TAGS, Fields, listed, text
from connectors.kafka.lines import Lines
from connectors.kafka.membership import member_of
from connectors.kafka.profile import TRANSACTION_TIMEOUT_S, Profile
from connectors.kafka.written_batches import Writer
from streamproc.ports import Block, TopicPartition

_SPEAK_S: Final = 3.0
_WHO = struct.Struct(">qh")
_INIT = struct.Struct(">iqh")
_ENDED = struct.Struct(">ihqh")
_THROTTLED, _OFFSET, _CODE = struct.Struct(">i"), struct.Struct(">iqi"), struct.Struct(">ih")


class DirectSender:
    """The producer of a transactional id, over connections of its own."""

    aborts_by_polling = False
    ends_fence = keeps_time = True

    def __init__(self, profile: Profile, admin: Admin, transactional_id: str, connection: Connection) -> None:
        written_batches.prepare()
        self._id, self._connection = transactional_id, connection
        self._packing = profile.settings.compression
        self._lines = Lines(profile.settings)
        self._deliveries = Deliveries(
            self._lines, transactional_id, leader=admin.leader, forget_leaders=admin.forget_leaders,
            most_bytes=profile.outstanding_bytes,
        )  # fmt: skip
        self._coordinators = Coordinators(self._lines, profile.settings.brokers, self._deliveries.pause)
        self._producer, self._epoch = -1, -1
        self._ends = 0
        self._has_offsets = False

    @classmethod
    def opened(
        cls, profile: Profile, admin: Admin, transactional_id: str, connection: Connection
    ) -> tuple[Self | None, str]:
        """The producer, or None and why it cannot be: the brokers do not speak its transactions, or do not answer."""
        sender = cls(profile, admin, transactional_id, connection)
        try:
            why = sender._coordinators.why_not(_SPEAK_S)
        except KafkaException as problem:
            why = str(problem.args[0].str())
        if why:
            sender.close()
            return None, why
        return sender, ""

    def __len__(self) -> int:
        return self._deliveries.outstanding

    @property
    def ranges(self) -> dict[TopicPartition, tuple[int, int]]:
        """The offsets of what the transaction sent to each partition and was reported, half-open."""
        return self._deliveries.ranges

    @property
    def failed(self) -> KafkaError | None:
        """Why a record of it did not arrive."""
        return self._deliveries.failed

    @property
    def sent_again(self) -> bool:
        """Whether the end of this transaction was asked for more than once."""
        return self._ends > 1

    def init_transactions(self, timeout_s: float) -> None:
        """Fences older producers of the id."""
        body = text(self._id) + _INIT.pack(int(1e3 * TRANSACTION_TIMEOUT_S), -1, -1) + NO_TAGS
        code, told = self._coordinators.ask(TRANSACTION, self._id, Question(INIT, [body], _ended), timeout_s)
        if code:
            raise KafkaException(KafkaError(code, f"the id '{self._id}': {KafkaError(code).str()}"))
        self._producer, self._epoch = told

    def begin_transaction(self) -> None:
        """Begins; the brokers hear of it with the first record or offset."""
        self._ends, self._has_offsets = 0, False
        self._deliveries.begin(Writer(self._producer, self._epoch, self._packing))

    def send(self, block: Block) -> None:
        """Takes records; they go out as soon as there are enough of them."""
        self._deliveries.add(block)

    def send_offsets_to_transaction(self, places: list[KafkaPlace], metadata: bytes, timeout_s: float) -> None:
        """Adds a group's offsets; the metadata is as a consumer gives it. Records go out meanwhile."""
        self._deliveries.offer()
        group, generation, member = member_of(metadata)
        topics: dict[str, list[bytes]] = {}
        for place in places:
            offset = _OFFSET.pack(place.partition, place.offset, -1) + text(None) + NO_TAGS
            topics.setdefault(place.topic, []).append(offset)
        body = (
            text(self._id) + text(group) + _WHO.pack(self._producer, self._epoch) + struct.pack(">i", generation)
            + text(member) + text(None)
            + listed([text(topic) + listed(offsets) + NO_TAGS for topic, offsets in topics.items()]) + NO_TAGS
        )  # fmt: skip
        self._has_offsets = True
        code, _ = self._coordinators.ask(GROUP, group, Question(OFFSETS, [body], _committed), timeout_s)
        if code:
            said = f"offsets of '{group}': {KafkaError(code).str()}"
            raise KafkaException(KafkaError(code, said, False, False, True))

    def commit_transaction(self, timeout_s: float) -> None:
        """Commits; raises what failed before that, where nothing was asked for yet."""
        if self.failed is not None:
            self._connection(self.failed)
            raise KafkaException(self.failed)
        self._end(timeout_s, commit=True)

    def abort_transaction(self, timeout_s: float) -> None:
        """Aborts; what was not sent yet is thrown away, and what is on its way comes too late."""
        self._deliveries.forget()
        self._end(timeout_s, commit=False)

    def poll(self, timeout_s: float) -> None:
        """Sends what can be sent, and takes up what brokers say; waits at most so long for something of that."""
        self._lines.serve()
        pause = self._deliveries.pause()
        if timeout_s > 0 and self._deliveries.outstanding:
            self._lines.wait(min(timeout_s, pause))
            self._lines.serve()
            self._deliveries.offer()
        self._deliveries.look()

    def close(self, _timeout_s: float = 0.0) -> None:
        """Lets go; what was not sent is forgotten."""
        self._deliveries.forget()
        self._lines.close()

    def _end(self, timeout_s: float, *, commit: bool) -> None:
        if not (self._deliveries.is_touched or self._has_offsets):
            return  # The brokers never heard of it.
        body = text(self._id) + _WHO.pack(self._producer, self._epoch) + bytes([commit]) + NO_TAGS
        try:
            code, told = self._coordinators.ask(TRANSACTION, self._id, Question(END, [body], _ended), timeout_s)
        finally:
            self._ends = self._coordinators.asked
        if code:
            certain = code == _ABORTABLE and self._ends == 1
            raise KafkaException(KafkaError(code, f"the end: {KafkaError(code).str()}", False, False, certain))
        # Both come from the answer: where the epochs of an id are used up, the next transaction has another id.
        self._producer, self._epoch = told
        self._deliveries.forget()


_ABORTABLE: Final = 120
"""TRANSACTION_ABORTABLE (KIP-890)."""


def _ended(fields: Fields) -> tuple[int, int, tuple[int, ...]]:
    throttled, code, producer, epoch = fields.numbers(_ENDED)
    return throttled, code, (producer, epoch)


def _committed(fields: Fields) -> tuple[int, int, tuple[int, ...]]:
    """Of several partitions' errors the first that is one: brokers take all offsets of a request, or none."""
    (throttled,) = fields.numbers(_THROTTLED)
    codes = []
    for _ in fields.each():
        fields.text()
        for _ in fields.each():
            _, code = fields.numbers(_CODE)
            fields.skip_tags()
            codes.append(code)
        fields.skip_tags()
    return throttled, next((code for code in codes if code), 0), ()
