"""The brokers that coordinate transactions and groups: found, asked, and asked again while they move.

Whoever asks says which answers are no answers: a coordinator that moved, or still closes the transaction before, is
asked again until the time is over. What was asked twice is counted, for the first question may have been heard.
Source: Kafka's protocol guide; KIP-98, KIP-447, KIP-699, KIP-890.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from connectors.kafka.connecting import Refused
from connectors.kafka.fields import NO_TAGS, Fields, listed, text
from connectors.kafka.lines import Address, Line, Lines

T = TypeVar("T")

GROUP, TRANSACTION = 0, 1
PRODUCE, FIND, VERSIONS, INIT, END, OFFSETS = 0, 10, 18, 22, 26, 28
VERSION: Final = {PRODUCE: 12, FIND: 4, VERSIONS: 3, INIT: 5, END: 5, OFFSETS: 5}
"""The version of each request that is spoken; Produce 12, EndTxn 5 and TxnOffsetCommit 5 are those of KIP-890."""
_CONTROL: Final = "control"
_FEATURE: Final = "transaction.version"
_LEAST_FEATURE: Final = 2
_SHORT = struct.Struct(">h")
_VERSIONS_HEAD, _RANGE = struct.Struct(">h"), struct.Struct(">hhh")
_LEVELS = struct.Struct(">hh")
_NODE, _PORT = struct.Struct(">i"), struct.Struct(">i")
_THROTTLED = struct.Struct(">i")
_SOON_S: Final = 0.002
_LATER_S: Final = (0.02, 0.5)
_MOVED: Final = {
    KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION,
}  # fmt: skip
_PASSING: Final = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.THROTTLING_QUOTA_EXCEEDED,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a coordinator.

    read  takes the answer apart: how long the broker holds us back (ms), its error code, and what else it says
    """

    kind: int
    body: Sequence[bytes]
    read: Callable[[Fields], tuple[int, int, tuple[int, ...]]]


class _Heard:
    """What came of one request."""

    def __init__(self) -> None:
        self.is_over = False
        self.fields: Fields | None = None

    def __call__(self, fields: Fields | None, _since: float) -> None:
        self.is_over, self.fields = True, fields


