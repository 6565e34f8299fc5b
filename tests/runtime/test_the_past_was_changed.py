"""Changed input, damaged blocks, changed code and foreign journals are four different errors."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from payments import PAYMENT, payments, simple

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import CorruptLog, ForeignFingerprint, InputChanged, ReplayDiverged
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import replay_as_recorded, source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame, drive
from streamproc.testing.memory_log import MemoryLog

PLACE = TopicPartition("payments", 0)


def ran_in_memory() -> tuple[MemoryLog, MemoryRegistry]:
    registry = MemoryRegistry((PAYMENT,))
    ran = drive(simple(), payments=payments(3, 60), registry=registry, steps=(5 for _ in range(1_000)))
    assert isinstance(ran.log, MemoryLog)
    return ran.log, registry


def rewritten(log: MemoryLog, record: int) -> None:
    """Changes the last byte of one stored record, as someone who may write to the log could."""
    stored = log.read(PLACE, 0)
    buffer = stored.buffer.copy()
    buffer[stored.value_ends[record] - 1] ^= 2
    log.replace_block(PLACE, replace(stored, buffer=buffer))


def test_a_changed_record_is_named_by_topic_partition_and_offset() -> None:
    log, registry = ran_in_memory()
    rewritten(log, 11)
    with pytest.raises(InputChanged, match=r"payments-0@11 "):
        replay_as_recorded(bind(simple(), log, registry), log)


def test_a_worker_does_not_go_on_from_changed_input() -> None:
    log, registry = ran_in_memory()
    rewritten(log, 0)
    binding = bind(simple(), log, registry)
    with pytest.raises(InputChanged, match=r"payments-0@0 "):
        Worker(binding, log, until_end=source_ends(binding, log)).run()


def test_changed_code_is_told_with_the_first_row_and_column_and_both_values() -> None:
    log, registry = ran_in_memory()
    with pytest.raises(
        ReplayDiverged, match=r"'one\.out' partition 0, row 0: column 'scaled' was .* and is now "
    ) as told:
        replay_as_recorded(bind(simple(factor=2.0), log, registry), log)
    was, now = (float(text) for text in str(told.value).split("was ")[1].split(";")[0].split(" and is now "))
    assert now == 2 * was


def test_a_worker_refuses_the_journal_of_changed_code() -> None:
    log, registry = ran_in_memory()
    binding = bind(simple(factor=2.0), log, registry)
    with pytest.raises(ForeignFingerprint, match=r"another logic \(.*with_columns"):
        Worker(binding, log, until_end=source_ends(binding, log)).run()


def test_a_worker_refuses_another_number_of_partitions() -> None:
    log, registry = ran_in_memory()
    other = MemoryLog(now=log.now)
    other.create_topic("payments", TopicSettings(2))
    append_frame(other, registry, "payments", PAYMENT, payments(3, 60))
    binding = bind(simple(), other, registry)
    journal = log.read(TopicPartition(binding.names.tasks, 0), 0)
    transaction = other.producer("copy").begin()
    transaction.append(replace(journal, offsets=np.empty(0, np.int64), timestamps=np.empty(0, np.int64)))
    transaction.commit()
    with pytest.raises(ForeignFingerprint, match="another partitions"):
        Worker(binding, other, until_end=source_ends(binding, other)).run()


def test_a_flipped_byte_in_the_file_is_a_damaged_log(tmp_path: Path) -> None:
    registry = MemoryRegistry((PAYMENT,))
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("payments", TopicSettings(1))
    append_frame(log, registry, "payments", PAYMENT, payments(3, 60))
    binding = bind(simple(), log, registry)
    Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
    log.close()
    with sqlite3.connect(tmp_path / "log.db") as file:
        tables = [name for (name,) in file.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in file.execute(f"pragma table_info({table})").fetchall():
                if kind.upper() == "BLOB":
                    flip(file, table, column)
    file.close()
    log = EmbeddedLog(tmp_path / "log.db")
    with pytest.raises(CorruptLog):
        replay_as_recorded(bind(simple(), log, registry), log)
    log.close()


def flip(file: sqlite3.Connection, table: str, column: str) -> None:
    """Flips a bit in the middle of every stored value that holds the name of a card."""
    for row, value in file.execute(f"select rowid, {column} from {table} where length({column}) > 200").fetchall():
        damaged = bytearray(value)
        damaged[len(damaged) // 2] ^= 1
        file.execute(f"update {table} set {column} = ? where rowid = ?", (bytes(damaged), row))
