"""`why` names the source records without which a row would not be as it is: all of them, and no others.

Five hundred random decisions:  STREAMPROC_DECISIONS=500 python -m pytest -m long tests/why
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import polars as pl
import pytest
from river import linear_model

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.engine.ablation import RecordedTask, few
from streamproc.errors import InputError, InputGone, ReplayDiverged
from streamproc.ports import TopicPartition
from streamproc.runtime.binding import bind
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.reading import read_topic
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


VERDICT = parse_contract("""{"type": "record", "name": "verdict", "sp:version": 1, "fields": [
    {"name": "payment_id", "type": "string", "sp:role": "key"}, {"name": "fraud", "type": "boolean"},
    {"name": "told_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
MADE = ("n", "spend", "usual", "share", "score")


def trained(rounds: int) -> Any:
    """A model that has learned before: with no verdicts to come it stays as it is."""
    model = linear_model.LogisticRegression()
    for number in range(rounds):
        model.learn_one({"n": number % 5, "spend": number % 7 * 1.0, "usual": 1.0}, number % 5 > 2)
    return model


def decisions(model: Any) -> sp.Topology:
    """Features of a card from payments and refunds, the score of a model that is frozen, and what is done about it."""
    refunds = sp.source("refunds", contract=PAYMENT, lateness="1m")
    verdicts = sp.source("verdicts", contract=VERDICT, lateness="1m") | sp.key_by("payment_id") | sp.ordered()
    known = sp.together(
        **{name: one | sp.key_by("card_id") for name, one in (("paid", payments), ("back", refunds))}
    ) | sp.ordered("payment_id") | sp.features(
        n=sp.count().of("paid").over("20m"), spend=sp.total("amount").over("1h"),
        usual=sp.quantile("amount", 0.5).over("20m"), share=pl.col("n") / pl.col("spend"),
    )  # fmt: skip
    scored = known | sp.key_by("payment_id") | sp.ordered("source") | sp.learn(
        model, inputs=("n", "spend", "usual"), into="score", labels=verdicts, on="payment_id", label="fraud",
        horizon="1h")  # fmt: skip
    decided = scored | sp.decide(sp.when(pl.col("score") > 0.6, then="look"), sp.when(pl.col("n") > 4, then="wait"),
                                 otherwise="go", name="decided")  # fmt: skip
    named = ("payment_id", "card_id", "source", "amount", *MADE, "decision")
    return sp.Topology("cards", sinks={"decided": decided | sp.select(*named)})


@lru_cache(maxsize=1)
def judged() -> tuple[Mapping[str, pl.DataFrame], Driven]:
    """260 payments and refunds of 9 cards, in several steps on two partitions."""
    dice = random.Random(5)
    frames = {}
    for topic, every, number in (("payments", 1, 200), ("refunds", 3, 60)):
        frames[topic] = pl.DataFrame(
            [(f"{topic[0]}{n:04}", f"c{dice.randrange(9)}", dice.choice([0.0, 1.0, 5.0, 9.5, 40.0]),
              AT + timedelta(minutes=n * every, seconds=dice.randrange(50))) for n in range(number)],
            schema=PAID.schema, orient="row",
        )  # fmt: skip
    return frames, drive_decisions(frames)


def drive_decisions(frames: Mapping[str, pl.DataFrame]) -> Driven:
    return drive(decisions(trained(60)), frames, contracts=(PAYMENT, VERDICT), partitions=2, steps=itertools.repeat(40))


@dataclass(frozen=True)
class Subject:
    """A topology that ran over frames; `of` names its records, `sinks` are asked about, `alike` relates columns."""

    frames: Mapping[str, pl.DataFrame]
    ran: Driven
    again: Callable[[Mapping[str, pl.DataFrame]], Driven]
    of: str
    sinks: tuple[str, ...]
    alike: tuple[str, ...]

    def without(self, topic: str, name: Any) -> Driven:
        """The run as it would have been without one record."""
        fewer = {t: frame.filter(pl.col(self.of) != name) if t == topic else frame for t, frame in self.frames.items()}
        return self.again(fewer)

    def related(self, topic: str, name: Any, row: Mapping[str, Any]) -> bool:
        mine = self.frames[topic].row(by_predicate=pl.col(self.of) == name, named=True)
        return any(each in mine and mine[each] == row[each] for each in self.alike if each in row)


def subject(name: str) -> Subject:
    if name == "decisions":
        return Subject(*judged(), drive_decisions, "payment_id", ("decided",), ("card_id",))

    def again(frames: Mapping[str, pl.DataFrame]) -> Driven:
        return drive(chain(), frames, registry=registry(), partitions=2, steps=itertools.repeat(90))

    return Subject(*chained(), again, "seq", ("checked", "spend"), ("who", "auction"))


def judge(name: str, seed: int, decisions: int) -> None:
    one = subject(name)
    dice = random.Random(seed)
    kept = {
        (topic, row["_partition"], row["_offset"]): row[one.of]
        for topic in one.frames
        for row in read_topic(one.ran.log, one.ran.binding.registry, topic).iter_rows(named=True)
    }
    for _ in range(decisions):
        sink = dice.choice(one.sinks)
        row, answer = asked(one.ran, sink, dice.randrange(one.ran[sink].height))
        listed = {(c.topic, kept[c.topic, c.partition, c.offset]) for c in answer.contributors}
        assert listed and not answer.shared
        names = list(answer.row)
        wanted = tuple(row[name] for name in names)
        topic, gone = dice.choice(sorted(listed))
        assert wanted not in set(one.without(topic, gone)[sink].select(names).rows()), (row, topic, gone)
        # Of those that are not listed, one that has something in common with the row is the likeliest to be missed.
        others = sorted({(t, s) for (t, _, _), s in kept.items()} - listed)
        near = [(t, s) for t, s in others if one.related(t, s, row)] or others
        topic, gone = dice.choice(near)
        assert wanted in set(one.without(topic, gone)[sink].select(names).rows()), (row, topic, gone)


@pytest.mark.parametrize(("name", "decisions"), [("chain", 6), ("decisions", 8)])
def test_without_a_listed_record_the_row_is_another_and_without_one_not_listed_it_is_the_same(
    name: str, decisions: int
) -> None:
    judge(name, 1, decisions)


@pytest.mark.long
@pytest.mark.parametrize("name", ["chain", "decisions"])
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_decisions_name_their_records(name: str, seed: int) -> None:
    judge(name, seed, int(os.environ.get("STREAMPROC_DECISIONS", "500")) // 10)


def test_a_decision_names_records_per_feature_and_the_version_of_its_model() -> None:
    """A refund is behind the spending and not the count of payments; the amount is behind itself alone."""
    frames, out = judged()
    for place in range(out["decided"].height):
        row = out["decided"].row(place, named=True)
        if row["source"] == "paid" and row["n"] > 1 and row["spend"] > 45 and row["amount"] > 0:
            break
    _, answer = asked(out, "decided", place)
    behind = {name: set[str]() for name in answer.row}
    for one in answer.contributors:
        for column in one.columns:
            behind[column].add(one.topic)
    minute = frames["payments"].row(by_predicate=pl.col("payment_id") == row["payment_id"], named=True)["paid_at"]
    seen = pl.concat(list(frames.values())).filter(
        (pl.col("card_id") == row["card_id"]) & (pl.col("paid_at") <= minute)
        & (pl.col("paid_at") > minute - timedelta(hours=1))
    )  # fmt: skip
    spent = seen.filter((pl.col("amount") != 0) | (pl.col("payment_id") == row["payment_id"]))
    assert len([one for one in answer.contributors if "spend" in one.columns]) == spent.height > 2
    assert len([one for one in answer.contributors if "amount" in one.columns]) == 1
    assert behind["n"] == {"payments"} and behind["score"] >= behind["n"]
    other = drive(decisions(trained(61)), frames, contracts=(PAYMENT, VERDICT), partitions=2)
    _, told = asked(other, "decided", 0)
    differs = {name for name, version in answer.versions.items() if told.versions[name] != version}
    assert answer.versions.keys() == answer.row.keys() and differs == {"score", "decision"}


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
