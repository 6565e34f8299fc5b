"""Topics, offsets and groups of a Kafka cluster: everything that is asked for rarely and answered over the network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import tenacity
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from connectors.kafka.answers import Connection, error_of, is_unknown, refusal
from connectors.kafka.binding import LARGEST_RECORD
from connectors.kafka.profile import Profile
from streamproc.errors import LogError, LogUnavailable, OffsetOutOfRange, UnknownTopic, did_you_mean
from streamproc.ports import Isolation, TopicPartition, TopicSettings

_REQUEST_S: Final = 5.0
_FIRST_S: Final = (0.5, 0.5, 3.0)
"""The first answer is waited for in parts: in between is heard whether the brokers refuse this client."""
_PATIENCE_S: Final = 4.0
"""Brokers that elect a leader or load a coordinator are asked again for so long."""
_SPREAD_S: Final = 15.0
_STABLE_S: Final = 25.0
"""An open transaction that holds offsets ends by then, one way or the other."""
_MOST_DESCRIBED: Final = 500
_LEADERS_S: Final = (0.5, 5.0)
"""Leaders that are not known are asked for again after so long, and after the second time where nobody answered."""
_MOVED: Final = (
    KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION
)  # fmt: skip
"""A partition has another leader than the client knows, or the same one in a newer epoch."""

T = TypeVar("T")
_patiently = tenacity.retry(
    retry=tenacity.retry_if_exception_type(LogUnavailable),
    stop=tenacity.stop_after_delay(_PATIENCE_S),
    wait=tenacity.wait_exponential(0.05, max=0.5),
    reraise=True,
)


class Admin:
    """An administrator's client; every call waits for its answer, at most some seconds."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._connection = Connection(profile.brokers)
        self._client = AdminClient({**profile.common(), "error_cb": self._connection})
        self._met = False
        self._partitions: dict[str, int] = {}
        self._askers: dict[str, Consumer] = {}
        self._ends: dict[tuple[TopicPartition, Isolation], int] = {}
        self._marks: dict[TopicPartition, tuple[str, int]] = {}
        self._leaders: dict[TopicPartition, tuple[str, int]] = {}
        self._leaders_at = 0.0

    def topics(self) -> dict[str, TopicSettings]:
        """Every topic that is not Kafka's own."""
        counts = self._counts()
        found: dict[str, TopicSettings] = {}
        names = sorted(counts)
        for at in range(0, len(names), _MOST_DESCRIBED):
            part = names[at : at + _MOST_DESCRIBED]
            resources = [ConfigResource(ResourceType.TOPIC, name) for name in part]
            with self._asking("describe topics"):
                answers = self._client.describe_configs(resources, request_timeout=_REQUEST_S)
                for resource, answer in answers.items():
                    with contextlib.suppress(_Gone):
                        config = self._answer(answer, f"describe '{resource.name}'", gone_is_fine=True)
                        found[resource.name] = _settings(counts[resource.name], config)
        return dict(sorted(found.items()))

    def create(self, topic: str, settings: TopicSettings) -> None:
        """Creates a topic and waits until every partition has a leader; other settings than it has raise LogError."""
        new = NewTopic(
            topic, num_partitions=settings.partitions, replication_factor=-1,
            config=_config(settings),
        )  # fmt: skip
        try:
            with self._asking(f"create topic '{topic}'"):
                self._client.create_topics([new], request_timeout=_REQUEST_S)[topic].result(_REQUEST_S)
        except LogError as refused:
            cause = refused.__cause__
            if not isinstance(cause, KafkaException) or error_of(cause).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            have = self.topics().get(topic)
            if have is not None and have != settings:
                raise LogError(
                    f"topic '{topic}' exists with other settings: {have}", hint="delete it, or keep its settings"
                ) from None
        self._settle(lambda: self._counts(leading=True).get(topic) == settings.partitions, f"topic '{topic}' to spread")

    def delete(self, topic: str) -> None:
        """Removes a topic, and what groups committed for it."""
        self.partitions(topic)
        with self._asking(f"delete topic '{topic}'"):
            self._client.delete_topics([topic], request_timeout=_REQUEST_S)[topic].result(_REQUEST_S)
        self._partitions.pop(topic, None)
        self._ends = {known: end for known, end in self._ends.items() if known[0].topic != topic}
        self._marks = {place: mark for place, mark in self._marks.items() if place.topic != topic}
        self._settle(lambda: topic not in self._counts(), f"topic '{topic}' to go")

    def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Moves the start of a partition; nothing happens below it."""
        start, end = self.start_offset(partition), self.end_offset(partition)
        if before <= start:
            return
        if before > end:
            raise out_of_range(partition, before, start, end)
        with self._asking(f"delete records of '{partition.topic}'"):
            place = KafkaPlace(*partition, before)
            for answer in self._client.delete_records([place], request_timeout=_REQUEST_S).values():
                answer.result(_REQUEST_S)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; raises UnknownTopic. What was seen once is believed."""
        if topic not in self._partitions:
            counts = self._counts()
            if topic not in counts:
                raise UnknownTopic(f"Kafka has no topic '{topic}'", hint=did_you_mean(topic, counts))
            self._partitions.update(counts)
        return self._partitions[topic]

    def check(self, partition: TopicPartition) -> None:
        """Raises UnknownTopic unless the partition exists."""
        count = self.partitions(partition.topic)
        if not 0 <= partition.partition < count:
            raise UnknownTopic(
                f"topic '{partition.topic}' has no partition {partition.partition}", hint=f"it has 0 to {count - 1}"
            )

    def leader(self, partition: TopicPartition) -> tuple[str, int] | None:
        """Host and port of the broker that leads a partition, as far as is known; None where nobody does."""
        now = time.monotonic()
        if partition not in self._leaders and now >= self._leaders_at:
            # Asked once and not for long: whoever wants to know works on without it.
            self._leaders_at = now + _LEADERS_S[0]
            try:
                self._leaders = _leaders(self._client.list_topics(timeout=_LEADERS_S[0]))
            except KafkaException:
                self._leaders_at = now + _LEADERS_S[1]
        return self._leaders.get(partition)

    def forget_leaders(self) -> None:
        """Leaders have moved: whoever asks next asks the brokers."""
        self._leaders.clear()

    def start_offset(self, partition: TopicPartition) -> int:
        """The first offset held."""
        return self._offset(partition, OffsetSpec.earliest())

    def end_offset(self, partition: TopicPartition, isolation: Isolation = "read_committed") -> int:
        """The last stable offset, or the high watermark."""
        return self._end(partition, isolation)

    def mark(self, partition: TopicPartition, end: int, group: str) -> None:
        """Notes that a partition was written to up to an offset, and that its group has committed that as its own."""
        known: tuple[TopicPartition, Isolation] = (partition, "read_uncommitted")
        self._ends[known] = max(end, self._ends.get(known, 0))
        self._marks[partition] = (group, end)

    def mark_of(self, partition: TopicPartition) -> int:
        """What a group has committed of a partition of the task topic, as a proof of which answers are new."""
        return self._marks.get(partition, ("", 0))[1]

    @_patiently
    def _end(self, partition: TopicPartition, isolation: Isolation) -> int:
        return self._not_older(partition, isolation, self._offset(partition, OffsetSpec.latest(), isolation))

    def _not_older(self, partition: TopicPartition, isolation: Isolation, end: int) -> int:
        """The end that a broker gave; raises LogUnavailable if this process has seen more, for no end goes back.

        A broker that stood still while another took over leads, as it believes, until it hears of that.
        """
        least = self._ends.get((partition, isolation), 0)
        if end < least:
            raise _old(f"{partition.topic}-{partition.partition} ends at {end}, where {least} was seen already")
        self._ends[partition, isolation] = end
        return end

    @_patiently
    def end_offsets(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        """The same for many partitions, in one question."""
        places = list(partitions)
        for place in places:
            self.check(place)
        if not places:
            return {}
        level = IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
        with self._asking(f"offsets of {len(places)} partitions"):
            asked = self._client.list_offsets(
                {KafkaPlace(*place): OffsetSpec.latest() for place in places},
                isolation_level=level,
                request_timeout=_REQUEST_S,
            )
            found = {
                TopicPartition(place.topic, place.partition): answer.result(_REQUEST_S).offset
                for place, answer in asked.items()
            }
        return {place: self._not_older(place, isolation, end) for place, end in found.items()}

    def offset_at(self, partition: TopicPartition, timestamp: int) -> int:
        """The first offset whose record is not older than a moment (µs), or the end."""
        found = self._offset(partition, OffsetSpec.for_timestamp(-(-max(timestamp, 0) // 1_000)))
        end = self.end_offset(partition)
        return end if found < 0 else min(found, end)

    @_patiently
    def committed(self, group: str) -> dict[TopicPartition, int]:
        """What a group committed; waits while a transaction is about to change it.

        Asked through a consumer of the group that never joins it: the administrator's own call ends the process when
        the group's coordinator is being elected.
        """
        # A broker that has just come back may not know every topic yet, and what is not asked for seems uncommitted.
        counts = {**self._partitions, **self._counts()}
        places = [KafkaPlace(topic, p) for topic, count in counts.items() for p in range(count)]
        if group not in self._askers:
            self._askers[group] = Consumer(
                {**self._profile.common(), "group.id": group, "enable.auto.commit": False, "error_cb": self._connection}
            )
        with self._asking(f"offsets of group '{group}'"):
            answer = self._askers[group].committed(places, timeout=_STABLE_S) if places else []
        for place in answer:
            if place.error is not None and not is_unknown(place.error):
                what = f"offsets of group '{group}' in {place.topic}-{place.partition}"
                raise refusal(place.error, what, self._connection)
        found = {TopicPartition(place.topic, place.partition): place.offset for place in answer if place.offset >= 0}
        for place, (named, least) in self._marks.items():
            if named == group and found.get(place, 0) < least:
                raise _old(f"offsets of group '{group}' lack what was committed for {place.topic}-{place.partition}")
        return found

    def close(self) -> None:
        """Lets go of the connections."""
        for asker in self._askers.values():
            asker.close()
        self._askers.clear()

    @_patiently
    def groups(self) -> list[str]:
        """Groups that committed an offset."""
        with self._asking("list groups"):
            answer = self._client.list_consumer_groups(request_timeout=_REQUEST_S).result(_REQUEST_S)
        names = sorted(group.group_id for group in answer.valid)
        return [name for name in names if self.committed(name)]

    @_patiently
    def _counts(self, *, leading: bool = False) -> dict[str, int]:
        with self._asking("list topics"):
            answer = self._client.list_topics(timeout=_REQUEST_S) if self._met else self._first_answer()
        self._met = True
        for name, topic in answer.topics.items():
            if topic.error is not None and not name.startswith("__"):
                problem = refusal(topic.error, f"describe '{name}'", self._connection)
                if isinstance(problem, LogUnavailable):  # It is there, and nobody knows yet who leads it.
                    raise problem
        self._leaders = _leaders(answer)
        return {
            name: len(topic.partitions)
            for name, topic in answer.topics.items()
            if topic.error is None
            and not name.startswith("__")
            and not (leading and any(part.leader < 0 for part in topic.partitions.values()))
        }

    def _first_answer(self) -> Any:
        """Topics as the brokers tell when they are asked for the first time.

        Only the error callback knows of a wrong password or authority, and it knows long before a request gives up; so
        a start that is refused says so at once.
        """
        *short, last = _FIRST_S
        for seconds in short:
            try:
                return self._client.list_topics(timeout=seconds)
            except KafkaException:
                self._client.poll(0.05)
                self._connection.check()
        return self._client.list_topics(timeout=last)

    @_patiently
    def _offset(self, partition: TopicPartition, spec: OffsetSpec, isolation: Isolation = "read_committed") -> int:
        self.check(partition)
        level = IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
        place = KafkaPlace(*partition)
        with self._asking(f"offsets of {partition.topic}-{partition.partition}"):
            asked = self._client.list_offsets({place: spec}, isolation_level=level, request_timeout=_REQUEST_S)
            answer: int = asked[place].result(_REQUEST_S).offset
        # Below -1, which says that no record is that young, no broker has said anything.
        if answer < -1:
            raise self._connection.away(f"offsets of {partition.topic}-{partition.partition}")
        return answer

    def _settle(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _SPREAD_S
        while not done():
            if time.monotonic() > until:
                raise self._connection.away(f"waiting for {what}")
            time.sleep(0.02)

    def _answer(self, answer: Future[T], what: str, *, gone_is_fine: bool) -> T:
        try:
            return answer.result(_REQUEST_S)
        except KafkaException as problem:
            if gone_is_fine and error_of(problem).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _Gone from None
            raise refusal(error_of(problem), what, self._connection) from problem

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as problem:
            self._client.poll(0.1)  # Runs the error callback, the only one who knows of a wrong password.
            self._connection.check()
            if error_of(problem).code() in _MOVED:
                # The client would ask with what it knows of the leaders until that is five minutes old.
                with contextlib.suppress(KafkaException):
                    self._client.list_topics(timeout=_REQUEST_S)
            raise refusal(error_of(problem), what, self._connection) from problem
        except TimeoutError:
            self._client.poll(0.1)
            self._connection.check()
            raise self._connection.away(what) from None


class _Gone(Exception):
    """A topic vanished between two questions."""


def _leaders(answer: Any) -> dict[TopicPartition, tuple[str, int]]:
    """Where the leader of each partition is, as metadata say."""
    brokers = {number: (broker.host, broker.port) for number, broker in answer.brokers.items()}
    return {
        TopicPartition(name, number): brokers[part.leader]
        for name, topic in answer.topics.items()
        for number, part in topic.partitions.items()
        if part.leader in brokers
    }


def _old(what: str) -> LogUnavailable:
    """The error for an answer that is older than what this process knows."""
    return LogUnavailable(
        f"a broker answers with what it knew before: {what}",
        hint="one that stood still catches up by itself; a topic that was made anew needs new workers",
    )


def out_of_range(partition: TopicPartition, offset: int, start: int, end: int) -> OffsetOutOfRange:
    """The error for an offset that the partition does not hold."""
    return OffsetOutOfRange(
        f"'{partition.topic}' partition {partition.partition} holds {start} to {end}, not {offset}",
        hint="read from the start, or restore the topic from an archive",
    )


def _config(settings: TopicSettings) -> dict[str, str]:
    return {
        "cleanup.policy": "compact" if settings.compacted else "delete",
        "retention.ms": str(-1 if settings.retention_us is None else max(1, settings.retention_us // 1_000)),
        "retention.bytes": str(-1 if settings.retention_bytes is None else settings.retention_bytes),
        "message.timestamp.type": "LogAppendTime" if settings.append_time else "CreateTime",
        "max.message.bytes": str(LARGEST_RECORD),
    }


def _settings(partitions: int, config: Mapping[str, Any]) -> TopicSettings:
    def number(name: str) -> int | None:
        entry = config.get(name)
        value = -1 if entry is None or entry.value is None else int(entry.value)
        return None if value < 0 else value

    retention_ms = number("retention.ms")
    # A topic that was made elsewhere keeps what the brokers say, which is a retention like any other.
    return TopicSettings(
        partitions,
        retention_us=None if retention_ms is None else retention_ms * 1_000,
        retention_bytes=number("retention.bytes"),
        compacted="compact" in str(config["cleanup.policy"].value) if "cleanup.policy" in config else False,
        append_time="message.timestamp.type" in config and config["message.timestamp.type"].value == "LogAppendTime",
    )
