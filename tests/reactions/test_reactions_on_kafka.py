"""The same promises on a real Kafka, where faust-streaming brings the records."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from events import ALERT, column, registry, write_alerts
from kafka_child import opener

import streamproc as sp
from connectors.faust import FaustFeed
from connectors.kafka import KafkaLog, KafkaSettings, open_kafka_log
from streamproc.contracts.derive import avsc_text
from streamproc.errors import Fenced, InputError, UnknownTopic
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.reaction import Event
from streamproc.runtime.reactions.definition import Reaction, Reactions, Retry
from streamproc.runtime.reactions.log_thread import LogThread
from streamproc.runtime.reactions.plane import Deeds, ReactionPlane
from streamproc.runtime.reactions.records import Writer
from streamproc.runtime.reading import read_topic
from tests.services.kafka import KafkaCluster, kafka_cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def log(cluster: KafkaCluster) -> Iterator[KafkaLog]:
    with open_kafka_log(KafkaSettings((cluster.bootstrap,))) as opened:
        yield opened


async def react(cluster: KafkaCluster, reactions: Reactions) -> Deeds:
    async with LogThread(opener(cluster.bootstrap)) as log:
        feed = FaustFeed(cluster.client(), reactions.group, tuple(reactions.handlers), ask=log)
        async with asyncio.timeout(90):
            return await ReactionPlane(reactions, log, registry()).run(feed, until_end=True)


def rows(log: KafkaLog, topic: str) -> list[dict[str, Any]]:
    return read_topic(log, registry(), topic).to_dicts()


def test_records_of_an_aborted_transaction_never_reach_a_handler(cluster: KafkaCluster, log: KafkaLog) -> None:
    log.create_topic("aborted.alerts", TopicSettings(1))
    writer = Writer(ALERT, registry())
    producer = Producer({**cluster.client(), "transactional.id": "aborter"})
    producer.init_transactions(10)
    for number in range(20):
        producer.begin_transaction()
        producer.produce("aborted.alerts", writer.payloads([{"number": number, "service": "till"}])[0])
        producer.flush(10)
        if number % 2:
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(10)
    seen = []

    async def notify(event: Event) -> None:
        seen.append(event.row["number"])

    deeds = asyncio.run(react(cluster, Reactions("aborted", handlers={"aborted.alerts": notify})))
    assert seen == list(range(0, 20, 2))
    assert deeds.delivered == 10


def test_a_handler_that_fails_is_tried_again_then_dead_lettered_and_the_next_ones_go_on(
    cluster: KafkaCluster, log: KafkaLog
) -> None:
    write_alerts(log, range(30), topic="failing.alerts")
    attempts: Counter[int] = Counter()

    async def notify(event: Event) -> None:
        attempts[event.row["number"]] += 1
        if event.row["number"] in (4, 7):
            raise ValueError("never right")

    reaction = Reaction(notify, retry=Retry(attempts=3, first="1ms", longest="5ms"))
    pager = Reactions("failing", handlers={"failing.alerts": reaction})
    deeds = asyncio.run(react(cluster, pager))
    assert attempts == Counter({**dict.fromkeys(range(30), 1), 4: 3, 7: 3})
    assert (deeds.delivered, deeds.dead_lettered) == (28, 2)
    letters = rows(log, pager.dead_letters)
    assert {(row["reason"], row["attempts"], row["topic"]) for row in letters} == {("ValueError", 3, "failing.alerts")}
    assert sorted(column(rows(log, pager.deliveries), "offset")) == sorted([*range(15), *range(15)])
    assert set(log.committed(pager.group)) == {TopicPartition("failing.alerts", p) for p in (0, 1)}
    # Nothing is left for a second run, and what comes then is delivered.
    write_alerts(log, range(30, 36), topic="failing.alerts")
    assert asyncio.run(react(cluster, pager)).delivered == 6
    assert all(attempts[number] == 1 for number in range(30, 36))


@pytest.mark.long
def test_a_process_that_is_killed_again_and_again_loses_nothing_and_repeats_one_event_a_kill(
    cluster: KafkaCluster, log: KafkaLog, tmp_path: Path
) -> None:
    write_alerts(log, range(120), topic="killed.alerts", partitions=1)
    told, kills = tmp_path / "told", 0
    told.touch()
    command = [sys.executable, str(Path(__file__).with_name("kafka_child.py")), cluster.bootstrap, str(told), "0.02"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    for more in (25, 20, 30):
        before = len(told.read_text().splitlines())
        with subprocess.Popen(command, env=env) as child:
            until = time.monotonic() + 60
            while len(told.read_text().splitlines()) < before + more and time.monotonic() < until:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            kills += 1
    subprocess.run(command, env=env, check=True, timeout=120)
    lines = [line.split() for line in told.read_text().splitlines()]
    times = Counter(int(number) for number, _ in lines)
    assert set(times) == set(range(120)), "every alert is delivered"
    assert sum(times.values()) - 120 <= kills
    assert len({(number, id_) for number, id_ in lines}) == 120, "a repetition has the same id"
    assert len(rows(log, "killed.reactions.deliveries")) == 120


def test_a_subscription_by_a_binding_goes_on_where_its_group_stood_in_a_loop_and_in_an_event_loop(
    cluster: KafkaCluster, log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kafka.toml").write_text(f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n')
    Path("schemas_avro").mkdir()
    Path("schemas_avro/alert.v1.avsc").write_text(avsc_text(ALERT))
    write_alerts(log, range(12), topic="desk.alerts")
    with sp.subscribe("desk.alerts", bind="kafka.toml", group="desk", limit=5) as alerts:
        seen = [alert.row["number"] for alert in alerts]
    assert len(seen) == 5
    with pytest.raises(ZeroDivisionError), sp.subscribe("desk.alerts", bind="kafka.toml", group="desk") as alerts:
        for alert in alerts:
            failed = alert.row["number"]
            raise ZeroDivisionError
    first = sp.subscribe("desk.alerts", bind="kafka.toml", group="desk", follow=True)

    async def follow() -> None:
        with sp.subscribe("desk.alerts", bind="kafka.toml", group="desk", follow=True) as alerts:

            async def read() -> None:
                async for alert in alerts:
                    seen.append(alert.row["number"])

            reading = asyncio.create_task(read())
            while len(seen) < 12:
                await asyncio.sleep(0.01)
            write_alerts(log, range(12, 20), topic="desk.alerts")
            while len(seen) < 20:
                await asyncio.sleep(0.01)
            alerts.stop()
            await asyncio.wait_for(reading, 10)

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert failed in seen[5:], "the one that failed was not dealt with: it came again"
    assert sorted(seen) == list(range(20))
    # The one that opened before it lost its place to it.
    with pytest.raises(Fenced):
        list(first)
    with sp.subscribe("desk.alerts", bind="kafka.toml", group="desk") as alerts:
        assert list(alerts) == []
    with pytest.raises(InputError, match=r"use either bind= or log="):
        sp.subscribe("desk.alerts", bind="kafka.toml", log=log)
    with pytest.raises(UnknownTopic, match=r"did you mean 'desk\.alerts'"):
        sp.subscribe("desk.alert", bind="kafka.toml")


def test_the_commands_do_the_same_by_a_binding(cluster: KafkaCluster, log: KafkaLog, tmp_path: Path) -> None:
    write_alerts(log, range(8), topic="bound.alerts")
    (tmp_path / "kafka.toml").write_text(f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n')
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "alert.v1.avsc").write_text(avsc_text(ALERT))
    (tmp_path / "reactions.py").write_text(
        'import streamproc as sp\nlines = sp.Reactions("bound", handlers={"bound.alerts": sp.JsonLines()})\n'
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    streamproc = [sys.executable, "-m", "streamproc"]

    def ran(*arguments: str) -> list[bytes]:
        done = subprocess.run(
            [*streamproc, *arguments, "--bind", "kafka.toml"], cwd=tmp_path, env=env, capture_output=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert sorted(orjson.loads(line)["row"]["number"] for line in ran("react", "reactions.py", "--until-end")) == [
        *range(8)
    ]
    assert sorted(orjson.loads(line)["number"] for line in ran("subscribe", "bound.alerts", "--group", "g")) == [
        *range(8)
    ]
    assert ran("subscribe", "bound.alerts", "--group", "g") == []
