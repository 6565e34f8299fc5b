"""Records a second of the stages of `sharded`, each alone on one core, beside the single writer, on Febrl's records.

    python -m benchmarks.quality.sharding [--records 20000] [--batch 5000] [--out FILE]

Each stage gets what the stage before it gives, in its order, and is timed alone, CPU time of the process: no log, no
encoding, no waiting. So this says how many cores a stage would need, not how fast a topology runs. The second part is
of records that share few, large blocks, where weighing pairs is what costs.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

import streamproc as sp
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.entities.block_copies import BLOCK, REVISION, TURN
from streamproc.entities.block_pairs import PLACE
from streamproc.entities.comparisons import block, compare
from streamproc.entities.linkage_model import LinkageModel
from streamproc.graph import Step
from streamproc.keys import keys_of
from streamproc.operator import Operator, StepTime, StreamType
from topologies.people.load import read_records
from topologies.people.topology import LINKAGE


def people(records: int) -> pl.DataFrame:
    """Febrl's records as often as it takes; in each round all people are others."""
    one = read_records().drop("recorded_at")
    rounds = []
    for turn in range(-(-records // one.height)):
        changed = [name for name in one.columns if name not in ("record_id", "state", "street_number")] if turn else []
        others = [pl.format("{}{}", pl.col(name), pl.lit(turn)) for name in changed]
        rounds.append(one.with_columns(pl.format("{}/{}", "record_id", pl.lit(turn)).alias("record_id"), *others))
    return pl.concat(rounds).head(records)


def crowd(records: int) -> tuple[pl.DataFrame, LinkageModel]:
    """Records in blocks that are full: towns that thousands share."""
    random = np.random.default_rng(0)
    names = read_records()["surname"].fill_null("nobody")
    frame = pl.DataFrame(
        {
            "record_id": [f"r{i}" for i in range(records)],
            "surname": names.gather(random.integers(0, len(names), records)),
            "town": [f"t{i}" for i in random.integers(0, 20, records)],
            "street": [f"street {i}" for i in random.integers(0, 900, records)],
            "card": [f"{i:08d}" for i in random.integers(0, 10**8, records)],
        }
    )
    model = LinkageModel(
        (compare("surname", "name"), compare("card", "typing"), compare("street", "name"), compare("town")),
        (block("town"), block("card")), 1e-4,
        ((0.9, 0.05, 0.02, 0.02, 0.01), (0.9, 0.05, 0.03, 0.02), (0.8, 0.1, 0.05, 0.03, 0.02), (0.9, 0.1)),
        ((0.01, 0.01, 0.01, 0.07, 0.9), (0.001, 0.001, 0.004, 0.994), (0.01, 0.05, 0.1, 0.3, 0.54), (0.05, 0.95)),
    )  # fmt: skip
    return frame, model


def as_rows(frame: pl.DataFrame) -> Batch:
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, C1] = meta[:, EVENT_TIME] = np.arange(frame.height)
    return Batch(frame, meta)


def passed(operator: Operator, kind: StreamType, rows: Batch, batch: int) -> tuple[Batch, float]:
    """What an operator gives of rows, `batch` records at a time, and the CPU seconds that it took."""
    state = operator.open(kind)
    began = time.process_time()
    parts: list[Batch] = []
    moments = rows.meta[:, EVENT_TIME]
    bounds = np.searchsorted(moments, np.arange(0, int(moments[-1]) + 1 + batch, batch))
    for start, stop in itertools.pairwise(bounds.tolist()):
        part = rows.take(np.arange(start, stop))
        meta = part.meta
        meta[:, ROW], meta[:, ACCOUNT] = 2 * np.arange(len(part)) + 1, np.arange(len(part))
        meta[:, WATERMARK] = meta[:, EVENT_TIME]
        state, output = operator.process(state, (part,), StepTime(meta[:, EVENT_TIME].copy(), 1))
        parts.append(output.rows)
    seconds = time.process_time() - began
    frame = pl.concat([part.frame for part in parts])
    return Batch(frame, np.concatenate([part.meta for part in parts])), seconds


def in_order(rows: Batch, by: list[str]) -> Batch:
    """Rows as `ordered` hands them on."""
    frame = rows.frame.with_columns(t=pl.Series(rows.meta[:, EVENT_TIME]), n=pl.int_range(pl.len()))
    return rows.take(frame.sort("t", *by, "n")["n"].to_numpy())


def measured(frame: pl.DataFrame, step: Step, batch: int) -> dict[str, Any]:
    """CPU seconds of each stage for these records."""
    kind = StreamType(Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in frame.schema.items())))
    rows, told = as_rows(frame), {}
    single = step.operator
    made, told["single_writer"] = passed(single, replace(kind, keyed_by=()), rows, batch)
    operators = [one.operator for one in sp.sharded(step).before]
    copying, pairing, last = operators[2], operators[5], sp.sharded(step).operator
    by_record = replace(kind, keyed_by=("record_id",))
    copies, told["block_copies"] = passed(copying, by_record, rows.with_keys(keys_of(frame, ["record_id"])), batch)
    copies = in_order(copies, [TURN, "record_id", REVISION])
    by_block = replace(copying.schema(by_record), keyed_by=(BLOCK,))
    pairs, told["block_pairs"] = passed(pairing, by_block, copies.with_keys(keys_of(copies.frame, [BLOCK])), batch)
    pairs = in_order(pairs, ["record_id", REVISION, PLACE])
    found, told["resolve"] = passed(last, replace(pairing.schema(by_block), keyed_by=()), pairs, batch)
    assert found.frame.equals(made.frame), "the stages give what the single writer gives"
    return {
        "records": frame.height, "copies_a_record": round(len(copies) / frame.height - 1, 2),
        "pairs_told_a_record": round(len(pairs) / frame.height - 1, 2),
        "records_a_second": {name: round(frame.height / seconds) for name, seconds in told.items()},
    }  # fmt: skip


@click.command()
@click.option("--records", default=20_000)
@click.option("--batch", default=5_000)
@click.option("--out", type=click.Path(path_type=Path))
def main(records: int, batch: int, out: Path | None) -> None:
    crowded, model = crowd(records)
    for warm in (people(600), crowded.head(600)):
        measured(warm, sp.resolve(LINKAGE if "postcode" in warm.columns else model, record="record_id"), 300)
    told = {
        "febrl": measured(people(records), sp.resolve(LINKAGE, record="record_id"), batch),
        "full_blocks": measured(crowded, sp.resolve(model, record="record_id"), batch),
    }
    text = json.dumps(told, indent=1)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
