"""Ranges that lie one after another, as the steps of a journal do, are one reading of their partition and not many."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import numpy as np
import pytest

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.admin import Admin
from connectors.kafka.reading import MessageReader
from connectors.kafka.reading_blocks import BlockReader
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.services.kafka import kafka_cluster

STEPS, ROWS = 120, 3
_STORED = 200
"""Bytes that a step takes in the log, at most: a batch of few records, and the mark of its transaction."""
Written = tuple[Profile, TopicPartition, list[tuple[int, int]]]


class CountingAdmin(Admin):
    """Counts how often a reader begins anew: it then asks where a partition starts."""

    begun = 0

    def start_offset(self, partition: TopicPartition) -> int:
        self.begun += 1
        return super().start_offset(partition)


@pytest.fixture(scope="module")
def written() -> Iterator[Written]:
    """A partition of many transactions, whose marks lie between the records, and the range of each one's records."""
    with kafka_cluster() as cluster:
        profile = Profile(kafka_settings({"brokers": cluster.bootstrap}))
        place = TopicPartition("steps", 0)
        with contextlib.closing(KafkaLog(profile)) as log:
            log.create_topic("steps", TopicSettings())
            producer = log.producer("writer")
            ranges = []
            for step in range(STEPS):
                transaction = producer.begin()
                transaction.append(block_of(*place, [b"%d %d" % (step, row) for row in range(ROWS)]))
                ranges.append(transaction.commit()[place])
            producer.close()
        assert ranges[1][0] > ranges[0][1], "a mark lies between"
        yield profile, place, ranges


@pytest.mark.parametrize("kind", [BlockReader, MessageReader])
def test_steps_are_read_in_one_go(kind: type[BlockReader] | type[MessageReader], written: Written) -> None:
    profile, place, ranges = written
    admin = CountingAdmin(profile)
    with contextlib.closing(admin), contextlib.closing(kind(profile, admin)) as reader:
        first = 0
        for step, (_, last) in enumerate(ranges):
            values: list[bytes | None] = []
            while first < last:
                # So many offsets, but fewer records: the answer reaches into the next step's.
                block = reader.read(place, first, max_records=last - first, max_bytes=1 << 20)
                assert block.buffer.size <= 2 * STEPS * _STORED, "what was not used piles up"
                inside = block.slice(0, int(np.searchsorted(block.offsets, last)))
                values += [inside.value(row) for row in range(len(inside))]
                first = int(inside.offsets[-1]) + 1 if len(inside) else last
            assert values == [b"%d %d" % (step, row) for row in range(ROWS)]
        assert admin.begun == 1


@pytest.mark.parametrize("kind", [BlockReader, MessageReader])
def test_any_place_may_be_read_after_any_other(kind: type[BlockReader] | type[MessageReader], written: Written) -> None:
    profile, place, ranges = written
    dice = np.random.default_rng(4)
    records = {
        at: b"%d %d" % (step, at - first) for step, (first, last) in enumerate(ranges) for at in range(first, last)
    }
    offsets = np.array(sorted(records))
    admin = CountingAdmin(profile)
    with contextlib.closing(admin), contextlib.closing(kind(profile, admin)) as reader:
        at = 0
        for _ in range(150):
            at = int(dice.integers(0, offsets[-1])) if dice.random() < 0.1 else max(0, at + int(dice.integers(-6, 7)))
            at = min(at, int(offsets[-1]))
            block = reader.read(place, at, max_records=int(dice.integers(1, 9)), max_bytes=int(dice.integers(1, 400)))
            expected = offsets[np.searchsorted(offsets, at) :][: len(block)]
            assert len(block)
            assert block.offsets.tolist() == expected.tolist()
            assert [block.value(row) for row in range(len(block))] == [records[int(one)] for one in expected]
            at += int(dice.integers(0, 9))


def test_a_process_with_a_thousand_open_files_reads(written: Written) -> None:
    profile, place, ranges = written
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed[0], min(4_096, allowed[1])), allowed[1]))
        open_files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, allowed)
        while (last := os.open(os.devnull, os.O_RDONLY)) < 1_100:
            open_files.callback(os.close, last)
        open_files.callback(os.close, last)
        log = open_files.enter_context(contextlib.closing(KafkaLog(profile)))
        assert log.wait({place: 0}, 60_000_000)
        end = ranges[-1][1]
        assert not log.wait({place: end}, 100_000), "it waits for what has not come"
