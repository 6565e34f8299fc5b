"""A log that stops answering between the plan and the first step is waited for, as long as at any later moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from payments import PAYMENT, payments, topology

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import LogUnavailable
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame


class LogThatComesAndGoes(EmbeddedLog):
    """An embedded log that answers no question about its topics for a while."""

    silent = 0

    def topics(self) -> Mapping[str, TopicSettings]:
        if self.silent:
            self.silent -= 1
            raise LogUnavailable("no answer", hint="try again later")
        return super().topics()


def worker_on(file: Path, *, silent: int, patience_s: float) -> tuple[Worker, LogThatComesAndGoes]:
    log, registry = LogThatComesAndGoes(file), MemoryRegistry((PAYMENT,))
    log.create_topic("payments", TopicSettings(2))
    append_frame(log, registry, "payments", PAYMENT, payments(5, 50))
    binding = bind(topology(), log, registry)
    worker = Worker(binding, log, until_end=source_ends(binding, log), close=True, patience_s=patience_s)
    log.silent = silent
    return worker, log


def test_a_log_that_is_silent_when_a_worker_starts_is_asked_again(tmp_path: Path) -> None:
    worker, log = worker_on(tmp_path / "log.db", silent=2, patience_s=60)
    assert worker.run().units
    assert log.silent == 0
    log.close()


def test_patience_at_the_start_ends_too(tmp_path: Path) -> None:
    worker, log = worker_on(tmp_path / "log.db", silent=100, patience_s=0.3)
    with pytest.raises(LogUnavailable, match="no answer"):
        worker.run()
    log.close()
