"""How fast keyed state is: new keys, known keys, the longest pause while a table grows, sorting, and restoring.

    python benchmarks/state.py [--keys 10000,100000,1000000,10000000] [--batch 8192] [--json]

Keys are 16 bytes of text; pairs are two int64.  Each batch is timed by itself: "pause" is the longest one of all that
filled the table, in CPU time of this thread; an idle machine's wall time is the same.  "Known" is the best of three
rounds over 16 batches of 65,536 random keys each, all in the table and too many for the caches; the factor is its cost
a row over that of the smallest table.  "Gather" is what NumPy needs for a random cache line out of as many: no table
can be much flatter over its sizes than memory is.  A restore reads the export of one million keys and two columns from
blocks, checks each block, and builds the tables again.  10^7 keys take 2 GB of memory.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.state_floor import BATCH, ROUNDS, gather_ns
from streamproc.batch import Keys
from streamproc.blocks import array_of, blocks_of
from streamproc.hashing import content_id
from streamproc.keys import keys_of
from streamproc.state import IntTable, KeyTable, export_state, grow, import_state


@dataclass(slots=True)
class Totals:
    """State as an operator keeps it."""

    keys: KeyTable
    count: np.ndarray
    total: np.ndarray


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def numbered_keys(numbers: np.ndarray) -> Keys:
    """Keys of 16 bytes."""
    texts = pl.format("customer-{}", pl.col("n").cast(pl.String).str.zfill(7))
    return keys_of(pl.DataFrame({"n": numbers}).select(texts.alias("key")), ["key"])


def known_numbers(count: int) -> list[np.ndarray]:
    """Random numbers below `count`, a batch each."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, count, BATCH) for _ in range(ROUNDS)]


def figures(count: int, times: list[float], look_up: Callable[[], object]) -> dict[str, float]:
    """What is told of a table that was filled in `times`."""
    best = min(seconds(look_up) for _ in range(3))
    return {"new_per_s": count / sum(times), "pause_ms": max(times) * 1e3, "known_ns": best / (ROUNDS * BATCH) * 1e9}


def measure_keys(count: int, batch: int) -> dict[str, float]:
    """Fills a key table with `count` keys, then looks up known ones."""
    table = KeyTable()
    known = [numbered_keys(numbers) for numbers in known_numbers(count)]
    times = []
    for at in range(0, count, batch):
        keys = numbered_keys(np.arange(at, min(at + batch, count)))
        times.append(seconds(lambda keys=keys: table.intern(keys)))
    return figures(count, times, lambda: [table.intern(keys) for keys in known])


def measure_pairs(count: int, batch: int) -> dict[str, float]:
    """The same with a table of pairs."""
    table = IntTable()
    known = known_numbers(count)
    times = []
    for at in range(0, count, batch):
        part = np.arange(at, min(at + batch, count))
        times.append(seconds(lambda part=part: table.intern(part, part)))
    return figures(count, times, lambda: [table.intern(part, part) for part in known])


def measure_restore(count: int) -> dict[str, float]:
    """Saves and restores `count` keys with two columns, and sorts them."""
    state = Totals(KeyTable(), np.zeros(0, np.int64), np.zeros(0))
    slots = state.keys.intern(numbered_keys(np.random.default_rng(1).permutation(count)))
    state.count, state.total = grow(state.count, state.keys.capacity), grow(state.total, state.keys.capacity)
    empty = Totals(KeyTable(), np.zeros(0, np.int64), np.zeros(0))
    saved = {}

    def save() -> None:
        for name, array in export_state(state).items():
            saved[name] = (array.dtype.str, array.shape, blocks_of(array))

    def restore() -> None:
        arrays = {}
        for name, (dtype, shape, blocks) in saved.items():
            if any(content_id(data) != block for block, data in blocks):
                raise SystemExit("a block does not match its id")
            arrays[name] = array_of(dtype, shape, [data for _, data in blocks])
        import_state(empty, arrays)

    return {
        "save_s": seconds(save),
        "restore_s": min(seconds(restore) for _ in range(2)),
        "order_s": min(seconds(lambda: state.keys.order(slots)) for _ in range(2)),
    }


@click.command()
@click.option("--keys", default="10000,100000,1000000,10000000", show_default=True, help="table sizes")
@click.option("--batch", default=8192, show_default=True, help="rows of a batch")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def main(keys: str, batch: int, as_json: bool) -> None:
    """Measures keyed state."""
    sizes = [int(size) for size in keys.split(",")]
    measure_keys(1000, batch), measure_pairs(1000, batch), measure_restore(1000)
    result = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "keys": {size: measure_keys(size, batch) for size in sizes},
        "pairs": {size: measure_pairs(size, batch) for size in sizes},
        "gather_ns": {size: gather_ns(size) for size in sizes},
        "million": measure_restore(1_000_000),
    }
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title="Keyed state")
    for head in ("table", "size", "new rows/s", "known ns/row", "factor", "longest pause"):
        table.add_column(head, justify="left" if head == "table" else "right")
    for name in ("keys", "pairs"):
        for size in sizes:
            row = result[name][size]
            known = row["known_ns"]
            table.add_row(
                name, f"{size:,}", f"{row['new_per_s'] / 1e6:.1f} M", f"{known:.1f}",
                f"{known / result[name][sizes[0]]['known_ns']:.1f}x", f"{row['pause_ms']:.1f} ms",
            )  # fmt: skip
    floor = result["gather_ns"]
    for size in sizes:
        table.add_row("gather", f"{size:,}", "", f"{floor[size]:.1f}", f"{floor[size] / floor[sizes[0]]:.1f}x", "")
    console = Console()
    console.print(table)
    million = result["million"]
    console.print(
        f"1,000,000 keys: save {million['save_s']:.2f} s, restore {million['restore_s']:.2f} s, "
        f"sort by key {million['order_s']:.2f} s"
    )


if __name__ == "__main__":
    main()
