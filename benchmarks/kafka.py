"""What moving records through Kafka costs: pass-through in transactions by the log's two paths, beside a plain loop.

    python -m benchmarks.kafka [--records 1000000] [--brokers HOST:PORT] [--json]

Without --brokers it starts one broker of its own (Java and Maven, from a checkout).  Figures are CPU seconds of this
process per million records: the broker's are not in them.  The plain loop is confluent-kafka as its own examples use
it, with the same commits and the collector off: consume(), produce() for each message, offsets, commit.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import click
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as KafkaPlace
from rich.console import Console
from rich.table import Table

from benchmarks.log import payments
from connectors.kafka import KafkaLog, Profile, kafka_settings
from streamproc.ports import TopicPartition, TopicSettings, block_of

PARTITIONS, STEP = 4, 50_000


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Records, wall seconds, and this process' CPU seconds per million records."""
    gc.collect()
    gc.disable()
    wall, cpu = time.perf_counter(), time.process_time()
    count = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.enable()
    return {"records": count, "seconds": wall, "cpu_s_per_million": cpu / count * 1e6}


def fill(log: KafkaLog, topic: str, records: int) -> None:
    """Writes the records that all loops read."""
    producer = log.producer(f"fill-{topic}")
    values = payments(min(records, 200_000), 1)
    part = len(values) // PARTITIONS
    for _ in range(0, records, len(values)):
        transaction = producer.begin()
        for number in range(PARTITIONS):
            mine = values[number * part : (number + 1) * part]
            transaction.append(block_of(topic, number, mine, keys=[value[:8] for value in mine]))
        transaction.commit()
    producer.close()


def by_log(log: KafkaLog, source: str, sink: str, records: int, name: str) -> int:
    """Reads blocks and writes them again through the port."""
    producer = log.producer(name)
    ends = {number: log.end_offset(TopicPartition(source, number)) for number in range(PARTITIONS)}
    at = {number: log.start_offset(TopicPartition(source, number)) for number in range(PARTITIONS)}
    done = 0
    while any(at[number] < ends[number] for number in at) and done < records:
        transaction, count = producer.begin(), 0
        for number, offset in at.items():
            if offset >= ends[number]:
                continue
            block = log.read(TopicPartition(source, number), offset, max_records=STEP)
            if not len(block):
                at[number] = ends[number]
                continue
            at[number] = int(block.offsets[-1]) + 1
            transaction.append(replace(block, topic=sink, timestamps=block.timestamps[:0]))
            count += len(block)
        transaction.commit_offsets(name, {TopicPartition(source, number): offset for number, offset in at.items()})
        transaction.commit()
        done += count
    producer.close()
    return done


def plain(brokers: str, source: str, sink: str, records: int) -> int:
    """The same with confluent-kafka's classes and nothing else."""
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
        messages = [message for message in consumer.consume(STEP, 0.1) if message.error() is None]
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


@contextlib.contextmanager
def cluster(brokers: str | None) -> Iterator[str]:
    """The brokers that were named, or one that runs as long."""
    if brokers is not None:
        yield brokers
        return
    from tests.services.kafka import kafka_cluster

    with kafka_cluster(heap="256m") as running:
        yield running.bootstrap


@click.command(help=__doc__)
@click.option("--records", default=1_000_000, show_default=True)
@click.option("--brokers", help="Use these instead of starting one.")
@click.option("--json", "as_json", is_flag=True)
def main(records: int, brokers: str | None, as_json: bool) -> None:
    records -= records % 200_000 if records > 200_000 else records % PARTITIONS
    figures: dict[str, dict[str, float]] = {}
    with cluster(brokers) as where:
        profile, run = Profile(kafka_settings({"brokers": where})), f"bench-{time.time_ns()}"
        sinks = {name: f"{run}.{name}" for name in ("blocks", "objects", "plain")}
        source = f"{run}.source"
        with KafkaLog(profile, blocks=True) as blocks, KafkaLog(profile, blocks=False) as objects:
            for topic in (source, *sinks.values()):
                blocks.create_topic(topic, TopicSettings(PARTITIONS))
            fill(blocks, source, records)
            logs = {"blocks": blocks, "objects": objects}
            for name, log in logs.items():
                work = functools.partial(by_log, log, source, sinks[name], records, f"{run}.{name}")
                figures[name] = timed(work)
            figures["plain"] = timed(lambda: plain(where, source, sinks["plain"], records))
            for topic in (source, *sinks.values()):
                blocks.delete_topic(topic)
    for found in figures.values():
        found["of_plain"] = found["cpu_s_per_million"] / figures["plain"]["cpu_s_per_million"]
    if as_json:
        print(json.dumps(figures))
        return
    table = Table(title=f"pass-through in transactions of up to {STEP * PARTITIONS:,} records")
    for column in ("", "records", "records/s", "CPU s per million", "of the plain loop"):
        table.add_column(column, justify="right")
    for name, found in figures.items():
        table.add_row(
            name, f"{found['records']:,.0f}", f"{found['records'] / found['seconds']:,.0f}",
            f"{found['cpu_s_per_million']:.2f}", f"{found['of_plain']:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
