"""Pause, resume and drain: asked for by a command, obeyed by workers that run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from deployed import answer_of, deployed, within, write_payments

from connectors.embedded import EmbeddedLog
from streamproc.cli.app import run
from streamproc.engine.compiled import Names
from streamproc.errors import CorruptLog
from streamproc.ports import TopicPartition, block_of
from streamproc.runtime.control import (
    Answer,
    ControlReader,
    Request,
    ask,
    control_topic,
    create_control,
    where_all_stand,
)
from streamproc.testing.memory_log import MemoryLog

NAMES = Names("card_risk", 1)


@pytest.mark.usefixtures("filled")
def test_a_paused_topology_keeps_its_tasks_and_reads_nothing_until_it_is_resumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read() -> float:
        return there.total("streamproc_ledger_rows", source="payments", fate="in")

    with deployed("--workers", "2", "--http", "0") as there:
        there.is_ready()
        within(60, "all rows", lambda: read() == 200)
        told = answer_of(capsys, "pause", "card_risk.py", "--reason", "broker work", "--by", "ann")
        assert told["answered_tasks"] == told["tasks"] == 4
        write_payments(200, 100)
        _, ready = within(10, "not ready", lambda: (got := there.facts("/ready"))[0] == 503 and got)
        worker = next(iter(ready["workers"].values()))
        assert (worker["status"], worker["by"], worker["why"]) == ("paused", "ann", "broker work")
        assert there.get("/health")[0] == 200
        # One that dies meanwhile comes back paused.
        there.children()[0].kill()
        within(60, "the restart", lambda: len(there.children()) == 2 and there.total("streamproc_paused") == 2)
        time.sleep(2)
        assert read() == 200
        told = answer_of(capsys, "resume", "card_risk.py")
        assert told["answered_tasks"] == 4
        within(60, "the rest", lambda: read() == 300)
        there.is_ready()
        assert there.stop() == 0


@pytest.mark.usefixtures("filled")
def test_a_drain_under_load_ends_all_stages_at_one_place_and_a_restart_stays_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with deployed("--workers", "2", "--http", "0") as there:
        there.is_ready()
        write_payments(200, 30_000)
        told = answer_of(capsys, "drain", "card_risk.py", "--reason", "version 2", "--by", "ann")
        assert there.ended() == 0
        assert "drained, as ann asked for" in there.said
    at = {TopicPartition(one["topic"], one["partition"]): one["at"] for one in told["offsets"]}
    write_payments(40_000, 100)
    with deployed() as again:
        assert again.ended() == 0, again.said
        assert "drained" in again.said
    with EmbeddedLog(".streamproc/log.db", create=False) as log:
        read = log.committed(NAMES.group(0))
        assert {place: read[place] for place in at} == at
        for partition in range(log.topics()["card_risk.v1.edge.key_by.s1"].partitions):
            place = TopicPartition("card_risk.v1.edge.key_by.s1", partition)
            assert log.committed(NAMES.group(1))[place] == log.end_offset(place)
    assert run(["verify", "card_risk.py"]) == 0
    assert run(["run", "card_risk.py", "--until-end"]) == 2
    assert "drained by ann: version 2; 'streamproc resume' lets it go on" in capsys.readouterr().err
    assert run(["resume", "card_risk.py", "--wait", "0s"]) == 0
    assert run(["run", "card_risk.py", "--until-end", "--close"]) == 0
    assert run(["replay", "card_risk.py", "--by-event-time", "--must-equal"]) == 0


@pytest.mark.usefixtures("filled")
def test_without_workers_a_pause_is_written_and_said_to_be_unanswered_and_a_drain_is_done_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["run", "card_risk.py", "--until-end"]) == 0
    assert run(["pause", "card_risk.py", "--reason", "night", "--wait", "1s"]) == 1
    assert "workers answered for 0 of 4 tasks in 1.0 s" in capsys.readouterr().err
    assert run(["run", "card_risk.py", "--until-end"]) == 2
    assert "is paused by" in capsys.readouterr().err
    told = answer_of(capsys, "drain", "card_risk.py", "--reason", "end", "--wait", "1s")
    assert sum(one["at"] for one in told["offsets"]) == 200


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("verb", ["pause", "drain"])
def test_a_request_needs_a_reason_and_a_topology_that_ran(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "card_risk.py"]) == 2
    assert "--reason" in capsys.readouterr().err
    assert run([verb, "card_risk.py", "--reason", "night"]) == 2
    assert "version 1 of 'card_risk' never ran on this log" in capsys.readouterr().err


def test_every_request_stays_with_who_when_and_why_and_the_newest_is_in_force() -> None:
    log = MemoryLog()
    create_control(log, NAMES)
    create_control(log, NAMES)
    assert log.topics()[control_topic(NAMES)].compacted
    reader = ControlReader(log, NAMES)
    assert reader.look() is False
    asked = [Request("pause", "ann", 1, "night"), Request("resume", "bob", 2), Request("drain", "ann", 3, "end", {
        TopicPartition("payments", 0): 7})]  # fmt: skip
    seen = []
    for request in asked:
        number = ask(log, NAMES, request)
        assert reader.look()
        seen.append(reader.standing.in_force)
        assert reader.standing.requests[-1].number == number
    assert [one.deed if one else None for one in seen] == ["pause", None, "drain"]
    assert [(one.who, one.when_us, one.why) for one in reader.standing.requests] == [
        ("ann", 1, "night"), ("bob", 2, ""), ("ann", 3, "end"),
    ]  # fmt: skip
    assert seen[-1] is not None
    assert seen[-1].offsets == {TopicPartition("payments", 0): 7}


def test_something_else_on_the_control_topic_is_refused_by_its_place() -> None:
    log = MemoryLog()
    create_control(log, NAMES)
    transaction = log.producer("x").begin()
    transaction.append(block_of(control_topic(NAMES), 0, [b'{"deed":"explode"}'], keys=[b"request/1-explode"]))
    transaction.commit()
    with pytest.raises(CorruptLog, match=r"card_risk\.v1\.control-0@0 .*'explode' cannot be asked for"):
        ControlReader(log, NAMES).look()


def test_where_all_stand_is_the_furthest_of_every_task_and_unknown_until_all_have_answered() -> None:
    place = TopicPartition("payments", 0)
    first = Answer("w-0", 4, "paused", {0: {place: 10}, 2: {}})
    second = Answer("w-1", 4, "paused", {1: {place: 12}})
    assert where_all_stand({"w-0": first}, 3) is None
    assert where_all_stand({"w-0": first, "w-1": second}, 3) == {place: 12}


@pytest.mark.usefixtures("project")
def test_a_topology_file_is_all_that_is_needed_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pause", "card_risk.py", "--reason", "x"]) == 2
    assert "there is no log at" in capsys.readouterr().err
    assert not Path(".streamproc").exists()
