"""Faults that a seed chooses: of workers, and of the brokers that lead, or coordinate groups or transactions.

Three lanes run at once: workers are killed; brokers are killed or restarted, one by one; brokers are frozen. The lanes
of brokers draw from shuffled decks, and go on past their time until what lies on top has struck. Each fault is noted
with its second.

No fault takes a partition its last replica in sync: Kafka 4.3.0 leaves a transaction's mark out where a partition has
no leader when the transaction ends (KAFKA-20734, `test_kafka_torn_by_brokers.py`), and then no client can be exact.
Two brokers may be away at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from kafka_chaos_crew import Crew

from tests.services.kafka import KafkaCluster

ROLES = ("leader", "group coordinator", "transaction coordinator")


def java_hash(text: str) -> int:
    """String.hashCode, by which Kafka spreads groups and transactional ids over its coordinators."""
    found = 0
    for letter in text:
        found = (31 * found + ord(letter)) & 0xFFFFFFFF
    return found - (1 << 32) if found >= 1 << 31 else found


class Faults:
    """The lanes of one run; `notes` says what was done and when."""

    def __init__(
        self, cluster: KafkaCluster, crew: Crew, *, seed: int, group: str, topic: str, transactional_id: str
    ) -> None:
        self.notes: list[str] = [f"seed {seed}"]
        self.counts: Counter[str] = Counter()
        self.ended_at = 0.0
        self._cluster, self._crew = cluster, crew
        self._group, self._topic, self._transactional_id = group, topic, transactional_id
        self._dice = {lane: random.Random(f"{seed} {lane}") for lane in ("workers", "bounces", "pauses")}
        # What is drawn first, the last one before the others: so even a short run has every kind and every role.
        self._decks = {
            "bounces": [("restart", "group coordinator"), ("kill", "leader")],
            "pauses": [("pause", "transaction coordinator")],
        }
        self._began = time.monotonic()
        self._busy: set[int] = set()
        self._lock = threading.Lock()
        self._admin = AdminClient({**cluster.client(), "log_level": 0, "error_cb": lambda _: None})
        self._roles: dict[str, int] = {}
        self._problems: list[BaseException] = []

    def note(self, what: str) -> None:
        """Writes down what happens now."""
        self.notes.append(f"{time.monotonic() - self._began:7.2f} s  {what}")

    def run(
        self, seconds: float, *, kill_every_s: float, bounce_every_s: float, pause_every_s: float,
        pause_s: tuple[float, float], bounces: int = 2,
    ) -> None:  # fmt: skip
        """Runs all lanes for so long; at the end every broker serves and every worker runs.

        bounces  so many brokers are killed or restarted at least, however long that takes
        """
        until = time.monotonic() + seconds
        lanes = [
            threading.Thread(target=self._lane, args=(self._workers, until, kill_every_s)),
            threading.Thread(target=self._lane, args=(self._pauses, until, pause_every_s, pause_s)),
        ]
        for lane in lanes:
            lane.start()
        try:
            # On this thread, for a broker dies with the thread that started it.
            self._bounces(until, bounce_every_s, bounces)
        finally:
            for lane in lanes:
                lane.join()
        if self._problems:
            raise self._problems[0]
        self.note("the last fault is over")
        self.ended_at = time.monotonic()

    def _lane(self, lane: Any, *arguments: Any) -> None:
        try:
            lane(*arguments)
        except BaseException as problem:
            self._problems.append(problem)

    def _workers(self, until: float, every_s: float) -> None:
        dice = self._dice["workers"]
        names = sorted(self._crew.hands)
        while (at := time.monotonic() + dice.uniform(0, 2 * every_s)) < until:
            self._sleep(at)
            name = dice.choice(names)
            self.note(f"kill -9 of {name}")
            self._crew.kill(name)
            self._crew.start(name)
            self._crew.revive()
            self.counts["kills"] += 1

    def _bounces(self, until: float, every_s: float, least: int) -> None:
        dice, struck, began = self._dice["bounces"], 0, time.monotonic()
        # From beginning to beginning: how long a broker takes to come back shall not make bounces rarer.
        while (at := max(time.monotonic(), began + dice.uniform(0.5, 1.5) * every_s)) < until or struck < least:
            self._sleep(at)
            began = at
            (kind, role), away = self._draw("bounces", ("kill", "restart")), dice.uniform(0.5, 6.0)
            node = self._take("bounces", kind, role)
            if node is None:
                continue
            self.note(f"{kind} of broker {node} ({role}), away for {away:.1f} s")
            if kind == "kill":
                self._cluster.kill(node)
            else:
                self._cluster.shut_down(node)
            time.sleep(away)
            self._cluster.start(node)
            self.note(f"broker {node} serves again")
            self._give(node)
            self._count("bounces", kind, role)
            struck += 1
        self._sleep(until)

    def _pauses(self, until: float, every_s: float, bounds: tuple[float, float]) -> None:
        dice, struck = self._dice["pauses"], 0
        while (at := time.monotonic() + dice.uniform(0.5, 1.5) * every_s) < until or struck < 1:
            self._sleep(at)
            (kind, role), span = self._draw("pauses", ("pause",)), dice.uniform(*bounds)
            node = self._take("pauses", kind, role)
            if node is None:
                continue
            self.note(f"broker {node} ({role}) stands still for {span:.1f} s")
            self._cluster.pause(node)
            time.sleep(span)
            self._cluster.resume(node)
            self.note(f"broker {node} goes on")
            self._give(node)
            self._count(kind, role)
            struck += 1

    def _count(self, *what: str) -> None:
        with self._lock:
            self.counts.update(what)

    def _sleep(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))

    def _draw(self, lane: str, kinds: tuple[str, ...]) -> tuple[str, str]:
        deck = self._decks[lane]
        if not deck:
            deck += [(kind, role) for kind in kinds for role in ROLES]
            self._dice[lane].shuffle(deck)
        return deck.pop()

    def _take(self, lane: str, kind: str, role: str) -> int | None:
        """The broker that has this role now; None, and the fault is drawn again, if it is away or cannot be spared."""
        node = self._broker_of(role)
        with self._lock:
            if node in self._busy or not self._is_spared(node):
                self._decks[lane].append((kind, role))
                return None
            self._busy.add(node)
            return node

    def _is_spared(self, node: int) -> bool:
        """Whether every partition has another replica in sync, on a broker that nothing is done to."""
        with suppress(KafkaException):
            topics = self._admin.list_topics(timeout=3).topics.values()
            # A broker that has just come back may know a topic and none of its partitions.
            return all(
                topic.partitions and all(set(one.isrs) - self._busy - {node} for one in topic.partitions.values())
                for topic in topics
            )
        return False

    def _give(self, node: int) -> None:
        with self._lock:
            self._busy.discard(node)

    def _broker_of(self, role: str) -> int:
        topic, name = {
            "leader": (self._topic, ""),
            "group coordinator": ("__consumer_offsets", self._group),
            "transaction coordinator": ("__transaction_state", self._transactional_id),
        }[role]
        # While brokers are away nobody may answer: the one that had the role last has it, for all that is known.
        with suppress(KafkaException, KeyError):
            partitions = self._admin.list_topics(topic, timeout=3).topics[topic].partitions
            # A broker that has just come back may know the topic and none of its partitions.
            leader = partitions[abs(java_hash(name)) % len(partitions)].leader if partitions else -1
            if leader > 0:
                self._roles[role] = leader
        return self._roles.get(role, 1)
