"""Features served two ways: the same bytes as the topology's table, and the way that costs less, without flapping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from feature_shop import AT

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError, InputError, TypeMismatch, UnknownColumn, UnknownTopic
from streamproc.graph import Step, Stream
from streamproc.operators import row_store
from streamproc.ports import Log, TopicPartition, TopicSettings
from streamproc.runtime import kept_rows, two_ways
from streamproc.runtime.reading import read_topic
from streamproc.testing import drive
from streamproc.testing.drive import Driven, append_frame
from streamproc.testing.memory_log import MemoryLog
from streamproc.wire import Encoder

_NOW = 2**60


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways change for next to nothing, and old rows go at once, so that both happen all the time."""
    monkeypatch.setattr(row_store, "_COMPACT_FROM", 4)
    monkeypatch.setattr(kept_rows, "_TIDY_FROM", 8)
    for constant in ("CHANGE", "RETAKEN", "SCANNED"):
        monkeypatch.setattr(two_ways, constant, 0.0)


WAYS = ("auto", "precomputed", "on demand")
SALE = parse_contract("""{"type": "record", "name": "sale", "sp:version": 1, "sp:partitioner": "murmur2", "fields": [
    {"name": "card", "type": "string", "sp:role": "key"},
    {"name": "n", "type": "long"},
    {"name": "x", "type": ["null", "double"], "default": null},
    {"name": "i", "type": "long"},
    {"name": "s", "type": ["null", "string"], "default": null},
    {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")

LATENESS = "20us"
sales = sp.source("sales", contract=SALE, lateness=LATENESS) | sp.key_by("card")
in_order = sales | sp.ordered()

SPANNED: dict[str, Any] = {
    "rows": sp.count().over("40us"), "with_x": sp.count("x").over("9us"), "sum_x": sp.total("x").over("25us"),
    "sum_i": sp.total("i").over("40us"), "sum_d": sp.total("d").over("40us"), "mean_x": sp.mean("x").over("25us"),
    "var_x": sp.var("x").over("40us"), "min_x": sp.min("x").over("9us"), "max_i": sp.max("i").over("25us"),
    "first_s": sp.first("s").over("40us"), "last_x": sp.last("x").over("25us"), "often": sp.top_k("i", 2).over("40us"),
    "since": sp.time_since_last().over("9us"), "kinds": sp.distinct("x").over("40us"),
    "kinds_s": sp.distinct("s").over("9us"), "often_s": sp.top_k("s", 3).over("25us"),
    "middle": sp.quantile("x", 0.5).over("40us"), "usual": sp.ewma("x", "7us").over("40us"),
    "rising": sp.trend("x").over("25us"),
    "big": sp.count().where(pl.col("x") > 1).over("40us"), "zero": sp.max("x").over("3us").default(0.0),
    "known": sp.min("i").where(pl.col("x") > 2).over("3us").indicator(7),
    "carried": sp.mean("x").over("3us").carry("15us"),
}  # fmt: skip
"""All that both ways can compute."""
KEPT_OTHERWISE: dict[str, Any] = {
    "ever": sp.total("x").ever(), "first": sp.first("i").ever(), "tiled": sp.total("x").over("40us", hop="10us"),
    "least_s": sp.min("s").over("25us"),
}  # fmt: skip
DERIVED: dict[str, Any] = {
    "share": pl.col("big") / pl.col("rows"), "twice": sp.derived(pl.col("share") * 2 + pl.col("x")).default(-1.0),
    "of_ever": pl.col("sum_i") / pl.col("ever"),
}  # fmt: skip


def random_sales(seed: int, rows: int = 260, *, cards: int = 6) -> pl.DataFrame:
    """Sales of a few cards that fall silent and come again, out of order, at one moment, some behind the lateness."""
    random = np.random.default_rng(seed)
    at = np.cumsum(random.integers(0, 4, rows) + 90 * (random.random(rows) < 0.02))
    at = at - random.integers(0, 18, rows) * (random.random(rows) < 0.3) - 40 * (random.random(rows) < 0.03)
    x = random.choice([0.1, -0.1, 1e16, -1e16, 2.5, 7.0, np.nan, np.inf], rows)
    here = [int(random.integers(1 + (place // 40) % cards)) for place in range(rows)]
    return pl.DataFrame({
        "card": [f"c{card}" for card in here], "n": np.arange(rows),
        "x": [None if random.random() < 0.1 else float(one) for one in x], "i": random.integers(-3, 4, rows),
        "s": [None if random.random() < 0.1 else str(random.choice(["a", "ä", "", "long text"])) for _ in range(rows)],
        "d": pl.Series(random.integers(-500, 500, rows)).cast(pl.Decimal(12, 0)) / 100,
        "at": [AT + timedelta(microseconds=int(one)) for one in at],
    }).with_columns(pl.col("d").cast(pl.Decimal(12, 2)))  # fmt: skip


def ran_with(rows: Stream, step: Step, frame: pl.DataFrame, partitions: int = 2, **more: Any) -> Driven:
    """The rows, the features of each, and their table."""
    made = rows | step
    sinks = {"rows": sp.sink(rows, key="card"), "features": made, "newest": sp.sink(made, latest=True)}
    return drive(sp.Topology("t", sinks=sinks), sales=frame, partitions=partitions, contracts=(SALE,), **more)


def served(log: Log, ran: Driven, step: Step, way: str = "auto", **more: Any) -> sp.ServedFeatures:
    given: dict[str, Any] = {"topic": "t.rows", "key": ("card",), "at": "at", "clock": lambda: _NOW, **more}
    return sp.ServedFeatures(features=step, log=log, registry=ran.binding.registry, way=way, **given)


Place = tuple[int, int]


def copied(ran: Driven, topic: str, chance: np.random.Generator) -> Iterator[tuple[Log, set[Place]]]:
    """The topic, growing in another log; and the places (partition, offset) that are there."""
    log = MemoryLog(now=_NOW)
    count = ran.log.topics()[topic].partitions
    log.create_topic(topic, TopicSettings(count))
    at = [0] * count
    there: set[Place] = set()
    ends = [ran.log.end_offset(TopicPartition(topic, number)) for number in range(count)]
    yield log, there
    while at != ends:
        transaction = log.producer("copies").begin()
        for number in range(count):
            n = min(ends[number] - at[number], int(chance.integers(0, 12)))
            if n:
                transaction.append(ran.log.read(TopicPartition(topic, number), at[number], max_records=n))
                there |= {(number, place) for place in range(at[number], at[number] + n)}
                at[number] += n
        transaction.commit()
        yield log, there


def bits(row: Any) -> Any:
    """Values in which equal means equal bits."""
    if isinstance(row, float):
        return row.hex()
    if isinstance(row, dict):
        return {name: bits(value) for name, value in row.items()}
    return [bits(value) for value in row] if isinstance(row, list) else row


def check_all_ways(
    rows: Stream, step: Step, frame: pl.DataFrame, seed: int, *, topic: str = "t.rows", **more: Any
) -> int:
    """Every way gives at any time what the newest row of a key carries; gives how often ways changed."""
    ran = ran_with(rows, step, frame)
    chance = np.random.default_rng(seed)
    features = ran["features"]
    offsets = places_of(ran, topic)
    carried = {offsets[row["n"]]: row for row in features.iter_rows(named=True)}
    by_card: dict[str, list[tuple[int, int]]] = {}
    for place in sorted(carried):
        by_card.setdefault(carried[place]["card"], []).append(place)
    assert features.height == len(carried)
    readers: list[sp.ServedFeatures] = []
    for log, there in copied(ran, topic, chance):
        readers = readers or [served(log, ran, step, way, topic=topic, **more) for way in WAYS]
        for reader in readers:
            reader.refresh()
        for card in chance.choice(sorted(by_card), int(chance.choice([0, 1, 9]))):
            known = [place for place in by_card[card] if place in there]
            expected = {} if not known else {
                name: value for name, value in carried[known[-1]].items() if name not in ("_partition", "_offset")
            }  # fmt: skip
            for reader in readers:
                answer = reader.read(card)
                assert bits(dict(answer.row)) == bits(expected), (reader.way, card)
                assert list(answer.row) == list(expected)
    newest = sp.FeatureTable("t.newest", ran.log, ran.binding.registry, ("card",), "at", lambda: _NOW)
    newest.refresh()
    contract = next(sink.contract for sink in ran.binding.plan.sinks if sink.name == "newest")
    for card in by_card:
        record = record_of(ran, newest, card)
        for reader in readers:
            answer = reader.read(card)
            assert (answer.as_of, answer.age_us) == (newest.read(card).as_of, newest.read(card).age_us)
            assert encoded(contract, dict(answer.row)) == record
    assert [reader.late for reader in readers] == [frame.height - features.height if topic == "sales" else 0] * 3
    return int(readers[0].explain()["changes"].sum())


def places_of(ran: Driven, topic: str) -> dict[int, tuple[int, int]]:
    """Where the row with each number is."""
    rows = read_topic(ran.log, ran.binding.registry, topic)
    return {n: (partition, offset) for n, partition, offset in rows.select("n", "_partition", "_offset").rows()}


def record_of(ran: Driven, table: sp.FeatureTable, card: str) -> bytes:
    """The value of the newest record of a key in the compacted topic, without the schema's id."""
    found = b""
    for number in range(ran.log.topics()["t.newest"].partitions):
        block = ran.log.read(TopicPartition("t.newest", number), 0)
        for row in range(len(block)):
            if block.key(row) == card.encode():
                found = (block.value(row) or b"")[5:]
    return found


def encoded(contract: Any, row: dict[str, Any]) -> bytes:
    frame = pl.DataFrame([row], schema=contract.schema.polars())
    made = Encoder(contract.avro).encode(frame, schema_id=None)
    return made.buffer[made.starts[0] : made.ends[0]].tobytes()


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_give_at_any_time_the_bytes_of_the_compacted_table(seed: int) -> None:
    step = sp.features(status=bool(seed % 2), **SPANNED, **KEPT_OTHERWISE, **DERIVED)
    assert check_all_ways(in_order, step, random_sales(seed), seed) > 60


@pytest.mark.usefixtures("restless")
def test_each_feature_by_itself_is_the_same_both_ways() -> None:
    frame, changes = random_sales(11, 90), 0
    for name, one in SPANNED.items():
        changes += check_all_ways(in_order, sp.features(**{name: one}), frame, 5)
    assert changes > len(SPANNED) / 2


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("seed", range(3))
def test_rows_behind_others_and_late_ones_count_as_in_the_topology(seed: int) -> None:
    """The source's own topic, in the order of arrival: rows lie behind others of their key, and some are late."""
    step = sp.features(status=True, max_lag="12us", **SPANNED, **DERIVED, ever=sp.max("x").ever())
    check_all_ways(sales, step, random_sales(seed + 20), seed, topic="sales", lateness=LATENESS)


@pytest.mark.usefixtures("restless")
def test_events_that_had_to_go_and_coverage_take_values_away_both_ways_alike() -> None:
    given: dict[str, Any] = {"events_per_key": 4, "at_bound": "not_covered", "status": True}
    some = sp.features(**given, **{name: one for name, one in SPANNED.items() if name != "rows"})
    made = ran_with(in_order, some, random_sales(32))["features"]
    assert 0 < (made["with_x_status"] == "NOT_COVERED").sum() < made.height
    assert check_all_ways(in_order, some, random_sales(32), 32) > 20
    all_ = sp.features(ever=sp.total("x").ever(), **given, **SPANNED, **DERIVED)
    assert check_all_ways(in_order, all_, random_sales(31), 31) == 0, "one part, of which a member is not kept"
    covered = sp.Coverage(since="2026-11-01T00:00:00.000060Z")
    check_all_ways(in_order, sp.features(coverage=covered, status=True, **SPANNED), random_sales(33), 33)


@pytest.mark.usefixtures("restless")
def test_features_of_nothing_but_rows_are_served() -> None:
    check_all_ways(in_order, sp.features(n_rows=sp.count().over("30us")), random_sales(41), 41)


@pytest.mark.usefixtures("restless")
def test_several_sources_are_served_from_their_common_stream() -> None:
    other = sp.source("others", contract=SALE, lateness=LATENESS) | sp.key_by("card")
    rows = sp.together(sales=sales, others=other) | sp.ordered("n")
    step = sp.features(both=sp.total("x").over("40us"), mine=sp.count().of("others").over("25us"),
                       who=sp.contributors().over("9us"))  # fmt: skip
    made = rows | step
    frames = {"sales": random_sales(51), "others": random_sales(52).with_columns(n=pl.col("n") + 1_000)}
    sinks = {"rows": rows, "newest": sp.sink(made, latest=True)}
    ran = drive(sp.Topology("t", sinks=sinks), frames, partitions=2, contracts=(SALE,))
    newest = sp.FeatureTable("t.newest", ran.log, ran.binding.registry, ("card",), "at", lambda: _NOW)
    newest.refresh()
    for way in WAYS:
        reader = served(ran.log, ran, step, way)
        reader.refresh()
        for card in sorted(frames["sales"]["card"].unique()):
            assert bits(dict(reader.read(card).row)) == bits(dict(newest.read(card).row))


def test_a_row_that_deletes_its_key_counts_and_leaves_nothing_known_until_the_next() -> None:
    contract = parse_contract("""{"type": "record", "name": "stock", "sp:version": 1, "fields": [
        {"name": "card", "type": "string", "sp:role": "key"}, {"name": "n", "type": ["null", "long"], "default": null},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
    rows = sp.table("stocks", contract=contract) | sp.ordered()
    step = sp.features(seen=sp.count().over("10us"))
    sinks = {"rows": rows, "newest": sp.sink(rows | step, latest=True)}
    told = pl.DataFrame({"card": ["a", "b", "a", "a", "b"], "n": [1, 2, None, 4, None], "at": [1, 2, 3, 4, 5],
                         "deleted": [False, False, True, False, True]})  # fmt: skip
    ran = drive(sp.Topology("t", sinks=sinks), stocks=told, contracts=(contract,))
    newest = sp.FeatureTable("t.newest", ran.log, ran.binding.registry, ("card",), "at", lambda: _NOW)
    newest.refresh()
    for way in WAYS:
        reader = served(ran.log, ran, step, way, deletes="deleted")
        reader.refresh()
        assert reader.read("a") == newest.read("a") and reader.read("a").row["seen"] == 3
        assert reader.read("b") == newest.read("b") == reader.read("nobody")


class Trace:
    """Writes and reads of a few cards, one after the other."""

    def __init__(self, step: Step, way: str = "auto", **more: Any) -> None:
        self.log, self.moment, self.number = MemoryLog(now=_NOW), 0, 0
        self.log.create_topic("t.rows", TopicSettings(1))
        self.registry = drive(sp.Topology("t", sinks={"rows": in_order}), contracts=(SALE,)).binding.registry
        self.reader = sp.ServedFeatures("t.rows", step, self.log, self.registry, ("card",), "at", lambda: _NOW, way=way)

    def write(self, *cards: str) -> None:
        """A row of each of these cards, taken in at once."""
        self.moment += 1
        n = len(cards)
        at = [AT + timedelta(microseconds=self.moment)] * n
        self.number += n
        rows = pl.DataFrame({"card": cards, "n": [self.number] * n, "x": [0.1 * self.number] * n, "i": [0] * n,
                             "s": ["a"] * n, "d": [1] * n, "at": at})  # fmt: skip
        append_frame(self.log, self.registry, "t.rows", SALE, rows)
        self.reader.refresh()

    def costs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Of each feature."""
        told = self.reader.explain()
        return {name: told[name].to_numpy() for name in ("precomputed", "on_demand", "spent")}

    def ways(self) -> set[str]:
        return set(self.reader.explain()["way"])


CARDS = tuple(f"c{i}" for i in range(4))
THREE: dict[str, Any] = {
    "rows": sp.count().over("60us"), "sum": sp.total("x").over("30us"), "middle": sp.quantile("x", 0.5).over("30us"),
    "share": pl.col("sum") / pl.col("rows"),
}  # fmt: skip


def read_heavy(trace: Trace, steps: int) -> None:
    for _ in range(steps):
        trace.write(*CARDS)
        for card in CARDS:
            trace.reader.read(card)


def write_heavy(trace: Trace, steps: int) -> None:
    for step in range(steps):
        trace.write(*CARDS)
        if step % 20 == 0:
            trace.reader.read(CARDS[step % 4])


def test_reads_then_writes_then_reads_go_the_right_way_for_a_tenth_more_than_the_best_in_hindsight() -> None:
    auto = Trace(sp.features(**THREE))
    best, before = 0.0, dict.fromkeys(("precomputed", "on_demand"), 0.0)
    for phase, right in ((read_heavy, "precomputed"), (write_heavy, "on demand")) * 2:
        phase(auto, 60)
        assert auto.ways() == {right}, "it has turned soon after the load has"
        phase(auto, 600)
        assert auto.ways() == {right}
        costs = auto.costs()
        grew = {name: costs[name] - before[name] for name in before}
        best += float(np.minimum(grew["precomputed"], grew["on_demand"]).sum())
        before = {name: costs[name] for name in before}
    told = auto.reader.explain()
    assert told["changes"].to_list() == [4, 4, 4, 4]
    assert best < told["spent"].sum() <= 1.1 * best


def test_what_the_other_way_would_have_cost_is_what_it_costs_where_it_alone_is_gone() -> None:
    told = {}
    for way in WAYS:
        trace = Trace(sp.features(**THREE), way)
        read_heavy(trace, 30)
        write_heavy(trace, 40)
        told[way] = trace.costs()
        assert trace.ways() == {"on demand" if way == "auto" else way}
    for way, name in (("precomputed", "precomputed"), ("on demand", "on_demand")):
        assert told[way]["spent"].tolist() == pytest.approx(told["auto"][name].tolist(), rel=1e-12)


def test_at_break_even_ways_change_a_handful_of_times() -> None:
    trace = Trace(sp.features(**{name: THREE[name] for name in ("rows", "sum")}))
    chance = np.random.default_rng(3)
    for _ in range(400):
        trace.write(*CARDS)
        for card in chance.choice(CARDS, int(chance.integers(0, 3)), replace=False):
            trace.reader.read(card)
    told = trace.reader.explain()
    assert 0.9 < told["on_demand"][0] / told["precomputed"][0] < 1.1
    assert max(told["changes"]) <= 6


def test_a_load_that_asks_for_what_is_not_ready_costs_at_most_three_times_the_best_in_hindsight() -> None:
    """Rows while it is precomputed, reads while it is on demand; the best changes are found by trying all of them."""
    trace = Trace(sp.features(rows=sp.count().over("60us")))
    ready, not_ready = np.inf, 0.0  # the least cost so far of ending precomputed, or on demand, where it begins
    before, change = (0.0, 0.0), 0.0
    for _ in range(240):
        if trace.ways() == {"on demand"}:
            read_heavy(trace, 1)
        else:
            trace.write(*CARDS)
        told = trace.reader.explain().row(0, named=True)
        parts = trace.reader._parts
        assert parts is not None
        change = parts.parts[0].account.change_cost(parts.kept[0].rows.live, 1)
        ready, not_ready = min(ready, not_ready + change), min(not_ready, ready)
        ready += told["precomputed"] - before[0]
        not_ready += told["on_demand"] - before[1]
        before = told["precomputed"], told["on_demand"]
    assert told["changes"] > 20
    assert told["best"] < told["spent"] <= 3 * min(ready, not_ready) + 2 * change


def test_a_feature_that_nobody_reads_stays_on_demand_while_others_are_precomputed() -> None:
    trace = Trace(sp.features(rows=sp.count().over("60us"), middle=sp.quantile("x", 0.5).over("60us")))
    for _ in range(30):
        trace.write(*CARDS)
        for card in CARDS:
            assert list(trace.reader.read(card, features=("rows",)).row)[-1] == "rows"
    told = trace.reader.explain()
    assert told["way"].to_list() == ["precomputed", "on demand"]
    assert (told["on_demand"][1], told["spent"][1]) == (0.0, 0.0)
    with pytest.raises(UnknownColumn, match="'row' is none of the features"):
        trace.reader.read(CARDS[0], features=("row",))


def test_the_same_trace_gives_the_same_choices() -> None:
    told = []
    for now in (0, 2**50):
        trace = Trace(sp.features(**THREE))
        trace.reader.clock = lambda now=now: now  # type: ignore[misc]
        read_heavy(trace, 12)
        write_heavy(trace, 15)
        told.append(trace.reader.explain())
    assert told[0].equals(told[1])


def test_a_second_read_of_a_key_costs_nothing_until_its_next_row() -> None:
    trace = Trace(sp.features(**THREE), "on demand")
    trace.write(*CARDS)
    first = trace.reader.read(CARDS[0])
    spent, hits = trace.costs()["spent"].sum(), trace.reader.hits
    assert (spent > 0, hits) == (True, 0)
    trace.write(CARDS[1])
    assert trace.reader.read(CARDS[0]) == first and trace.reader.hits == 1
    assert trace.costs()["spent"].sum() == spent
    trace.write(CARDS[0])
    assert trace.reader.read(CARDS[0]) != first and trace.reader.hits == 1
    assert trace.reader.hit_ratio == pytest.approx(1 / 3)


def test_what_is_read_again_by_name_is_counted_once() -> None:
    trace = Trace(sp.features(**THREE), "on demand")
    trace.write(*CARDS)
    trace.reader.read(CARDS[0], features=("rows",))
    spent = trace.costs()["spent"].tolist()
    trace.reader.read(CARDS[0], features=("sum", "rows"))
    assert trace.costs()["spent"].tolist() == spent and spent[0] == spent[1] == spent[3] > spent[2] == 0.0
    trace.reader.read(CARDS[0])
    assert trace.costs()["spent"][:2].tolist() == spent[:2]
    assert trace.costs()["spent"][2] > 0


def test_a_change_is_paid_for_and_makes_keys_known_that_nobody_has_read() -> None:
    trace = Trace(sp.features(rows=sp.count().over("60us")))
    trace.write("never read")
    while trace.ways() == {"on demand"}:
        trace.write(CARDS[0])
        trace.write(CARDS[1])
        for card in ("c0", "c1"):
            if trace.ways() == {"on demand"}:
                trace.reader.read(card)
    parts = trace.reader._parts
    assert parts is not None
    told = trace.reader.explain().row(0, named=True)
    assert told["spent"] == told["on_demand"] + parts.parts[0].account.change_cost(parts.kept[0].rows.live, 1)
    hits = trace.reader.hits
    assert trace.reader.read("never read").row["rows"] == 1
    assert trace.reader.hits == hits + 1


def test_rows_older_than_two_longest_spans_are_let_go_of_and_silent_keys_stay_known() -> None:
    """A thousand rows at a time, over 400 spans; each key has ten rows within a span and then never another one."""
    step = sp.features(rows=sp.count().over("100us"), middle=sp.quantile("x", 0.5).over("60us"))
    made = {}
    for way in WAYS:
        log = MemoryLog(now=_NOW)
        log.create_topic("t.rows", TopicSettings(1))
        registry = drive(sp.Topology("t", sinks={"rows": in_order}), contracts=(SALE,)).binding.registry
        reader = sp.ServedFeatures("t.rows", step, log, registry, ("card",), "at", lambda: _NOW, way=way)
        most, total = 0, 0
        for number in range(40):
            at = np.arange(1_000) + 1_000 * number
            moments = [AT + timedelta(microseconds=int(t)) for t in at]
            rows = pl.DataFrame({"card": [f"k{t // 10}" for t in at], "n": at, "x": at * 1.0, "i": at,
                                 "s": ["a"] * 1_000, "d": [1] * 1_000, "at": moments})  # fmt: skip
            append_frame(log, registry, "t.rows", SALE, rows)
            reader.refresh()
            total += 1_000
            kept = reader._parts.kept[0].rows  # type: ignore[union-attr]
            most = max(most, kept.used)
        assert most < 4_000 and len(reader) == total // 10
        assert len(reader._parts.kept[0].key_of) < 400  # type: ignore[union-attr]
        answers = [reader.read(f"k{key}").row for key in range(0, 4_000, 7)]
        made[way] = [(answer["rows"], answer["middle"]) for answer in answers]
    assert made["auto"] == made["precomputed"] == made["on demand"]
    assert made["auto"][0] == (10, 4.5)


def test_what_cannot_be_served_is_said() -> None:
    ran = ran_with(in_order, sp.features(rows=sp.count().over("5us")), random_sales(1, 20))
    step = sp.features(rows=sp.count().over("5us"))
    with pytest.raises(UnknownTopic, match=r"no topic 't\.row'"):
        served(ran.log, ran, step, topic="t.row")
    with pytest.raises(InputError, match="served with the step 'where'"):
        served(ran.log, ran, sp.where(pl.col("x") > 1))
    with pytest.raises(InputError, match="way='fast' is none"):
        served(ran.log, ran, step, "fast")
    with pytest.raises(InputError, match="need a key"):
        served(ran.log, ran, step, key=())
    with pytest.raises(UnknownColumn, match="no column 'when'"):
        served(ran.log, ran, step, at="when").refresh()
    with pytest.raises(UnknownColumn, match="'amount'"):
        served(ran.log, ran, sp.features(spend=sp.total("amount").over("5us"))).refresh()
    with pytest.raises(DefinitionError, match="where entities merge and split"):
        served(ran.log, ran, sp.features(corrections=True, rows=sp.count().over("5us"))).refresh()
    other = parse_contract(json.dumps({**SALE.avro, "sp:version": 2, "fields": [
        {**one, "type": "string"} if one["name"] == "i" else one for one in SALE.avro["fields"]]}))  # fmt: skip
    log = MemoryLog(now=_NOW)
    log.create_topic("t.rows", TopicSettings(1))
    append_frame(log, ran.binding.registry, "t.rows", SALE, random_sales(1, 5))
    append_frame(log, ran.binding.registry, "t.rows", other, random_sales(1, 5).cast({"i": pl.String}))
    with pytest.raises(TypeMismatch, match=r"'i' of 't\.rows' was Int64, and is String now"):
        served(log, ran, sp.features(sum_i=sp.total("i").over("5us"))).refresh()
