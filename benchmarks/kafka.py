"""What Kafka costs: throughput of whole topologies, latency to a reader of committed records, recovery.

    python -m benchmarks kafka [throughput | latency | recovery] [--brokers HOST:PORT] [--json]

Without --brokers it starts one broker of its own on this machine (Java and Maven, from a checkout). Run it on an idle
machine.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kafka_latency, kafka_throughput


@contextlib.contextmanager
def cluster(brokers: str | None, *, heap: str = "512m") -> Iterator[str]:
    """The brokers that were named, or one that runs as long."""
    if brokers is not None:
        yield brokers
        return
    from tests.services.kafka import kafka_cluster

    with kafka_cluster(heap=heap) as running:
        yield running.bootstrap


@click.group(help=__doc__)
def main() -> None:
    pass


_brokers = click.option("--brokers", help="Use these instead of starting one.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@main.command()
@click.option("--records", default=4_000_000, show_default=True)
@click.option("--contenders", default=",".join(kafka_throughput.CONTENDERS), show_default=True)
@click.option("--rounds", default=1, show_default=True, help="How often each contender runs.")
@_brokers
@_json
def throughput(records: int, contenders: str, rounds: int, brokers: str | None, as_json: bool) -> None:
    """CPU of whole topologies beside a plain loop."""
    with cluster(brokers) as where:
        figures = kafka_throughput.measure(where, records, tuple(contenders.split(",")), rounds)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    table = Table(title=f"{records:,} records of {figures['bytes_per_record']:.0f} bytes, exactly once, one worker")
    for column in ("", "records/s", "CPU s per million", "of the plain loop"):
        table.add_column(column, justify="right" if column else "left")
    rows = figures["contenders"]
    assert isinstance(rows, dict)
    for name, row in rows.items():
        table.add_row(
            kafka_throughput.CONTENDERS[name], f"{row['records_per_second']:,.0f}", f"{row['cpu_s_per_million']:.2f}",
            f"{row['of_plain']:.2f}x",
        )  # fmt: skip
    Console(width=120).print(table)


@main.command()
@click.option("--rates", default="20000,100000,200000", show_default=True, help="Records a second.")
@click.option(
    "--ways",
    default=",".join(kafka_latency.WAYS).replace("stage, ", "stage; "),
    show_default=True,
    help="What is measured, separated by commas.",
)
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--warm", default=4.0, show_default=True, help="Seconds before these that are not counted.")
@click.option("--partitions", default=1, show_default=True)
@_brokers
@_json
def latency(
    rates: str, ways: str, seconds: float, warm: float, partitions: int, brokers: str | None, as_json: bool
) -> None:
    """Milliseconds from produce to a reader of committed records, open loop."""
    chosen = tuple(way.replace(";", ",") for way in ways.split(","))
    with cluster(brokers) as where:
        rows = kafka_latency.measure_latency(
            where, tuple(int(rate) for rate in rates.split(",")), chosen,
            seconds=seconds, warm_s=warm, partitions=partitions,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(title=f"produce to a reader of committed records, exactly once, {partitions} partition(s); ms")
    for column in ("", "records/s", "p50", "p99", "p99.9", "max", "lost", "producer late by", "worker's CPU s"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(
            row["way"], f"{row['rate']:,}", *(f"{row[key]:.0f}" for key in ("p50", "p99", "p99.9", "max")),
            f"{row['lost']:,.0f}", f"{row['worst_behind_ms']:.0f}", f"{row['worker_cpu_s']:.1f}",
        )  # fmt: skip
    Console(width=130).print(table)


@main.command()
@click.option("--keys", default=1_000_000, show_default=True)
@_brokers
@_json
def recovery(keys: int, brokers: str | None, as_json: bool) -> None:
    """Seconds from the start of a worker, whose predecessor was killed, to its first commit of new rows."""
    with cluster(brokers) as where:
        found = kafka_latency.measure_recovery(where, keys)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(
        f"a worker with {found['keys']:,.0f} keys of state commits again {found['seconds']:.1f} s after it began "
        f"({found['cpu_s']:.1f} s of CPU, {found['steps_run_again']:.0f} steps run again)"
    )


@main.command(hidden=True)
@click.argument("brokers")
@click.argument("shape")
@click.argument("commit")
@click.argument("topic")
@click.argument("run")
def live(brokers: str, shape: str, commit: str, topic: str, run: str) -> None:
    """A live worker, in this process."""
    kafka_latency.live(brokers, shape, commit, topic, run)


@main.command(hidden=True)
@click.argument("brokers")
@click.argument("topic")
@click.argument("partitions", type=int)
@click.argument("records", type=float)
@click.argument("seconds", type=float)
@click.argument("warm", type=float)
def reader(brokers: str, topic: str, partitions: int, records: float, seconds: float, warm: float) -> None:
    """A reader of committed records, in this process."""
    click.echo(json.dumps(kafka_latency.read(brokers, topic, partitions, int(records), seconds, warm)))


@main.command(hidden=True)
@click.argument("brokers")
@click.argument("topic")
@click.argument("run")
@click.argument("folder")
@click.argument("records", type=int)
def keep(brokers: str, topic: str, run: str, folder: str, records: int) -> None:
    """A worker with much state, in this process."""
    kafka_latency.keep(brokers, topic, run, folder, records)


@main.command(hidden=True)
@click.argument("name", type=click.Choice(sorted(kafka_throughput.CONTENDERS)))
@click.argument("brokers")
@click.argument("topic")
@click.argument("records", type=int)
def contend(name: str, brokers: str, topic: str, records: int) -> None:
    """One contender, in this process."""
    click.echo(json.dumps(kafka_throughput.contend(name, brokers, topic, records)))


if __name__ == "__main__":
    main()
