"""What one more record costs `resolve` as records grow many, and what crowded blocks cost it.

    python -m benchmarks.entities [--records 10000,100000,1000000] [--shared 10000,100000] [--crowd 1000000] [--json]

In process, one core, the operator alone: no log, no decoding, no commit. Records are Febrl's (data set 3) as often as
it takes, in each round of other people ("people apart": blocks stay as they are), or of people who have the same
names ("names shared": blocks of names grow until the cap). Linkage and threshold are those of `topologies/people`.
At each size: records a second in batches of 5,000 over the last of them, and what a batch of one record takes, by the
clock, over 2,000 of them. Memory is what the process has more than before, divided by the records; "beside
the fields" it is without the distinct values and what is known of each.

Crowds: 10,000 records named "test user" among as many others, and a block that every record shares. There each record
comes again later with another spelling of its card, so that what the cap of a block costs in recall is known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the command line does: a worker is one core

import click
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import streamproc as sp
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.entities.capped import CAPPED, lost_at_most
from streamproc.entities.comparisons import block, compare
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.resolve import Resolve
from streamproc.entities.tables import WEIGHED, Tables
from streamproc.operator import Output, StepTime, StreamType
from topologies.people.load import read_records
from topologies.people.topology import LINKAGE

BATCH = 5_000
ALONE = 2_000
CROWDED = LinkageModel(
    (compare("name", "name"), compare("card", "typing"), compare("town")), (block("name"), block("card")), 1e-4,
    ((0.9, 0.05, 0.02, 0.02, 0.01), (0.8, 0.1, 0.07, 0.03), (0.9, 0.1)),
    ((0.01, 0.01, 0.01, 0.07, 0.9), (1e-6, 1e-6, 1e-5, 0.999988), (0.05, 0.95)),
)  # fmt: skip


class Filling:
    """A `resolve` that takes record after record."""

    def __init__(self, model: LinkageModel, columns: dict[str, pl.DataType]) -> None:
        operator = sp.resolve(model, record="record_id", threshold=0.9).operator
        assert isinstance(operator, Resolve)
        self.step = operator
        kind = StreamType(Schema(tuple(Field(name, dtype, nullable=True) for name, dtype in columns.items())), ())
        operator.schema(kind)
        self.state: Tables = operator.open(kind)
        self.taken = 0

    def take(self, frame: pl.DataFrame) -> tuple[Output, float]:
        """One batch; what comes out, and the seconds by the clock."""
        n = frame.height
        meta = np.zeros((n, WIDTH), np.int64)
        meta[:, ROW], meta[:, ACCOUNT] = 2 * np.arange(n) + 1, np.arange(n)
        meta[:, C1] = meta[:, EVENT_TIME] = np.arange(self.taken, self.taken + n)
        self.taken += n
        batch, moment = Batch(frame, meta), StepTime(meta[:, EVENT_TIME].copy(), 1)
        began = time.perf_counter()
        self.state, output = self.step.process(self.state, (batch,), moment)
        return output, time.perf_counter() - began

    def alone(self, frame: pl.DataFrame) -> dict[str, float]:
        """Milliseconds of batches of one record each."""
        self.take(frame[:1])
        took = np.array([self.take(frame[row : row + 1])[1] for row in range(1, frame.height)]) * 1e3
        return {"p50_ms": round(float(np.median(took)), 3), "p99_ms": round(float(np.percentile(took, 99)), 3)}


def rounds(*, shared: bool) -> Iterator[pl.DataFrame]:
    """Febrl's records again and again, without end."""
    one = read_records().drop("recorded_at")
    kept = {"record_id", "state", *(("given_name", "surname") if shared else ("street_number",))}
    turn = 0
    while True:
        # Before the value, and not behind it: else people of two rounds would be as alike as copies with a typo.
        mark = f"{turn * 2_654_435_761 % 2**32:08x}"[:5]
        changed = [name for name in one.columns if turn and name not in kept]
        others = [pl.format("{}{}", pl.lit(mark), name).alias(name) for name in changed]
        yield one.with_columns(pl.format("{}/{}", "record_id", pl.lit(turn)).alias("record_id"), *others)
        turn += 1


