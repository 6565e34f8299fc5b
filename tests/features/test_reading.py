"""Reading features: the newest in a microsecond from a table, the past from a history, training rows bit for bit."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from feature_shop import AT, CHARGEBACK, PAYMENT, chargebacks, payments, topology

import streamproc as sp
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import InputError, TypeMismatch, UnknownColumn, UnknownTopic
from streamproc.ports import TopicPartition, TopicSettings, block_of
from streamproc.runtime.reading import read_blocks, read_topic
from streamproc.runtime.replay import replay_by_event_time
from streamproc.runtime.training_set import Labels, training_set
from streamproc.testing import drive
from streamproc.testing.drive import Driven, append_frame
from streamproc.testing.memory_log import MemoryLog
from streamproc.wire import Encoder

_NOW = 2**60


@pytest.fixture(scope="module")
def ran() -> Driven:
    return drive(topology(), payments=payments(), contracts=(PAYMENT,), partitions=2)


def table(ran: Driven, clock: Any = lambda: _NOW) -> sp.FeatureTable:
    return sp.FeatureTable("cards.newest", ran.log, ran.binding.registry, ("card_id",), "paid_at", clock)


def test_a_table_answers_the_newest_row_of_a_key_with_its_moment_and_age(ran: Driven) -> None:
    newest = table(ran)
    assert newest.refresh() == 400 and newest.refresh() == 0
    features = ran["features"]
    for card in features["card_id"].unique():
        last = features.filter(pl.col("card_id") == card).sort("_offset").row(-1, named=True)
        answer = newest.read(card)
        assert dict(answer.row) == {name: value for name, value in last.items() if not name.startswith("_")}
        moment = (last["paid_at"] - AT) // timedelta(microseconds=1) + int(AT.timestamp() * 1e6)
        assert (answer.as_of, answer.age_us) == (moment, _NOW - moment)
    unknown = newest.read("nobody")
    assert (unknown.row, unknown.as_of, unknown.age_us) == ({}, None, None)


def test_a_record_without_value_deletes_its_key_and_later_ones_bring_it_back() -> None:
    log, registry = MemoryLog(now=_NOW), MemoryRegistry((PAYMENT,))
    log.create_topic("t", TopicSettings(1, compacted=True))
    rows = payments(4, 1)
    append_frame(log, registry, "t", PAYMENT, rows)
    held = sp.FeatureTable("t", log, registry, ("card_id",), "paid_at")
    held.refresh()
    assert held.read("c0").row["payment_id"] == "p3" and len(held) == 1
    transaction = log.producer("deletes").begin()
    transaction.append(block_of("t", 0, [None], keys=[b"c0"]))
    transaction.commit()
    held.refresh()
    assert held.read("c0").as_of is None and len(held) == 0
    append_frame(log, registry, "t", PAYMENT, rows.head(1))
    held.refresh()
    assert held.read("c0").row["payment_id"] == "p0"


def test_no_answer_lacks_what_was_committed_longer_ago_than_the_bound_and_the_rest_are_hits() -> None:
    now = _NOW
    log, registry = MemoryLog(now=_NOW), MemoryRegistry((PAYMENT,))
    log.create_topic("t", TopicSettings(2))
    held = sp.FeatureTable("t", log, registry, ("card_id",), "paid_at", lambda: now, fresh="10us")
    chance = np.random.default_rng(8)
    committed: list[tuple[int, str, str]] = []
    rows = payments(300, 3)
    again, reads = 0, 0
    for number in range(rows.height):
        append_frame(log, registry, "t", PAYMENT, rows.slice(number, 1))
        committed.append((now, rows["card_id"][number], rows["payment_id"][number]))
        for _ in range(int(chance.integers(0, 4))):
            now += int(chance.integers(0, 7))
            card, before = str(rows["card_id"][int(chance.integers(0, number + 1))]), held.hits
            answer = held.read(card)
            again, reads = again + (held.hits == before), reads + 1
            names = [name for _, _, name in committed]
            seen = names.index(answer.row["payment_id"]) if answer.row else -1
            for place, (moment, whose, _) in enumerate(committed):
                assert place <= seen or whose != card or now - moment <= 10
            if held.hits == before:
                # A read that refreshed equals the recomputation from all that is committed.
                assert answer.row["payment_id"] == [c for c in committed if c[1] == card][-1][2]
    assert (held.reads, held.hits) == (reads, reads - again)
    assert 0 < held.hit_ratio < 1


def test_a_hundred_features_of_one_key_are_read_in_less_than_a_hundred_microseconds() -> None:
    log, registry = MemoryLog(now=_NOW), MemoryRegistry(())
    wide = pl.DataFrame({"k": [f"k{i}" for i in range(1_000)], "at": [AT] * 1_000}).with_columns(
        pl.lit(float(i)).alias(f"f{i}") for i in range(100)
    )
    from streamproc.contracts.derive import contract_of
    from streamproc.contracts.model import Field, Schema

    schema = Schema(tuple(Field(name, dtype) for name, dtype in wide.schema.items()))
    contract = contract_of("wide", schema, event_time="at", key=("k",))
    registry.adopt(contract)
    log.create_topic("wide", TopicSettings(1))
    append_frame(log, registry, "wide", contract, wide)
    held = sp.FeatureTable("wide", log, registry, ("k",), "at")
    held.refresh()
    spent = []
    for i in range(2_000):
        begin = time.perf_counter_ns()
        answer = held.read(f"k{i % 1_000}")
        spent.append(time.perf_counter_ns() - begin)
        assert len(answer.row) == 102
    # Half of the limit at the median, so that a busy machine does not decide.
    assert np.median(spent) < 50_000


def test_the_past_is_read_from_the_history_and_from_a_file_alike(ran: Driven, tmp_path: Path) -> None:
    rows = ran["features"]
    path = tmp_path / "features.parquet"
    rows.write_parquet(path)
    keys = {"card_id": ["c3", "nobody", "c0", "c3"]}
    for moment in (AT + timedelta(hours=1), AT + timedelta(hours=2, seconds=7)):
        expected = []
        for card in keys["card_id"]:
            seen = rows.filter((pl.col("card_id") == card) & (pl.col("paid_at") <= moment))
            expected.append(seen.sort("paid_at", "_offset").row(-1, named=True)["payment_id"] if seen.height else None)
        asked = {"at": "paid_at", "as_of": moment.isoformat()}
        found = sp.read_features("cards.features", keys, log=ran.log, registry=ran.binding.registry, **asked)
        assert found["payment_id"].to_list() == expected
        assert found["_age_us"].to_list()[1] is None
        assert found["_age_us"][0] == int(moment.timestamp() * 1e6) - found["_as_of"][0] >= 0
        assert sp.read_features(path, keys, **asked).equals(found)
    now = sp.read_features(path, keys, at="paid_at", clock=lambda: _NOW)
    assert now["_age_us"][0] == _NOW - now["_as_of"][0]


def test_what_cannot_be_read_is_said(ran: Driven) -> None:
    log, registry = ran.log, ran.binding.registry
    with pytest.raises(UnknownTopic, match=r"no topic 'cards\.newst'"):
        sp.FeatureTable("cards.newst", log, registry, ("card_id",), "paid_at")
    with pytest.raises(UnknownColumn, match="no column 'at'"):
        sp.FeatureTable("cards.newest", log, registry, ("card_id",), "at").refresh()
    with pytest.raises(InputError, match="not clear of which log"):
        sp.read_features("cards.features", {"card_id": ["c0"]}, at="paid_at", log=log)
    with pytest.raises(InputError, match=r"do not say what a record of 'cards\.features' holds"):
        sp.read_features("cards.features", {"card_id": ["c0"]}, at="paid_at", log=log, registry=MemoryRegistry(()))


def test_a_training_row_is_the_live_row_of_its_moment_byte_for_byte(ran: Driven) -> None:
    """Live on two partitions, cut as it came; the training set from a replay by event time."""
    binding, run, _ = replay_by_event_time(topology(), ran.log, ran.binding.registry, MemoryLog(now=_NOW))
    planned = next(sink for sink in binding.plan.sinks if sink.name == "features")
    replayed = read_topic(run, ran.binding.registry, planned.topic).drop("_partition", "_offset")
    labels = chargebacks(payments())
    made = training_set(replayed, labels, Labels(("payment_id",), "is_fraud", "reported_at"))
    assert made.height == 400
    encoded = Encoder(planned.contract.avro).encode(made.select(planned.contract.schema.names), schema_id=None)
    training = {encoded.buffer[a:b].tobytes() for a, b in zip(encoded.starts, encoded.ends, strict=True)}
    live = {
        block.value(row)[5:]  # type: ignore[index]  # without the id of the schema; none is a deletion
        for block in read_blocks(ran.log, "cards.features")
        for row in range(len(block))
    }
    assert training == live and len(live) == 400


def test_a_history_that_begins_in_the_middle_gives_the_same_bits_once_the_longest_span_is_behind_it() -> None:
    """Amounts of which a running sum forgets: whoever came before the middle must show in no bit after it."""
    paid = payments(1_500).with_columns(amount=pl.col("amount") * 10.0 ** (15 - pl.int_range(pl.len()) // 100))
    ran = drive(topology(), payments=paid, contracts=(PAYMENT,), partitions=2)
    places = [TopicPartition("payments", number) for number in range(2)]
    middle = {place: ran.log.end_offset(place) // 4 for place in places}
    registry = ran.binding.registry
    begun, run, _ = replay_by_event_time(topology(), ran.log, registry, MemoryLog(now=_NOW), starts=middle)
    sink = next(one for one in begun.plan.sinks if one.name == "features")
    part = read_topic(run, registry, sink.topic).drop("_partition", "_offset", "first")
    first = part["paid_at"].min()
    assert isinstance(first, datetime)
    later = part.filter(pl.col("paid_at") > first + timedelta(hours=6, minutes=2)).sort("payment_id")
    whole = ran["features"].select(part.columns).join(later, on="payment_id", how="semi").sort("payment_id")
    assert 300 < later.height < part.height < 1_500
    assert later.equals(whole, null_equal=True)
    # What a plain running sum of all amounts, less those before the middle, has forgotten by then.
    amounts = paid["amount"].to_list()
    assert sum(amounts) - sum(amounts[:700]) != math.fsum(amounts[700:])


def test_each_source_has_its_own_lateness() -> None:
    """A chargeback comes nine minutes behind others and counts; a payment two minutes behind others is late."""
    card = {"card_id": "c", "payment_id": "p"}
    paid = pl.DataFrame([{**card, "amount": 1.0, "paid_at": AT + timedelta(minutes=m)} for m in (0, 10, 8, 30)])
    back = pl.DataFrame([{**card, "is_fraud": 1, "reported_at": AT + timedelta(minutes=m)} for m in (0, 10, 1, 30)])
    sources = {
        "paid": sp.source("payments", contract=PAYMENT, lateness="1m") | sp.select("card_id", at=pl.col("paid_at")),
        "back": sp.source("chargebacks", contract=CHARGEBACK, lateness="10m")
        | sp.select("card_id", "is_fraud", at=pl.col("reported_at")),
    }
    both = sp.together(**{name: one | sp.key_by("card_id") for name, one in sources.items()}) | sp.ordered()
    made = both | sp.features(n=sp.count().of("paid").ever(), frauds=sp.count().of("back").ever())
    ran = drive(sp.Topology("t", sinks={"out": made}), payments=paid, chargebacks=back, contracts=(PAYMENT, CHARGEBACK))
    out = ran["out"].sort("at", "source")
    minutes = ((out["at"] - AT).dt.total_minutes()).to_list()
    assert list(zip(minutes, out["source"], strict=True)) == [
        (0, "paid"), (0, "back"), (1, "back"), (10, "paid"), (10, "back"), (30, "paid"), (30, "back"),
    ]  # fmt: skip
    assert ran.late.height == 1
    assert out.select("n", "frauds").max().rows() == [(3, 4)]


def test_a_label_counts_from_the_moment_it_was_known() -> None:
    features = pl.DataFrame({"id": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]})
    labels = pl.DataFrame(
        {"id": ["a", "a", "b", "d"], "y": [0, 1, 1, 1], "known": [AT + timedelta(days=d) for d in (1, 5, 3, 0)]}
    )
    spec = Labels(("id",), "y", "known")

    def until(days: int) -> list[tuple[Any, ...]]:
        made = training_set(features, labels, spec, until=(AT + timedelta(days=days)).isoformat())
        return made.select("id", "x", "y").rows()

    assert until(0) == []
    assert until(1) == [("a", 1.0, 0)]
    assert until(4) == [("a", 1.0, 0), ("b", 2.0, 1)]
    assert until(5) == [("a", 1.0, 1), ("b", 2.0, 1)], "a label that was corrected counts as it was known last"


def test_a_label_about_a_moment_gets_the_row_at_or_before_it() -> None:
    features = pl.DataFrame({"k": ["a", "a", "b"], "at": [AT, AT + timedelta(hours=2), AT], "x": [1.0, 2.0, 3.0]})
    about = [AT - timedelta(hours=1), AT + timedelta(hours=1), AT + timedelta(hours=2), AT + timedelta(hours=9)]
    labels = pl.DataFrame({"k": ["a", "a", "a", "b"], "when": about, "y": [1, 2, 3, 4], "known": [AT] * 4})
    made = training_set(features, labels, Labels(("k",), "y", "known", about="when"), at="at")
    assert made.select("k", "x", "y").rows() == [("a", 1.0, 2), ("a", 2.0, 3), ("b", 3.0, 4)]


def test_labels_that_do_not_fit_are_refused() -> None:
    features = pl.DataFrame({"id": ["a"], "y": [1]})
    labels = pl.DataFrame({"id": ["a"], "y": [1], "z": [1], "known": [AT], "text": ["x"]})
    with pytest.raises(InputError, match="would read the answer"):
        training_set(features, labels, Labels(("id",), "y", "known"))
    with pytest.raises(UnknownColumn, match="labels have no column 'knwon'"):
        training_set(features, labels, Labels(("id",), "z", "knwon"))
    with pytest.raises(TypeMismatch, match="has to be a moment"):
        training_set(features, labels, Labels(("id",), "z", "text"))
    with pytest.raises(InputError, match="--at"):
        training_set(features, labels, Labels(("id",), "z", "known", about="known"))


def test_the_log_holds_what_the_contracts_promise(ran: Driven) -> None:
    assert CHARGEBACK.event_time == "reported_at"
    assert ran.log.topics()["cards.newest"].compacted
    assert sum(ran.log.end_offset(TopicPartition("cards.newest", p)) for p in range(2)) == 400