class Coordinators:
    """Asks coordinators; `meanwhile` is done while an answer is waited for."""

    def __init__(self, lines: Lines, brokers: Sequence[str], meanwhile: Callable[[], float]) -> None:
        self._lines, self._meanwhile = lines, meanwhile
        self._brokers = [_address(broker) for broker in brokers]
        self._known: dict[tuple[int, str], Address] = {}
        self.asked = 0

    def why_not(self, timeout_s: float) -> str:
        """Why transactions of KIP-890 cannot be spoken with these brokers; "" where they can.

        Raises KafkaException where no broker answers.
        """
        until = time.monotonic() + timeout_s
        body = [text("streamproc") + text("1") + NO_TAGS]
        while True:
            line = self._any()
            heard = None if line is None else self._heard(line, VERSIONS, body, until, plain_head=True)
            if heard is not None:
                try:
                    return _missing(heard)
                except Refused as garbled:
                    return str(garbled)
            if time.monotonic() >= until:
                raise self._late(KafkaError._TRANSPORT, "no broker said what it speaks")
            self._rest(_LATER_S[0], until)

    def ask(self, kind: int, key: str, question: Question, timeout_s: float) -> tuple[int, tuple[int, ...]]:
        """The answer of a coordinator: its error code, and what else it says.

        asked  counts how often the question was sent
        Raises KafkaException (_TIMED_OUT) where the time ends before there is an answer.
        """
        until, rest, last = time.monotonic() + timeout_s, _SOON_S, 0
        self.asked = 0
        while True:
            line = self._coordinator(kind, key, until)
            heard = None
            if line is not None:
                heard = self._heard(line, question.kind, question.body, until)
            code = KafkaError.NETWORK_EXCEPTION
            if heard is not None and line is not None:
                try:
                    throttled, code, told = question.read(heard)
                except Refused:
                    self._lines.close(line)
                else:
                    line.hold(throttled)
                    if code not in _MOVED and code not in _PASSING:
                        return code, told
            if code in _MOVED:
                self._known.pop((kind, key), None)
            last = code
            if time.monotonic() >= until:
                raise self._late(KafkaError._TIMED_OUT, f"the coordinator of '{key}' ({KafkaError(last).name()})")
            self._rest(rest if code == KafkaError.CONCURRENT_TRANSACTIONS else max(rest, _LATER_S[0]), until)
            rest = min(1.5 * rest, _LATER_S[1])

    def _coordinator(self, kind: int, key: str, until: float) -> Line | None:
        address = self._known.get((kind, key))
        if address is None:
            address = self._found(kind, key, until)
        if address is None:
            return None
        self._known[kind, key] = address
        line = self._lines.to(address, _CONTROL)
        if line is None:
            self._known.pop((kind, key))
        return line

    def _found(self, kind: int, key: str, until: float) -> Address | None:
        line = self._any()
        if line is None:
            return None
        heard = self._heard(line, FIND, [struct.pack(">b", kind), listed([text(key)]), NO_TAGS], until, counts=False)
        if heard is None:
            return None
        try:
            (throttled,) = heard.numbers(_THROTTLED)
            line.hold(throttled)
            for _ in heard.each():
                heard.text()
                heard.numbers(_NODE)
                host = heard.text()
                (port,) = heard.numbers(_PORT)
                (code,) = heard.numbers(_SHORT)
                said = heard.text()
                heard.skip_tags()
                if code == 0 and host:
                    return host, port
                if code not in _MOVED and code not in _PASSING:
                    raise KafkaException(KafkaError(code, said or "no coordinator"))
        except Refused:
            self._lines.close(line)
        return None

    def _any(self) -> Line | None:
        """A line to any broker that can be reached; those that are known as coordinators come first."""
        for address in dict.fromkeys([*self._known.values(), *self._brokers]):
            line = self._lines.to(address, _CONTROL)
            if line is not None:
                return line
        return None

    def _heard(
        self, line: Line, kind: int, body: Sequence[bytes], until: float, *, counts: bool = True,
        plain_head: bool = False,
    ) -> Fields | None:  # fmt: skip
        """The answer on a line, or None where none comes: then the line is let go of."""
        heard = _Heard()
        while not line.is_free(time.monotonic()):
            # A broker that holds us back, or owes an answer to nobody who waits for it yet.
            if time.monotonic() >= until:
                return None
            self._rest(_LATER_S[0], until)
            if not line.asked and time.monotonic() >= line.until:
                return None  # The next line has a new proof of who we are.
        self.asked += counts
        try:
            line.ask(kind, VERSION[kind], body, heard, plain_head=plain_head)
        except OSError:
            self._lines.close(line)
            return None
        while not heard.is_over and (left := until - time.monotonic()) > 0:
            self._lines.wait(min(left, self._meanwhile()))
            self._lines.serve()
        if not heard.is_over:
            self._lines.close(line)
        return heard.fields

    def _rest(self, seconds: float, until: float) -> None:
        end = min(time.monotonic() + seconds, until)
        while (left := end - time.monotonic()) > 0:
            soon = min(left, self._meanwhile())
            self._lines.wait(soon)
            self._lines.serve()

    def _late(self, code: int, what: str) -> KafkaException:
        heard = f": {self._lines.trouble}" if self._lines.trouble else ""
        return KafkaException(KafkaError(code, f"{what}{heard}"))


def _missing(answer: Fields) -> str:
    """What an answer to ApiVersions lacks."""
    (code,) = answer.numbers(_VERSIONS_HEAD)
    if code:
        return f"the brokers do not say what they speak ({KafkaError(code).name()})"
    spoken: dict[int, tuple[int, int]] = {}
    for _ in answer.each():
        kind, least, most = answer.numbers(_RANGE)
        spoken[kind] = least, most
        answer.skip_tags()
    answer.numbers(_THROTTLED)
    level = 0
    for number, content in answer.tags():
        if number == 2:  # The features that the whole cluster has agreed on.
            for _ in content.each():
                name = content.text()
                most, _least = content.numbers(_LEVELS)
                content.skip_tags()
                level = most if name == _FEATURE else level
    if level < _LEAST_FEATURE:
        return f"the brokers' {_FEATURE} is {level}, less than {_LEAST_FEATURE}"
    for kind, version in VERSION.items():
        least, most = spoken.get(kind, (0, -1))
        if not least <= version <= most:
            return f"the brokers speak versions {least} to {most} of request {kind}, not {version}"
    return ""


def _address(broker: str) -> Address:
    host, _, port = broker.rpartition(":")
    return host.strip("[]"), int(port)
