"""How fast the embedded log is: append, read, pass-through and commit latency, beside a plain SQLite table.

    python benchmarks/log.py [--records 2000000] [--folder DIR] [--json]

Every commit is durable (fsync).  Run it on an idle machine, in a folder on the disk that you mean to use.  Records
look like small Avro payments: some fields repeat, some are random; on average 83 bytes each.
The plain baseline is what a table with a row per record does: one INSERT per record by executemany, same commits.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from connectors.embedded import EmbeddedLog
from streamproc.ports import Block, TopicPartition, TopicSettings, block_of

COMMIT_S = 0.1
SOURCE, SINK = TopicPartition("source", 0), TopicPartition("sink", 0)


def payments(count: int, seed: int) -> list[bytes]:
    """Byte strings that compress about as well as real Avro records."""
    rng = np.random.default_rng(seed)
    noise = rng.bytes(16 * count)
    cards, shops = rng.integers(0, 100_000, count), rng.integers(0, 1_000, count)
    return [
        b"\0\0\0\0\7" + noise[16 * i : 16 * i + 6] + b"\x16card-%06d\x2cmerchant-%04d-Berlin" % (cards[i], shops[i])
        + noise[16 * i + 6 : 16 * i + 16] + b"\6EUR" + (b"\x20payment accepted" if i % 3 else b"\x1epayment refused")
        + (1_700_000_000_000_000 + 137 * i).to_bytes(8, "little")
        for i in range(count)
    ]  # fmt: skip


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Records per second of wall time and per second of this process' CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "records": count, "seconds": wall, "records_per_second": count / wall, "cpu_us_per_record": cpu / count * 1e6,
    }  # fmt: skip


def append(log: EmbeddedLog, block: Block, records: int) -> int:
    """Appends the block again and again, a commit every 100 ms."""
    producer, done = log.producer("append"), 0
    transaction, started = producer.begin(), time.perf_counter()
    while done < records:
        transaction.append(block)
        done += len(block)
        if time.perf_counter() - started >= COMMIT_S or done >= records:
            transaction.commit()
            transaction, started = producer.begin(), time.perf_counter()
    return done


def read(log: EmbeddedLog, partition: TopicPartition) -> int:
    """Reads the partition from start to end."""
    at, end, count = log.start_offset(partition), log.end_offset(partition), 0
    while at < end:
        block = log.read(partition, at)
        count += len(block)
        at = int(block.offsets[-1]) + 1
    return count


def pass_through(log: EmbeddedLog) -> int:
    """Reads each block and appends the same bytes to another topic, with offsets, a commit every 100 ms."""
    producer, at, end, count = log.producer("pass"), 0, log.end_offset(SOURCE), 0
    none = np.empty(0, np.int64)
    transaction, started = producer.begin(), time.perf_counter()
    while at < end:
        block = log.read(SOURCE, at)
        transaction.append(replace(block, topic=SINK.topic, partition=SINK.partition, offsets=none, timestamps=none))
        at, count = int(block.offsets[-1]) + 1, count + len(block)
        if time.perf_counter() - started >= COMMIT_S or at >= end:
            transaction.commit_offsets("pass", {SOURCE: at})
            transaction.commit()
            transaction, started = producer.begin(), time.perf_counter()
    return count


def commit_latency(log: EmbeddedLog, values: list[bytes], rounds: int) -> dict[str, float]:
    """Milliseconds of a commit of few records with an offset, one after another."""
    producer, spans = log.producer("latency"), []
    block = block_of("latency", 0, values)
    for _ in range(rounds):
        transaction = producer.begin()
        transaction.append(block)
        transaction.commit_offsets("latency", {SOURCE: 1})
        started = time.perf_counter()
        transaction.commit()
        spans.append(1e3 * (time.perf_counter() - started))
    return {f"p{q}": float(np.percentile(spans, q)) for q in (50, 99)}


def plain_table(path: Path, values: list[bytes], records: int) -> int:
    """The same records as rows of a plain table, a commit every 100 ms."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE record(place INTEGER PRIMARY KEY, value BLOB)")
    done, rows = 0, [(value,) for value in values]
    connection.execute("BEGIN")
    started = time.perf_counter()
    while done < records:
        connection.executemany("INSERT INTO record(value) VALUES(?)", rows)
        done += len(rows)
        if time.perf_counter() - started >= COMMIT_S or done >= records:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            started = time.perf_counter()
    connection.execute("COMMIT")
    connection.close()
    return done


