"""What every log promises, whichever adapter keeps it.

Offsets are compared by what a commit said, never by counting: other logs than ours leave gaps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamproc.errors import Fenced, LogError, OffsetOutOfRange, UnknownTopic
from streamproc.ports import Block, Log, TopicPartition, TopicSettings, block_of

T0, T1, U0 = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)
SECOND = 1_000_000
AT_ONCE = ("embedded", "simulated", "simulated, one generation")
"""Logs whose groups settle inside a call; what Kafka's promise, and how long they take, is in tests/kafka."""


@pytest.fixture(autouse=True)
def topics(log: Log) -> None:
    log.create_topic("t", TopicSettings(partitions=2))
    log.create_topic("u", TopicSettings())


def write(
    log: Log,
    partition: TopicPartition,
    values: Sequence[bytes | None],
    *,
    producer: str = "writer",
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Sequence[Mapping[str, bytes]] | None = None,
) -> tuple[int, int]:
    """Commits the values in a transaction of their own; gives their offsets, half-open."""
    transaction = log.producer(producer).begin()
    transaction.append(block_of(*partition, values, keys=keys, timestamps=timestamps, headers=headers))
    return transaction.commit()[partition]


def read_all(log: Log, partition: TopicPartition, *, start: int | None = None, **bounds: int) -> list[Block]:
    """Blocks from the start to the end."""
    at = log.start_offset(partition) if start is None else start
    blocks = []
    while True:
        block = log.read(partition, at, **bounds)
        if not len(block):
            return blocks
        assert block.offsets[0] >= at
        assert np.all(np.diff(block.offsets) > 0)
        blocks.append(block)
        at = int(block.offsets[-1]) + 1


def values_of(log: Log, partition: TopicPartition, **bounds: int) -> list[bytes | None]:
    return [block.value(row) for block in read_all(log, partition, **bounds) for row in range(len(block))]


class TestTransactions:
    def test_nothing_is_visible_before_the_commit(self, log: Log) -> None:
        transaction = log.producer("writer").begin()
        transaction.append(block_of("t", 0, [b"a"]))
        transaction.commit_offsets("g", {U0: 0})
        assert log.end_offset(T0) == log.start_offset(T0)
        assert log.committed("g") == {}
        assert not log.wait({T0: log.end_offset(T0)}, 0)

    def test_a_commit_shows_all_topics_and_offsets_at_once(self, log: Log) -> None:
        write(log, U0, [b"x"])
        transaction = log.producer("writer").begin()
        transaction.append(block_of("t", 0, [b"a", b"b"]))
        transaction.append(block_of("t", 1, [b"c"]))
        transaction.append(block_of("u", 0, [b"d"]))
        transaction.append(block_of("t", 0, [b"e"]))
        transaction.commit_offsets("g", {U0: 1, T0: 0})
        transaction.commit_offsets("h", {T1: 0})
        ranges = transaction.commit()
        assert values_of(log, T0) == [b"a", b"b", b"e"]
        assert values_of(log, T1) == [b"c"]
        assert values_of(log, U0) == [b"x", b"d"]
        assert set(ranges) == {T0, T1, U0}
        assert log.read(T0, ranges[T0][0]).offsets[0] >= ranges[T0][0]
        ends = log.end_offsets(iter((T0, T1, U0)))
        assert ends == {place: log.end_offset(place) for place in (T0, T1, U0)}
        assert all(ends[place] >= ranges[place][1] for place in ranges)
        assert log.end_offsets([]) == {}
        with pytest.raises(UnknownTopic):
            log.end_offsets([T0, TopicPartition("nosuch", 0)])
        assert log.committed("g") == {U0: 1, T0: 0}
        assert log.groups() == ["g", "h"]

    def test_an_abort_leaves_no_trace(self, log: Log) -> None:
        producer = log.producer("writer")
        transaction = producer.begin()
        transaction.append(block_of("t", 0, [b"a"]))
        transaction.commit_offsets("g", {U0: 0})
        transaction.abort()
        following = producer.begin()
        following.append(block_of("t", 0, [b"b"]))
        following.commit()
        assert values_of(log, T0) == [b"b"]
        assert log.committed("g") == {}

    def test_closing_a_producer_aborts(self, log: Log) -> None:
        producer = log.producer("writer")
        producer.begin().append(block_of("t", 0, [b"a"]))
        producer.close()
        assert values_of(log, T0) == []

    def test_a_transaction_without_anything_commits_nothing(self, log: Log) -> None:
        assert log.producer("writer").begin().commit() == {}

    def test_only_one_transaction_is_open_at_a_time(self, log: Log) -> None:
        producer = log.producer("writer")
        producer.begin()
        with pytest.raises(LogError, match="open transaction"):
            producer.begin()

    def test_a_finished_transaction_takes_no_more(self, log: Log) -> None:
        transaction = log.producer("writer").begin()
        transaction.commit()
        with pytest.raises(LogError, match="over"):
            transaction.append(block_of("t", 0, [b"a"]))
        with pytest.raises(LogError, match="over"):
            transaction.commit()

    def test_two_producers_write_to_one_partition(self, log: Log) -> None:
        first, second = log.producer("first").begin(), log.producer("second").begin()
        first.append(block_of("t", 0, [b"a"]))
        second.append(block_of("t", 0, [b"b"]))
        second.commit()
        first.commit()
        # Some logs order by commit, others by append; either way both are there once.
        assert sorted(values_of(log, T0)) == [b"a", b"b"]

    def test_committed_offsets_go_back_too(self, log: Log) -> None:
        producer = log.producer("writer")
        for offset in (5, 2):
            transaction = producer.begin()
            transaction.commit_offsets("g", {T0: offset})
            transaction.commit()
        assert log.committed("g") == {T0: 2}


