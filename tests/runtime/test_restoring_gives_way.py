"""Restoring many tasks does not keep those back that stand already: they work while the others are restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from payments import PAYMENT, payments, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import LogUnavailable
from streamproc.ports import Isolation, TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.control import Request
from streamproc.runtime.replay import source_ends
from streamproc.runtime.task import TakenStep, Task
from streamproc.runtime.telemetry.observer import Observer
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame


class LogWithASilentJournal(EmbeddedLog):
    """An embedded log that does not answer for one journal, so many times."""

    journal: TopicPartition | None = None
    silent = 0

    def end_offset(self, partition: TopicPartition, *, isolation: Isolation = "read_committed") -> int:
        if partition == self.journal and self.silent:
            self.silent -= 1
            raise LogUnavailable("no answer", hint="try again later")
        return super().end_offset(partition, isolation=isolation)


class Hurried(SystemClock):
    """A clock that may be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Diary(Observer):
    """What a worker did, in order; each task takes some seconds of its clock to restore."""

    def __init__(self, clock: Hurried, seconds: float) -> None:
        self.lines: list[tuple[str, int]] = []
        self._clock, self._seconds = clock, seconds

    def restoring(self, number: int, owned: int) -> None:
        self._clock.ahead += self._seconds

    def restored(self, task: Task, steps: int, seconds: float) -> None:
        self.lines.append(("restored", task.number))

    def committed(self, steps: Sequence[tuple[Task, TakenStep]], seconds: float) -> None:
        self.lines += [("stepped", task.number) for task, _ in steps]

    def turned(self, tasks: Mapping[int, Task], *, idle: bool, request: Request | None) -> None:
        self.lines.append(("turned", len(tasks)))


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Binding, LogWithASilentJournal]:
    """A topology after a run, with more to read."""
    log, registry = LogWithASilentJournal(tmp_path / "log.db"), MemoryRegistry((PAYMENT,))
    log.create_topic("payments", TopicSettings(2))
    append_frame(log, registry, "payments", PAYMENT, payments(5, 50))
    binding = bind(topology(), log, registry)
    assert Worker(binding, log, until_end=source_ends(binding, log)).run().steps
    append_frame(log, registry, "payments", PAYMENT, payments(6, 50))
    return binding, log


def again(
    binding: Binding, log: EmbeddedLog, *, seconds: float = 0.0, patience_s: float = 60.0
) -> tuple[Worker, list[tuple[str, int]]]:
    """A worker that starts on what the run left, and the diary that it writes."""
    clock = Hurried()
    diary = Diary(clock, seconds)
    worker = Worker(
        binding, log, until_end=source_ends(binding, log), close=True, clock=clock, observer=diary,
        patience_s=patience_s, lease_s=1_000.0,
    )  # fmt: skip
    return worker, diary.lines


def test_a_task_that_stands_steps_before_the_last_one_is_restored(
    stopped: tuple[Binding, LogWithASilentJournal],
) -> None:
    binding, log = stopped
    worker, lines = again(binding, log, seconds=30.0)
    assert worker.run().units
    restored = [number for what, number in lines if what == "restored"]
    assert restored == list(range(binding.task_count)), "each once, in order"
    assert lines.index(("stepped", 0)) < lines.index(("restored", restored[-1]))
    first_turn = next(line for line in lines if line[0] == "turned")
    assert first_turn == ("turned", binding.task_count), "it is up to date only when all stand"
    log.close()


def test_tasks_that_are_restored_quickly_are_restored_at_once(stopped: tuple[Binding, LogWithASilentJournal]) -> None:
    binding, log = stopped
    worker, lines = again(binding, log)
    worker.run()
    assert [what for what, _ in lines[: binding.task_count]] == ["restored"] * binding.task_count
    log.close()


def test_a_journal_that_is_silent_for_a_while_keeps_no_other_task_back(
    stopped: tuple[Binding, LogWithASilentJournal],
) -> None:
    binding, log = stopped
    log.journal, log.silent = TopicPartition(binding.names.tasks, 1), 2
    worker, lines = again(binding, log)
    assert worker.run().units
    assert log.silent == 0
    assert sorted(number for what, number in lines if what == "restored") == list(range(binding.task_count))
    assert lines.index(("stepped", 0)) < lines.index(("restored", 1))
    log.close()


def test_patience_with_a_silent_journal_ends(stopped: tuple[Binding, LogWithASilentJournal]) -> None:
    binding, log = stopped
    log.journal, log.silent = TopicPartition(binding.names.tasks, 1), 1_000
    worker, lines = again(binding, log, patience_s=2.5)
    with pytest.raises(LogUnavailable, match="no answer"):
        worker.run()
    assert ("stepped", 0) in lines
    log.close()
