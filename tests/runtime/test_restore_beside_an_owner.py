"""A worker that has lost a task without knowing it restores it while the owner goes on: it is told so, and not that two
runs wrote one group."""

from __future__ import annotations

from pathlib import Path

import pytest
from payments import PAYMENT, payments, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import LogError, LogUnavailable
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.restore import restore_task
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame


class LogOfYesterday(EmbeddedLog):
    """An embedded log whose next answers about committed offsets are from before the last commit."""

    old = 0

    def committed(self, group: str) -> dict[TopicPartition, int]:
        found = super().committed(group)
        if self.old:
            self.old -= 1
            return {place: offset - 1 for place, offset in found.items()}
        return found


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Binding, LogOfYesterday]:
    """A topology after a run, and its log."""
    log, registry = LogOfYesterday(tmp_path / "log.db"), MemoryRegistry((PAYMENT,))
    log.create_topic("payments", TopicSettings(1))
    append_frame(log, registry, "payments", PAYMENT, payments(5, 50))
    binding = bind(topology(), log, registry)
    assert Worker(binding, log, until_end=source_ends(binding, log)).run().steps
    return binding, log


def test_what_changes_while_it_is_read_is_read_again(stopped: tuple[Binding, LogOfYesterday]) -> None:
    binding, log = stopped
    log.old = 1
    with pytest.raises(LogUnavailable, match="moved while they were read"):
        restore_task(binding, 0, log, None)
    assert restore_task(binding, 0, log, None).steps
    log.close()


def test_a_contradiction_that_stays_stops_the_worker(stopped: tuple[Binding, LogOfYesterday]) -> None:
    binding, log = stopped
    log.old = 100
    with pytest.raises(LogError, match="two runs wrote") as raised:
        restore_task(binding, 0, log, None)
    assert not isinstance(raised.value, LogUnavailable)
    log.close()


def test_a_journal_that_is_trimmed_between_two_looks_is_read_again(
    stopped: tuple[Binding, LogOfYesterday], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner asked for it who is gone by now: nobody commits meanwhile."""
    binding, log = stopped
    place, look = TopicPartition(binding.names.tasks, 0), log.start_offset

    def trimmed(partition: TopicPartition) -> int:
        start = look(partition)
        if partition == place:
            log.delete_records(place, 1)
        return start

    monkeypatch.setattr(log, "start_offset", trimmed)
    with pytest.raises(LogUnavailable, match="moved while they were read"):
        restore_task(binding, 0, log, None)
    log.close()
