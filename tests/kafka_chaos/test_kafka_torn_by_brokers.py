"""KAFKA-20734, by itself: brokers tear a transaction of which a partition has no leader when it ends, for any client.

The chaos suite spares partitions their last replica because of it (`kafka_chaos_faults.py`), and docs/kafka.md tells of
it. Where this test passes, brokers are mended: let faults strike any broker again, and take the paragraph out.
"""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka_chaos_faults import java_hash

from tests.services.kafka import KafkaCluster, kafka_cluster

QUIET = {"log_level": 0, "error_cb": lambda _: None}


def committed(cluster: KafkaCluster, topic: str, *, within_s: float) -> list[bytes]:
    """What a reader of committed records finds, waiting for the first so long at most."""
    settings = {"group.id": "reader", "isolation.level": "read_committed", "enable.auto.commit": False}
    with closing(Consumer({**cluster.client(), **QUIET, **settings})) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(within_s)
        return [] if message is None or message.error() else [message.value()]


KNOWN = pytest.mark.xfail(strict=True, raises=AssertionError, reason="KAFKA-20734, open in Kafka 4.3.0")


@pytest.mark.long
@pytest.mark.parametrize("ends", ["with the leader back", pytest.param("without a leader", marks=KNOWN)])
def test_a_transaction_of_which_one_partition_lost_its_leader_is_whole(ends: str) -> None:
    with kafka_cluster(brokers=3) as cluster:
        admin = AdminClient({**cluster.client(), **QUIET})
        producer = Producer({**cluster.client(), **QUIET, "transactional.id": "torn"})
        producer.init_transactions(30)
        states = admin.list_topics("__transaction_state", timeout=10).topics["__transaction_state"].partitions
        coordinator = states[abs(java_hash("torn")) % len(states)].leader
        # Not the broker of the coordinator, for another one would read the transaction's state afresh.
        kept, lost = coordinator, coordinator % 3 + 1
        wishes = [NewTopic(name, 1, replica_assignment=[[node]], config={"min.insync.replicas": "1"})
                  for name, node in (("kept", kept), ("lost", lost))]  # fmt: skip
        for made in admin.create_topics(wishes).values():
            made.result(30)
        producer.begin_transaction()
        for topic in ("kept", "lost"):
            producer.produce(topic, b"one of two", partition=0)
        assert producer.flush(30) == 0

        cluster.kill(lost)
        until = time.monotonic() + 30
        while admin.list_topics("lost", timeout=10).topics["lost"].partitions[0].leader != -1:
            if time.monotonic() > until:
                pytest.fail("a broker that was killed still leads")
            time.sleep(0.1)
        if ends == "with the leader back":
            cluster.start(lost)
        producer.commit_transaction(30)
        if committed(cluster, "kept", within_s=20) != [b"one of two"]:
            pytest.fail("the transaction was not committed at all")
        if ends == "without a leader":
            cluster.start(lost)
        assert committed(cluster, "lost", within_s=30) == [b"one of two"]