class TestFencing:
    def test_a_newer_producer_of_the_same_id_fences_the_older_one(self, adapter, log: Log) -> None:
        old = log.producer("worker").begin()
        old.append(block_of("t", 0, [b"zombie"]))
        old.commit_offsets("g", {U0: 0})
        new = adapter.open().producer("worker").begin()
        with pytest.raises(Fenced, match="worker"):
            old.commit()
        new.append(block_of("t", 0, [b"good"]))
        new.commit()
        assert values_of(log, T0) == [b"good"]
        assert log.committed("g") == {}

    def test_a_fenced_producer_stays_fenced(self, adapter, log: Log) -> None:
        producer = log.producer("worker")
        adapter.open().producer("worker")
        for _ in range(2):
            with pytest.raises(Fenced):
                transaction = producer.begin()
                transaction.append(block_of("t", 0, [b"zombie"]))
                transaction.commit()

    def test_producers_of_other_ids_are_left_alone(self, adapter, log: Log) -> None:
        producer = log.producer("worker-1")
        adapter.open().producer("worker-2")
        transaction = producer.begin()
        transaction.append(block_of("t", 0, [b"a"]))
        transaction.commit()
        assert values_of(log, T0) == [b"a"]


class TestRecords:
    def test_null_and_empty_differ_in_values_keys_and_headers(self, log: Log) -> None:
        values, keys = [b"a", None, b"", b"d"], [None, b"", b"k", None]
        headers: list[dict[str, bytes]] = [{"h": b"1"}, {}, {"h": b"", "i": b"2"}, {}]
        write(log, T0, values, keys=keys, headers=headers)
        (block,) = read_all(log, T0)
        rows = range(4)
        assert [block.value(row) for row in rows] == values
        assert [block.key(row) for row in rows] == keys
        assert [block.header(row, "h") for row in rows] == [b"1", None, b"", None]
        assert [block.header(row, "i") for row in rows] == [None, None, b"2", None]

    def test_records_of_0_bytes_and_of_1_mb_come_back(self, log: Log) -> None:
        large = np.random.default_rng(1).bytes(1_000_000)
        values = [b"", large, b"", b"x", large]
        write(log, T0, values)
        assert values_of(log, T0) == values
        assert values_of(log, T0, max_bytes=1) == values

    def test_scattered_overlapping_bounds_come_back_as_they_read(self, log: Log) -> None:
        buffer = np.frombuffer(b"0123456789", np.uint8)
        starts, ends = np.array([7, 0, -1, 3, 2]), np.array([9, 4, -1, 3, 8])
        none = np.full(5, -1)
        empty = np.empty(0, np.int64)
        block = Block("t", 0, empty, empty, buffer, starts, ends, starts[::-1].copy(), ends[::-1].copy())
        transaction = log.producer("writer").begin()
        transaction.append(block)
        transaction.append(replace(block, key_starts=none, key_ends=none))
        transaction.commit()
        expected = [b"78", b"0123", None, b"", b"234567"]
        assert values_of(log, T0) == expected * 2
        (read,) = read_all(log, T0)
        assert [read.key(row) for row in range(5)] == expected[::-1]

    def test_a_block_that_was_read_can_be_appended_as_it_is(self, log: Log) -> None:
        keys, headers = [b"k", b"", None], [{}, {"h": b"x"}, {}]
        write(log, T0, [b"a", None, b""], keys=keys, timestamps=[7_000, 3_000, 5_000], headers=headers)
        (block,) = read_all(log, T0)
        transaction = log.producer("copy").begin()
        transaction.append(replace(block, topic="u"))
        transaction.commit()
        (copy,) = read_all(log, U0)
        assert [copy.value(row) for row in range(3)] == [b"a", None, b""]
        assert [copy.key(row) for row in range(3)] == [b"k", b"", None]
        assert copy.header(1, "h") == b"x"
        assert copy.timestamps.tolist() == [7_000, 3_000, 5_000]

    def test_bounds_outside_the_buffer_are_refused(self, log: Log) -> None:
        block = block_of("t", 0, [b"abc"])
        transaction = log.producer("writer").begin()
        with pytest.raises(LogError, match="bounds"):
            transaction.append(replace(block, value_ends=np.array([4])))
            transaction.commit()
        assert values_of(log, T0) == []


