"""Cases in a running topology: one verdict each, a person's or the safe default's, and replays that agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from reviewing import CONTRACTS, HOUR, MINUTE, START, Desk, asked, payments
from river import linear_model, optim

import streamproc as sp
from connectors.checkpoints import DirectoryCheckpoints
from streamproc.decisions.review import ANSWER
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn
from streamproc.ports import TopicPartition, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.reactions.records import Writer
from streamproc.runtime.replay import replay_as_recorded
from streamproc.testing.drive import drive
from streamproc.testing.memory_log import MemoryLog


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path) as opened:
        yield opened


def test_an_answer_in_time_is_the_verdict_and_who_said_what_when_is_kept_beside_what_was_shown(desk: Desk) -> None:
    desk.pay(payments(3))
    desk.work(2)
    (case, *_) = desk.desk().open()
    desk.later(10 * MINUTE)
    desk.desk().answer(case.case, "allow", by="eve", note="known customer")
    desk.work(2)
    (row,) = desk.rows("verdicts").to_dicts()
    assert (row["verdict"], row["status"], row["answered_by"], row["note"]) == (
        "allow", "answered", "eve", "known customer",
    )  # fmt: skip
    assert abs(row["answered_at"].timestamp() * 1e6 - START - 10 * MINUTE) < MINUTE
    opened = desk.rows("review").filter(pl.col("case") == row["case"], pl.col("status") == "open").to_dicts()[0]
    shown = ("payment_id", "amount", "risk", "asked_at", "deadline", "priority")
    assert {name: row[name] for name in shown} == {name: opened[name] for name in shown}


def test_a_case_that_nobody_answers_gets_the_default_once_although_no_row_comes(desk: Desk) -> None:
    desk.pay(payments(2))
    desk.work(3)
    desk.later(HOUR - MINUTE)
    desk.work(3)
    assert desk.rows("verdicts").height == 0, "the deadline is not over"
    desk.later(2 * MINUTE)
    desk.work(6)
    told = desk.rows("verdicts")
    assert told["verdict"].to_list() == ["block", "block"] and told["status"].to_list() == ["timed_out"] * 2
    desk.later(HOUR)
    desk.work(6)
    assert desk.rows("verdicts").height == 2


def test_a_late_answer_is_refused_at_the_desk_and_by_the_topology(desk: Desk) -> None:
    desk.pay(payments(2))
    desk.work(3)
    first, second = desk.desk().open()
    desk.later(HOUR + MINUTE)
    with pytest.raises(sp.StreamprocError, match=r"ended at .*it gets 'block'"):
        desk.desk().answer(first.case, "allow", by="eve")
    desk.work(6)
    with pytest.raises(sp.StreamprocError, match="ended at"):
        desk.desk().answer(first.case, "allow", by="eve")
    # Whoever writes past the desk is refused too.
    desk.write(second.case, "allow", at=desk.clock.us - 30 * MINUTE)
    desk.work(3)
    assert desk.rows("verdicts")["verdict"].to_list() == ["block", "block"]
    assert desk.dead_letters() == ["no_open_case"]


def test_an_answer_that_was_given_while_no_worker_ran_is_not_passed_over_by_the_default(desk: Desk) -> None:
    desk.pay(payments(2))
    desk.work(3)
    first, _ = desk.desk().open()
    desk.stop()
    desk.later(30 * MINUTE)
    desk.desk().answer(first.case, "allow", by="eve")
    desk.later(2 * HOUR)
    desk.work(8)
    got = {row["case"]: row["verdict"] for row in desk.rows("verdicts").to_dicts()}
    assert got.pop(first.case) == "allow" and list(got.values()) == ["block"]
    assert desk.dead_letters() == []


@pytest.mark.parametrize("open_for_long", [True, False])
def test_no_default_is_given_before_all_that_was_written_in_time_is_heard(tmp_path: Path, open_for_long: bool) -> None:
    """Written is an answer too whose transaction is open, or that the log does not hand out yet."""
    log = Lagging(now=2**60)
    with Desk(tmp_path, log) as desk:
        desk.pay(payments(2))
        desk.work(3)
        first, _ = desk.desk().open()
        row = {"case": first.case, "deed": "answer", "by": "eve", "at": desk.clock.us, "verdict": "allow", "token": "t"}
        payload = Writer(ANSWER, desk.registry).payloads([row])
        producer = log.producer("slow")
        block = block_of("desk.answers", 0, payload, keys=[first.case.encode()])
        if open_for_long:
            log.cluster.produce(producer.ticket, block)  # It lies in the log, and nobody knows yet what becomes of it.
        else:
            log.behind = True
            transaction = producer.begin()
            transaction.append(block)
            transaction.commit()
        desk.later(2 * HOUR)
        desk.work(6)
        assert desk.rows("verdicts").height == 0
        if open_for_long:
            log.cluster.end(producer.ticket, commit=True)
        log.behind = False
        desk.work(6)
        told = desk.rows("verdicts")
        assert {row["case"]: row["verdict"] for row in told.to_dicts()}.pop(first.case) == "allow"
        assert sorted(told["verdict"]) == ["allow", "block"]


class Lagging(MemoryLog):
    """A log whose answers are not at hand while it is `behind`, as those of a broker may be."""

    behind = False

    def available(self, partition: TopicPartition, offset: int) -> int:
        """An offset up to which reading answers at once."""
        late = self.behind and partition.topic == "desk.answers"
        return offset if late else super().available(partition, offset)


def test_two_answers_on_the_topic_are_one_verdict(desk: Desk) -> None:
    desk.pay(payments(1))
    desk.work(3)
    (case,) = desk.desk().open()
    for verdict in ("allow", "allow", "block"):
        desk.write(case.case, verdict, at=desk.clock.us)
    desk.write(case.case, "perhaps", at=desk.clock.us)
    desk.work(3)
    desk.write(case.case, "block", at=desk.clock.us)
    desk.later(2 * HOUR)
    desk.work(6)
    assert desk.rows("verdicts")["verdict"].to_list() == ["allow"]
    assert desk.dead_letters() == ["no_open_case"] * 4


def test_a_restart_between_asking_and_answering_changes_nothing_and_the_replay_gives_the_same_bytes(
    desk: Desk, tmp_path: Path
) -> None:
    desk.pay(payments(6))
    desk.work(4)
    cases = desk.desk().open()
    desk.stop(save=False)  # as a kill does: restored from the journal
    desk.desk().answer(cases[0].case, "allow", by="eve")
    desk.later(20 * MINUTE)
    desk.work(3)
    desk.stop()
    desk.desk().answer(cases[1].case, "block", by="kim")
    desk.later(2 * HOUR)
    desk.work(8)
    assert desk.rows("verdicts").height == 6
    desk.stop()
    binding = bind(desk.topology, desk.log, desk.registry)
    report = replay_as_recorded(binding, desk.log, checkpoints=DirectoryCheckpoints(tmp_path / "checkpoints"))
    assert report.steps > 10
    assert report.sums["desk.verdicts"].rows == 6 and report.sums["desk.review"].rows == 12


def test_by_event_time_answers_come_at_their_own_time_and_the_watermark_ends_a_case(desk: Desk) -> None:
    """History without a clock: cases, ids and verdicts are those of the live run."""
    desk.pay(payments(4))
    desk.work(3)
    for case in desk.desk().open()[:2]:
        desk.desk().answer(case.case, "allow", by="eve")
    desk.later(2 * HOUR)
    desk.work(8)
    answers = desk.log_rows("desk.answers").drop("_partition", "_offset")
    again = drive(desk.topology, {"desk.answers": answers}, payments=payments(4), contracts=CONTRACTS)
    told = ("case", "verdict", "status", "answered_by", "answered_at")
    assert again["verdicts"].select(told).sort("case").equals(desk.rows("verdicts").select(told).sort("case"))
    opened = pl.col("status") == "open"
    assert again["review"].filter(opened).sort("case").drop("_offset").equals(
        desk.rows("review").filter(opened).sort("case").drop("_offset")
    )  # fmt: skip


def test_a_model_learns_from_what_people_answer() -> None:
    """Scores hang on answers that hang on scores: the loop goes through the answer topic."""
    rows = payments(40).with_columns(amount=pl.when(pl.col("payment_id").str.tail(1).is_in(list("01234")))
                                     .then(1.0).otherwise(-1.0))  # fmt: skip
    labels = sp.review_answers("desk.answers") | sp.select(
        payment_id=pl.col("subject"), bad=pl.col("verdict") == "block"
    )
    source = sp.source("payments", contract=CONTRACTS[0])
    scored = source | sp.learn(
        linear_model.LogisticRegression(optim.SGD(0.5)), inputs=("amount",), into="score", labels=labels, label="bad",
        on="payment_id", horizon="1h",
    )  # fmt: skip
    reviewed = scored | asked()
    topology = sp.Topology("desk", sinks={
        "scored": scored, "review": sp.sink(reviewed.side("cases"), key="case"), "metrics": scored.side("metrics"),
    })  # fmt: skip
    first = drive(topology, payments=rows, contracts=CONTRACTS)
    assert set(first["scored"]["score"]) == {0.5}, "without an answer nothing is learned"
    cases = first["review"].filter(pl.col("status") == "open")
    said = cases.select(
        "case", "subject", deed=pl.lit("answer"), by=pl.lit("eve"), at=pl.col("asked_at") + pl.duration(seconds=1),
        verdict=pl.when(pl.col("amount") > 0).then(pl.lit("block")).otherwise(pl.lit("allow")), token=pl.lit("t"),
    )  # fmt: skip
    taught = drive(topology, {"desk.answers": said}, payments=rows, contracts=CONTRACTS)
    last = taught["scored"].sort("at").tail(10)
    assert last.filter(pl.col("amount") > 0)["score"].min() > 0.9  # type: ignore[operator]
    assert last.filter(pl.col("amount") < 0)["score"].max() < 0.1  # type: ignore[operator]
    assert taught.late.height == 0


def test_labels_from_people_are_never_late_while_the_row_waits(desk: Desk) -> None:
    """An answer is always behind the watermark of the payments that came meanwhile."""
    labels = sp.review_answers("desk.answers") | sp.select(
        payment_id=pl.col("subject"), bad=pl.col("verdict") == "block"
    )
    source = sp.source("payments", contract=CONTRACTS[0])
    reviewed = source | asked()
    scored = source | sp.learn(
        linear_model.LogisticRegression(), inputs=("amount",), into="score", labels=labels, label="bad",
        on="payment_id", horizon="1h", report=1,
    )  # fmt: skip
    desk.topology = sp.Topology("desk", sinks={
        "metrics": scored.side("metrics"), "review": sp.sink(reviewed.side("cases"), key="case")})  # fmt: skip
    desk.pay(payments(2))
    desk.work(3)
    desk.later(10 * MINUTE)
    (case, *_) = desk.desk().open()
    desk.desk().answer(case.case, "block", by="eve")
    desk.later(10 * MINUTE)
    desk.pay(payments(1, first=9, at=desk.clock.us))
    desk.work(1, steps=0)
    desk.work(4)
    metrics = desk.rows("metrics")
    assert metrics["labels"].max() == 1
    assert desk.log_rows("desk.late").height == 0


def test_mistakes_are_told() -> None:
    def make(**more: object) -> object:
        settings = {"answers": "a", "default": "no", "choices": ("yes", "no"), "timeout": "1h", **more}
        return sp.review(**settings)  # type: ignore[arg-type]

    for more, what in (
        ({"answers": ""}, "topic"), ({"default": "perhaps"}, "not one of its choices"), ({"timeout": "0s"}, "time"),
    ):  # fmt: skip
        with pytest.raises(DefinitionError, match=what):
            make(**more)
    source = sp.source("payments", contract=CONTRACTS[0])
    for stream, error, what in (
        (source | make(priority="risks"), UnknownColumn, "risks"),
        (source | make(priority="payment_id"), TypeMismatch, "not a priority"),
        (source | make(subject="risk"), TypeMismatch, "no text"),
        (source | sp.rename(risk="priority") | make(), DuplicateName, "makes 'priority'"),
    ):
        with pytest.raises(error, match=what):
            drive(sp.Topology("t", sinks={"out": stream}), payments=payments(1), contracts=CONTRACTS)

