"""How long a read of features takes, computed at every row or on demand; and what a call costs, in the model's units.

    python -m benchmarks.features --serving

Ten features over the last hour of 1,000 keys with 60 rows each. A round writes a block with a row of 100 keys, and
reads these: so no read finds what an earlier one computed. Reported is a read's latency without the refresh, and the
refresh's. Before that, what a read of one key's 100 features from a table takes, all 100 of them looked at.
Then the constants of `streamproc.runtime.two_ways`, from the same operator: CPU of calls with 1 and 8 features.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.batch import EVENT_TIME, ROW, WATERMARK, WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.registry import MemoryRegistry
from streamproc.feature.operator import Features
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.ports import TopicSettings
from streamproc.runtime.feature_table import FeatureTable
from streamproc.testing.drive import append_frame
from streamproc.testing.memory_log import MemoryLog

KEYS, ROWS, ROUNDS, EACH = 1_000, 60, 60, 100
_SECOND = 1_000_000
ROW_OF = parse_contract("""{"type": "record", "name": "row", "sp:version": 1, "fields": [
    {"name": "key", "type": "string", "sp:role": "key"}, {"name": "x", "type": "double"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
STREAM = StreamType(Schema((Field("x", pl.Float64()),)), ("key",))
CHEAP = (sp.count(), sp.total("x"), sp.mean("x"), sp.min("x"), sp.max("x"), sp.var("x"), sp.last("x"),
         sp.time_since_last())  # fmt: skip


def ten() -> Any:
    """Ten features, two of which scan their window."""
    made = {f"f{i}": one.over("1h") for i, one in enumerate((*CHEAP, sp.quantile("x", 0.9), sp.distinct("x")))}
    return sp.features(**made)


def rows(number: int, keys: np.ndarray[Any, Any]) -> pl.DataFrame:
    """A row of each of these keys, a second after those of the number before."""
    at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=number)
    x = np.round(np.random.default_rng(number).uniform(0, 100, keys.size), 2)
    return pl.DataFrame({"key": [f"k{key}" for key in keys], "x": x, "at": [at] * keys.size})


def latencies(way: str) -> dict[str, Any]:
    """Microseconds of reads, and of refreshes."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry((ROW_OF,))
    log.create_topic("rows", TopicSettings(1))
    reader = sp.ServedFeatures("rows", ten(), log, registry, ("key",), "at", way=way)
    for number in range(ROWS):
        append_frame(log, registry, "rows", ROW_OF, rows(number, np.arange(KEYS)))
        reader.refresh()
    rng, spent, refreshed = np.random.default_rng(5), [], []
    for number in range(ROWS, ROWS + ROUNDS):
        keys = rng.choice(KEYS, EACH, replace=False)
        append_frame(log, registry, "rows", ROW_OF, rows(number, keys))
        begin = time.perf_counter_ns()
        reader.refresh()
        refreshed.append((time.perf_counter_ns() - begin) / 1e3)
        for key in keys:
            begin = time.perf_counter_ns()
            reader.read(f"k{key}")
            spent.append((time.perf_counter_ns() - begin) / 1e3)
    later = spent[len(spent) // 4 :]
    return {
        "way": way, "p50_us": round(float(np.median(later)), 1), "p99_us": round(float(np.quantile(later, 0.99)), 1),
        "refresh_us": round(float(np.median(refreshed))),
    }  # fmt: skip


def hundred() -> dict[str, Any]:
    """Microseconds of reads of one key's 100 features from a `FeatureTable` of 10,000 keys, without a refresh."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry(())
    at = datetime(2026, 11, 1, tzinfo=UTC)
    wide = pl.DataFrame({"key": [f"k{i}" for i in range(10_000)], "at": [at] * 10_000}).with_columns(
        (pl.int_range(pl.len()) * 0.5 + i).alias(f"f{i}") for i in range(100)
    )
    fields = tuple(Field(name, dtype) for name, dtype in wide.schema.items())
    contract = contract_of("wide", Schema(fields), event_time="at", key=("key",))
    registry.adopt(contract)
    log.create_topic("wide", TopicSettings(1))
    append_frame(log, registry, "wide", contract, wide)
    table = FeatureTable("wide", log, registry, ("key",), "at", fresh="1h")
    table.refresh()
    keys = [f"k{key}" for key in np.random.default_rng(6).integers(0, 10_000, 200_000)]
    spent, summed = [], 0.0
    for key in keys:
        begin = time.perf_counter_ns()
        row = table.read(key).row
        summed += sum(row[f"f{i}"] for i in range(100))
        spent.append((time.perf_counter_ns() - begin) / 1e3)
    assert summed > 0.0
    return {
        "features": 100, "reads": len(spent), "p50_us": round(float(np.median(spent)), 1),
        "p99_us": round(float(np.quantile(spent, 0.99)), 1), "hit_ratio": round(table.hit_ratio, 4),
    }  # fmt: skip


def constants() -> dict[str, float]:
    """CALL, RETAKEN, SCANNED and CHANGE, each by what a row costs a feature in a block."""
    one, eight = _cheap(1), _cheap(8)
    small, few, many = _batch(8), _batch(64), _batch(16_384)
    apart = _batch(len(many), KEYS)
    per_row = (_cpu(lambda: _pass(eight, apart)) - _cpu(lambda: _pass(eight, small))) / (8 * len(apart))
    call = _cpu(lambda: _pass(eight, small)) / 8
    alone = _cpu(lambda: _recall(one, small))
    retaken = (_cpu(lambda: _recall(eight, many)) - _cpu(lambda: _recall(eight, few))) / (8 * len(many))
    scan = sp.features(f=sp.quantile("x", 0.9).over("1h")).operator
    scanned = (_cpu(lambda: _recall(scan, many)) - _cpu(lambda: _recall(one, many))) / len(many)
    change = _cpu(lambda: _recall(_cheap(8), small)) / 8
    return {
        "row_ns": round(per_row * 1e9), "call_us": round(call * 1e6), "call_of_one_us": round(alone * 1e6),
        "CALL": round(call / per_row), "RETAKEN": round(retaken / per_row, 2), "SCANNED": round(scanned / per_row, 2),
        "CHANGE": round(change / per_row),
    }  # fmt: skip


def _cheap(features: int) -> Any:
    return sp.features(**{f"f{i}": CHEAP[i].over("1h") for i in range(features)}).operator


def _batch(n: int, keys: int = 1) -> Batch:
    meta = np.zeros((n, WIDTH), np.int64)
    meta[:, EVENT_TIME] = meta[:, WATERMARK] = np.arange(n) * _SECOND // 100
    meta[:, ROW] = 2 * np.arange(n) + 1
    rng = np.random.default_rng(1)
    names = keys_of(pl.DataFrame({"key": pl.Series(rng.integers(0, keys, n)).cast(pl.String)}), ["key"])
    return Batch(pl.DataFrame({"x": np.round(rng.uniform(0, 100, n), 2)}), meta, names)


def _pass(operator: Features, batch: Batch) -> None:
    operator.process(operator.open(STREAM), (batch,), StepTime(batch.meta[:, WATERMARK].copy(), 0))


def _recall(operator: Features, batch: Batch) -> None:
    operator.recall(operator.open(STREAM), batch, len(batch) - 1)


def _cpu(run: Callable[[], None], rounds: int = 40) -> float:
    """CPU seconds of a run, the least of several: what disturbs only adds."""
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        run()
        spent.append(time.process_time() - begin)
    return min(spent)


def serving() -> dict[str, Any]:
    """All figures."""
    for way in ("on demand", "precomputed"):
        latencies(way)  # compiles kernels, and fills caches
    reads = [latencies("precomputed"), latencies("on demand")]
    return {"table": hundred(), "reads": reads, "constants": constants()}