class TestTimestamps:
    def test_the_log_stamps_records_that_have_no_timestamp(self, adapter, log: Log) -> None:
        write(log, T0, [b"a", b"b"])
        adapter.pass_time(SECOND)
        write(log, T0, [b"c"])
        stamps = np.concatenate([block.timestamps for block in read_all(log, T0)])
        assert np.all(np.diff(stamps) >= 0)
        assert stamps[2] - stamps[0] >= SECOND

    def test_append_times_never_go_back_when_the_clock_does(self, adapter, log: Log) -> None:
        write(log, T0, [b"a"])
        adapter.pass_time(-SECOND)
        write(log, T0, [b"b"])
        stamps = np.concatenate([block.timestamps for block in read_all(log, T0)])
        assert stamps[1] >= stamps[0]

    def test_given_timestamps_are_kept(self, log: Log) -> None:
        write(log, T0, [b"a", b"b"], timestamps=[50_000, 20_000])
        write(log, T0, [b"c"])
        stamps = np.concatenate([block.timestamps for block in read_all(log, T0)])
        assert stamps[:2].tolist() == [50_000, 20_000]
        assert stamps[2] > 50_000

    def test_given_and_stamped_records_go_into_one_transaction(self, log: Log) -> None:
        transaction = log.producer("writer").begin()
        for timestamps in ([50_000], None, [20_000], None):
            transaction.append(block_of("t", 0, [b"a"], timestamps=timestamps))
        transaction.commit()
        stamps = np.concatenate([block.timestamps for block in read_all(log, T0)])
        assert stamps[[0, 2]].tolist() == [50_000, 20_000]
        assert stamps[3] >= stamps[1] > 50_000

    def test_look_up_by_time_gives_the_first_record_that_is_not_older(self, log: Log) -> None:
        first, _ = write(log, T0, [b"a", b"b", b"c"], timestamps=[10_000, 50_000, 20_000])
        second, _ = write(log, T0, [b"d"], timestamps=[40_000])
        third, end = write(log, T0, [b"e", b"f"], timestamps=[60_000, 90_000])
        found = [log.offset_at(T0, time) for time in (0, 10_000, 11_000, 50_000, 51_000, 90_000, 91_000)]
        assert found == [first, first, first + 1, first + 1, third, third + 1, log.end_offset(T0)]
        assert first < second < third < end

    def test_look_up_by_time_in_an_empty_partition_gives_its_end(self, log: Log) -> None:
        assert log.offset_at(T0, 0) == log.end_offset(T0)


