"""Deliveries on the embedded log: in order, recorded, tried again, dead-lettered, answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from events import column, committed, opener, react, registry, rows, write_alerts
from serving import web_server

from connectors.embedded import EmbeddedLog
from connectors.handlers import Webhook
from streamproc.errors import UnknownTopic
from streamproc.ports import TopicPartition, block_of
from streamproc.reaction import Event, GiveUp, TryLater
from streamproc.runtime.reactions.definition import Answers, Breaker, Reaction, Reactions, Retry
from streamproc.runtime.reactions.log_feed import LogFeed
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.plane import ReactionPlane

QUICK = Retry(attempts=3, first="1ms", longest="5ms")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def fill(path: Path, count: int, **settings: Any) -> None:
    with EmbeddedLog(path) as log:
        write_alerts(log, range(count), **settings)


def test_every_event_is_delivered_once_in_the_order_of_its_partition(path: Path) -> None:
    fill(path, 500)
    seen: list[Event] = []

    async def notify(event: Event) -> None:
        seen.append(event)

    pager = Reactions("pager", handlers={"alerts": notify})
    deeds = asyncio.run(react(path, pager))
    assert (deeds.delivered, deeds.dead_lettered, deeds.retries) == (500, 0, 0)
    for partition in (0, 1):
        mine = [event for event in seen if event.partition == partition]
        assert [event.row["number"] for event in mine] == list(range(partition, 500, 2))
        assert [event.id for event in mine] == [f"alerts-{partition}@{n}" for n in range(250)]
    assert committed(path, "pager.reactions") == {TopicPartition("alerts", p): 250 for p in (0, 1)}
    recorded = rows(path, "pager.reactions.deliveries")
    assert sorted(column(recorded, "id")) == sorted(event.id for event in seen)
    assert set(column(recorded, "outcome")) == {"delivered"}
    fill(path, 10)
    assert asyncio.run(react(path, pager)).delivered == 10


def test_the_id_of_an_identified_sink_is_the_events(path: Path) -> None:
    fill(path, 4, headers=lambda number: {"sp": bytes([number]) * 16 + bytes(16)})
    ids = []

    async def notify(event: Event) -> None:
        ids.append(event.id)

    asyncio.run(react(path, Reactions("pager", handlers={"alerts": notify})))
    assert sorted(ids) == [f"{number:02x}" * 16 for number in range(4)]


def test_a_handler_that_fails_is_tried_again_then_dead_lettered_and_the_next_ones_go_on(path: Path) -> None:
    fill(path, 40, partitions=1)
    attempts: Counter[int] = Counter()

    async def notify(event: Event) -> None:
        number = event.row["number"]
        attempts[number] += 1
        assert event.attempt == attempts[number]
        if number == 5:
            raise ValueError("five is never right")
        if number == 6 and attempts[6] < 3:
            raise RuntimeError("not yet")
        if number == 7:
            raise GiveUp("seven is given up")
        if number == 8:
            raise KeyError("eight is on the list")
        if number == 9:
            await asyncio.sleep(60)
        if number == 10:
            raise SystemExit(3)
        if number == 11:
            raise asyncio.CancelledError

    retry = Retry(attempts=3, first="1ms", longest="5ms", never=(KeyError,))
    pager = Reactions("pager", handlers={"alerts": Reaction(notify, timeout="50ms", retry=retry)})
    deeds = asyncio.run(react(path, pager))
    assert attempts == Counter({**dict.fromkeys(range(40), 1), 5: 3, 6: 3, 9: 3, 10: 3, 11: 3})
    assert (deeds.delivered, deeds.dead_lettered) == (34, 6)
    letters = {row["offset"]: row for row in rows(path, pager.dead_letters)}
    assert {offset: (row["reason"], row["attempts"]) for offset, row in letters.items()} == {
        5: ("ValueError", 3), 7: ("GiveUp", 1), 8: ("KeyError", 1), 9: ("TimeoutError", 3), 10: ("SystemExit", 3),
        11: ("CancelledError", 3),
    }  # fmt: skip
    assert letters[5]["detail"] == "five is never right"
    assert (letters[5]["topic"], letters[5]["step"], letters[5]["id"]) == ("alerts", "notify", "alerts-0@5")
    assert "no answer within 50ms" in letters[9]["detail"]
    recorded = {row["offset"]: (row["outcome"], row["attempts"]) for row in rows(path, pager.deliveries)}
    assert recorded[5] == ("dead_lettered", 3) and recorded[6] == ("delivered", 3)
    assert len(recorded) == 40


def test_the_other_sides_word_on_when_to_come_back_is_kept(path: Path) -> None:
    fill(path, 1, partitions=1)
    moments = []

    async def notify(event: Event) -> None:
        moments.append(time.monotonic())
        if event.attempt == 1:
            raise TryLater("busy", after="300ms")

    reaction = Reaction(notify, retry=Retry(attempts=2, first="1ms", longest="1s"))
    asyncio.run(react(path, Reactions("pager", handlers={"alerts": reaction})))
    assert 0.29 < moments[1] - moments[0] < 1.0


def test_a_record_that_nobody_can_read_is_a_dead_letter(path: Path) -> None:
    fill(path, 2, partitions=1)
    with EmbeddedLog(path) as log:
        transaction = log.producer("tests").begin()
        transaction.append(block_of("alerts", 0, [b"no frame", None, b"\0\0\0\0\x07?"], keys=[b"k", b"k", None]))
        transaction.commit()
    fill(path, 2, partitions=1)
    seen = []

    async def notify(event: Event) -> None:
        seen.append(event.offset)

    pager = Reactions("pager", handlers={"alerts": notify})
    deeds = asyncio.run(react(path, pager))
    assert seen == [0, 1, 5, 6]
    assert (deeds.delivered, deeds.dead_lettered) == (4, 3)
    letters = rows(path, pager.dead_letters)
    assert column(letters, "payload") == [b"no frame", None, b"\0\0\0\0\x07?"]
    assert set(column(letters, "reason")) == {"unreadable"}


def test_events_of_one_partition_can_be_under_way_together_and_are_recorded_in_order(path: Path) -> None:
    fill(path, 100, partitions=1)
    under_way = most = 0

    async def slow(event: Event) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        while event.offset < 8 and most < 8:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002 * (event.offset % 7))
        under_way -= 1

    asyncio.run(react(path, Reactions("pager", handlers={"alerts": Reaction(slow, concurrency=8)})))
    assert most == 8
    assert column(rows(path, "pager.reactions.deliveries"), "offset") == list(range(100))


def test_topics_that_are_not_there_are_named(path: Path) -> None:
    fill(path, 1)

    async def notify(event: Event) -> None: ...

    with pytest.raises(UnknownTopic, match=r"act on 'alert'.*did you mean 'alerts'"):
        asyncio.run(react(path, Reactions("pager", handlers={"alert": notify})))


def test_reactions_begin_where_they_are_told_to_once(path: Path) -> None:
    fill(path, 10)
    seen = []

    async def notify(event: Event) -> None:
        seen.append(event.row["number"])

    pager = Reactions("pager", handlers={"alerts": notify})
    asyncio.run(react(path, pager, first=lambda log, place: log.end_offset(place)))
    assert seen == []
    fill(path, 4)
    asyncio.run(react(path, pager, first=lambda log, place: log.end_offset(place)))
    assert sorted(seen) == [0, 1, 2, 3]


async def score(event: Event) -> Mapping[str, Any]:
    """A request sink's handler: its return value is the answer."""
    if event.row["number"] == 3:
        raise ValueError("no score for three")
    if event.row["number"] == 4:
        return {"nmuber": 4}
    return {"number": event.row["number"], "said": f"scored {event.row['service']}"}


