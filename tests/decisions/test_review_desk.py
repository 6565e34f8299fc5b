"""However many people ask at once, a case has one holder and one answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from reviewing import HOUR, MINUTE, START, Desk, Standing, payments

from connectors.embedded import EmbeddedLog
from streamproc.errors import InputError, LogUnavailable, UnknownTopic
from streamproc.runtime.review_desk import ReviewDesk
from streamproc.testing.memory_log import MemoryLog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path) as opened:
        yield opened


def other(desk: Desk, log: EmbeddedLog) -> ReviewDesk:
    """The desk of somebody on a handle of their own."""
    return ReviewDesk(log, desk.registry, "desk.review", clock=desk.clock)


def test_open_cases_stand_by_priority_then_age(desk: Desk) -> None:
    desk.pay(payments(3))
    desk.pay(payments(1, first=2, at=START + MINUTE))
    desk.work(3)
    cases = desk.desk().open()
    assert [case.row["payment_id"] for case in cases] == ["2", "2", "1", "0"]
    assert cases[0].asked_at < cases[1].asked_at


def test_fifty_claimants_at_once_get_fifty_cases(desk: Desk, tmp_path: Path) -> None:
    desk.pay(payments(55))
    desk.work(3)
    start = Barrier(50)

    def claim(number: int) -> list[str]:
        with EmbeddedLog(tmp_path / "log.db") as log:
            mine = other(desk, log)
            start.wait()
            return [case.case for case in mine.claim(f"p{number}", count=1, lease_us=HOUR)]

    with ThreadPoolExecutor(50) as people:
        claimed = list(people.map(claim, range(50)))
    assert [len(mine) for mine in claimed] == [1] * 50
    assert max(Counter(case for mine in claimed for case in mine).values()) == 1
    holders = {case.case: case.claim.by for case in desk.desk().open() if case.claim is not None}
    assert holders == {mine[0]: f"p{number}" for number, mine in enumerate(claimed)}


class Passing(Standing):
    """While it sleeps, time passes for the log too."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def sleep(self, seconds: float) -> None:
        self.us += round(1e6 * seconds)
        self._log.cluster.advance(round(1e6 * seconds))


def test_who_claims_is_told_her_case_although_the_log_shows_the_claim_later(tmp_path: Path) -> None:
    """Kafka answers a commit once it is decided; its rows can be read when the markers have arrived."""
    log = MemoryLog(now=2**60)
    with Desk(tmp_path, log) as desk:
        desk.clock = Passing(log)
        desk.pay(payments(2))
        desk.work(3)
        log.cluster.markers = lambda: 300_000
        (case,) = desk.desk().claim("eve", count=1, lease_us=HOUR)
        assert case.claim is not None and case.claim.by == "eve"
        told = desk.desk().answer(case.case, "allow", by="eve")
        assert told.answer is not None and told.answer[0] == "eve"
        log.cluster.markers = lambda: 10**12
        with pytest.raises(LogUnavailable, match="stands, and cannot be read for 60 s"):
            desk.desk().claim("kim", count=1, lease_us=HOUR)


def test_of_twenty_who_answer_one_case_at_once_one_is_heard(desk: Desk, tmp_path: Path) -> None:
    desk.pay(payments(1))
    desk.work(3)
    (case,) = desk.desk().open()
    start = Barrier(20)

    def answer(number: int) -> str:
        with EmbeddedLog(tmp_path / "log.db") as log:
            mine = other(desk, log)
            start.wait()
            try:
                mine.answer(case.case, "allow" if number % 2 else "block", by=f"p{number}")
            except InputError as refused:
                return str(refused)
            return "heard"

    with ThreadPoolExecutor(20) as people:
        said = list(people.map(answer, range(20)))
    assert said.count("heard") == 1
    assert sum("is answered" in text for text in said) == 19
    desk.work(3)
    verdicts = desk.rows("verdicts")
    assert verdicts["answered_by"].to_list() == [f"p{said.index('heard')}"]
    assert desk.dead_letters() == []


def test_a_claim_keeps_others_away_until_it_lapses(desk: Desk) -> None:
    desk.pay(payments(2))
    desk.work(3)
    (case,) = desk.desk().claim("eve", count=1, lease_us=15 * MINUTE)
    assert case.row["payment_id"] == "1"
    with pytest.raises(InputError, match="is claimed by eve until"):
        desk.desk().answer(case.case, "allow", by="kim")
    assert [c.row["payment_id"] for c in desk.desk().claim("kim", count=5, lease_us=15 * MINUTE)] == ["0"]
    assert desk.desk().claim("ada", count=1, lease_us=MINUTE) == []
    desk.later(16 * MINUTE)
    assert [c.case for c in desk.desk().claim("ada", count=1, lease_us=15 * MINUTE)] == [case.case]
    with pytest.raises(InputError, match="is claimed by ada"):
        desk.desk().answer(case.case, "allow", by="eve")
    assert desk.desk().answer(case.case, "allow", by="ada").answer is not None


def test_the_same_answer_again_changes_nothing_and_another_is_refused(desk: Desk) -> None:
    desk.pay(payments(1))
    desk.work(3)
    (case,) = desk.desk().open()
    desk.desk().answer(case.case[:8], "allow", by="eve")
    before = desk.log_rows("desk.answers").height
    desk.desk().answer(case.case, "allow", by="eve")
    desk.work(3)
    desk.desk().answer(case.case, "allow", by="eve")
    assert desk.log_rows("desk.answers").height == before == 1
    for verdict, by in (("block", "eve"), ("allow", "kim")):
        with pytest.raises(InputError, match="is answered: 'allow' by eve"):
            desk.desk().answer(case.case, verdict, by=by)
    assert desk.rows("verdicts").height == 1


def test_what_cannot_be_answered_is_refused_by_name(desk: Desk) -> None:
    with pytest.raises(UnknownTopic, match=r"desk\.review"):
        desk.desk()
    desk.pay(payments(40))
    desk.work(3)
    with pytest.raises(InputError, match="there is no case 'nix'"):
        desk.desk().answer("nix", "allow", by="eve")
    with pytest.raises(InputError, match=r"\d cases begin with"):
        names = [case.case for case in desk.desk().open()]
        double = next(name[0] for name in names if sum(n[0] == name[0] for n in names) > 1)
        desk.desk().answer(double, "allow", by="eve")
    with pytest.raises(InputError, match="'perhaps' is no verdict of case"):
        desk.desk().answer(desk.desk().open()[0].case, "perhaps", by="eve")
    with pytest.raises(InputError, match="holds no case"):
        ReviewDesk(desk.log, desk.registry, "desk.dlq", clock=desk.clock).claim("eve", count=1, lease_us=MINUTE)


def test_who_dies_between_claim_and_answer_leaves_the_case_to_the_next_one(desk: Desk, tmp_path: Path) -> None:
    desk.pay(payments(1))
    desk.work(3)
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("review_child.py")), str(tmp_path / "log.db"),
         str(desk.clock.us)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT)])},
    )  # fmt: skip
    assert child.stdout is not None
    claimed = child.stdout.readline().strip()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (case,) = desk.desk().open()
    assert (case.case, case.claim.by if case.claim else "") == (claimed, "mortal")
    assert desk.desk().claim("eve", count=1, lease_us=MINUTE) == []
    desk.later(16 * MINUTE)
    assert [c.case for c in desk.desk().claim("eve", count=1, lease_us=MINUTE)] == [claimed]
    desk.desk().answer(claimed, "allow", by="eve")
    desk.work(3)
    assert desk.rows("verdicts")["answered_by"].to_list() == ["eve"]