class TestReading:
    def test_reading_starts_in_the_middle_of_what_was_appended_at_once(self, log: Log) -> None:
        values = [b"%05d" % i for i in range(20_000)]
        start, _ = write(log, T0, values)
        for at in (0, 1, 9_999, 19_999):
            block = log.read(T0, start + at, max_records=3)
            assert [block.value(row) for row in range(len(block))] == values[at : at + 3]

    def test_reading_again_further_ahead_gives_the_earlier_records_too(self, log: Log) -> None:
        start, _ = write(log, T0, [b"%d" % i for i in range(10)])
        assert log.read(T0, start + 5, max_records=2).value(0) == b"5"
        assert log.read(T0, start + 2, max_records=2).value(0) == b"2"

    def test_many_small_commits_are_joined_up_to_the_bounds(self, log: Log) -> None:
        producer = log.producer("writer")
        values = [b"%d" % i for i in range(50)]
        for i in range(0, 50, 2):
            transaction = producer.begin()
            transaction.append(block_of("t", 0, values[i : i + 2], keys=[b"k", None] if i % 4 else None))
            transaction.commit()
        assert values_of(log, T0) == values
        assert len(log.read(T0, log.start_offset(T0), max_records=7)) == 7
        assert values_of(log, T0, max_records=7) == values
        assert values_of(log, T0, max_bytes=10) == values

    def test_max_bytes_bounds_the_answer(self, log: Log) -> None:
        write(log, T0, [b"x" * 1000] * 100)
        block = log.read(T0, log.start_offset(T0), max_bytes=10_000)
        assert 1 <= len(block) <= 10

    def test_the_end_gives_no_record_and_beyond_it_is_out_of_range(self, log: Log) -> None:
        write(log, T0, [b"a"])
        end = log.end_offset(T0)
        assert len(log.read(T0, end)) == 0
        with pytest.raises(OffsetOutOfRange, match=rf"'t'.*{end + 1}"):
            log.read(T0, end + 1)
        with pytest.raises(OffsetOutOfRange):
            log.read(T0, -1)

    def test_who_has_read_every_record_is_told_that_nothing_lies_up_to_the_end(self, log: Log) -> None:
        first, behind = write(log, T0, [b"a", b"b"])
        transaction = log.producer("writer").begin()
        transaction.append(block_of("t", 0, [b"c"]))
        transaction.abort()
        end = log.end_offset(T0)
        until = time.monotonic() + 20
        while log.available(T0, first) < behind and time.monotonic() < until:
            log.wait({T0: first}, 20_000)
        assert log.reached(T0, first) == first
        assert len(log.read(T0, first)) == 2
        while max(log.available(T0, behind), log.reached(T0, behind)) < end and time.monotonic() < until:
            log.wait({T0: behind}, 20_000)
        assert max(log.available(T0, behind), log.reached(T0, behind)) == end
        _, more = write(log, T0, [b"d"])
        while log.available(T0, behind) < more and time.monotonic() < until:
            log.wait({T0: behind}, 20_000)
        assert log.reached(T0, behind) == behind
        assert values_of(log, T0) == [b"a", b"b", b"d"]

    def test_an_unknown_topic_is_named_with_a_near_one(self, log: Log) -> None:
        log.create_topic("payments", TopicSettings())
        place = TopicPartition("payment", 0)
        for call in (
            lambda: log.read(place, 0),
            lambda: log.end_offset(place),
            lambda: log.start_offset(place),
            lambda: log.offset_at(place, 0),
            lambda: log.delete_topic("payment"),
            lambda: log.wait({place: 0}, 0),
        ):
            with pytest.raises(UnknownTopic, match="'payments'"):
                call()
        with pytest.raises(UnknownTopic, match="payment"):
            write(log, place, [b"a"])

    def test_an_unknown_partition_is_told_apart_from_an_unknown_topic(self, log: Log) -> None:
        with pytest.raises(UnknownTopic, match="no partition 2"):
            log.read(TopicPartition("t", 2), 0)

    def test_wait_sees_what_another_handle_commits(self, adapter, log: Log) -> None:
        end = log.end_offset(T0)
        assert not log.wait({T0: end, T1: 0}, 20_000)
        write(adapter.open(), T0, [b"a"])
        assert log.wait({T0: end, T1: 0}, SECOND)
        assert not log.wait({T0: log.end_offset(T0)}, 0)


