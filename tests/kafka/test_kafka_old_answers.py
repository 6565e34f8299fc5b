"""A broker that stood still answers with what it knew before: who takes over a task writes first, and then knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import polars as pl
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

import streamproc as sp
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import LogUnavailable, StaleMember
from streamproc.ports import Membership, TopicPartition, TopicSettings, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

PAY = parse_contract(
    '{"type": "record", "name": "pay", "sp:version": 1, "fields": ['
    '{"name": "card", "type": "string", "sp:role": "key"}, {"name": "shop", "type": "string"},'
    ' {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}'
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def opened(cluster: KafkaCluster, way: str = "directly") -> KafkaLog:
    settings = kafka_settings({"brokers": cluster.bootstrap, "direct": way == "directly"})
    return KafkaLog(Profile(settings, session_s=1.5), blocks=way != "as objects")


def owner(log: KafkaLog, group: str, topic: str) -> Membership:
    """A member that has the topic's partitions."""
    member = log.join(group, topic, "a")
    within(60, "the member has the partitions", member.poll)
    return member


@pytest.mark.parametrize("way", ["directly", "in blocks", "as objects"])
def test_a_mark_moves_the_end_and_the_groups_offset_and_gives_no_reader_anything(
    cluster: KafkaCluster, way: str
) -> None:
    topic, group = f"marked-{way[:2]}", f"group-{way[:2]}"
    place = TopicPartition(topic, 0)
    with contextlib.closing(opened(cluster, way)) as log:
        log.create_topic(topic, TopicSettings())
        member = owner(log, group, topic)
        producer = log.producer("w")
        before, marks = 0, []
        for number in range(3):
            producer.mark({place: group}, member)
            marks.append(log.committed(group)[place])
            assert before < marks[-1] <= log.end_offset(place, isolation="read_uncommitted")
            transaction = producer.begin()
            transaction.append(block_of(*place, [b"%d" % number]))
            # A member's commits keep the mark: what they say of the partition is never less.
            transaction.commit_offsets(group, {}, membership=member, owned=(0,))
            before = transaction.commit()[place][1]
            assert log.committed(group)[place] == marks[-1]
        within(60, "the last commit can be read", lambda: log.end_offset(place) >= before)
        block = log.read(place, 0)
        assert [block.value(row) for row in range(len(block))] == [b"0", b"1", b"2"]
        member.leave()
        with pytest.raises(StaleMember):
            producer.mark({place: group}, member)
        assert log.committed(group)[place] == marks[-1]
        producer.close()


def test_an_end_or_an_offset_that_is_older_than_what_was_seen_is_no_answer(cluster: KafkaCluster) -> None:
    place = TopicPartition("older", 0)
    with contextlib.closing(opened(cluster)) as log, contextlib.closing(opened(cluster)) as other:
        log.create_topic("older", TopicSettings())
        member = owner(log, "olders", "older")
        producer = log.producer("w")
        producer.mark({place: "olders"}, member)
        member.leave()
        # What a machine says that has not heard of all this, said by one that has lost it.
        back = ConsumerGroupTopicPartitions("olders", [Place("older", 0, 0)])
        client = AdminClient({**cluster.client(), "log_level": 0})
        for answer in client.alter_consumer_group_offsets([back]).values():
            answer.result(60)
        assert other.committed("olders")[place] == 0
        with pytest.raises(LogUnavailable, match="what it knew before: offsets of group 'olders'"):
            log.committed("olders")
        producer.close()
        other.delete_topic("older")
        other.create_topic("older", TopicSettings())
        assert other.end_offset(place) == 0
        with pytest.raises(LogUnavailable, match="what it knew before: older-0 ends at 0, where"):
            log.end_offset(place, isolation="read_uncommitted")


def test_a_worker_writes_to_every_task_before_it_reads_of_it(cluster: KafkaCluster) -> None:
    registry = MemoryRegistry([PAY])
    with contextlib.closing(opened(cluster)) as log:
        log.create_topic("pays", TopicSettings(2))
        rows = pl.DataFrame({"card": [f"c{n}" for n in range(50)], "shop": ["s1", "s2"] * 25, "at": range(50)})
        append_frame(log, registry, "pays", PAY, rows)
        shops = sp.source("pays", contract="pay.v1") | sp.key_by("shop") | sp.tumbling("1s", n=sp.count())
        binding = bind(sp.Topology("shops", sinks={"daily": shops}), log, registry)
        assert len(binding.stages) == 2
        marks: list[dict[TopicPartition, int]] = []
        for _ in range(2):
            Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
            marks.append({})
            for number in range(binding.task_count):
                place = TopicPartition(binding.names.tasks, number)
                group = binding.names.group(binding.task_of(number)[0].stage.index)
                marks[-1][place] = log.committed(group)[place]
                assert int(log.read(place, 0).offsets[0]) > 0, "before entry 0 lies what was aborted"
        assert all(marks[1][place] > mark > 0 for place, mark in marks[0].items())
        assert verify(binding, log).findings == []
