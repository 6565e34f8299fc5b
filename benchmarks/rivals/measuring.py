"""One contender in a process of its own, watched from outside: what it wrote, and the CPU and memory that took.

Every tenth of a second the ends of the output's partitions and the CPU seconds of the contender's processes are noted;
nobody reads the output meanwhile.  Figures are of what lies between a quarter of the output (the JVM has compiled what
is hot, Python has imported) and 99 % of it.  Afterwards the output is read and must hold what it should.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as KafkaPlace

from benchmarks.kafka_throughput import log_of
from benchmarks.rivals.workloads import BIDDERS, PARTITIONS, Sums
from streamproc.contracts.model import Contract
from streamproc.ports import TopicPartition
from streamproc.wire import Decoder
from tests.services.processes import die_with_parent

WARM, DONE = 0.25, 0.99
_EVERY_S = 0.1
_STILL_S = 3.0
_HEADER = 5


class Stalled(Exception):
    """The contender ended, or wrote nothing more, before all was there."""


@dataclass(frozen=True, slots=True)
class Sample:
    """At a moment: CPU seconds so far, and the sum of the output's end offsets (they count markers of transactions)."""

    at: float
    cpu: float
    written: int


class Processes:
    """A process and all that it starts: CPU seconds and the peak of resident memory."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self._peak: dict[int, int] = {}

    def cpu(self) -> float:
        """CPU seconds of all, those that have ended included."""
        for process in self._all():
            try:
                times = process.cpu_times()
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue
            self._cpu[process.pid] = times.user + times.system
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0")
            # Of a process that has ended nothing is said any more.
            self._peak[process.pid] = max(self._peak.get(process.pid, 0), int(peak.split()[1]) << 10)
        return sum(self._cpu.values())

    def peak_bytes(self) -> int:
        """The sum of their peaks."""
        return sum(self._peak.values())

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []


class Ends:
    """The sum of a topic's end offsets, uncommitted records included."""

    def __init__(self, brokers: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": brokers, "group.id": "rivals-ends", "log_level": 0})
        self._places = [KafkaPlace(topic, number) for number in range(PARTITIONS)]

    def __call__(self) -> int:
        return sum(self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places)

    def close(self) -> None:
        """Leaves the cluster."""
        self._consumer.close()


def run_contender(
    command: list[str], environment: Mapping[str, str], log: Path, ends: Callable[[], int], expected: int,
    complete: Callable[[], bool], nudge: Callable[[], None], patience_s: float,
) -> tuple[list[Sample], int]:  # fmt: skip
    """Runs the command until the output holds `expected` records, has been still for 3 s and is complete.

    nudge is called each 3 s in which the output stands still too early; patience_s: how long it may then stand still.
    """
    samples: list[Sample] = []
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one system call, and no lock is taken in it
        )
    processes, nudged = Processes(process.pid), float("-inf")
    try:
        while True:
            time.sleep(_EVERY_S)
            written = ends()
            samples.append(Sample(time.monotonic(), processes.cpu(), written))
            if process.poll() is not None and not written >= expected:
                raise Stalled(f"it ended with exit code {process.returncode}:\n{tail(log)}")
            still = samples[-1].at - next((s.at for s in reversed(samples) if s.written != written), samples[0].at)
            if still < _STILL_S or not written:
                if still > patience_s:
                    raise Stalled(f"it wrote nothing in {patience_s:.0f} s:\n{tail(log)}")
                continue
            if written >= expected and complete():
                return samples, processes.peak_bytes()
            if samples[-1].at - nudged >= _STILL_S:
                nudge()
                nudged = samples[-1].at
            if still > patience_s or process.poll() is not None:
                raise Stalled(f"{written:,} of {expected:,} records after {still:.0f} s of silence:\n{tail(log)}")
    finally:
        end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Politely, then for good, with all that it started."""
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            continue


def tail(log: Path, size: int = 2_000) -> str:
    """The last words of a log."""
    return log.read_text(errors="replace")[-size:]


def figures(samples: list[Sample], rows_in: int) -> dict[str, float]:
    """Records of input a second and CPU seconds per million of them, warm; the same from the start, cold."""
    last = samples[-1].written
    warm = next(sample for sample in samples if sample.written >= WARM * last)
    done = next(sample for sample in samples if sample.written >= DONE * last)
    end = next(sample for sample in samples if sample.written == last)
    share = (done.written - warm.written) / last * rows_in
    return {
        "records": rows_in,
        "records_per_second": share / max(done.at - warm.at, _EVERY_S) if share else 0.0,
        "cpu_s_per_million": (done.cpu - warm.cpu) / share * 1e6 if share else 0.0,
        "cold_seconds": end.at - samples[0].at,
        "cold_cpu_s_per_million": end.cpu / rows_in * 1e6,
    }


def output_frames(brokers: str, topic: str, contract: Contract) -> Iterator[pl.DataFrame]:
    """The committed records of a topic as rows of their contract, those of the last bidders left out."""
    decoder = Decoder(contract.avro)
    with log_of(brokers) as log:
        for number in range(PARTITIONS):
            place = TopicPartition(topic, number)
            at, end = 0, log.end_offset(place)
            while at < end:
                block = log.read(place, at, max_records=200_000)
                if not len(block):
                    break
                at = int(block.offsets[-1]) + 1
                starts = np.where(block.value_starts < 0, -1, block.value_starts + _HEADER)
                decoded = decoder.decode(block.buffer, starts, block.value_ends)
                if decoded.why():
                    raise ValueError(f"{topic} holds a record that is no {contract}: {decoded.why()[0]}")
                yield decoded.frame.filter(pl.col("bidder") < BIDDERS)


def output_sums(brokers: str, topic: str, contract: Contract, newest_by: tuple[str, ...] = ()) -> Sums:
    """What the output holds; of those that write each change, the newest row by these columns."""
    frames = output_frames(brokers, topic, contract)
    if newest_by:
        frames = iter([pl.concat(list(frames)).unique(newest_by, keep="last", maintain_order=True)])
    return sum((Sums.of(frame, contract) for frame in frames), Sums(0, 0.0, 0))
