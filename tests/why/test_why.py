"""`why` names the source records without which a row would not be as it is: all of them, and no others.

Five hundred random decisions:  STREAMPROC_DECISIONS=500 python -m pytest -m long tests/why
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.engine.ablation import RecordedTask, few
from streamproc.errors import InputError, InputGone, ReplayDiverged
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.task import Task
from streamproc.runtime.why import Why, why
from streamproc.testing import drive
from streamproc.testing.drive import Driven
from tests.kafka_chaos.kafka_chaos_topology import chain, registry, rows

PAYMENT = parse_contract("""{"type": "record", "name": "payment", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string"}, {"name": "card_id", "type": "string", "sp:role": "key"},
    {"name": "amount", "type": "double"},
    {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
payments = sp.source("payments", contract=PAYMENT, lateness="1m")
AT = datetime(2026, 11, 1, tzinfo=UTC)
PAID = pl.DataFrame(
    [
        (f"p{number}", card, amount, AT + timedelta(minutes=minute))
        for number, (card, amount, minute) in enumerate(
            [("a", 5.0, 0), ("b", 9.0, 1), ("a", 0.0, 2), ("a", 7.0, 3), ("b", 1.0, 4), ("a", 2.0, 70), ("b", 3.0, 80)]
        )
    ],
    schema=["payment_id", "card_id", "amount", "paid_at"],
    orient="row",
)


def asked(out: Driven, sink: str, row: int) -> tuple[Mapping[str, Any], Why]:
    """A row of a sink, and what is behind it."""
    place = out[sink].row(row, named=True)
    topic = next(writer.topic for writer in out.binding.plan.sinks if writer.name == sink)
    return place, why(out.binding, out.log, TopicPartition(topic, place["_partition"]), place["_offset"])


def parts(answer: Why) -> dict[int, set[str]]:
    """Per offset of the only source the columns that its record had a part in."""
    return {c.offset: set(c.columns) for c in answer.contributors}


def test_a_window_depends_on_its_rows_and_each_column_on_those_that_change_it() -> None:
    topology = sp.Topology("t", sinks={"out": payments | sp.key_by("card_id") | sp.tumbling(
        "1h", n=sp.count(), spend=sp.total("amount"), top=sp.max("amount"))})  # fmt: skip
    out = drive(topology, payments=PAID)
    row, answer = asked(out, "out", out["out"]["card_id"].to_list().index("a"))
    assert (row["n"], row["spend"], row["top"]) == (3, 12.0, 7.0)
    # The payment of nothing counts, and adds nothing.
    assert parts(answer) == {0: {"n", "spend"}, 2: {"n"}, 3: {"n", "spend", "top"}}


def test_a_row_that_looks_back_depends_on_itself_wholly_and_on_others_by_column() -> None:
    looks = payments | sp.key_by("card_id") | sp.ordered("payment_id") | sp.features(
        n=sp.count().over("1h"), spend=sp.total("amount").over("2h"))  # fmt: skip
    topology = sp.Topology("t", sinks={"out": looks | sp.select("payment_id", "n", "spend")})
    out = drive(topology, payments=PAID)
    row, answer = asked(out, "out", out["out"]["payment_id"].to_list().index("p5"))
    assert (row["n"], row["spend"]) == (1, 14.0)
    assert parts(answer) == {0: {"spend"}, 3: {"spend"}, 5: {"payment_id", "n", "spend"}}


def test_a_repetition_is_behind_nothing_and_a_record_passed_on_is_behind_itself() -> None:
    twice = pl.concat([PAID, PAID.head(2).with_columns(paid_at=pl.col("paid_at") + timedelta(minutes=90))])
    topology = sp.Topology("t", sinks={"out": payments | sp.dedupe("payment_id", within="1d")})
    out = drive(topology, payments=twice)
    assert out["out"].height == PAID.height
    _, answer = asked(out, "out", 1)
    assert parts(answer) == {1: {"payment_id", "card_id", "amount", "paid_at"}}


class Silent:
    """A user's operator: what each card paid before its last payment, and what all cards did."""

    def schema(self, given: Schema) -> Schema:
        return given.with_fields([Field("before", pl.Float64()), Field("everybody", pl.Float64())])

    def open(self) -> dict[str, float]:
        return {"": 0.0}

    def process(self, state: dict[str, float], frame: pl.DataFrame) -> tuple[dict[str, float], pl.DataFrame]:
        before, everybody = [], []
        for card, amount in zip(frame["card_id"], frame["amount"], strict=True):
            before.append(state.get(card, 0.0))
            everybody.append(state[""])
            state[card], state[""] = amount, state[""] + amount
        return state, frame.drop("_event_time").with_columns(
            before=pl.Series(before, dtype=pl.Float64), everybody=pl.Series(everybody, dtype=pl.Float64)
        )


def test_a_users_operator_is_explained_too_and_what_other_keys_shape_is_attributed_to_nobody() -> None:
    stream = payments | sp.key_by("card_id") | sp.ordered("payment_id") | sp.custom(Silent(), key=("card_id",))
    out = drive(sp.Topology("t", sinks={"out": stream}), payments=PAID)
    row, answer = asked(out, "out", out["out"]["payment_id"].to_list().index("p3"))
    assert (row["before"], row["everybody"]) == (0.0, 14.0)
    assert answer.shared == ("everybody",)
    # The payment of nothing right before it: without it, `before` would be 5.
    assert parts(answer) == {2: {"before"}, 3: set(answer.row) - {"everybody"}}


LIMIT = parse_contract("""{"type": "record", "name": "limit", "sp:version": 1, "fields": [
    {"name": "card_id", "type": "string", "sp:role": "key"}, {"name": "least", "type": "double"},
    {"name": "said_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")


def test_a_record_that_changes_only_what_no_later_stage_reads_is_behind_nothing() -> None:
    """Without a limit the one before it holds, and the payment passes all the same: none is behind the window below."""
    limits = sp.source("limits", contract=LIMIT, lateness="1m") | sp.key_by("card_id") | sp.ordered()
    limited = payments | sp.key_by("card_id") | sp.ordered("payment_id") | sp.as_of(limits, columns=("least",))
    passed = limited | sp.where(pl.col("amount") >= pl.col("least"))
    by_payment = passed | sp.key_by("payment_id") | sp.ordered("payment_id")
    topology = sp.Topology("t", sinks={"limited": limited, "out": by_payment | sp.tumbling("1h", n=sp.count())})
    said = pl.DataFrame(
        [("a", 3.0, AT - timedelta(minutes=3)), ("a", 6.0, AT - timedelta(minutes=2)), ("b", 2.0, AT)],
        schema=["card_id", "least", "said_at"], orient="row",
    )  # fmt: skip
    out = drive(topology, payments=PAID, limits=said)
    row, answer = asked(out, "limited", out["limited"]["payment_id"].to_list().index("p3"))
    assert row["least"] == 6.0
    assert {(c.topic, c.offset): set(c.columns) for c in answer.contributors}["limits", 1] == {"least", "as_of_age"}
    _, answer = asked(out, "out", out["out"]["payment_id"].to_list().index("p3"))
    assert {(c.topic, c.offset) for c in answer.contributors} == {("payments", 3)}
    # The only limit of the other card decides whether its payment passes at all.
    _, answer = asked(out, "out", out["out"]["payment_id"].to_list().index("p6"))
    assert {(c.topic, c.offset) for c in answer.contributors} == {("payments", 6), ("limits", 2)}


def test_a_row_that_is_taken_away_leaves_its_place_in_time() -> None:
    """The window's rows, its end and what is late are those of the whole, whoever else is taken away."""
    late = PAID.with_columns(paid_at=pl.when(pl.col("payment_id") == "p3").then(AT).otherwise("paid_at"))
    topology = sp.Topology("t", sinks={"out": payments | sp.key_by("card_id") | sp.tumbling(
        "1m", n=sp.count(), first=sp.min("payment_id"))})  # fmt: skip
    out = drive(topology, payments=late)
    assert out.late["payload"].len() == 1
    row, answer = asked(out, "out", out["out"]["first"].to_list().index("p0"))
    # p3 has the window's key and time, and came too late for it, because the payment before it had moved time: neither
    # of the two is behind the window.
    assert (row["n"], parts(answer)) == (1, {0: set(answer.row)})


def test_recorded_steps_made_one_give_what_the_steps_gave_and_all_rows_kept_is_the_whole() -> None:
    _, out = chained()
    steps_before = steps_after = 0
    for number in range(out.binding.task_count):
        task = Task(out.binding, number, out.log)
        place = TopicPartition(out.binding.names.tasks, number)
        entries = [entry for _, entry in journal_entries(out.log, place, 1, out.log.end_offset(place))]
        steps = tuple(task.recorded(entry) for entry in entries)
        whole = RecordedTask(task.stage, task.index, task.channels, steps)
        merged = RecordedTask(task.stage, task.index, task.channels, few(steps))
        steps_before, steps_after = steps_before + len(steps), steps_after + len(merged.steps)
        for port in (*(s.sink.port for s in task.stage.sinks), *(e.edge.port for e in task.stage.edges)):
            expected = pl.concat([batch.frame for batch in whole.outputs(port)])
            for same in (merged, merged.keeping(merged.masks(True)), whole.keeping(whole.masks(True))):
                assert pl.concat([batch.frame for batch in same.outputs(port)]).equals(expected)
    assert steps_after < steps_before / 2


@lru_cache(maxsize=1)
def chained() -> tuple[Mapping[str, pl.DataFrame], Driven]:
    """Dedupe, an as-of join, three changes of key and windows over 900 bids, in several steps."""
    data: dict[str, list[dict[str, Any]]] = {"bids": [], "floors": []}
    for topic, row in rows(3, 900):
        data[topic].append(row)
    frames = {topic: pl.DataFrame(found) for topic, found in data.items()}
    return frames, drive(chain(), frames, registry=registry(), partitions=2, steps=itertools.repeat(90))


def without(frames: Mapping[str, pl.DataFrame], topic: str, seq: int) -> Driven:
    """The run as it would have been without one record."""
    fewer = {name: frame.filter(pl.col("seq") != seq) if name == topic else frame for name, frame in frames.items()}
    return drive(chain(), fewer, registry=registry(), partitions=2)


def judge(seed: int, decisions: int) -> None:
    frames, out = chained()
    dice = random.Random(seed)
    kept = {
        (topic, row["_partition"], row["_offset"]): row["seq"]
        for topic in frames
        for row in read(out, topic).iter_rows(named=True)
    }
    for _ in range(decisions):
        sink = dice.choice(("checked", "spend"))
        row, answer = asked(out, sink, dice.randrange(out[sink].height))
        listed = {(c.topic, kept[c.topic, c.partition, c.offset]) for c in answer.contributors}
        assert listed
        names = list(answer.row)
        wanted = tuple(row[name] for name in names)
        topic, seq = dice.choice(sorted(listed))
        assert wanted not in set(without(frames, topic, seq)[sink].select(names).rows()), (row, topic, seq)
        # Of those that are not listed, one of the same bidder or auction is the likeliest to be missed.
        others = sorted({(t, s) for (t, _, _), s in kept.items()} - listed)
        near = [(t, s) for t, s in others if related(frames[t], s, row)] or others
        topic, seq = dice.choice(near)
        assert wanted in set(without(frames, topic, seq)[sink].select(names).rows()), (row, topic, seq)


def related(frame: pl.DataFrame, seq: int, row: Mapping[str, Any]) -> bool:
    mine = frame.row(by_predicate=pl.col("seq") == seq, named=True)
    return any(name in mine and mine[name] == row[name] for name in ("who", "auction") if name in row)


def read(out: Driven, topic: str) -> pl.DataFrame:
    from streamproc.runtime.reading import read_topic

    contract = out.binding.registry.contract({"bids": "bid.v1", "floors": "floor.v1"}[topic])
    return read_topic(out.log, out.binding.registry, topic, contract.schema.polars())


def test_without_a_listed_record_the_row_is_another_and_without_one_not_listed_it_is_the_same() -> None:
    judge(1, 8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_decisions_name_their_records(seed: int) -> None:
    judge(seed, int(os.environ.get("STREAMPROC_DECISIONS", "500")) // 10)


def test_what_cannot_be_explained_is_said() -> None:
    def topology(least: float) -> sp.Topology:
        return sp.Topology("t", sinks={"out": payments | sp.where(pl.col("amount") > least) | sp.select("payment_id")})

    out = drive(topology(1.5), payments=PAID)
    place = TopicPartition("t.out", 0)
    assert parts(why(out.binding, out.log, place, 0)) == {0: {"payment_id"}}
    with pytest.raises(InputError, match=r"'t\.oot' is no sink of 't'"):
        why(out.binding, out.log, TopicPartition("t.oot", 0), 0)
    with pytest.raises(InputError, match=r"t\.out-0@99"):
        why(out.binding, out.log, place, 99)
    with pytest.raises(InputError, match=r"t\.out-7@0: the log has no such partition"):
        why(out.binding, out.log, TopicPartition("t.out", 7), 0)
    changed = bind(topology(6.0), out.log, out.binding.registry, create=False)
    with pytest.raises(ReplayDiverged, match=r"t\.out-0@0: no recorded step"):
        why(changed, out.log, place, 0)


def test_a_journal_that_begins_in_the_middle_says_so() -> None:
    out = drive(sp.Topology("t", sinks={"out": payments}), payments=PAID, steps=itertools.repeat(2))
    tasks = TopicPartition(out.binding.names.tasks, 0)
    out.log.delete_records(tasks, 2)
    with pytest.raises(InputGone, match=r"t\.v1\.s0\.t0 begins in the middle"):
        why(out.binding, out.log, TopicPartition("t.out", 0), 0)
