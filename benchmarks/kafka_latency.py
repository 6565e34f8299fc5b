"""Latency from produce to a reader of committed records, through a live worker, exactly once; and recovery of a worker.

Open loop: a record's time is when it should have been sent, a fixed number a second, whatever the engine does; its
latency ends when a reader of committed records has it.  Broker, producer, worker and reader are four processes on this
machine, and share its cores.  Records of the first seconds are not counted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

import streamproc as sp
from benchmarks.end_to_end import BID, bids
from benchmarks.kafka_throughput import log_of
from connectors.checkpoints import DirectoryCheckpoints
from connectors.kafka import Profile, kafka_settings
from connectors.kafka.answers import Connection
from connectors.kafka.writing_blocks import BlockSender
from streamproc.contracts.registry import MemoryRegistry
from streamproc.hashing import Bytes, Int64s
from streamproc.kernels import kernel
from streamproc.keys import keys_of
from streamproc.ports import Block, TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.worker import Progress, Worker
from streamproc.wire import Decoder, Encoder, split_frames

QUICK = "5ms"
WAYS = {
    "one stage": ("one", QUICK),
    "two stages": ("two", QUICK),
    "one stage, default commit": ("one", "100ms"),
}
"""What is measured: the shape of the topology, and its commit interval."""
_SCHEMA_ID = MemoryRegistry().adopt(BID)
_TICK_S = 0.002
_POOL = 20_000
_STAMP_BYTES = 8


def topology(shape: str, commit: str, topic: str, run: str) -> sp.Topology:
    """One stage passes records on; two stages change the key between them, and count the key's last ten seconds."""
    source = sp.source(topic, contract=BID, lateness="1s")
    if shape == "one":
        return sp.Topology(f"live-{run}", sinks={"out": source}, commit=commit)
    counted = (
        source
        | sp.key_by("bidder")
        | sp.features(bids=sp.count().over("10s"))
        | sp.select("auction", "bidder", "channel", "url", "at", price=pl.col("bids").cast(pl.Float64))
    )
    return sp.Topology(f"live-{run}", sinks={"out": sp.sink(counted, contract=BID)}, commit=commit)


@kernel
def _stamp(buffer: Bytes, ends: Int64s, first: float, step: float) -> None:
    """Writes each record's time (µs, `first` + number times `step`) over its last field, a varint of eight bytes."""
    for row in range(ends.size):
        left = np.uint64(np.int64(first + row * step) << 1)
        at = ends[row] - 8
        for byte in range(8):
            buffer[at + byte] = np.uint8((left & np.uint64(127)) | np.uint64(128 if byte < 7 else 0))
            left >>= np.uint64(7)


def produce(brokers: str, topic: str, partitions: int, rate: int, seconds: float) -> dict[str, float]:
    """Sends so many records a second, those of a tick to one partition after the other; tells how late it was."""
    frame = bids(0, _POOL, 20_000, 1)
    encoded = Encoder(BID.avro).encode(frame.select(BID.schema.polars().names()), schema_id=_SCHEMA_ID)
    keys = keys_of(frame, ["bidder"])
    profile = Profile(kafka_settings({"brokers": brokers}))
    settings = profile.writer("-") | {"linger.ms": 0}
    for transactional in ("transactional.id", "transaction.timeout.ms"):
        del settings[transactional]
    sender = BlockSender(settings, Connection(brokers), most_bytes=256 << 20)
    _stamp(encoded.buffer.copy(), encoded.ends[:1], 0.0, 0.0)
    none, count = np.empty(0, np.int64), max(1, int(rate * _TICK_S))
    began, tick, behind = time.time(), 0, 0.0
    while tick * _TICK_S < seconds:
        due = began + (tick + 1) * _TICK_S
        now = time.time()
        if now < due:
            time.sleep(due - now)
        else:
            behind = max(behind, now - due)
        rows = (tick * count) % (_POOL - count) + np.arange(count)
        low, high = int(encoded.starts[rows[0]]), int(encoded.ends[rows[-1]])
        shift, ends = high - low, np.ascontiguousarray(encoded.ends[rows] - low)
        buffer = np.concatenate(
            [encoded.buffer[low:high], keys.buffer[int(keys.starts[rows[0]]) : int(keys.ends[rows[-1]])]]
        )
        _stamp(buffer, ends, (began + tick * _TICK_S) * 1e6, 1e6 / rate)
        key_starts = keys.starts[rows] - keys.starts[rows[0]] + shift
        sender.send(
            Block(
                topic,
                tick % partitions,
                none,
                none,
                buffer,
                encoded.starts[rows] - low,
                ends,
                key_starts,
                key_starts + 8,
            )
        )
        tick += 1
    while len(sender):
        sender.poll(0.05)
    sender.close()
    return {"sent": tick * count, "worst_behind_ms": behind * 1e3}


def read(brokers: str, topic: str, partitions: int, records: int, seconds: float, warm_s: float) -> dict[str, Any]:
    """Percentiles of now minus each record's time, of those sent after the warm-up."""
    decoder = Decoder(BID.avro, columns=("at",))
    found: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    seen, first, until = 0, None, time.time() + seconds
    with log_of(brokers) as log:
        at = {TopicPartition(topic, number): 0 for number in range(partitions)}
        print("ready", flush=True)
        while seen < records and time.time() < until:
            log.wait(at, 50_000)
            for place, offset in at.items():
                if log.available(place, offset) <= offset:
                    continue
                block = log.read(place, offset)
                now = int(time.time() * 1e6)
                if not len(block):
                    continue
                at[place] = int(block.offsets[-1]) + 1
                seen += len(block)
                _, bodies = split_frames(block.buffer, block.value_starts, block.value_ends)
                sent = decoder.decode(block.buffer, bodies, block.value_ends).frame["at"].to_physical().to_numpy()
                first = int(sent.min()) if first is None else first
                found.append(now - sent[sent >= first + int(warm_s * 1e6)])
    delays = np.concatenate(found) if found else np.zeros(1, np.int64)
    spread = {f"p{q:g}": float(np.percentile(delays, q)) / 1e3 for q in (50, 99, 99.9)}
    return {"seen": seen, "counted": int(delays.size), **spread, "max": float(delays.max()) / 1e3}


