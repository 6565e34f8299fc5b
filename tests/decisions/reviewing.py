"""A desk over an embedded log, a worker that takes turns, and a clock that stands unless it is put forward."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import polars as pl

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from connectors.embedded import EmbeddedLog
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.decisions.review import ANSWER
from streamproc.graph import Step
from streamproc.ports import Log, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.clock import SystemClock
from streamproc.runtime.reading import read_topic
from streamproc.runtime.review_desk import ReviewDesk
from streamproc.runtime.worker import Worker
from streamproc.testing.drive import append_frame

MINUTE = 60_000_000
HOUR = 60 * MINUTE
START = 1_700_000_000_000_000
CONTRACTS = (parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string", "sp:role": "key"}, {"name": "amount", "type": "double"},
    {"name": "risk", "type": "double"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""),)  # fmt: skip


def payments(n: int, *, first: int = 0, at: int = START) -> pl.DataFrame:
    """Payments of which each is asked about, ever riskier, a second apart."""
    number = pl.int_range(first, first + n, eager=True)
    return pl.DataFrame({"payment_id": number.cast(pl.String), "amount": 10.0 * number, "risk": 0.5 + number / 1_000,
                         "at": at + 1_000_000 * (number - first)})  # fmt: skip


def asked() -> Step:
    return sp.review(
        answers="desk.answers", default="block", choices=("allow", "block"), timeout="1h", priority="risk",
        subject="payment_id",
    )  # fmt: skip


def topology() -> sp.Topology:
    reviewed = sp.source("payments", contract=CONTRACTS[0]) | asked()
    return sp.Topology("desk", sinks={
        "verdicts": reviewed, "review": sp.sink(reviewed.side("cases"), key="case", identified=True),
    })  # fmt: skip


class Standing(SystemClock):
    """Stands, but for a millisecond at each look."""

    us = START

    def now_us(self) -> int:
        self.us += 1_000
        return self.us

    def monotonic(self) -> float:
        return self.now_us() / 1e6


class Desk:
    """All of it, in one folder."""

    def __init__(self, folder: Path, log: Log | None = None) -> None:
        self.log = log or EmbeddedLog(folder / "log.db", create=True)
        self.registry = MemoryRegistry((*CONTRACTS, ANSWER))
        self.clock = Standing()
        self.topology = topology()
        self.log.create_topic("payments", TopicSettings(1))
        self._checkpoints = DirectoryCheckpoints(folder / "checkpoints")
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.log.close()

    def pay(self, rows: pl.DataFrame) -> None:
        append_frame(self.log, self.registry, "payments", CONTRACTS[0], rows)

    def write(self, case: str, verdict: str, *, at: int) -> None:
        """An answer past the desk."""
        row = {"case": case, "deed": "answer", "by": "mallory", "at": at, "verdict": verdict, "token": "t"}
        append_frame(self.log, self.registry, "desk.answers", ANSWER, pl.DataFrame([row]))

    def later(self, us: int) -> None:
        self.clock.us += us

    def work(self, seconds: int, *, steps: int = 4) -> None:
        """A worker's turns, some a second."""
        if self._worker is None:
            binding = bind(self.topology, self.log, self.registry)
            self._worker = Worker(binding, self.log, clock=self.clock, checkpoints=self._checkpoints, lease_s=1e6)
            self._worker.open()
        for _ in range(seconds):
            for _ in range(max(1, steps)):
                self._worker.turn()
            self.clock.us += 1_000_000

    def stop(self, *, save: bool = True) -> None:
        if self._worker is not None:
            self._worker.close(save=save)
            self._worker = None

    def desk(self) -> ReviewDesk:
        desk = ReviewDesk(self.log, self.registry, "desk.review", clock=self.clock)
        desk.look()
        return desk

    def rows(self, sink: str) -> pl.DataFrame:
        return self.log_rows(f"desk.{sink}")

    def log_rows(self, topic: str) -> pl.DataFrame:
        for sink in bind(self.topology, self.log, self.registry).plan.sinks:
            self.registry.adopt(sink.contract)
        return read_topic(self.log, self.registry, topic)

    def dead_letters(self) -> list[str]:
        frame = self.log_rows("desk.dlq")
        return frame["reason"].to_list() if frame.height else []
