"""A broker that was restarted leads its partitions in a new epoch: who knew the old one learns it and asks again."""

from __future__ import annotations

import contextlib

import pytest

from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.errors import OffsetOutOfRange
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.deploy.deployed import within
from tests.services.kafka import kafka_cluster


@pytest.mark.parametrize("way", ["directly", "in blocks", "as objects"])
def test_a_handle_goes_on_after_a_restart_of_the_broker(way: str) -> None:
    places = [TopicPartition("t", number) for number in range(3)]
    with kafka_cluster() as cluster:
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap, "direct": way == "directly"}))
        with contextlib.closing(KafkaLog(profile, blocks=way != "as objects")) as log:
            log.create_topic("t", TopicSettings(len(places)))
            producer = log.producer("w")
            for value in (b"before", b"after"):
                transaction = producer.begin()
                for place in places:
                    transaction.append(block_of(*place, [value, value]))
                if value == b"before":
                    transaction.commit_offsets("g", {places[0]: 1})
                transaction.commit()
                within(60, "all can be read", lambda: all(end > 2 for end in log.end_offsets(places).values()))
                if value == b"before":
                    assert len(log.read(places[0], 0)) == 2
                    cluster.restart(1)
            assert [log.start_offset(place) for place in places] == [0, 0, 0]
            assert log.committed("g") == {places[0]: 1}
            assert log.offset_at(places[0], 0) == 0
            seen = [block.value(row) for block in (log.read(places[1], 0), log.read(places[1], 3)) for row in (0, 1)]
            assert seen == [b"before", b"before", b"after", b"after"]
            log.delete_records(places[2], 2)
            with pytest.raises(OffsetOutOfRange):
                log.read(places[2], 1)
            producer.close()
