"""The desk at which people claim cases and answer them: what stands open, and who may write what.

Whoever writes opens the desk's one producer first. The log then refuses everything that anybody else began before and
has not committed, and what was committed can be read. So each claim and each answer is decided on all that came
before it, however many people ask at once: a case has one holder, and one answer. Who was overtaken looks again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import numpy as np
import tenacity

from streamproc.contracts.registry import Registry
from streamproc.decisions.review import ANSWER, CASE, OPEN, REVIEW, TIMED_OUT
from streamproc.errors import (
    Fenced,
    InputError,
    LogBusy,
    LogError,
    LogUnavailable,
    UnknownOutcome,
    UnknownTopic,
    did_you_mean,
)
from streamproc.event_time import instant_text
from streamproc.ports import Log, TopicPartition, block_of
from streamproc.runtime.clock import Clock, SystemClock
from streamproc.runtime.reactions.records import Writer, partition_of
from streamproc.runtime.reading import TopicReader, read_blocks

_PASSING: Final = (Fenced, LogBusy, LogUnavailable, UnknownOutcome)
_READABLE_S: Final = 60.0
_READABLE_LOOK_S: Final = 0.01
_OWN: Final = frozenset((CASE, *(field.name for field in REVIEW), "_partition", "_offset"))


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has a case until when (µs since 1970 UTC); `token` tells one act of claiming from another."""

    by: str
    until_us: int
    token: str


@dataclass(frozen=True, slots=True)
class Case:
    """A case as the review topic tells it, with what the desk knows besides.

    row     what is asked about: the columns of the row
    status  "open", "answered" or "timed_out", as far as the topology has told
    answer  what a person wrote, which the topology may not have taken yet: by, at, verdict
    """

    case: str
    row: Mapping[str, Any]
    subject: str | None
    priority: float
    asked_at: datetime
    deadline: datetime
    choices: tuple[str, ...]
    default: str
    status: str
    verdict: str | None
    answered_by: str | None
    claim: Claim | None = None
    answer: tuple[str, datetime, str] | None = None

    @property
    def deadline_us(self) -> int:
        """The deadline, µs since 1970 UTC."""
        return _us(self.deadline)

    def holder(self, now_us: int) -> Claim | None:
        """The claim that holds at a moment."""
        return self.claim if self.claim is not None and now_us < self.claim.until_us else None


