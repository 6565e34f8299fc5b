"""Whole topologies on Kafka, exactly once, beside a plain consume-produce loop in transactions: CPU of the client.

Every contender runs in a process of its own, on the same topic of the same broker, one after the other; the plain loop
runs first and last, and before each further round; ratios are of means. Figures are CPU seconds of the contender's
process per million records, all its threads included; the broker's are not in them. Kernels are warm: each topology
works on the first records, and is then measured from where it stands, through a second worker that takes over, to the
topic's end.

The plain loop is what confluent-kafka's own examples show: consume(), produce() for each message, offsets, commit; the
cyclic collector is off in it too.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import numpy as np
import polars as pl
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as KafkaPlace

import streamproc as sp
from benchmarks.end_to_end import BID, bids
from benchmarks.kafka_filling import write_rows
from connectors.checkpoints import DirectoryCheckpoints
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker

PARTITIONS = 4
_PIECE = 200_000
_STEP = 50_000
_WARM = 100_000


def topologies(topic: str, run: str) -> dict[str, sp.Topology]:
    """What is measured: sinks without headers, on topics of their own."""
    source = sp.source(topic, contract=BID, lateness="20ms")
    euros = ("auction", "bidder", "channel", "url", "at")
    kept = source | sp.where(pl.col("auction") % 5 == 0) | sp.select(*euros, price=pl.col("price") * 0.9)
    most = source | sp.where(pl.col("auction") % 5 != 0) | sp.select(*euros, price=pl.col("price") * 0.9)
    return {
        "pass": sp.Topology(f"pass-{run}", sinks={f"pass-{run}-out": source}),
        "keep-20": sp.Topology(f"keep20-{run}", sinks={f"keep20-{run}-out": kept}),
        "drop-20": sp.Topology(f"drop20-{run}", sinks={f"drop20-{run}-out": most}),
    }


CONTENDERS = {
    "plain": "plain loop of confluent-kafka",
    "pass": "pass-through",
    "keep-20": "decode, filter (20 % stay), map, encode",
    "drop-20": "decode, filter (80 % stay), map, encode",
    "objects": "pass-through by the fallback adapter",
    "pass-librdkafka": "pass-through, all of it by librdkafka",
}


def log_of(brokers: str, *, blocks: bool = True, direct: bool = True) -> KafkaLog:
    """A log on these brokers."""
    return KafkaLog(Profile(kafka_settings({"brokers": brokers, "direct": direct})), blocks=blocks)


def fill(brokers: str, topic: str, records: int) -> float:
    """Writes bids, values of about 70 bytes under keys of 8; gives the mean size of a value."""
    pieces = (
        bids(start, min(_PIECE, records - start), 20_000, start).with_columns(
            url=pl.col("url").str.replace("x.com", "www.example.com", literal=True)
        )
        for start in range(0, records, _PIECE)
    )
    with log_of(brokers) as log:
        log.create_topic(topic, TopicSettings(PARTITIONS))
        return write_rows(log, topic, BID, pieces)


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Records, wall seconds, and this process' CPU seconds per million records."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "records": count, "seconds": wall, "records_per_second": count / wall, "cpu_s_per_million": cpu / count * 1e6,
    }  # fmt: skip


def plain(brokers: str, source: str, sink: str, records: int) -> int:
    """The loop with confluent-kafka's classes and nothing else."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": f"plain-{sink}", "isolation.level": "read_committed",
            "enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 400_000, "log_level": 0,
        }
    )  # fmt: skip
    producer = Producer(
        {
            "bootstrap.servers": brokers, "transactional.id": f"plain-{sink}", "linger.ms": 5, "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000, "log_level": 0,
        }
    )  # fmt: skip
    producer.init_transactions()
    consumer.assign([KafkaPlace(source, number, 0) for number in range(PARTITIONS)])
    done = 0
    while done < records:
        messages = [message for message in consumer.consume(_STEP, 0.1) if message.error() is None]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(sink, message.value(), message.key(), message.partition())
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
        )
        producer.commit_transaction()
        done += len(messages)
    consumer.close()
    return done


def contend(name: str, brokers: str, topic: str, records: int) -> dict[str, float]:
    """Runs one contender in this process."""
    run = f"{name}-{time.time_ns()}"
    if name == "plain":
        with log_of(brokers) as log:
            log.create_topic(f"{run}.out", TopicSettings(PARTITIONS))
            gc.disable()
            found = timed(lambda: plain(brokers, topic, f"{run}.out", records))
            log.delete_topic(f"{run}.out")
        return found
    shape = "pass" if name == "objects" else name.removesuffix("-librdkafka")
    log = log_of(brokers, blocks=name != "objects", direct=not name.endswith("-librdkafka"))
    with log, tempfile.TemporaryDirectory() as folder:
        binding = bind(topologies(topic, run)[shape], log, MemoryRegistry([BID]))
        checkpoints = DirectoryCheckpoints(Path(folder))
        warm = min(records // 10, _WARM)
        stops = {TopicPartition(topic, number): warm // PARTITIONS for number in range(PARTITIONS)}
        Worker(binding, log, until_end=stops, checkpoints=checkpoints).run()
        steps = 0

        def work() -> int:
            nonlocal steps
            worker = Worker(binding, log, until_end=source_ends(binding, log), checkpoints=checkpoints)
            progress = worker.run()
            steps = progress.steps
            return progress.units

        found = timed(work)
        found["steps"] = steps
        for made in log.topics():
            if run in made:
                log.delete_topic(made)
    return found


def measure(brokers: str, records: int, names: tuple[str, ...], rounds: int = 1) -> dict[str, object]:
    """All contenders, each in its own process, between two runs of the plain loop; means of as many rounds."""
    topic = f"bids-{time.time_ns()}"
    size = fill(brokers, topic, records)
    found: dict[str, list[dict[str, float]]] = {}
    for name in (*(("plain", *(name for name in names if name != "plain")) * rounds), "plain"):
        command = [sys.executable, "-m", "benchmarks.kafka", "contend", name, brokers, topic, str(records)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found.setdefault(name, []).append(json.loads(done.stdout))
    base = float(np.mean([row["cpu_s_per_million"] for row in found["plain"]]))
    rows = {name: {key: float(np.mean([row[key] for row in runs])) for key in runs[0]} for name, runs in found.items()}
    for row in rows.values():
        row["of_plain"] = row["cpu_s_per_million"] / base
    return {
        "records": records,
        "bytes_per_record": size,
        "plain_cpu_s_per_million": [row["cpu_s_per_million"] for row in found["plain"]],
        "contenders": rows,
    }
