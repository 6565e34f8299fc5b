"""The adapters of the log port: each test of this folder runs against all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from connectors.embedded import EmbeddedLog
from streamproc.ports import Log


class Adapter(Protocol):
    """What the suite needs of an adapter beyond the port: more handles, time, and what a broker does by itself."""

    def open(self) -> Log:
        """Another handle on the same log, as another process would have."""
        ...

    def pass_time(self, us: int) -> None:
        """Lets that much time go by: for leases, append times and retention."""
        ...

    def clean(self) -> None:
        """Runs retention and compaction now."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class EmbeddedAdapter:
    """One file, any number of handles, and a clock that stands still until it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = 1_700_000_000_000_000
        self._handles: list[EmbeddedLog] = []

    def open(self) -> EmbeddedLog:
        log = EmbeddedLog(
            self._path, busy_us=200_000, upkeep_us=2**60, now_us=lambda: self._now, lease_clock_us=lambda: self._now
        )
        self._handles.append(log)
        return log

    def pass_time(self, us: int) -> None:
        self._now += us

    def clean(self) -> None:
        log = self.open()
        log.enforce_retention()
        for topic, settings in log.topics().items():
            if settings.compacted:
                log.compact(topic)

    def close(self) -> None:
        for log in self._handles:
            log.close()


ADAPTERS: Mapping[str, Callable[[Path], Adapter]] = {"embedded": lambda folder: EmbeddedAdapter(folder / "log.db")}


@pytest.fixture(params=sorted(ADAPTERS))
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    """A log without topics."""
    made = ADAPTERS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(adapter: Adapter) -> Log:
    """A handle on the log."""
    return adapter.open()