def test_what_a_handler_returns_is_an_event_of_the_answer_topic(path: Path) -> None:
    fill(path, 6, service=lambda number: f"till {number % 3}")
    answers = Answers("answers", "answer", failed=lambda event, why: {"number": event.row["number"], "said": why})
    scorer = Reactions("scorer", handlers={"alerts": Reaction(score, retry=QUICK, answers=answers)})
    deeds = asyncio.run(react(path, scorer))
    assert (deeds.delivered, deeds.dead_lettered) == (4, 2)
    said = {row["number"]: row["said"] for row in rows(path, "answers")}
    assert said == {0: "scored till 0", 1: "scored till 1", 2: "scored till 2", 3: "ValueError", 4: "bad_answer",
                    5: "scored till 2"}  # fmt: skip
    reasons = {row["reason"]: row for row in rows(path, scorer.dead_letters)}
    assert set(reasons) == {"ValueError", "bad_answer"}
    assert "did you mean 'number'" in reasons["bad_answer"]["detail"]
    with EmbeddedLog(path) as log:
        keys: dict[bytes | None, set[int]] = {}
        ids = set()
        for partition in (0, 1):
            block = log.read(TopicPartition("answers", partition), 0)
            for row in range(len(block)):
                keys.setdefault(block.key(row), set()).add(partition)
                ids.add(block.header(row, "sp"))
    assert set(keys) == {b"till 0", b"till 1", b"till 2"}
    assert all(len(partitions) == 1 for partitions in keys.values()), "one key is in one partition"
    assert len(ids) == 6 and None not in ids


