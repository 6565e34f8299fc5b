"""Retention and compaction agree with what they promise, whatever the commits looked like."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.embedded import EmbeddedLog, compaction
from streamproc.errors import CorruptLog
from streamproc.ports import TopicPartition, TopicSettings, block_of

T0 = TopicPartition("t", 0)
Rows = dict[int, tuple[bytes | None, bytes | None, int, bytes | None]]
records = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"", None]), st.sampled_from([None, b"", b"1", b"22"])), max_size=6
)
commits = st.lists(records | st.just("compact") | st.just("start"), max_size=14)


def rows_of(log: EmbeddedLog) -> Rows:
    """Offset to key, value, timestamp, header."""
    at, found = log.start_offset(T0), {}
    while at < log.end_offset(T0):
        block = log.read(T0, at, max_records=3)
        assert len(block), "below the end there always is a record"
        for row, offset in enumerate(block.offsets.tolist()):
            found[offset] = (block.key(row), block.value(row), int(block.timestamps[row]), block.header(row, "h"))
        at = int(block.offsets[-1]) + 1
    return found


def compacted(rows: Rows, seen_before: int, end: int) -> Rows:
    """The naive twin: row by row, from the newest to the oldest."""
    keys: set[bytes] = set()
    kept: Rows = {}
    for offset in sorted(rows, reverse=True):
        key, value, *_ = rows[offset]
        newest = key is None or key not in keys
        if key is not None:
            keys.add(key)
        gone = key is not None and value is None and offset < seen_before
        if offset == end - 1 or (newest and not gone):
            kept[offset] = rows[offset]
    return kept


@settings(deadline=None, max_examples=50)
@given(commits)
def test_compaction_agrees_with_its_naive_twin(steps: list) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedLog(Path(folder) / "log.db") as log:
        log.create_topic("t", TopicSettings(compacted=True))
        producer, expected, seen = log.producer("w"), {}, 0
        for step in steps:
            end = log.end_offset(T0)
            if step == "compact":
                removed = log.compact("t")
                after = compacted(expected, seen, end) if end > max(seen, log.start_offset(T0)) else expected
                assert removed >= len(expected) - len(after), "what lies below the start goes too"
                expected, seen = after, max(end, seen)
            elif step == "start":
                log.delete_records(T0, (log.start_offset(T0) + end) // 2)
                expected = {offset: row for offset, row in expected.items() if offset >= log.start_offset(T0)}
            elif step:
                transaction = producer.begin()
                transaction.append(
                    block_of("t", 0, [value for _, value in step], keys=[key for key, _ in step],
                             timestamps=[end + i for i in range(len(step))], headers=[{"h": b"%d" % end}] * len(step))
                )  # fmt: skip
                transaction.commit()
                for i, (key, value) in enumerate(step):
                    expected[end + i] = (key, value, end + i, b"%d" % end)
            assert rows_of(log) == expected
            assert list(log.check()) == []


def fill(log: EmbeddedLog, commits: int, *, size: int = 100, keys: int = 10) -> None:
    producer, noise = log.producer("w"), np.random.default_rng(1)
    for step in range(commits):
        transaction = producer.begin()
        names = [b"%d" % ((step + i) % keys) for i in range(5)]
        transaction.append(block_of("t", 0, [noise.bytes(size)] * 5, keys=names))
        transaction.commit()


def test_compaction_over_many_chunks_joins_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_SCAN_BYTES", 2_000)
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(compacted=True))
        fill(log, 100)
        whole = rows_of(log)
        log.compact("t")
        newest = {key: offset for offset, (key, *_) in whole.items()}
        assert rows_of(log) == {offset: whole[offset] for offset in sorted(newest.values())}
    (blocks,) = sqlite3.connect(tmp_path / "log.db").execute("SELECT count(*) FROM block").fetchone()
    assert blocks == 1


def test_compaction_joins_small_blocks_even_if_no_record_goes(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(compacted=True))
        fill(log, 20, keys=1000)
        log.compact("t")
        whole = rows_of(log)
        assert log.compact("t") == 0
        assert rows_of(log) == whole
        assert [len(whole), log.read(T0, 0).offsets.size] == [24, 24]
    (blocks,) = sqlite3.connect(tmp_path / "log.db").execute("SELECT count(*) FROM block").fetchone()
    assert blocks == 1


def test_a_compaction_that_dies_half_way_brings_no_deleted_key_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "BLOCK_BYTES", 1)  # so that each block is rewritten by itself
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(compacted=True))
        producer = log.producer("w")
        for value in (b"1", b"2", b"3", None):
            transaction = producer.begin()
            transaction.append(block_of("t", 0, [value, b"x"], keys=[b"k", b"other"]))
            transaction.commit()
        log.compact("t")
        transaction = producer.begin()
        transaction.append(block_of("t", 0, [b"y"], keys=[b"other"]))
        transaction.commit()
        real, left = compaction._rewrite, [0]

        def dies(*args: object) -> bool:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*args)

        for steps in range(4):
            left[0] = steps
            monkeypatch.setattr(compaction, "_rewrite", dies)
            try:
                log.compact("t")
            except KeyboardInterrupt:
                monkeypatch.setattr(compaction, "_rewrite", real)
            assert [row[1] for row in rows_of(log).values() if row[0] == b"k"] in ([None], [])


def test_a_damaged_block_is_not_compacted_away(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(compacted=True))
        fill(log, 10)
        connection = sqlite3.connect(tmp_path / "log.db")
        connection.execute("UPDATE block SET newest = 7 WHERE id = 3")
        connection.commit()
        connection.close()
        with pytest.raises(CorruptLog, match="offset 10 "):
            log.compact("t")
        assert log.read(T0, 45).offsets.tolist() == list(range(45, 50))


def test_retention_takes_whole_blocks_and_never_the_middle(tmp_path: Path) -> None:
    now = [0]
    with EmbeddedLog(tmp_path / "log.db", now_us=lambda: now[0]) as log:
        log.create_topic("t", TopicSettings(partitions=2, retention_us=100))
        producer = log.producer("w")
        for time in (10, 200, 50, 300):
            transaction = producer.begin()
            transaction.append(block_of("t", 0, [b"a", b"b"], timestamps=[time, time + 1]))
            transaction.commit()
        now[0] = 250
        assert log.enforce_retention() == {T0: 2}
        assert log.start_offset(T0) == 2, "the block of 50 lies behind one that is young"
        log.delete_records(T0, 4)
        now[0] = 250
        assert log.enforce_retention() == {T0: 2}, "nothing young lies before the block of 50 any more"
        now[0] = 1000
        assert log.enforce_retention() == {T0: 2}
        assert log.start_offset(T0) == log.end_offset(T0) == 8
        assert len(log.read(T0, 8)) == 0
        assert log.enforce_retention() == {}


def test_space_is_used_again(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(retention_bytes=50_000))
        for _ in range(10):
            fill(log, 20, size=20_000)
            log.enforce_retention()
    assert (tmp_path / "log.db").stat().st_size < 2_000_000


def test_a_producer_cleans_now_and_then_by_itself(tmp_path: Path) -> None:
    now = [0]
    with EmbeddedLog(tmp_path / "log.db", now_us=lambda: now[0], upkeep_us=1_000) as log:
        log.create_topic("t", TopicSettings(compacted=True))
        log.create_topic("aged", TopicSettings(retention_us=500))
        fill(log, 300)
        producer = log.producer("w")
        transaction = producer.begin()
        transaction.append(block_of("aged", 0, [b"x"]))
        transaction.commit()
        assert len(rows_of(log)) == 1500
        now[0] = 2_000
        producer.begin()
        assert len(rows_of(log)) == 10
        assert log.start_offset(TopicPartition("aged", 0)) == 1