class ReviewDesk:
    """Reads a review topic and its answer topic, and writes the latter.

    cases  the review topic: the side "cases" of `sp.review`

    Raises UnknownTopic for a topic that is not there, InputError for one that holds no cases.
    """

    def __init__(self, log: Log, registry: Registry, cases: str, *, clock: Clock | None = None) -> None:
        if cases not in log.topics():
            raise UnknownTopic(f"the log has no topic '{cases}'", hint=did_you_mean(cases, log.topics()))
        self.topic = cases
        self._answers = ""
        self._log, self._clock = log, clock or SystemClock()
        self._reader, self._writer = TopicReader(registry), Writer(ANSWER, registry)
        self._cases: dict[str, Case] = {}
        self._claims: dict[str, Claim] = {}
        self._said: dict[str, tuple[str, datetime, str, str]] = {}
        self._next: dict[TopicPartition, int] = {}

    def look(self) -> None:
        """Reads what is new in both topics."""
        for row in self._new(self.topic):
            if not set(row) >= _OWN:
                raise InputError(
                    f"topic '{self.topic}' holds no cases",
                    hint='name the topic of the side "cases": sp.sink(reviewed.side("cases"), key="case")',
                )
            self._answers = row["answers"]
            # Of a case that was closed, the row that opened it may be read later: keys lie in one partition each.
            known = self._cases.get(row[CASE])
            if known is None or known.status == OPEN:
                self._cases[row[CASE]] = _case_of(row)
        for row in self._new(self._answers) if self._answers else ():
            if row["deed"] == "claim":
                self._claims[row[CASE]] = Claim(row["by"], _us(row["until"]), row["token"])
            else:
                self._said.setdefault(row[CASE], (row["by"], row["at"], row["verdict"], row["token"]))

    def case(self, name: str) -> Case:
        """The case of that id, or whose id alone begins so.  Raises InputError."""
        found = [name] if name in self._cases else [case for case in self._cases if case.startswith(name)]
        if len(found) != 1 or not name:
            what = "there is no case" if not found else f"{len(found)} cases begin with"
            raise InputError(
                f"{what} '{name}' in topic '{self.topic}'",
                hint=f"'streamproc review list {self.topic}' shows those that are open",
            )
        return self._known(found[0])

    def open(self) -> list[Case]:
        """The cases that a person may still answer: the highest priority first, of equals the oldest."""
        now = self._clock.now_us()
        still = [
            case
            for case in self._cases.values()
            if case.status == OPEN and case.case not in self._said and now < case.deadline_us
        ]
        return [self._known(c.case) for c in sorted(still, key=lambda c: (-c.priority, c.asked_at, c.case))]

    def claim(self, by: str, *, count: int, lease_us: int) -> list[Case]:
        """Takes the first cases that nobody holds for a person; gives them. Each is hers alone until the lease ends."""
        token = uuid4().hex

        def take() -> list[dict[str, Any]]:
            if any(claim.token == token for claim in self._claims.values()):
                return []  # An attempt whose outcome was unknown went through.
            now = self._clock.now_us()
            free = [case for case in self.open() if case.holder(now) is None][:count]
            return [
                {CASE: c.case, "deed": "claim", "by": by, "at": now, "until": now + lease_us, "token": token}
                for c in free
            ]

        self._write(take)
        return [case for case in self.open() if case.claim is not None and case.claim.token == token]

    def answer(self, name: str, verdict: str, *, by: str, note: str | None = None) -> Case:
        """Writes the verdict on a case; the same one again by the same person changes nothing.

        Raises InputError, and writes nothing, where the case is unknown, answered, out of time or somebody else's, and
        for a verdict that is not among its choices.
        """
        token = uuid4().hex

        def say() -> list[dict[str, Any]]:
            case, now = self.case(name), self._clock.now_us()
            if self._refuse(case, verdict, by, now):
                return []
            told = {"by": by, "at": now, "subject": case.subject, "verdict": verdict, "note": note, "token": token}
            return [{CASE: case.case, "deed": "answer", **told}]

        self._write(say)
        return self.case(name)

    def _refuse(self, case: Case, verdict: str, by: str, now: int) -> bool:
        """Whether the same was answered by the same person; raises InputError for what must not be written."""
        if verdict not in case.choices:
            raise InputError(
                f"'{verdict}' is no verdict of case {case.case}", hint=f"it is {' or '.join(case.choices)}"
            )
        said = case.answer
        if said is not None and (case.status == OPEN or case.answered_by == said[0]):
            if (said[0], said[2]) == (by, verdict):
                return True
            raise InputError(
                f"case {case.case} is answered: '{said[2]}' by {said[0]} at {instant_text(_us(said[1]))}",
                hint="an answer stands; what followed from it has happened",
            )
        if case.status not in (OPEN, TIMED_OUT):
            raise InputError(
                f"case {case.case} is answered: '{case.verdict}' by {case.answered_by}", hint="an answer stands"
            )
        if case.status == TIMED_OUT or now >= case.deadline_us:
            raise InputError(
                f"the time of case {case.case} ended at {instant_text(case.deadline_us)}: it gets '{case.default}'",
                hint="give sp.review a longer timeout, or claim by priority",
            )
        holder = case.holder(now)
        if holder is not None and holder.by != by:
            raise InputError(
                f"case {case.case} is claimed by {holder.by} until {instant_text(holder.until_us)}",
                hint="claim another one, or wait until the claim lapses",
            )
        return False

    def _known(self, name: str) -> Case:
        said = self._said.get(name)
        return replace(self._cases[name], claim=self._claims.get(name), answer=None if said is None else said[:3])

    def _new(self, topic: str) -> list[dict[str, Any]]:
        count = self._log.topics()[topic].partitions if topic in self._log.topics() else 0
        starts = {p: self._next.get(TopicPartition(topic, p), -1) for p in range(count)}
        out: list[dict[str, Any]] = []
        for block in read_blocks(self._log, topic, starts={p: at for p, at in starts.items() if at >= 0}):
            self._next[TopicPartition(topic, block.partition)] = int(block.offsets[-1]) + 1
            out += [row for frame in self._reader.frames(block) for row in frame.to_dicts()]
        return out

    def _write(self, decided: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Appends what `decided` gives on all that is written; asks it again where somebody else came between."""
        self.look()
        if not self._answers:
            raise InputError(f"topic '{self.topic}' holds no case", hint="nothing was asked yet")
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PASSING),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=5),
            stop=tenacity.stop_after_delay(120),
            reraise=True,
        )
        self._readable(retrying(self._attempt, decided))
        self.look()

    def _readable(self, written: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Waits until what was committed can be read: Kafka answers a commit a moment before, and who looks at once
        would not find the case that is hers."""
        until = self._clock.monotonic() + _READABLE_S
        while any(self._log.end_offset(place) < end for place, (_, end) in written.items()):
            if self._clock.monotonic() >= until:
                raise LogUnavailable(
                    f"what was written to topic '{self._answers}' stands, and cannot be read for {_READABLE_S:.0f} s",
                    hint=f"'streamproc review list {self.topic}' shows it once it can",
                )
            self._clock.sleep(_READABLE_LOOK_S)

    def _attempt(self, decided: Callable[[], Sequence[Mapping[str, Any]]]) -> dict[TopicPartition, tuple[int, int]]:
        """One try; gives the offsets of what it wrote."""
        producer = self._log.producer(f"{self._answers}.desk")
        try:
            self.look()
            rows = decided()
            if not rows:
                return {}
            transaction = producer.begin()
            count = self._log.topics()[self._answers].partitions
            keys = [str(row[CASE]).encode() for row in rows]
            places = np.array([partition_of(key, count, 0) for key in keys])
            payloads = self._writer.payloads(rows)
            for place in np.unique(places).tolist():
                mine = np.flatnonzero(places == place).tolist()
                transaction.append(
                    block_of(self._answers, place, [payloads[i] for i in mine], keys=[keys[i] for i in mine])
                )
            return transaction.commit()
        finally:
            with contextlib.suppress(LogError):
                producer.close()


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def _case_of(row: Mapping[str, Any]) -> Case:
    return Case(
        row[CASE], {name: value for name, value in row.items() if name not in _OWN}, row["subject"], row["priority"],
        row["asked_at"], row["deadline"], tuple(row["choices"]), row["default"], row["status"], row["verdict"],
        row["answered_by"],
    )  # fmt: skip