class TestTopics:
    def test_the_same_settings_twice_are_fine_and_other_ones_are_not(self, log: Log) -> None:
        log.create_topic("t", TopicSettings(partitions=2))
        with pytest.raises(LogError, match="other settings"):
            log.create_topic("t", TopicSettings(partitions=3))

    def test_topics_tells_the_settings(self, log: Log) -> None:
        settings = TopicSettings(partitions=3, retention_us=SECOND, retention_bytes=1 << 20, compacted=True)
        log.create_topic("v", settings)
        assert log.topics()["v"] == settings
        assert set(log.topics()) >= {"t", "u", "v"}

    def test_a_name_that_no_log_takes_is_refused(self, log: Log) -> None:
        for name in ("", "a b", "ü", "x" * 250):
            with pytest.raises(LogError, match="name"):
                log.create_topic(name, TopicSettings())

    def test_a_deleted_topic_takes_records_and_offsets_with_it(self, log: Log) -> None:
        write(log, U0, [b"a"])
        transaction = log.producer("writer").begin()
        transaction.commit_offsets("g", {U0: 1, T0: 0})
        transaction.commit()
        log.delete_topic("u")
        assert "u" not in log.topics()
        assert U0 not in log.committed("g")
        log.create_topic("u", TopicSettings())
        assert values_of(log, U0) == []

    def test_delete_records_moves_the_start(self, log: Log) -> None:
        start, end = write(log, T0, [b"%d" % i for i in range(10)])
        log.delete_records(T0, start + 4)
        assert log.start_offset(T0) == start + 4
        assert values_of(log, T0) == [b"%d" % i for i in range(4, 10)]
        with pytest.raises(OffsetOutOfRange):
            log.read(T0, start + 3)
        log.delete_records(T0, log.end_offset(T0))
        assert values_of(log, T0) == []
        assert log.start_offset(T0) == log.end_offset(T0) >= end

    def test_what_was_read_and_then_deleted_is_gone(self, log: Log) -> None:
        start, _ = write(log, T0, [b"%d" % i for i in range(10)])
        assert values_of(log, T0, max_records=100)[-1] == b"9"
        log.read(T0, start)
        log.delete_records(T0, start + 4)
        for gone in (start, start + 2):
            with pytest.raises(OffsetOutOfRange):
                log.read(T0, gone)

    def test_records_are_not_deleted_beyond_the_end(self, log: Log) -> None:
        write(log, T0, [b"a"])
        with pytest.raises(OffsetOutOfRange):
            log.delete_records(T0, log.end_offset(T0) + 1)