def resident() -> int:
    """Bytes of memory that the process has."""
    with open("/proc/self/statm", encoding="ascii") as told:
        return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fields_held(state: Tables) -> int:
    """Bytes of the stored fields: the distinct texts with index, signatures and shares, and each record's numbers."""
    kept = state.kept
    arrays = [*kept.table.arrays, kept.counts, kept.numbers, kept.rarity, kept.signatures, kept.words.starts]
    # Rows that are not in use are memory that nobody has touched.
    return sum(array.nbytes for array in arrays) * kept.table.used // max(kept.table.capacity, 1) + (
        state.values.itemsize * state.values.shape[1] * state.keys.used
    )


def curve(sizes: list[int], *, shared: bool) -> list[dict[str, Any]]:
    """Figures at each size."""
    warm = Filling(LINKAGE, dict(read_records().drop("recorded_at").schema))
    for frame, _ in zip(rounds(shared=shared), range(2), strict=False):
        warm.take(frame)
    warm.alone(next(rounds(shared=True))[:50])
    del warm
    filling = Filling(LINKAGE, dict(read_records().drop("recorded_at").schema))
    before, told, source, weighed = resident(), [], rounds(shared=shared), 0
    recent: list[float] = []
    for size in sizes:
        while filling.taken + BATCH <= size:
            weighed = int(filling.state.counters[WEIGHED])
            recent.append(filling.take(next(source))[1])
        last = recent[-min(20, len(recent)) :]
        held = resident() - before
        told.append(
            {
                "records": filling.taken,
                "pairs_weighed": round((int(filling.state.counters[WEIGHED]) - weighed) / BATCH, 1),
                "records_per_second": round(BATCH * len(last) / sum(last)),
                "slowest_batch_ms": round(max(last) * 1e3, 1),
                **filling.alone(next(source)[: ALONE + 1]),
                "bytes_a_record": round(held / filling.taken),
                "beside_the_fields": round((held - fields_held(filling.state)) / filling.taken),
            }
        )
    return told


