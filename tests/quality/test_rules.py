"""Quality rules: what they do to rows, what they tell, and that telling changes nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstwobign

import streamproc as sp
from streamproc.batch import ROW, WIDTH, Batch
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError, RuleBroken, UnknownColumn
from streamproc.operator import StepTime
from streamproc.testing import drive

ORDER = parse_contract("""{"type": "record", "name": "order", "sp:version": 1, "fields": [
    {"name": "order_id", "type": "long", "sp:role": "key"}, {"name": "price", "type": ["null", "double"]},
    {"name": "status", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}],
    "sp:partitioner": "murmur2"}""")
MINUTE = 60_000_000
ORDERS = sp.source("orders", contract=ORDER, lateness="3m")
RULES: dict[str, Any] = {
    "price_above_zero": pl.col("price") > 0,
    "price_below_9": sp.rule.row(pl.col("price") < 9, at_most=0.2),
    "known_status": sp.rule.one_of("status", ["new", "paid"], at_most=0.25),
    "prices_there": sp.rule.null_rate("price", at_most=0.3),
    "no_repeats": sp.rule.duplicates("order_id"),
    "busy": sp.rule.volume(at_least=5, at_most=60),
}


def orders(seed: int, count: int = 800) -> pl.DataFrame:
    """Orders of 40 minutes, a silence of 15, a storm of broken prices, some rows late."""
    random = np.random.default_rng(seed)
    at = np.sort(random.integers(0, 40, count)) * MINUTE + random.integers(0, MINUTE, count)
    at[at > 20 * MINUTE] += 15 * MINUTE
    price = np.where(random.random(count) < 0.1, -1.0, 5.0)
    price[(at > 5 * MINUTE) & (at < 9 * MINUTE)] = -2.0
    swapped = np.argsort(at + random.integers(-MINUTE, MINUTE, count) * 4)
    frame = pl.DataFrame(
        {
            "order_id": random.integers(0, 600, count),
            "price": pl.Series(price).set(pl.Series(random.random(count) < 0.2), None),
            "status": pl.Series(["new", "paid", "lost"]).gather(random.choice(3, count, p=(0.5, 0.35, 0.15))),
            "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
        }
    )
    return frame[swapped]


def counted(frame: pl.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """Rows in time, by the start of their minute: one partition, row by row."""
    windows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    reached = -(2**62)
    for row, at in zip(frame.to_dicts(), frame["at"].to_physical().to_list(), strict=True):
        late = at < reached - 3 * MINUTE
        reached = max(reached, at)
        start = at // MINUTE * MINUTE
        if not late and start + MINUTE > reached - 3 * MINUTE:
            windows[start].append(row)
    return windows


def expected(frame: pl.DataFrame) -> dict[str, list[tuple[Any, ...]]]:
    """Alerts by a naive reading of the documentation: (status, since, start, windows, broken), per rule."""
    windows = counted(frame)
    out: dict[str, list[tuple[Any, ...]]] = {name: [] for name in RULES}

    def judged(name: str, rows: list[dict[str, Any]]) -> tuple[bool, int]:
        if name == "busy":
            return not 5 <= len(rows) <= 60, len(rows)
        if name == "no_repeats":
            seen: set[int] = set()
            broken = 0
            for row in rows:
                broken += row["order_id"] in seen
                seen.add(row["order_id"])
            return broken > 0, broken
        tests = {
            "price_above_zero": (lambda row: row["price"] is not None and row["price"] > 0, 0.0),
            "price_below_9": (lambda row: row["price"] is not None and row["price"] < 9, 0.2),
            "known_status": (lambda row: row["status"] in ("new", "paid"), 0.25),
            "prices_there": (lambda row: row["price"] is not None, 0.3),
        }
        test, share = tests[name]
        broken = sum(not test(row) for row in rows)
        return broken > 0 and broken / len(rows) > share, broken

    for name in RULES:
        since, told, folded, total, last = None, 0, [0, 0], [0, 0], None
        for start in sorted(windows):
            steps = [(start, start + MINUTE, 1, *judged(name, windows[start]))]
            if name == "busy" and last is not None and start > last:
                steps.insert(0, (last, start, (start - last) // MINUTE, True, 0))
            last = start + MINUTE
            for begin, end, number, broke, broken in steps:
                if not broke:
                    if since is not None:
                        out[name].append(("CLEARED", since, begin, *total))
                    since = None
                    continue
                fresh = since is None
                if fresh:
                    since, folded, total = begin, [0, 0], [0, 0]
                folded = [folded[0] + number, folded[1] + broken]
                total = [total[0] + number, total[1] + broken]
                if fresh or end - told >= 10 * MINUTE:
                    out[name].append(("RAISED" if fresh else "ONGOING", since, begin, *folded))
                    told, folded = end, [0, 0]
    return out


def topology(**more: Any) -> sp.Topology:
    checked = ORDERS | sp.rules(window="1m", remind="10m", **RULES, **more)
    return sp.Topology("shop", sinks={"orders": sp.sink(checked, topic="checked"), "alerts": checked.alerts})


def told(frame: pl.DataFrame) -> dict[str, list[tuple[Any, ...]]]:
    out: dict[str, list[tuple[Any, ...]]] = {name: [] for name in RULES}
    since, start = (frame[name].to_physical().to_list() for name in ("since", "window_start"))
    for row, s, w in zip(frame.to_dicts(), since, start, strict=True):
        out[row["rule"]].append((row["status"], s, w, row["windows"], row["broken"]))
    return out


@pytest.mark.parametrize("steps", [100_000, 37])
def test_alerts_are_those_of_a_naive_reading_however_the_stream_is_cut(steps: int) -> None:
    frame = orders(1)
    out = drive(topology(), orders=frame, steps=iter([steps] * 100_000))
    assert told(out["alerts"]) == expected(frame)
    assert {status for alerts in expected(frame).values() for status, *_ in alerts} == {"RAISED", "ONGOING", "CLEARED"}


def test_partitions_are_counted_together() -> None:
    frame = orders(2).sort("at")  # in order, so that lateness does not depend on the partition
    one, three = (drive(topology(), orders=frame, partitions=n)["alerts"] for n in (1, 3))
    assert told(one) == told(three) == expected(frame)


def test_rules_that_alert_leave_the_output_byte_for_byte_as_it_was() -> None:
    frame = orders(3)
    bare = drive(sp.Topology("shop", sinks={"orders": sp.sink(ORDERS, topic="checked")}), orders=frame)
    ruled = drive(topology(), orders=frame)
    assert ruled.sums["checked"] == bare.sums["checked"] and ruled["orders"].equals(bare["orders"])
    assert ruled.fates("orders") == bare.fates("orders")
    assert ruled.late.equals(bare.late) and ruled.dead_letters.equals(bare.dead_letters)
    assert ruled.binding.plan.sinks[1].forwards and ruled["alerts"].height > 0


def test_a_storm_is_one_alert_with_a_count() -> None:
    at = pl.Series(np.arange(10_000) * 1_000).cast(pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"order_id": range(10_000), "price": [-1.0] * 10_000, "status": ["new"] * 10_000, "at": at})
    checked = ORDERS | sp.rules(price=pl.col("price") > 0, window="1m")
    alerts = drive(sp.Topology("shop", sinks={"alerts": checked.alerts}), orders=frame)["alerts"]
    assert alerts.select("rule", "status", "broken", "rows", "measured").rows() == [
        ("price", "RAISED", 10_000, 10_000, 1.0)
    ]


def test_rows_are_tagged_or_refused_as_the_rule_says() -> None:
    frame = orders(4, 200)
    checked = ORDERS | sp.rules(
        positive=sp.rule.between("price", 0, action="tag"),
        known=sp.rule.one_of("status", ["new", "paid"], action="tag"),
        there=sp.rule.row(pl.col("price").is_not_null(), action="dead_letter"),
    )  # fmt: skip
    out = drive(sp.Topology("shop", sinks={"orders": checked}), orders=frame)
    kept = frame.filter(pl.col("price").is_not_null())
    names = [
        [name for name, bad in (("positive", row["price"] < 0), ("known", row["status"] == "lost")) if bad]
        for row in kept.to_dicts()
    ]
    assert out["orders"]["broken_rules"].to_list() == names
    assert out.dead_letters["reason"].to_list() == ["there"] * (frame.height - kept.height)
    assert not out.binding.plan.sinks[0].contract.schema["price"].nullable


def test_stop_stops_before_the_row_and_names_it() -> None:
    checked = ORDERS | sp.rules(sane=sp.rule.between("price", 0, 100, action="stop"))
    frame = orders(5, 50)
    with pytest.raises(RuleBroken, match=r"step 'rules': the row at offset \d+ breaks 'sane'.*price="):
        drive(sp.Topology("shop", sinks={"orders": checked}), orders=frame)
    fine = frame.filter(pl.col("price") > 0)
    assert drive(sp.Topology("shop", sinks={"orders": checked}), orders=fine)["orders"].height == fine.height


def test_silence_is_told_by_the_clock_once_and_again_after_a_while_and_cleared() -> None:
    operator: Any = sp.rules(newest=sp.rule.fresh(within="5m"), remind="10m").operator.fresh[0].operator  # type: ignore[attr-defined]
    state = operator.open()
    seen = []

    def tick(clock: int, *times: int) -> None:
        nonlocal state
        meta = np.zeros((len(times), WIDTH), np.int64)
        meta[:, 0], meta[:, ROW] = [time * MINUTE for time in times], 2 * np.arange(len(times)) + 1
        batch = Batch(pl.DataFrame({"x": [0] * len(times)}), meta)
        state, out = operator.process(state, (batch,), StepTime(meta[:, 0].copy(), 1, clock=clock * MINUTE))
        seen.extend((clock, row["status"], row["measured"] / 60) for row in out.rows.frame.to_dicts())

    for clock, *times in ((1, 0, 1), (5,), (6,), (7,), (12,), (17,), (20, 20), (21,)):
        tick(clock, *times)
    assert seen == [(7, "RAISED", 6.0), (17, "ONGOING", 16.0), (20, "CLEARED", 0.0)]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (sp.rules, "has no rule"), (lambda: sp.rules(a=3), "rule 'a' is int"),
        (lambda: sp.rule.row(pl.col("a"), action="halt"), "action='halt'"),  # type: ignore[arg-type]
        (lambda: sp.rule.null_rate("a", at_most=2), "a share of 2"), (sp.rule.volume, "has no bound"),
        (lambda: ORDERS.alerts, "raises no alerts"),
        (lambda: (ORDERS | sp.require(a=pl.col("price") > 0)).alerts, "raises no alerts"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused_where_they_are_written(made: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        made()


def shifting(seed: int, minutes: int = 40, rows: int = 200) -> pl.DataFrame:
    """Prices like those of the first minutes, but for minutes 20 to 26, which are dearer; 30 has few rows."""
    random = np.random.default_rng(seed)
    at = np.arange(minutes * rows) * (MINUTE // rows)
    minute = at // MINUTE
    price = random.lognormal(size=at.size) * np.where((minute >= 20) & (minute < 27), 2.0, 1.0)
    moment = pl.Series(at).cast(pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"order_id": np.arange(at.size), "price": price, "status": "new", "at": moment})
    return frame.filter((minute != 30) | (at % MINUTE < MINUTE // 10))


@pytest.mark.parametrize("test", ["psi", "ks", "chi2", "wasserstein"])
def test_a_rule_of_drift_is_broken_while_the_column_is_otherwise_than_at_first(test: str) -> None:
    dear = sp.rule.drift("price", test=test, reference=2_000)
    checked = ORDERS | sp.rules(window="1m", remind="3m", price_as_ever=dear, busy=sp.rule.volume(at_least=1))
    topology = sp.Topology("shop", sinks={"orders": sp.sink(checked, topic="checked"), "alerts": checked.alerts})
    frame = shifting(3)
    whole = drive(topology, orders=frame)
    alerts = [
        (row["status"], row["window_start"].minute, row["windows"], row["broken"])
        for row in whole["alerts"].iter_rows(named=True)
    ]
    ongoing = [("ONGOING", 23, 3, 600), ("ONGOING", 26, 3, 600)]
    assert alerts == [("RAISED", 20, 1, 200), *ongoing, ("CLEARED", 27, 7, 1400)]
    assert whole["orders"].drop("_partition", "_offset").equals(frame), "the rows go on as they came"
    cut = drive(topology, orders=frame, steps=iter([37] * 100_000))
    assert cut["alerts"].equals(whole["alerts"])


def share_below(x: float, values: list[float]) -> float:
    return sum(value <= x for value in values) / len(values)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_windows_that_drift_are_those_of_a_naive_reading_late_rows_left_out(seed: int) -> None:
    frame = orders(seed).with_columns(pl.col("order_id") + pl.col("at").to_physical() // MINUTE * 8)
    first: list[float] = []
    expected = []
    for start, rows in sorted(counted(frame).items()):
        values = [float(row["order_id"]) for row in rows]
        if len(first) < 100:
            first += values
        elif len(values) >= 15:
            n, m = len(first), len(values)
            beyond = kstwobign.isf(min(0.5, m / 2_000)) * np.sqrt((n + m) / (n * m))
            apart = [abs(share_below(x, first) - share_below(x, values)) for x in first + values]
            if max(apart) > beyond:
                expected.append(start)
    rule = sp.rule.drift("order_id", test="ks", reference=100, run_length=2_000, at_least=15)
    checked = ORDERS | sp.rules(window="1m", remind="1m", ids=rule)
    topology = sp.Topology("shop", sinks={"orders": sp.sink(checked, topic="checked"), "alerts": checked.alerts})
    alerts = drive(topology, orders=frame, steps=iter([61] * 100_000))["alerts"].filter(pl.col("status") != "CLEARED")
    assert expected and alerts["window_start"].to_physical().to_list() == expected


def test_a_rule_of_drift_keeps_its_promise_on_rows_that_do_not_drift() -> None:
    """Twenty streams of which 8,000 rows are judged, one false alarm in 4,000 rows promised: about 40 may come."""
    checked = ORDERS | sp.rules(window="1m", steady=sp.rule.drift("price", reference=4_000, run_length=4_000))
    topology = sp.Topology("shop", sinks={"orders": sp.sink(checked, topic="checked"), "alerts": checked.alerts})
    raised = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        at = np.arange(12_000) * (MINUTE // 200)
        frame = pl.DataFrame({"order_id": np.arange(at.size), "price": random.normal(size=at.size), "status": "new",
                              "at": pl.Series(at).cast(pl.Datetime("us", "UTC"))})  # fmt: skip
        raised += drive(topology, orders=frame)["alerts"]["status"].is_in(["RAISED"]).sum()
    assert 5 <= raised <= 70


def test_a_rule_of_drift_that_cannot_be_is_refused() -> None:
    with pytest.raises(DefinitionError, match="tests are ks, psi"):
        sp.rule.drift("price", test="t")
    with pytest.raises(DefinitionError, match="reference=3"):
        sp.rule.drift("price", reference=3)
    with pytest.raises(UnknownColumn, match="pric"):
        checked = ORDERS | sp.rules(dear=sp.rule.drift("pric"))
        drive(sp.Topology("shop", sinks={"alerts": checked.alerts}), orders=orders(1))