class TestCleaning:
    def test_retention_by_age_removes_old_records_only(self, adapter, log: Log) -> None:
        log.create_topic("aged", TopicSettings(retention_us=10 * SECOND))
        place = TopicPartition("aged", 0)
        write(log, place, [b"old"])
        adapter.pass_time(11 * SECOND)
        start, _ = write(log, place, [b"young"])
        write(log, T0, [b"for ever"])
        adapter.clean()
        assert values_of(log, place) == [b"young"]
        assert log.start_offset(place) == start
        assert values_of(log, T0) == [b"for ever"]

    def test_retention_by_size_keeps_the_newest(self, adapter, log: Log) -> None:
        log.create_topic("sized", TopicSettings(retention_bytes=100_000))
        place = TopicPartition("sized", 0)
        noise = np.random.default_rng(1)
        values = [noise.bytes(30_000) for _ in range(10)]
        for value in values:
            write(log, place, [value])
        adapter.clean()
        left = values_of(log, place)
        assert left == values[-len(left) :]
        assert 100_000 <= sum(len(value or b"") for value in left) < 200_000

    def test_compaction_keeps_the_newest_record_of_each_key_at_its_offset(self, adapter, log: Log) -> None:
        log.create_topic("table", TopicSettings(compacted=True))
        place = TopicPartition("table", 0)
        keys = [b"k%d" % (i % 7) for i in range(40)]
        for i in range(0, 40, 4):
            write(log, place, [b"%d" % j for j in range(i, i + 4)], keys=keys[i : i + 4])
        before = {int(o): b.value(r) for b in read_all(log, place) for r, o in enumerate(b.offsets)}
        start, end = log.start_offset(place), log.end_offset(place)
        adapter.clean()
        after = {int(o): b.value(r) for b in read_all(log, place) for r, o in enumerate(b.offsets)}
        assert after.items() <= before.items()
        assert sorted(after.values()) == sorted(b"%d" % i for i in range(33, 40))
        assert log.start_offset(place) == start
        assert log.end_offset(place) == end + adapter.cleaning_takes
        assert log.read(place, start).offsets[0] > start
        assert log.offset_at(place, 0) == min(after)

    def test_a_tombstone_survives_one_compaction_and_goes_with_the_next(self, adapter, log: Log) -> None:
        log.create_topic("table", TopicSettings(compacted=True))
        place = TopicPartition("table", 0)
        write(log, place, [b"1", b"2", None, b"3"], keys=[b"a", b"b", b"a", b"c"])
        adapter.clean()
        assert values_of(log, place) == [b"2", None, b"3"]
        adapter.pass_time(5 * SECOND)
        write(log, place, [b"4"], keys=[b"d"])
        adapter.clean()
        assert values_of(log, place) == [b"2", b"3", b"4"]