def test_an_answer_is_there_if_and_only_if_its_delivery_is_recorded(path: Path) -> None:
    """A second plane takes the partition over while the first one's handler is under way: one answer, one record."""
    fill(path, 1, partitions=1)
    answers = Answers("answers", "answer")

    async def both() -> None:
        asked = asyncio.Event()
        go_on = asyncio.Event()
        first_time = True

        async def waits(event: Event) -> Mapping[str, Any]:
            nonlocal first_time
            if first_time:
                first_time = False
                asked.set()
                await go_on.wait()
                return {"number": 0, "said": "the first"}
            return {"number": 0, "said": "the second"}

        scorer = Reactions("scorer", handlers={"alerts": Reaction(waits, answers=answers)}, drain="1s")
        async with LogThread(opener(path)) as log:
            plane = ReactionPlane(scorer, log, registry())
            feed = LogFeed(log, scorer.group, ("alerts",), "same")
            one = asyncio.create_task(plane.run(feed))
            await asked.wait()
            # The same member again is a restart of it elsewhere: it takes the partitions at once.
            two = asyncio.create_task(react(path, scorer, until_end=True, member="same"))
            await two
            go_on.set()
            await asyncio.sleep(0.3)
            plane.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await one

    asyncio.run(both())
    assert column(rows(path, "answers"), "said") == ["the second"]
    assert len(rows(path, "scorer.reactions.deliveries")) == 1


def test_behind_an_open_breaker_events_wait_one_probe_goes_out_and_nothing_is_lost(path: Path) -> None:
    fill(path, 30, partitions=1)
    with web_server() as server:
        server.reply = lambda request: (503 if len(server.requests) <= 14 else 204, {}, b"")
        breaker = Breaker(at_least=3, window=3, wait="200ms", longest_wait="300ms", probe_timeout="1s")
        hook = Webhook(server.url(), allow_networks=("127.0.0.1/32",))
        reaction = Reaction(hook, retry=Retry(attempts=50, first="1ms", longest="5ms"), breaker=breaker, concurrency=10)
        pager = Reactions("pager", handlers={"alerts": reaction})
        deeds = asyncio.run(react(path, pager))
        states = rows(path, pager.breakers)
    assert (deeds.delivered, deeds.dead_lettered) == (30, 0)
    # Ten were under way when it opened, two more at most had come back; after that only probes went out, one by one.
    probes = [row["probes"] for row in states if row["state"] == "half_open"]
    assert probes == list(range(1, len(probes) + 1))
    assert 14 - 12 < len(probes) <= 14 - 3 + 1
    assert len(server.requests) == 14 + 30
    assert states[-1]["state"] == "closed"
    assert set(column(states, "breaker")) == {"alerts-0"}


