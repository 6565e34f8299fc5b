"""The file: what is refused with a clear message, and what several processes and handles do to each other."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import tempfile
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from connectors.embedded import EmbeddedLog, pending
from connectors.embedded.database import FORMAT_VERSION
from streamproc.errors import InputError, LogBusy, LogError, UnknownTopic
from streamproc.ports import TopicPartition, TopicSettings, block_of

T0 = TopicPartition("t", 0)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["connectors.embedded"])


def commit(log: EmbeddedLog, values: list[bytes], *, producer: str = "w") -> tuple[int, int]:
    transaction = log.producer(producer).begin()
    transaction.append(block_of("t", 0, values))
    return transaction.commit()[T0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("t", TopicSettings(partitions=2))
    return tmp_path / "log.db"


class TestRefused:
    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("not a log, but long enough to be one: " * 50)
        with pytest.raises(InputError, match=r"notes\.txt' is not an embedded log; name another"):
            EmbeddedLog(tmp_path / "notes.txt")
        assert (tmp_path / "notes.txt").read_text().startswith("not a log")

    def test_a_database_of_another_program(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "other.db")
        connection.execute("CREATE TABLE music(title)")
        connection.close()
        with pytest.raises(InputError, match="SQLite file, but not an embedded log"):
            EmbeddedLog(tmp_path / "other.db")

    def test_a_log_of_a_newer_format(self, path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
        connection.close()
        with pytest.raises(InputError, match=f"has format {FORMAT_VERSION + 1}.*newer version"):
            EmbeddedLog(path)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no folder .*absent.*create it first"):
            EmbeddedLog(tmp_path / "absent" / "log.db")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            EmbeddedLog(tmp_path)

    def test_a_log_that_is_not_there_is_not_created_unless_asked(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no log"):
            EmbeddedLog(tmp_path / "log.db", create=False)
        assert not (tmp_path / "log.db").exists()

    def test_a_file_or_a_folder_without_write_permission(self) -> None:
        code = (
            "import os, sys\n"
            "from connectors.embedded import EmbeddedLog\n"
            "from streamproc.errors import InputError\n"
            "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write anywhere, so it becomes nobody
            "try: EmbeddedLog(sys.argv[1])\n"
            "except InputError as error: print(error)\n"
        )
        for file_mode, folder_mode in ((0o444, 0o755), (0o666, 0o555)):
            # Not in pytest's folder: nobody may not look into that of root.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "log.db"
                EmbeddedLog(path).close()
                path.chmod(file_mode)
                Path(folder).chmod(folder_mode)
                answer = subprocess.run(
                    [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
                )
                Path(folder).chmod(0o755)
            assert "cannot be opened for writing" in answer.stdout
            assert "write permission" in answer.stdout

    def test_use_after_close(self, path: Path) -> None:
        log = EmbeddedLog(path)
        log.close()
        log.close()
        with pytest.raises(LogError, match="after close"):
            log.end_offset(T0)

    def test_use_from_another_thread(self, path: Path) -> None:
        errors: list[BaseException] = []

        def use() -> None:
            try:
                log.end_offset(T0)
            except LogError as error:
                errors.append(error)

        with EmbeddedLog(path) as log:
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        assert "thread" in str(errors[0])

    def test_a_membership_of_another_log(self, path: Path) -> None:
        class Stranger:
            member, generation = "a", 1

            def poll(self) -> frozenset[int]:
                return frozenset()

            def released(self, partitions: object) -> None: ...
            def leave(self) -> None: ...

        with EmbeddedLog(path) as log:
            transaction = log.producer("w").begin()
            with pytest.raises(LogError, match="another kind of log"):
                transaction.commit_offsets("g", {}, membership=Stranger())


class TestSeveral:
    def test_a_writer_waits_for_another_and_then_says_that_the_log_is_busy(self, path: Path) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with EmbeddedLog(path, busy_us=50_000) as log:
            with pytest.raises(LogBusy, match=r"more than 0\.05 s; stop the other writer"):
                log.producer("w")
            other.execute("COMMIT")
            transaction = log.producer("w").begin()
            transaction.append(block_of("t", 0, [b"a"]))
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogBusy):
                transaction.commit()
            other.execute("COMMIT")
            assert transaction.commit() == {T0: (0, 1)}, "a busy log is no reason to lose the step"
        other.close()

    def test_readers_go_on_while_someone_writes(self, path: Path) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        with EmbeddedLog(path) as log:
            commit(log, [b"a"])
            other.execute("BEGIN IMMEDIATE")
            assert log.read(T0, 0).value(0) == b"a"
        other.close()

    def test_four_processes_write_and_three_read_at_the_same_time(self, path: Path) -> None:
        writers = [CONTEXT.Process(target=write_some, args=(path, n)) for n in range(4)]
        with CONTEXT.Manager() as manager:
            seen = manager.list()
            readers = [CONTEXT.Process(target=read_along, args=(path, 4 * 25 * 3, seen)) for _ in range(3)]
            for process in writers + readers:
                process.start()
            for process in writers + readers:
                process.join(60)
                assert process.exitcode == 0
            first, *others = list(seen)
        assert all(other == first for other in others)
        for n in range(4):
            mine = [value for value in first if value.startswith(b"%d:" % n)]
            assert mine == [b"%d:%d:%d" % (n, step, i) for step in range(25) for i in range(3)]
        with EmbeddedLog(path) as log:
            assert list(log.check()) == []

    def test_processes_that_create_the_same_log_at_once_agree(self, tmp_path: Path) -> None:
        for round_ in range(2):
            path, barrier = tmp_path / f"new{round_}.db", CONTEXT.Barrier(4)
            processes = [CONTEXT.Process(target=open_together, args=(path, n, barrier)) for n in range(4)]
            for process in processes:
                process.start()
            for process in processes:
                process.join(60)
                assert process.exitcode == 0
            with EmbeddedLog(path) as log:
                assert log.end_offset(T0) == 4

    def test_a_topic_deleted_before_the_commit_leaves_nothing_of_it(self, path: Path) -> None:
        with EmbeddedLog(path) as log, EmbeddedLog(path) as other:
            log.create_topic("u", TopicSettings())
            transaction = log.producer("w").begin()
            transaction.append(block_of("t", 0, [b"a"]))
            transaction.append(block_of("u", 0, [b"a"]))
            other.delete_topic("u")
            with pytest.raises(UnknownTopic, match="'u'"):
                transaction.commit()
            assert log.end_offset(T0) == 0


class TestLarge:
    def test_pending_appends_beyond_the_bound_wait_in_a_nameless_file(self, path: Path, monkeypatch) -> None:
        monkeypatch.setattr(pending, "ENCODED_BYTES", 200_000)
        monkeypatch.setattr(pending, "WAITING_BYTES", 100_000)
        noise = np.random.default_rng(1)
        values = [[noise.bytes(1000) for _ in range(700)] for _ in range(4)]
        with EmbeddedLog(path) as log:
            transaction = log.producer("w").begin()
            for part in values:
                for half in (part[:350], part[350:]):
                    transaction.append(block_of("t", 0, half))
                    transaction.append(block_of("t", 1, half[::-1]))
            assert sorted(file.name for file in path.parent.iterdir()) == ["log.db", "log.db-shm", "log.db-wal"]
            assert log.end_offset(T0) == 0
            transaction.commit()
            for place, step in ((T0, 1), (TopicPartition("t", 1), -1)):
                expected = [value for part in values for half in (part[:350], part[350:]) for value in half[::step]]
                at, got = 0, []
                while at < log.end_offset(place):
                    block = log.read(place, at)
                    got += [block.value(row) for row in range(len(block))]
                    at += len(block)
                assert got == expected
            transaction = log.producer("w").begin()
            transaction.append(block_of("t", 0, values[0]))
            transaction.append(block_of("t", 0, values[1]))
            transaction.abort()
            assert log.end_offset(T0) == 2800

    def test_a_few_records_do_not_keep_the_large_buffer_that_they_were_cut_from(self, path: Path) -> None:
        with EmbeddedLog(path) as log:
            large = block_of("t", 0, [b"x" * 1000] * 1000)
            waiting = pending.Pending(path.parent)
            waiting.add(large.slice(10, 12))
            (kept,) = waiting._small[T0]
            assert kept.buffer.size == 2000
            assert log.end_offset(T0) == 0

    def test_200_000_records_are_stored_in_blocks_that_are_cheap_to_read_from_the_middle(self, path: Path) -> None:
        with EmbeddedLog(path) as log:
            values = [b"%06d" % i for i in range(200_000)]
            commit(log, values)
            block = log.read(T0, 150_000, max_records=10)
            assert [block.value(row) for row in range(10)] == values[150_000:150_010]
            assert block.buffer.size <= 1 << 20
            at, sizes = 0, []
            while at < 200_000:
                sizes.append(len(log.read(T0, at)))
                at += sizes[-1]
            assert sizes == [65_536, 65_536, 65_536, 3_392]

    def test_every_commit_reaches_the_disk(self, path: Path) -> None:
        with EmbeddedLog(path) as log:
            (synchronous,) = log._database.execute("PRAGMA synchronous").fetchone()
            (mode,) = log._database.execute("PRAGMA journal_mode").fetchone()
        assert (synchronous, mode) == (2, "wal"), "2 is FULL: fsync of the WAL at each commit"

    def test_offsets_are_dense_over_commits_and_aborts(self, path: Path) -> None:
        with EmbeddedLog(path) as log:
            assert commit(log, [b"a", b"b"]) == (0, 2)
            aborted = log.producer("w").begin()
            aborted.append(block_of("t", 0, [b"c"]))
            aborted.abort()
            assert commit(log, [b"d"]) == (2, 3)
            assert log.read(T0, 0).offsets.tolist() == [0, 1, 2]


def open_together(path: Path, n: int, barrier: Barrier) -> None:
    barrier.wait()
    with EmbeddedLog(path) as log:
        log.create_topic("t", TopicSettings(partitions=2))
        commit(log, [b"x"], producer=f"w{n}")


def write_some(path: Path, n: int) -> None:
    with EmbeddedLog(path) as log:
        log.create_topic("t", TopicSettings(partitions=2))
        producer = log.producer(f"w{n}")
        for step in range(25):
            transaction = producer.begin()
            transaction.append(block_of("t", 0, [b"%d:%d:%d" % (n, step, i) for i in range(3)]))
            transaction.commit()


def read_along(path: Path, count: int, seen: list[list[bytes]]) -> None:
    with EmbeddedLog(path) as log:
        at, got = 0, []
        while at < count:
            assert log.wait({T0: at}, 20_000_000)
            block = log.read(T0, at)
            assert block.offsets.tolist() == list(range(at, at + len(block)))
            got += [block.value(row) for row in range(len(block))]
            at += len(block)
        seen.append(got)
