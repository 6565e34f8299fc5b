"""The same desk on a real Kafka: the log's fencing decides there too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from reviewing import CONTRACTS, HOUR, Standing, payments, topology

from connectors.kafka import KafkaSettings, open_kafka_log
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.replay import source_ends
from streamproc.runtime.review_desk import ReviewDesk
from streamproc.runtime.worker import Worker
from streamproc.testing.drive import append_frame
from tests.deploy.deployed import within
from tests.services.kafka import KafkaCluster, kafka_cluster

PEOPLE = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


def test_claimants_at_once_never_get_the_same_case_and_a_fenced_one_writes_nothing(cluster: KafkaCluster) -> None:
    settings = KafkaSettings((cluster.bootstrap,))
    registry, clock = MemoryRegistry(CONTRACTS), Standing()
    with open_kafka_log(settings) as log:
        log.create_topic("payments", TopicSettings(2))
        append_frame(log, registry, "payments", CONTRACTS[0], payments(20))
        # A commit is decided before its rows can be read: neither the worker nor the people begin too soon.
        places = [TopicPartition("payments", number) for number in range(2)]
        within(60, "all payments can be read", lambda: sum(log.end_offsets(places).values()) >= 20)
        binding = bind(topology(), log, registry)
        Worker(binding, log, until_end=source_ends(binding, log), clock=clock).run()
        desk = ReviewDesk(log, registry, "desk.review", clock=clock)

        def opened() -> int:
            desk.look()
            return len(desk.open())

        within(60, "all cases can be read", lambda: opened() == 20)
        start = Barrier(PEOPLE)

        def claim(number: int) -> list[str]:
            with open_kafka_log(settings) as own:
                mine = ReviewDesk(own, registry, "desk.review", clock=clock)
                mine.look()
                start.wait()
                return [case.case for case in mine.claim(f"p{number}", count=1, lease_us=HOUR)]

        with ThreadPoolExecutor(PEOPLE) as people:
            claimed = list(people.map(claim, range(PEOPLE)))
        assert [len(mine) for mine in claimed] == [1] * PEOPLE
        assert max(Counter(case for mine in claimed for case in mine).values()) == 1
        desk.look()
        held = {case.case: case.claim.by for case in desk.open() if case.claim is not None}
        assert held == {mine[0]: f"p{number}" for number, mine in enumerate(claimed)}
        desk.answer(claimed[3][0], "allow", by="p3", note="fine")
        Worker(bind(topology(), log, registry), log, until_end=source_ends(binding, log), clock=clock).run()

        def taken() -> bool:
            return desk.answer(claimed[3][0], "allow", by="p3").status == "answered"

        within(60, "the verdict can be read", taken)
