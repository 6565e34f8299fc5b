"""The SQLite file of an embedded log: its tables, how it is opened, and SQLite's errors in our words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from streamproc.errors import CorruptLog, InputError, LogBusy, LogError

APPLICATION_ID = 0x53504C47  # "SPLG": tells our files from other SQLite files
FORMAT_VERSION = 1
_PAGE_BYTES = 8192
WAL_PAGES = 4096
"""A commit that makes the WAL longer than this many pages moves them to the main file."""
_BUSY_PAUSE_S = 0.001

_TABLES = """
CREATE TABLE topic(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
  retention_us INTEGER, retention_bytes INTEGER, compacted INTEGER NOT NULL);
CREATE TABLE partition(
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
  start_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL, append_time INTEGER NOT NULL, high_time INTEGER NOT NULL,
  compacted_to INTEGER NOT NULL, checksum BLOB NOT NULL, UNIQUE(topic_id, number));
CREATE TABLE block(
  id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, base INTEGER NOT NULL, next INTEGER NOT NULL,
  count INTEGER NOT NULL, raw_bytes INTEGER NOT NULL, append_time INTEGER NOT NULL, newest INTEGER NOT NULL,
  high_time INTEGER NOT NULL, checksum BLOB NOT NULL, payload BLOB NOT NULL);
CREATE UNIQUE INDEX block_of_partition ON block(partition_id, next);
CREATE TABLE producer(name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE committed(
  consumer_group TEXT NOT NULL, topic_id INTEGER NOT NULL, number INTEGER NOT NULL, next INTEGER NOT NULL,
  PRIMARY KEY(consumer_group, topic_id, number)) WITHOUT ROWID;
CREATE TABLE consumer_group(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, topic_id INTEGER NOT NULL, generation INTEGER NOT NULL,
  UNIQUE(name, topic_id));
CREATE TABLE member(
  group_id INTEGER NOT NULL, name TEXT NOT NULL, incarnation INTEGER NOT NULL, lease_us INTEGER NOT NULL,
  expires INTEGER NOT NULL, PRIMARY KEY(group_id, name)) WITHOUT ROWID;
CREATE TABLE share(
  group_id INTEGER NOT NULL, number INTEGER NOT NULL, owner TEXT NOT NULL, target TEXT NOT NULL, since INTEGER NOT NULL,
  PRIMARY KEY(group_id, number)) WITHOUT ROWID;
"""


class Database:
    """One connection to the file, for one thread; no SQLite transaction outlives a call of the log."""

    __slots__ = ("_busy_us", "_connection", "_pid", "path")

    def __init__(self, path: Path, *, create: bool, busy_us: int) -> None:
        self.path = path
        self._busy_us = busy_us
        self._pid = os.getpid()
        self._connection = _opened(path, create=create, busy_us=busy_us)

    def close(self) -> None:
        """Lets go of the file; a second time does nothing."""
        self._connection.close()

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Runs one statement; call it inside `reading` or `writing`."""
        return self._connection.execute(statement, values)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot of committed data."""
        with self._translated():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The write lock from start to end; durable when it ends well, without a trace when it raises.

        Raises LogBusy if another process keeps the lock for longer than the time-out.
        """
        with self._translated():
            self._lock()
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def changed_elsewhere(self) -> int:
        """A number that differs after another connection committed."""
        with self._translated():
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(version)

    def _lock(self) -> None:
        # SQLite's own wait grows to 100 ms between two looks, and then writers that commit every few milliseconds
        # starve each other; short looks keep the wait near the length of one commit.
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            _patiently(self._connection, "BEGIN IMMEDIATE", self._busy_us)
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {self._busy_us // 1000}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if os.getpid() != self._pid:
            raise LogError(
                f"the log '{self.path}' was opened before this process was forked",
                hint="open the log anew in each process",
            )
        with translated(self.path, self._busy_us):
            yield


def _patiently(connection: sqlite3.Connection, statement: str, busy_us: int) -> None:
    """Runs a statement again until nobody is in its way, or the time is up."""
    limit = time.monotonic() + busy_us / 1e6
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= limit:
                raise
        time.sleep(_BUSY_PAUSE_S)


def _is_busy(error: sqlite3.Error) -> bool:
    # The low byte is the primary code; the rest says which kind of busy.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def translated(path: Path, busy_us: int) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if _is_busy(error):
            raise LogBusy(
                f"another process keeps the write lock of '{path}' for more than {busy_us / 1e6:g} s",
                hint="stop the other writer, or let both commit smaller steps, then try again",
            ) from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise CorruptLog(
                f"the file '{path}' is damaged ({error})",
                hint="restore it from a copy, or run 'streamproc verify' to see which blocks are whole",
            ) from error
        if code == sqlite3.SQLITE_NOTADB:
            raise InputError(
                f"'{path}' is not an embedded log", hint="name another file; one that does not exist is created"
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise InputError(
                f"the log '{path}' cannot be opened for writing ({error})",
                hint="give this user write permission on the file and its folder (readers need it too)",
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise LogError(
                f"there is no space left for the log '{path}'", hint="free disk space; nothing was half written"
            ) from error
        if isinstance(error, sqlite3.ProgrammingError):
            raise LogError(
                f"the log '{path}' cannot be used here ({error})",
                hint="open the log in the thread that uses it, and do not use it after close()",
            ) from error
        raise LogError(f"the log '{path}' cannot be used ({error})", hint="see whether its disk is well") from error


def _opened(path: Path, *, create: bool, busy_us: int) -> sqlite3.Connection:
    """A connection to a file that is an embedded log of a version that we know."""
    if path.is_dir():
        raise InputError(f"'{path}' is a folder, not an embedded log", hint="name a file in it, such as 'log.db'")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder '{path.parent}' for the log '{path.name}'", hint="create it first")
    if not path.exists() and not create:
        raise InputError(f"there is no log '{path}'", hint="look at the path; 'streamproc produce' creates a log")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise InputError(
            f"the log '{path}' cannot be opened for writing",
            hint="give this user write permission on the file and its folder (readers need it too)",
        )
    with translated(path, busy_us):
        mode = "rwc" if create else "rw"
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, isolation_level=None, timeout=busy_us / 1e6
        )
        try:
            _prepare(connection, path, busy_us)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: Path, busy_us: int) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("BEGIN")  # one snapshot: another process may be creating the log right now
    known = _is_log(connection, path)
    connection.execute("COMMIT")
    if not known:
        # Two processes may create the file at once: the second one finds it made.
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _is_log(connection, path):
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    # SQLite does not wait by itself when two processes change to WAL at once.
    _patiently(connection, "PRAGMA journal_mode = WAL", busy_us)
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: fsync at every commit
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    connection.execute("PRAGMA journal_size_limit = 134217728")


def _is_log(connection: sqlite3.Connection, path: Path) -> bool:
    """True for a log, False for an empty file; raises for everything else."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > FORMAT_VERSION:
            raise InputError(
                f"the log '{path}' has format {version}; this streamproc knows formats up to {FORMAT_VERSION}",
                hint="use a newer version of streamproc",
            )
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:
        raise InputError(
            f"'{path}' is an SQLite file, but not an embedded log", hint="name another file; one that is new is created"
        )
    return False