def crowd(records: int, users: int, seed: int = 0) -> pl.DataFrame:
    """Half of the records are the other spelling of an earlier one; `users` of all are named "test user".

    A record's second spelling comes 1 to 10,000 of its name later, evenly over the orders of magnitude, so that a cap
    of 200 sees about half of them.
    """
    random = np.random.default_rng(seed)
    people = records // 2
    names = read_records()["surname"].drop_nulls()
    named = pl.Series(random.integers(0, 10**9, people)).cast(pl.String) + names.gather(
        random.integers(0, len(names), people)
    )
    tested = np.zeros(people, bool)
    tested[random.permutation(people)[: users // 2]] = True
    name = pl.Series(tested).replace_strict({True: "test user", False: None}, return_dtype=pl.String).fill_null(named)
    card = [f"{number:09d}" for number in random.choice(10**9, people, replace=False)]
    where, letters = random.integers(0, 9, people), random.integers(97, 123, people)
    typo = [one[:at] + chr(other) + one[at + 1 :] for one, at, other in zip(card, where, letters, strict=True)]
    town = [f"t{x}" for x in random.integers(0, 20, people)]
    distance = 10 ** random.uniform(0, 4, people) * records / max(users, 1)
    place = np.concatenate([np.arange(people) * 2.0, np.arange(people) * 2.0 + distance])
    frame = pl.DataFrame(
        {"name": pl.concat([name, name]), "card": card + typo, "town": town * 2,
         "person": np.tile(np.arange(people), 2), "place": place}
    )  # fmt: skip
    return frame.sort("place").drop("place").with_columns(record_id=pl.format("r{}", pl.int_range(pl.len())))


def crowded(records: int, users: int) -> dict[str, Any]:
    """What a crowd costs in time, memory and recall."""
    frame = crowd(records, users)
    shown = frame.select("record_id", "name", "card", "town")
    filling = Filling(CROWDED, dict(shown.schema))
    filling.take(shown.clear())
    before, took, sides, left_alone = resident(), [], [], 0
    last = min(1_000, records // 10)
    for start in range(0, records - last, 1_000):
        output, seconds = filling.take(shown[start : min(start + 1_000, records - last)])
        took.append(seconds)
        capped, rows = dict(output.sides)[CAPPED].frame, output.rows.frame
        rows = rows.filter(pl.col("event").cast(pl.String).is_in(["created", "joined"]))
        # Each record comes once here, so batches add up.
        told = lost_at_most(capped, rows.select("matched", record=pl.col("records").list.first()))
        left_alone += told.filter(pl.col("rule") == "name")["left_alone"].sum()
        sides.append(capped.select("unseen", "compared", "matched").sum())
    held = resident() - before
    alone = filling.alone(shown[records - last :])
    lost = pl.concat(sides).sum()
    tenth = max(1, len(took) // 10)
    state, slots = filling.state, filling.state.keys.slots()
    entity = pl.DataFrame({"slot": slots, "entity": state.entity[slots]}).sort("slot")["entity"]
    together = frame.with_columns(entity=entity).group_by("person").agg(pl.col("entity").n_unique())
    unseen, compared, matched = (int(lost[name].item()) for name in ("unseen", "compared", "matched"))
    return {
        "records": records, "in_the_block": users,
        "us_a_record_first_tenth": round(sum(took[:tenth]) / tenth / 1_000 * 1e6, 1),
        "us_a_record_last_tenth": round(sum(took[-tenth:]) / tenth / 1_000 * 1e6, 1),
        "batch_of_1000_p99_ms": round(float(np.percentile(np.array(took) * 1e3, 99)), 1),
        "slowest_batch_ms": round(max(took) * 1e3, 1), **alone,
        "bytes_a_record": round(held / records), "pairs_not_looked_at": unseen,
        "recall": round(float((together["entity"] == 1).mean() or 0), 4),
        "matches_lost_at_most_by_rate": round(unseen * matched / max(compared, 1)), "left_alone": left_alone,
        "matches_lost": together.height - int((together["entity"] == 1).sum()),
    }  # fmt: skip


CURVE = {
    "records": "records", "pairs_weighed": "pairs weighed a record",
    "records_per_second": "records/s, batches of 5,000",
    "slowest_batch_ms": "slowest batch, ms", "p50_ms": "alone: p50, ms", "p99_ms": "p99, ms",
    "bytes_a_record": "bytes a record", "beside_the_fields": "beside the fields",
}  # fmt: skip


@click.command(help=__doc__)
@click.option("--records", "sizes", default="10000,100000,1000000", show_default=True, help="Where to measure.")
@click.option("--shared", default="10000,100000", show_default=True, help="The same where names are shared.")
@click.option("--crowd", "crowds", default=1_000_000, show_default=True, help="Records in one block; 0: no crowds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def main(sizes: str, shared: str, crowds: int, as_json: bool) -> None:
    told: dict[str, Any] = {"benchmark": "entities"}
    for name, given in (("people apart", sizes), ("names shared", shared)):
        where = sorted(int(size) for size in given.split(",") if size)
        told[name] = curve(where, shared=name == "names shared") if where else []
    told["crowds"] = []
    if crowds:
        crowded(2_000, 2_000)
        told["crowds"] = [crowded(20_000, 10_000), crowded(crowds, crowds)]
    if as_json:
        print(json.dumps(told))
        return
    console = Console()
    for name in ("people apart", "names shared"):
        if told[name]:
            table = Table(*CURVE.values(), title=f"resolve, one core, {name}")
            for row in told[name]:
                table.add_row(*(f"{row[key]:,}" for key in CURVE))
            console.print(table)
    if told["crowds"]:
        table = Table("", *(f"{row['in_the_block']:,} of {row['records']:,} in a block" for row in told["crowds"]))
        for key in list(told["crowds"][0])[2:]:
            table.add_row(key.replace("_", " "), *(f"{row[key]:,}" for row in told["crowds"]))
        console.print(table)


if __name__ == "__main__":
    main()