def live(brokers: str, shape: str, commit: str, topic: str, run: str) -> None:
    """A worker that runs until SIGTERM, and says on its output when it takes the first records."""
    with log_of(brokers) as log, tempfile.TemporaryDirectory() as folder:
        binding = bind(topology(shape, commit, topic, run), log, MemoryRegistry([BID]))
        worker = Worker(binding, log, checkpoints=DirectoryCheckpoints(Path(folder)))
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        print("ready", flush=True)
        began = time.process_time()
        progress = worker.run()
        print(json.dumps({"units": progress.units, "steps": progress.steps, "cpu_s": time.process_time() - began}))


def _process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.kafka", *map(str, arguments)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    if started.stdout.readline().strip() != "ready":
        raise SystemExit(f"{' '.join(map(str, arguments[:1]))} did not start")
    return started


def measure_latency(
    brokers: str, rates: tuple[int, ...], ways: tuple[str, ...], *, seconds: float, warm_s: float, partitions: int
) -> list[dict[str, Any]]:
    """A row for each way and rate."""
    rows = []
    for way in ways:
        shape, commit = WAYS[way]
        for rate in rates:
            run = f"{time.time_ns()}"
            topic, sink = f"live-{run}-in", f"live-{run}.out"
            with log_of(brokers) as log:
                log.create_topic(topic, TopicSettings(partitions))
                worker = _process("live", brokers, shape, commit, topic, run)
                sinks = log.topics()[sink].partitions
            warm = produce(brokers, topic, partitions, min(rate, 20_000), 3.0)
            time.sleep(1.0)
            expected = int(rate * _TICK_S) * round((seconds + warm_s) / _TICK_S)
            reader = _process(
                "reader", brokers, sink, sinks, warm["sent"] + expected, seconds + warm_s + 20, warm_s + 4
            )
            sent = produce(brokers, topic, partitions, rate, seconds + warm_s)
            told = json.loads(reader.communicate()[0])
            worker.send_signal(signal.SIGTERM)
            used = json.loads(worker.communicate()[0].splitlines()[-1])
            with log_of(brokers) as log:
                for made in log.topics():
                    if run in made:
                        log.delete_topic(made)
            lost = warm["sent"] + sent["sent"] - told["seen"]
            rows.append({"way": way, "rate": rate, **told, "lost": lost, **sent, "worker_cpu_s": used["cpu_s"]})
    return rows


# ── recovery ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _keyed(topic: str, run: str) -> sp.Topology:
    kept = sp.tumbling("7d", bids=sp.count(), spend=sp.total("price"))
    return sp.Topology(
        f"keep-{run}", sinks={"out": sp.source(topic, contract=BID, lateness="1s") | sp.key_by("bidder") | kept}
    )


def keep(brokers: str, topic: str, run: str, folder: str, records: int) -> None:
    """A worker of the keyed topology that says when it has committed so many rows of state, and goes on."""
    began, cpu = time.perf_counter(), time.process_time()
    with log_of(brokers) as log:
        binding = bind(_keyed(topic, run), log, MemoryRegistry([BID]))
        told = False

        def on_commit(progress: Progress) -> None:
            nonlocal told
            if not told and progress.units >= records:
                told = True
                found = {
                    "seconds": time.perf_counter() - began,
                    "cpu_s": time.process_time() - cpu,
                    "steps_run_again": progress.restored_steps,
                }
                print(json.dumps(found), flush=True)

        Worker(binding, log, checkpoints=DirectoryCheckpoints(Path(folder)), on_commit=on_commit).run()


def measure_recovery(brokers: str, keys: int) -> Mapping[str, float]:
    """Kills a worker that holds so many keys of state; tells how long a new one needs until it commits new rows."""
    run = f"{time.time_ns()}"
    topic = f"keep-{run}-in"

    def fill(start: int, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        frame = bids(start, numbers.size, 10, start).with_columns(bidder=pl.Series(numbers))
        encoded = Encoder(BID.avro).encode(frame.select(BID.schema.polars().names()), schema_id=_SCHEMA_ID)
        none, null = np.empty(0, np.int64), np.full(numbers.size, -1, np.int64)
        producer = log.producer(f"fill-{run}")
        transaction = producer.begin()
        transaction.append(Block(topic, 0, none, none, encoded.buffer, encoded.starts, encoded.ends, null, null))
        transaction.commit()
        producer.close()

    command = [sys.executable, "-m", "benchmarks.kafka", "keep", brokers, topic, run]
    with log_of(brokers) as log, tempfile.TemporaryDirectory() as folder:
        log.create_topic(topic, TopicSettings(1))
        for start in range(0, keys, 100_000):
            fill(start, np.arange(start, min(keys, start + 100_000)))
        # Rows are counted where they are read and again where they are kept.
        with subprocess.Popen([*command, folder, str(2 * keys)], stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            first.stdout.readline()
            first.kill()
        fill(keys, np.arange(1_000))
        with subprocess.Popen([*command, folder, "1"], stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            found: dict[str, float] = json.loads(second.stdout.readline())
            second.kill()
        for made in log.topics():
            if run in made:
                log.delete_topic(made)
    return {"keys": keys, **found}