def codecs(values: list[bytes]) -> dict[str, dict[str, float]]:
    """What zstd levels do to one stored block's bytes: ratio, and MB/s in and out."""
    raw = b"".join(values)[: 1 << 20]
    answer = {}
    for level in (-5, -3, -1, 1, 3):
        packer, unpacker = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
        packed = packer.compress(raw)
        started = time.perf_counter()
        for _ in range(20):
            packer.compress(raw)
        middle = time.perf_counter()
        for _ in range(20):
            unpacker.decompress(packed)
        ended = time.perf_counter()
        mb = 20 * len(raw) / 1e6
        answer[f"zstd {level}"] = {
            "ratio": len(packed) / len(raw), "in_mb_s": mb / (middle - started), "out_mb_s": mb / (ended - middle),
        }  # fmt: skip
    return answer


def measure(folder: Path, records: int) -> dict[str, object]:
    """All figures."""
    values = payments(50_000, seed=1)
    figures: dict[str, object] = {
        "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}",
        "bytes_per_record": sum(map(len, values)) / len(values),
    }
    with EmbeddedLog(folder / "log.db") as log:
        for topic in ("source", "sink", "latency"):
            log.create_topic(topic, TopicSettings())
        figures["append"] = timed(lambda: append(log, block_of("source", 0, values), records))
        figures["read"] = timed(lambda: read(log, SOURCE))
        figures["pass_through"] = timed(lambda: pass_through(log))
        for size in (1, 1_000):
            figures[f"commit_ms_{size}_records"] = commit_latency(log, values[:size], 300)
        figures["read_small_blocks"] = timed(lambda: read(log, TopicPartition("latency", 0)))
        log.close()
    figures["stored_bytes_per_record"] = (folder / "log.db").stat().st_size / (2 * records)
    figures["plain_table"] = timed(lambda: plain_table(folder / "plain.db", values, records // 4))
    figures["codecs"] = codecs(values)
    return figures


@click.command(help=__doc__)
@click.option("--records", default=2_000_000, show_default=True, help="Records to append, read and pass through.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Where the files lie while it runs; the system's temporary folder if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(records: int, folder: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        figures = measure(Path(place), records)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    console = Console()
    console.print(
        f"{figures['machine']}; {figures['bytes_per_record']:.0f} bytes a record, "
        f"{figures['stored_bytes_per_record']:.0f} stored"
    )
    rates = Table("", "records", "records/s", "CPU µs/record", title="Rates (durable, commit every 100 ms)")
    latencies = Table("commit of", "p50 ms", "p99 ms", title="Commit latency")
    levels = Table("", "ratio", "in MB/s", "out MB/s", title="Compression of a stored block")
    for name, figure in figures.items():
        if isinstance(figure, dict) and "records_per_second" in figure:
            rates.add_row(
                name,
                f"{figure['records']:,}",
                f"{figure['records_per_second']:,.0f}",
                f"{figure['cpu_us_per_record']:.3f}",
            )
        elif isinstance(figure, dict) and "p50" in figure:
            latencies.add_row(name, f"{figure['p50']:.2f}", f"{figure['p99']:.2f}")
        elif isinstance(figure, dict):
            for level, row in figure.items():
                levels.add_row(level, f"{row['ratio']:.3f}", f"{row['in_mb_s']:.0f}", f"{row['out_mb_s']:.0f}")
    for table in (rates, latencies, levels):
        console.print(table)


if __name__ == "__main__":
    main()
