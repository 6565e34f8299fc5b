"""Verdicts on how late rows came are made of the log alone: known distributions, the same each time, the engine's own
lateness, bounds of joins by arithmetic."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from connectors.embedded import EmbeddedLog
from streamproc.cli.app import run as command
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.engine.rejects import REJECTED
from streamproc.planning.freshness import Bound, joins
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.freshness import TopicLags, freshness_findings, join_lags, measured, rounded_up
from streamproc.runtime.lags import Lags
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import source_ends
from streamproc.runtime.telemetry.metrics import WorkerMetrics
from streamproc.runtime.telemetry.vital import Vital
from streamproc.runtime.telemetry.worker_telemetry import WorkerTelemetry
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from streamproc.wire import Reader

SECOND, MINUTE = 1_000_000, 60_000_000
BEGUN = 1_700_000_000 * SECOND // MINUTE * MINUTE


def contract(name: str, freshness: str = "", warn: str = "") -> Contract:
    """Keyed rows with an event time, and what is promised of them."""
    sla = ({"freshness": freshness} if freshness else {}) | ({"freshness_warn": warn} if warn else {})
    fields = [
        {"name": "k", "type": "long", "sp:role": "key"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"},
    ]
    record = {"type": "record", "name": name, "sp:version": 1, "sp:sla": sla, "fields": fields}
    return parse_contract(orjson.dumps(record).decode())


def write(log: Log, topic: str, of: Contract, came: np.ndarray, lags: np.ndarray, partition: int = 0) -> None:
    """Records with these timestamps, of rows that are so much older."""
    made = MemoryLog()
    made.create_topic(topic, TopicSettings(1))
    times = pl.Series(came - lags, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    append_frame(made, MemoryRegistry([of]), topic, of, pl.DataFrame({"k": np.zeros(came.size, np.int64), "at": times}))
    block = made.read(TopicPartition(topic, 0), 0, max_records=came.size)
    assert len(block) == came.size
    transaction = log.producer(f"{topic}.{partition}").begin()
    transaction.append(replace(block, timestamps=came, partition=partition))
    transaction.commit()


ORDERS, RATES = contract("order", "10s", "4s"), contract("rate", "5m")
orders = sp.source("orders", contract=ORDERS, lateness="2s")
rates = sp.source("rates", contract=RATES, lateness="30s")
looked_up = rates | sp.key_by("k") | sp.rename(at="since")
JOINED = sp.Topology("joined", sinks={"out": orders | sp.key_by("k") | sp.as_of(looked_up, name="rate")})
REGISTRY = MemoryRegistry([ORDERS, RATES])


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99, 0.999, 1.0]))
def test_a_quantile_is_the_true_one_or_less_than_a_hundredth_above(values: list[int], share: float) -> None:
    whole, parts = Lags(), Lags()
    whole.add(np.array(values))
    for value in reversed(values):
        parts.add(np.array([value]))
    true = sorted(values)[int(np.ceil(share * len(values))) - 1]
    assert true <= whole.quantile(share) <= true * (1 + 1 / 128)
    assert parts == whole


@pytest.mark.parametrize(
    ("name", "lags"),
    [
        ("uniform", np.random.default_rng(1).integers(0, 8 * SECOND, 20_000)),
        ("exponential", np.random.default_rng(2).exponential(SECOND, 20_000).astype(np.int64)),
        ("two kinds", np.where(np.arange(20_000) % 50 == 0, 9 * SECOND, 20_000)),
        ("all the same", np.full(20_000, 3 * SECOND)),
    ],
)
def test_known_distributions_are_found_as_they_are(name: str, lags: np.ndarray) -> None:
    log = MemoryLog(now=BEGUN)
    log.create_topic("orders", TopicSettings(1))
    write(log, "orders", ORDERS, BEGUN + np.arange(lags.size) * 1_000, lags)
    (found,) = measured(plan_topology(JOINED, REGISTRY), log, REGISTRY)
    assert found.all.rows == lags.size and found.all.most == lags.max()
    for share in (0.5, 0.99):
        true = int(np.sort(lags)[int(np.ceil(share * lags.size)) - 1])
        assert true <= found.all.quantile(share) <= true * (1 + 1 / 128), name


def test_each_verdict_comes_where_its_bound_is_passed_and_not_before() -> None:
    log = MemoryLog(now=BEGUN)
    log.create_topic("orders", TopicSettings(1))
    # A minute each: at the bound of a warning, behind it, at that of too late, behind it.
    for minute, lag in enumerate((4 * SECOND, 4_100_000, 10 * SECOND, 10_200_000)):
        write(log, "orders", ORDERS, BEGUN + minute * MINUTE + np.arange(60) * SECOND, np.full(60, lag))
    (found,) = measured(plan_topology(JOINED, REGISTRY), log, REGISTRY)
    verdicts = found.verdicts(MINUTE)
    assert [(v.start_us - BEGUN) // MINUTE for v in verdicts] == [0, 1, 2, 3]
    assert [v.verdict for v in verdicts] == ["ok", "warn", "warn", "late"]
    # Rows of the last minute may still come.
    assert [v.final for v in verdicts] == [True, True, True, False]
    assert found.verdict == "late"


def two_partitions(rows: int = 3_000) -> MemoryLog:
    """Both topics, in disorder, in two partitions."""
    rng = np.random.default_rng(5)
    log = MemoryLog(now=BEGUN)
    for topic, of, scale in (("orders", ORDERS, 2 * SECOND), ("rates", RATES, 90 * SECOND)):
        log.create_topic(topic, TopicSettings(2))
        for partition in range(2):
            came = BEGUN + np.sort(rng.integers(0, 20 * MINUTE, rows))
            write(log, topic, of, came, rng.exponential(scale, rows).astype(np.int64), partition)
    return log


def test_the_same_log_gives_the_same_verdicts_and_a_longer_one_changes_no_final_one(tmp_path: Path) -> None:
    log, plan = two_partitions(), plan_topology(JOINED, REGISTRY)
    once = [v for one in measured(plan, log, REGISTRY) for v in one.verdicts(MINUTE)]
    log.now += 1_000_000 * MINUTE  # What a clock says has no part in it.
    assert [v for one in measured(plan, log, REGISTRY) for v in one.verdicts(MINUTE)] == once
    # The same records in another log.
    with EmbeddedLog(tmp_path / "log.db") as other:
        for topic in ("orders", "rates"):
            other.create_topic(topic, TopicSettings(2))
            for partition in range(2):
                at = 0
                while len(block := log.read(TopicPartition(topic, partition), at, max_records=777)):
                    transaction = other.producer("copy").begin()
                    transaction.append(block)
                    transaction.commit()
                    at = int(block.offsets[-1]) + 1
        assert [v for one in measured(plan, other, REGISTRY) for v in one.verdicts(MINUTE)] == once
    final = {(v.topic, v.start_us): v for v in once if v.final}
    assert len(final) > 30
    for topic, of in (("orders", ORDERS), ("rates", RATES)):
        for partition in range(2):
            write(log, topic, of, BEGUN + 20 * MINUTE + np.arange(9) * SECOND, np.full(9, 99 * MINUTE), partition)
    again = {(v.topic, v.start_us): v for one in measured(plan, log, REGISTRY) for v in one.verdicts(MINUTE)}
    assert {place: again[place] for place in final} == final and len(again) > len(final)


def test_late_rows_are_those_that_the_engine_finds_late() -> None:
    log = two_partitions(70_000)  # More than are read at once.
    each = sp.Topology("each", sinks={"orders": orders | sp.ordered(), "rates": rates | sp.ordered()})
    found = {one.topic: one.late_rows for one in measured(plan_topology(each, REGISTRY), log, REGISTRY)}
    binding = bind(each, log, REGISTRY)
    Worker(binding, log, until_end=source_ends(binding, log), close=True).run()
    letters = read_topic(log, REGISTRY, binding.names.late, REJECTED.schema.polars())
    assert min(found.values()) > 100
    assert dict(letters["topic"].value_counts().iter_rows()) == found


def test_metrics_count_each_row_by_what_its_contract_promises() -> None:
    log, metrics = two_partitions(), WorkerMetrics()
    binding = bind(JOINED, log, REGISTRY)
    telemetry = WorkerTelemetry(binding, log, None, Vital(stall_after_s=60), metrics)
    Worker(binding, log, until_end=source_ends(binding, log), close=True, observer=telemetry).run()
    for one in measured(binding.plan, log, REGISTRY):
        labels = [{"topology": "joined", "source": one.topic, "verdict": word} for word in ("ok", "warn", "late")]
        name = "streamproc_rows_by_freshness_total"
        told = {each["verdict"]: metrics.registry.get_sample_value(name, each) for each in labels}
        blocks = [log.read(TopicPartition(one.topic, p), 0, max_records=10_000) for p in range(2)]
        reader = Reader((ORDERS if one.topic == "orders" else RATES).avro, REGISTRY.schema_of)
        frames = [reader.decode(b.buffer, b.value_starts, b.value_ends).frame for b in blocks]
        times = [frame["at"].to_physical().to_numpy() for frame in frames]
        lags = np.concatenate([block.timestamps - at for block, at in zip(blocks, times, strict=True)])
        verdicts = [one.bound.verdict(lag) for lag in lags.tolist()]
        assert told == {verdict: verdicts.count(verdict) for verdict in told} and min(map(verdicts.count, told)) > 20


def test_a_joins_bound_is_its_slower_side_plus_lateness() -> None:
    plan = plan_topology(JOINED, REGISTRY)
    (join,) = joins(plan)
    assert (join.step, join.sides) == ("rate", (("orders",), ("rates",)))
    # Rates promise 5 min and warn at the half of it, orders 10 s and 4 s; rates have the greater lateness, 30 s.
    assert join.bound == Bound(150 * SECOND + 30 * SECOND, 300 * SECOND + 30 * SECOND)

    def together(order_lag: int, rate_lag: int) -> tuple[int, str]:
        lags = [TopicLags("orders", Bound(), 0), TopicLags("rates", Bound(), 0)]
        for one, lag in zip(lags, (order_lag, rate_lag), strict=True):
            one.all.add(np.full(100, lag))
        (found,) = join_lags(plan, lags)
        return found.lag_us, found.verdict

    assert together(1 * SECOND, 100 * SECOND) == (130 * SECOND, "ok")
    assert together(200 * SECOND, 100 * SECOND) == (230 * SECOND, "warn")
    assert together(1 * SECOND, 301 * SECOND) == (331 * SECOND, "late")
    # Where a side promises nothing, nobody can promise for the join.
    silent = contract("rate")
    silent_plan = plan_topology(
        sp.Topology("j", sinks={"o": orders | sp.key_by("k") | sp.as_of(
            sp.source("rates", contract=silent) | sp.key_by("k") | sp.rename(at="since"))}), REGISTRY)  # fmt: skip
    assert [one.bound for one in joins(silent_plan)] == [Bound()]


def test_what_is_proposed_would_have_been_kept() -> None:
    for found in measured(plan_topology(JOINED, REGISTRY), two_partitions(), REGISTRY):
        proposed = found.proposed
        bound = Bound(proposed["freshness_warn"], proposed["freshness"])
        assert bound.verdict(found.all.quantile(0.99)) == "ok"
        # And not by much: a bound of half the size would not.
        assert proposed["freshness_warn"] <= 3 * found.all.quantile(0.99)
        assert found.behind.quantile(0.999) <= proposed["lateness"]
    assert [rounded_up(us) for us in (1, 1_001, 40 * SECOND, 100 * 86_400 * SECOND - 1)] == [
        1_000, 2_000, MINUTE, 100 * 86_400 * SECOND,
    ]  # fmt: skip


TOPOLOGY = """
import streamproc as sp
seen = sp.Topology("seen", sinks={"out": sp.source("orders", contract="order", lateness="1s")})
"""


def test_the_command_and_check_live_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "order.v1.avsc").write_bytes(orjson.dumps(ORDERS.avro))
    Path("seen.py").write_text(TOPOLOGY)
    now = time.time_ns() // 1_000
    with EmbeddedLog(tmp_path / "log.db") as log:
        log.create_topic("orders", TopicSettings(1))
        write(log, "orders", ORDERS, now + np.arange(100), np.full(100, 2 * SECOND))
    assert command(["freshness", "seen.py", "--log", "log.db"]) == 0
    assert command(["check", "seen.py", "--live", "--log", "log.db"]) == 0
    with EmbeddedLog(tmp_path / "log.db") as log:
        write(log, "orders", ORDERS, now + 100 + np.arange(900), np.full(900, 11 * SECOND))
        plan = plan_topology(sp.Topology("s", sinks={"o": orders}), REGISTRY)
        found = freshness_findings(plan, log, REGISTRY, newest=500)
        assert len(found) == 1 and found[0].startswith("source 'orders' comes late: ")
    capsys.readouterr()
    assert command(["check", "seen.py", "--live", "--log", "log.db"]) == 1
    assert "source 'orders' comes late: of its newest records 99 in a hundred" in capsys.readouterr().out
    assert command(["freshness", "seen.py", "--log", "log.db"]) == 1
    said = capsys.readouterr().out
    assert "900 rows of 'orders' came behind its lateness of 1s: they go to 'seen.late'" in said
    assert command(["freshness", "seen.py", "--log", "log.db", "--json"]) == 1
    told = orjson.loads(capsys.readouterr().out)
    assert (told["sources"][0]["verdict"], told["sources"][0]["late_rows"], told["joins"]) == ("late", 900, [])
    assert told["verdicts"][-1]["verdict"] == "late"
    assert command(["freshness", "seen.py", "--log", "log.db", "--every", "0s"]) == 2
