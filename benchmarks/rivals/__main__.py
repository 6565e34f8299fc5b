"""streamproc beside Kafka Streams, Flink, quixstreams, bytewax and faust: one topic, one broker, one machine.

    python -m benchmarks rivals [--only WORKLOAD[/CONTENDER],...] [--json FILE] [--records N] [--brokers HOST:PORT]

Starts one broker (Java and Maven, from a checkout) unless --brokers names one, and makes each peer's environment when
it is first needed. With --json results are merged into the file, so that a run can be made piece by piece; --only with
no match prints the table of what the file holds.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import polars as pl

from benchmarks.kafka import cluster
from benchmarks.kafka_filling import write_rows
from benchmarks.kafka_throughput import log_of
from benchmarks.rivals.contenders import CONTENDERS, Contender, NotThere
from benchmarks.rivals.measuring import Ends, Stalled, figures, output_sums, run_contender
from benchmarks.rivals.table import markdown
from benchmarks.rivals.workloads import (
    BID,
    PARTITIONS,
    PROFILE,
    WORKLOADS,
    Sums,
    answer,
    bids,
    last_bids,
    last_profiles,
    profiles,
)  # fmt: skip
from streamproc.contracts.model import Contract
from streamproc.ports import TopicSettings

_BROKER_HEAP = "1g"
_NEWEST_BY = {"tumbling": ("bidder", "at")}


class Topics:
    """The input, one topic for each number of bids: a shorter one is the beginning of a longer one.

    A topic that is there is taken as it is, so that one broker can serve several runs.
    """

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers

    def bids(self, records: int) -> str:
        return self._topic(f"bids-{records}", BID, lambda: chain(bids(records), [last_bids(records)]))

    def table(self, records: int) -> str:
        return self._topic(f"profiles-{records}", PROFILE, lambda: [profiles(), last_profiles(records)])

    def nudge(self, records: int) -> None:
        """One more bid of the last bidders: for engines that look whether a window closes only now and then."""
        with log_of(self.brokers) as log:
            write_rows(log, f"bids-{records}", BID, [last_bids(records)])

    def _topic(self, name: str, contract: Contract, pieces: Callable[[], Iterable[pl.DataFrame]]) -> str:
        with log_of(self.brokers) as log:
            if name not in log.topics():
                log.create_topic(name, TopicSettings(PARTITIONS))
                write_rows(log, name, contract, pieces())
        return name


@cache
def expected(workload: str, records: int, order: str) -> Sums:
    """What a workload's output must hold."""
    contract = WORKLOADS[workload].output
    if workload in ("look-back", "tumbling"):
        return Sums.of(answer(workload, pl.concat(list(bids(records))), order), contract)
    return sum((Sums.of(answer(workload, piece), contract) for piece in bids(records)), Sums(0, 0.0, 0))


def contend(workload: str, contender: Contender, topics: Topics, records: int, patience_s: float) -> dict[str, Any]:
    """Runs one contender on one workload and checks what it wrote."""
    command = contender.prepare()
    source, table = topics.bids(records), topics.table(records)
    asked = f"{workload}{contender.suffix}"
    out = f"{asked}-{contender.title}-{time.time_ns()}".lower()
    out = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in out)
    contract, newest_by = WORKLOADS[workload].output, _NEWEST_BY.get(workload, ())
    wanted = expected(workload, records, contender.order)
    folder = Path(tempfile.mkdtemp(prefix="streamproc-rivals-"))
    written: list[Sums] = []

    def complete() -> bool:
        written.append(output_sums(topics.brokers, out, contract, newest_by if workload in contender.newest else ()))
        return written[-1].rows >= wanted.rows

    ends = Ends(topics.brokers, out)
    try:
        schemas = folder / "schemas.json"
        contracts = {
            contract.name: _plain(contract.avro) for contract in (BID, PROFILE, *(w.output for w in WORKLOADS.values()))
        }
        schemas.write_text(json.dumps(contracts))
        with log_of(topics.brokers) as log:
            log.create_topic(out, TopicSettings(PARTITIONS))
        (folder / "state").mkdir()
        samples, peak = run_contender(
            [*command, asked, topics.brokers, source, table, out, str(folder / "state")],
            {"RIVALS_SCHEMAS": str(schemas)}, folder / "log", ends, wanted.rows, complete,
            partial(topics.nudge, records) if workload == "tumbling" else (lambda: None), patience_s,
        )  # fmt: skip
        found: dict[str, Any] = figures(samples, records)
        found |= {"peak_mb": peak / 1e6, "load": os.getloadavg()[0]}
        found["sums"] = "equal" if written[-1] == wanted else f"{written[-1]} instead of {wanted}"
        return found
    except Stalled as problem:
        seen = f"; {written[-1]} instead of {wanted}" if written else ""
        return {"records": records, "failed": f"{problem}{seen}"}
    finally:
        ends.close()
        shutil.rmtree(folder, ignore_errors=True)
        with log_of(topics.brokers) as log:
            for made in log.topics():
                if out in made:
                    log.delete_topic(made)


def _plain(schema: Any) -> Any:
    """The schema without logical types: moments are integers to all."""
    if isinstance(schema, dict):
        return {
            key: _plain(value) for key, value in schema.items() if key != "logicalType" and not key.startswith("sp:")
        }
    return [_plain(item) for item in schema] if isinstance(schema, list | tuple) else schema


def chosen(only: str) -> list[tuple[str, str]]:
    """Workloads and contenders that the command names, streamproc first of each."""
    wishes = [wish.strip() for wish in only.split(",") if wish.strip()]
    return [
        (workload, name)
        for workload in WORKLOADS
        for name, contender in CONTENDERS.items()
        if contender.records.get(workload)
        and (not wishes or any(wish in (workload, name, f"{workload}/{name}") for wish in wishes))
    ]


@click.command(help=__doc__)
@click.option("--only", default="", help="Workloads, contenders, or WORKLOAD/CONTENDER, separated by commas.")
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Merge the figures into this file."
)
@click.option(
    "--records", type=int, help="Bids for every contender.  [default: each workload's own, fewer for Python peers]"
)
@click.option(
    "--patience", default=120.0, show_default=True, help="Seconds without output after which a peer has failed."
)
@click.option("--brokers", help="Use these instead of starting one.")
def main(only: str, file: Path | None, records: int | None, patience: float, brokers: str | None) -> None:
    results: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.exists() else {}
    pairs = chosen(only)
    if pairs:
        with cluster(brokers, heap=_BROKER_HEAP) as where:
            topics = Topics(where)
            for workload, name in pairs:
                contender = CONTENDERS[name]
                count = records or contender.records[workload]
                click.echo(f"{workload}: {contender.title}, {count:,} bids", err=True)
                try:
                    found = contend(workload, contender, topics, count, patience)
                except NotThere as problem:
                    found = {"failed": f"cannot be installed here: {problem}"}
                results.setdefault("machine", {"cores": os.cpu_count(), "python": platform.python_version()})
                results.setdefault(workload, {})[name] = found
                click.echo(json.dumps(found), err=True)
                if file is not None:
                    file.write_text(json.dumps(results, indent=1))
    click.echo(markdown(results))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks rivals")