def test_a_breaker_stays_open_over_a_restart_and_answers_at_once_where_it_can(path: Path) -> None:
    fill(path, 8, partitions=1, service=lambda number: ["till", "bank"][number % 2])
    asked: list[str] = []

    async def call(event: Event) -> Mapping[str, Any]:
        asked.append(event.row["service"])
        if event.row["service"] == "till":
            raise ConnectionError("the till is away")
        return {"number": event.row["number"], "said": "fine"}

    answers = Answers("answers", "answer", failed=lambda event, why: {"number": event.row["number"], "said": why})
    breaker = Breaker(at_least=2, window=4, wait="10m", per="service")
    scorer = Reactions(
        "scorer", handlers={"alerts": Reaction(call, retry=Retry(attempts=1), answers=answers, breaker=breaker)}
    )
    asyncio.run(react(path, scorer))
    assert asked == ["till", "bank", "till", "bank", "bank", "bank"]
    fill(path, 4, partitions=1, service=lambda number: ["till", "bank"][number % 2])
    asyncio.run(react(path, scorer))
    assert asked[6:] == ["bank", "bank"]
    said = [row["said"] for row in rows(path, "answers")]
    assert Counter(said) == Counter({"fine": 6, "ConnectionError": 2, "breaker_open": 4})
    assert set(column(rows(path, scorer.breakers), "breaker")) == {"alerts-0/till"}


def test_two_processes_share_the_partitions_and_nothing_is_missed_when_one_leaves(path: Path) -> None:
    fill(path, 400, partitions=4)
    seen: Counter[int] = Counter()

    async def together() -> None:
        def made(name: str) -> Reactions:
            async def notify(event: Event) -> None:
                seen[event.row["number"]] += 1
                by.setdefault(name, set()).add(event.partition)
                await asyncio.sleep(0.002)

            return Reactions("pager", handlers={"alerts": notify})

        by: dict[str, set[int]] = {}
        async with LogThread(opener(path)) as log:
            first = made("one")
            plane = ReactionPlane(first, log, registry())
            one = asyncio.create_task(plane.run(LogFeed(log, first.group, ("alerts",), "one")))
            while sum(seen.values()) < 40:
                await asyncio.sleep(0.01)
            two = asyncio.create_task(react(path, made("two"), member="two"))
            while len(by.get("two", ())) < 2 and not two.done():
                await asyncio.sleep(0.01)
            plane.stop()
            deeds = await one
            other = await two
        assert deeds.delivered + other.delivered == 400
        assert deeds.cut_off == 0

    asyncio.run(together())
    assert seen == Counter(range(400))


def test_dead_letters_are_given_to_the_handler_again_each_once_with_their_ids(path: Path) -> None:
    fill(path, 10, partitions=2)
    ids: dict[str, list[int]] = {}
    mended: set[int] = set()

    async def notify(event: Event) -> None:
        ids.setdefault(event.id, []).append(event.row["number"])
        if event.row["number"] in {3, 4, 5} - mended:
            raise ValueError("not mended yet")

    pager = Reactions("pager", handlers={"alerts": Reaction(notify, retry=Retry(attempts=1))})
    assert asyncio.run(react(path, pager)).dead_lettered == 3
    mended.update({3, 4})
    again = asyncio.run(react(path, pager, again=True))
    assert (again.delivered, again.dead_lettered) == (2, 1)
    mended.add(5)
    assert asyncio.run(react(path, pager, again=True)).delivered == 1
    assert asyncio.run(react(path, pager, again=True)).delivered == 0
    assert sorted(map(len, ids.values())) == [1] * 7 + [2, 2, 3]
    assert all(len(set(numbers)) == 1 for numbers in ids.values())
    letters = rows(path, pager.dead_letters)
    assert [(row["topic"], row["id"]) for row in letters if row["offset"] == 2 and row["partition"] == 1] == [
        ("alerts", "alerts-1@2")
    ] * 2
