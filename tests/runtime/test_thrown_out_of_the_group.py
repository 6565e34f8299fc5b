"""A worker that its group threw out begins again: as a new member, or as the one that has joined anew by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from payments import PAYMENT, payments, simple

from connectors.embedded import EmbeddedLog
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import StaleMember
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import append_frame


class LogThatThrowsOut(EmbeddedLog):
    """An embedded log whose groups tell a member once that it was thrown out."""

    def __init__(self, file: Path, *, joined: bool) -> None:
        super().__init__(file)
        self.joins, self.leaves, self._joined, self._thrown = 0, 0, joined, False

    def join(self, *arguments: Any, **settings: Any) -> Any:
        membership = super().join(*arguments, **settings)
        self.joins += 1
        sound_poll, sound_leave = membership.poll, membership.leave

        def poll() -> frozenset[int]:
            if not self._thrown:
                self._thrown = True
                stale = StaleMember("thrown out", hint="join again")
                stale.joined = self._joined
                raise stale
            return sound_poll()

        def leave() -> None:
            self.leaves += 1
            sound_leave()

        membership.poll, membership.leave = poll, leave
        return membership


@pytest.mark.parametrize(("joined", "times"), [(False, 2), (True, 1)])
def test_who_has_joined_anew_by_itself_stays(tmp_path: Path, *, joined: bool, times: int) -> None:
    log, registry = LogThatThrowsOut(tmp_path / "log.db", joined=joined), MemoryRegistry((PAYMENT,))
    log.create_topic("payments", TopicSettings(2))
    append_frame(log, registry, "payments", PAYMENT, payments(5, 50))
    binding = bind(simple(), log, registry)
    assert Worker(binding, log, until_end=source_ends(binding, log)).run().units
    assert (log.joins, log.leaves) == (times, times)
    log.close()
