"""Groups on a real broker: shares settle, nobody shares a partition, and the brokers refuse who lost his place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from connectors.kafka import KafkaLog, Profile, kafka_settings
from connectors.kafka.membership import KafkaMembership
from streamproc.errors import Fenced, StaleMember, UnknownTopic
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.conformance.kafka_adapter import KafkaAdapter, SeenLog, broker

U0 = TopicPartition("u", 0)
PROTOCOLS = ("classic", "consumer")


class Members:
    """Members of one group, each with a handle of its own; all are polled while something is waited for."""

    def __init__(self, protocol: str) -> None:
        settings = kafka_settings({"brokers": broker().bootstrap, "group_protocol": protocol})
        self.profile = Profile(settings, session_s=1.5)
        self.joined: dict[str, KafkaMembership] = {}
        self.logs: list[KafkaLog] = []

    def log(self) -> KafkaLog:
        log = SeenLog(self.profile)
        self.logs.append(log)
        return log

    def join(self, name: str, topic: str = "tasks") -> KafkaMembership:
        self.joined[name] = self.log().join("g", topic, name)
        return self.joined[name]

    def leave(self, name: str) -> None:
        self.joined.pop(name).leave()

    def poll(self) -> dict[str, frozenset[int]]:
        held = {name: member.poll() for name, member in self.joined.items()}
        everything = [number for mine in held.values() for number in mine]
        assert len(everything) == len(set(everything)), f"a partition has two owners: {held}"
        return held

    def until(self, settled: Callable[[dict[str, frozenset[int]]], bool]) -> dict[str, frozenset[int]]:
        end = time.monotonic() + 40
        while not settled(held := self.poll()):
            assert time.monotonic() < end, f"the group did not settle: {held}"
            time.sleep(0.02)
        return held


@pytest.fixture(params=PROTOCOLS)
def group(request: pytest.FixtureRequest) -> Iterator[Members]:
    KafkaAdapter(blocks=True).close()
    members = Members(request.param)
    log = members.log()
    log.create_topic("tasks", TopicSettings(partitions=7))
    log.create_topic("u", TopicSettings())
    yield members
    for member in members.joined.values():
        member.leave()
    for log in members.logs:
        log.close()


def shared(held: dict[str, frozenset[int]]) -> bool:
    """Whether all seven partitions have owners, in fair shares."""
    sizes = [len(mine) for mine in held.values()]
    return sum(sizes) == 7 and max(sizes) - min(sizes) <= 1


def test_from_one_member_to_three_and_back_every_partition_has_one_owner(group: Members) -> None:
    for name in "abc":
        group.join(name)
        group.until(shared)
    for name in "ba":
        group.leave(name)
        group.until(shared)
    assert group.poll() == {"c": frozenset(range(7))}


def test_a_commit_holds_while_the_member_keeps_its_partition_though_the_group_changes(group: Members) -> None:
    first = group.join("a")
    group.until(shared)
    transaction = group.log().producer("a").begin()
    transaction.append(block_of("u", 0, [b"good"]))
    group.join("b")
    kept = min(group.until(shared)["a"])
    transaction.commit_offsets("g.offsets", {U0: 1}, membership=first, owned=(kept,))
    group.leave("b")
    group.until(shared)
    transaction.commit()
    assert group.log().committed("g.offsets") == {U0: 1}


def test_a_partition_that_moved_away_takes_the_whole_transaction_with_it(group: Members) -> None:
    first = group.join("a")
    group.until(shared)
    log = group.log()
    transaction = log.producer("a").begin()
    transaction.append(block_of("u", 0, [b"zombie"]))
    group.join("b")
    moved = min(group.until(shared)["b"])
    transaction.commit_offsets("g.offsets", {U0: 1}, membership=first, owned=(moved,))
    with pytest.raises(StaleMember):
        transaction.commit()
    assert len(log.read(U0, 0)) == 0
    assert log.committed("g.offsets") == {}


def test_the_brokers_refuse_what_a_member_that_left_still_says(group: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    first = group.join("a")
    group.until(shared)
    log = group.log()
    transaction = log.producer("a").begin()
    transaction.append(block_of("u", 0, [b"zombie"]))
    transaction.commit_offsets("g.offsets", {U0: 1}, membership=first, owned=(0,))
    said = first.metadata()
    # A zombie does not know that it left: its own look at what it holds is what a stopped process would have seen.
    monkeypatch.setattr(KafkaMembership, "metadata", lambda _: said)
    standing = first.standing((0,))
    group.leave("a")
    monkeypatch.setattr(KafkaMembership, "standing", lambda _, owned: {n: standing[n] for n in owned})
    with pytest.raises(StaleMember):
        transaction.commit()
    assert len(log.read(U0, 0)) == 0
    assert log.committed("g.offsets") == {}


def test_who_left_is_fenced_and_joining_needs_the_topic(group: Members) -> None:
    member = group.join("a")
    group.until(shared)
    group.leave("a")
    with pytest.raises(Fenced):
        member.poll()
    with pytest.raises(UnknownTopic):
        group.join("a", "absent")
