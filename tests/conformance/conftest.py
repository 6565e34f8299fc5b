"""The adapters of the log port: each test of this folder runs against all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from connectors.embedded import EmbeddedLog
from streamproc.ports import Log
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.log import SimulatedLog
from tests.conformance.kafka_adapter import KafkaAdapter


class Adapter(Protocol):
    """What the suite needs of an adapter beyond the port: more handles, time, and what a broker does by itself."""

    def open(self) -> Log:
        """Another handle on the same log, as another process would have."""
        ...

    def pass_time(self, us: int) -> None:
        """Lets that much time go by: for leases, append times and retention."""
        ...

    cleaning_takes: int
    """Offsets that `clean` itself takes in each partition: only what a log writes to be cleaned moves its end."""

    def clean(self) -> None:
        """Runs retention and compaction now."""
        ...

    def close(self) -> None:
        """Lets go of everything."""
        ...


class EmbeddedAdapter:
    """One file, any number of handles, and a clock that stands still until it is told."""

    cleaning_takes = 0

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


class SimulatedAdapter:
    """A cluster in memory whose time is that of whoever waits."""

    cleaning_takes = 0

    def __init__(self, *, strict: bool = False) -> None:
        self._cluster = Cluster(now=1_700_000_000_000_000, strict=strict)

    def open(self) -> SimulatedLog:
        return SimulatedLog(self._cluster)

    def pass_time(self, us: int) -> None:
        if us < 0:
            self._cluster.now += us
        else:
            self._cluster.advance(us)

    def clean(self) -> None:
        self._cluster.clean()

    def close(self) -> None:
        """Nothing to let go of."""


ADAPTERS: Mapping[str, Callable[[Path], Adapter]] = {
    "embedded": lambda folder: EmbeddedAdapter(folder / "log.db"),
    "kafka": lambda _: KafkaAdapter(blocks=True),
    "kafka, through librdkafka": lambda _: KafkaAdapter(blocks=True, direct=False),
    "kafka, message by message": lambda _: KafkaAdapter(blocks=False, direct=False),
    "kafka, read message by message": lambda _: KafkaAdapter(blocks=False),
    "simulated": lambda _: SimulatedAdapter(),
    "simulated, one generation": lambda _: SimulatedAdapter(strict=True),
}


SLOW = ("kafka, through librdkafka", "kafka, message by message", "kafka, read message by message")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in sorted(ADAPTERS)]
)
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    """A log without topics."""
    made = ADAPTERS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def log(adapter: Adapter) -> Log:
    """A handle on the log."""
    return adapter.open()
