"""The process that is killed, stopped and started again: one worker of a topology on a log."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kafka_chaos_topology import TOPOLOGIES, registry

from connectors.checkpoints import DirectoryCheckpoints
from streamproc.errors import LogUnavailable
from streamproc.ports import Log
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker


@dataclass(frozen=True)
class Place:
    """Which log: a file of the embedded one, or a Kafka cluster and the settings of its binding."""

    file: Path | None = None
    brokers: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Log:
        """A handle of its own."""
        if self.file is not None:
            from connectors.embedded import EmbeddedLog

            return EmbeddedLog(self.file)
        from connectors.kafka import KafkaLog, Profile, kafka_settings

        return KafkaLog(Profile(kafka_settings({"brokers": self.brokers, **self.settings}), session_s=6.0))


@dataclass(frozen=True)
class Job:
    """What a worker process is to do.

    finish     run to the end of what is in the sources, and close time; else run until a signal
    rest_s     sleep so long after each commit, to be slower than the producer
    patience_s how long it may try a log that does not answer
    """

    folder: Path
    place: Place
    topology: str
    member: str
    finish: bool = False
    lease_s: float = 6.0
    checkpoint_every_s: float = 2.0
    rest_s: float = 0.0
    patience_s: float = 300.0


def _bound(job: Job, log: Log) -> Binding:
    """The topology on its log; while that does not answer, again and again, as one that starts workers would."""
    until = time.monotonic() + job.patience_s
    while True:
        try:
            return bind(TOPOLOGIES[job.topology](), log, registry(), create=False)
        except LogUnavailable:
            if time.monotonic() > until:
                raise
            logging.info("the log does not answer yet")
            time.sleep(0.5)


def work(job: Job, told: Connection) -> None:
    """Runs the worker; tells "open" before it joins, units done after each commit, and at the end that it is done."""
    logging.basicConfig(
        filename=job.folder / f"{job.member}.log",
        level=logging.INFO,
        force=True,
        format="%(asctime)s %(process)d %(message)s",
    )
    with_log = job.place.open()
    try:
        binding = _bound(job, with_log)

        def on_commit(progress: Any) -> None:
            told.send(progress.units)
            if job.rest_s:
                time.sleep(job.rest_s)

        worker = Worker(
            binding,
            with_log,
            checkpoints=DirectoryCheckpoints(job.folder / "checkpoints"),
            member=job.member,
            until_end=source_ends(binding, with_log) if job.finish else None,
            close=job.finish,
            lease_s=job.lease_s,
            patience_s=job.patience_s,
            checkpoint_every_s=job.checkpoint_every_s,
            on_commit=on_commit,
        )
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        told.send("open")
        progress = worker.run()
        told.send(("done", progress.units, progress.steps, progress.restored_steps))
    except BaseException:
        logging.exception("%s ends", job.member)
        raise
    finally:
        with_log.close()