@pytest.mark.parametrize("adapter", AT_ONCE, indirect=True)
class TestGroups:
    def test_one_member_gets_all_partitions(self, log: Log) -> None:
        assert log.join("g", "t", "a").poll() == {0, 1}

    def test_from_one_member_to_three_and_back_no_partition_has_two_owners(self, adapter, log: Log) -> None:
        log.create_topic("tasks", TopicSettings(partitions=7))
        names = "abc"
        held: dict[str, frozenset[int]] = {}
        joined = {}

        def settle() -> None:
            for _ in range(6):
                for name, member in joined.items():
                    now = member.poll()
                    others = frozenset().union(*(held[other] for other in joined if other != name))
                    assert not now & others, "a partition has two owners"
                    left = held[name] - now
                    held[name] = now
                    if left:
                        member.released(left)

        for name in names:
            joined[name] = adapter.open().join("g", "tasks", name)
            held[name] = frozenset()
            settle()
            assert frozenset().union(*held.values()) == frozenset(range(7))
            assert max(map(len, held.values())) - min(map(len, held.values())) <= 1
        generation = joined["a"].generation
        for name in ("b", "a"):
            joined.pop(name).leave()
            held.pop(name)
            settle()
            assert frozenset().union(*held.values()) == frozenset(range(7))
        assert joined["c"].generation > generation

    def test_a_partition_moves_only_after_it_was_released(self, adapter, log: Log) -> None:
        first = log.join("g", "t", "a")
        assert first.poll() == {0, 1}
        second = adapter.open().join("g", "t", "b")
        assert second.poll() == frozenset()
        stays = first.poll()
        assert len(stays) == 1
        assert second.poll() == frozenset()
        first.released({0, 1} - stays)
        assert second.poll() == {0, 1} - stays
        assert first.poll() == stays

    def test_the_leaving_owner_can_still_commit_until_it_released(self, adapter, log: Log) -> None:
        first = log.join("g", "t", "a")
        first.poll()
        adapter.open().join("g", "t", "b").poll()
        leaving = {0, 1} - first.poll()
        transaction = log.producer("a").begin()
        transaction.append(block_of("u", 0, [b"last"]))
        transaction.commit_offsets("g", {T0: 1}, membership=first, owned=leaving)
        transaction.commit()
        assert values_of(log, U0) == [b"last"]

    def test_after_release_a_commit_for_the_partition_is_fenced(self, adapter, log: Log) -> None:
        first = log.join("g", "t", "a")
        first.poll()
        adapter.open().join("g", "t", "b").poll()
        leaving = {0, 1} - first.poll()
        first.released(leaving)
        transaction = log.producer("a").begin()
        transaction.append(block_of("u", 0, [b"zombie"]))
        transaction.commit_offsets("g", {T0: 1}, membership=first, owned=leaving)
        with pytest.raises(Fenced):
            transaction.commit()
        assert values_of(log, U0) == []
        assert log.committed("g") == {}

    def test_a_silent_member_loses_its_partitions_and_its_commits_are_fenced(self, adapter, log: Log) -> None:
        zombie = log.join("g", "t", "a", lease_us=SECOND)
        held = zombie.poll()
        transaction = log.producer("a").begin()
        transaction.append(block_of("u", 0, [b"zombie"]))
        transaction.commit_offsets("g", {T0: 1}, membership=zombie, owned=held)
        adapter.pass_time(2 * SECOND)
        other = adapter.open().join("g", "t", "b", lease_us=SECOND)
        assert other.poll() == {0, 1}
        with pytest.raises(Fenced, match="'a'"):
            transaction.commit()
        with pytest.raises(Fenced):
            zombie.poll()
        assert values_of(log, U0) == []
        assert log.committed("g") == {}

    def test_polling_keeps_the_lease(self, adapter, log: Log) -> None:
        member = log.join("g", "t", "a", lease_us=SECOND)
        other = adapter.open().join("g", "t", "b", lease_us=SECOND)
        member.released({0, 1} - member.poll())
        held = member.poll()
        for _ in range(10):
            adapter.pass_time(SECOND // 2)
            assert member.poll() == held
            other.poll()

    def test_a_member_that_is_started_again_fences_its_older_self(self, adapter, log: Log) -> None:
        old = log.join("g", "t", "a")
        held = old.poll()
        new = adapter.open().join("g", "t", "a")
        assert new.poll() == {0, 1}
        assert new.generation > old.generation
        transaction = log.producer("old").begin()
        transaction.commit_offsets("g", {T0: 1}, membership=old, owned=held)
        with pytest.raises(Fenced):
            transaction.commit()
        with pytest.raises(Fenced):
            old.poll()

    def test_a_partition_that_came_back_is_not_held_since_the_older_generation(self, adapter, log: Log) -> None:
        first = log.join("g", "t", "a")
        first.poll()
        transaction = log.producer("a").begin()
        transaction.commit_offsets("g", {T0: 1}, membership=first, owned={0, 1})
        second = adapter.open().join("g", "t", "b")
        first.released({0, 1} - first.poll())
        second.poll()
        second.leave()
        assert first.poll() == {0, 1}
        with pytest.raises(Fenced):
            transaction.commit()

    def test_a_commit_for_a_partition_of_someone_else_is_fenced(self, adapter, log: Log) -> None:
        first = log.join("g", "t", "a")
        second = adapter.open().join("g", "t", "b")
        first.released({0, 1} - first.poll())
        transaction = log.producer("a").begin()
        transaction.commit_offsets("g", {T0: 1}, membership=first, owned=second.poll())
        with pytest.raises(Fenced):
            transaction.commit()

    def test_groups_do_not_see_each_other(self, adapter, log: Log) -> None:
        first, second = log.join("g", "t", "a"), adapter.open().join("h", "t", "b")
        assert first.poll() == second.poll() == {0, 1}

    def test_joining_needs_the_topic(self, log: Log) -> None:
        with pytest.raises(UnknownTopic):
            log.join("g", "absent", "a")
