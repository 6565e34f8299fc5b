"""The control topic: what an operator asks of all workers of a topology version, and what each worker answers.

`<topology>.v<N>.control` is one compacted partition. A request has a key of its own, so all that was ever asked stays,
with who, when and why; the newest request is in force, also for workers that start later. A worker's answer has the
worker's name as key: the request that it follows, and where each of its tasks stands.

A drain takes two requests, because workers go on while somebody fixes offsets: the first one pauses, and when the
answers cover every task, nobody moves; the second one names where the sources end. A task that changes hands meanwhile
stays where it is, because its new owner reads this topic before it takes a step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from streamproc.engine.compiled import Names
from streamproc.errors import CorruptLog, InputError, LogError
from streamproc.ports import Log, TopicPartition, TopicSettings, block_of
from streamproc.runtime.task import Task

logger = logging.getLogger(__name__)

Deed = Literal["pause", "resume", "drain"]
State = Literal["running", "paused", "draining", "drained"]

SETTINGS: Final = TopicSettings(1, compacted=True)
_DEEDS: Final = ("pause", "resume", "drain")
_ANSWER: Final = "answer/"
_REQUEST: Final = "request/"


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked of a topology version.

    who, when_us, why  the person or service, the moment (µs since 1970 UTC), and the reason that was given
    offsets            of a drain: where each partition of a source ends for it
    number             the request's offset in the control topic: -1 before it was written
    """

    deed: Deed
    who: str
    when_us: int
    why: str = ""
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    number: int = -1


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker says of a request: its state, and per task the next offsets of the source partitions it reads."""

    member: str
    request: int
    state: State
    tasks: Mapping[int, Mapping[TopicPartition, int]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the control topic says: every request that is there, oldest first, and the last answer of each worker."""

    requests: tuple[Request, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def in_force(self) -> Request | None:
        """The newest request; None if nobody ever asked for anything, or the last one was to resume."""
        last = self.requests[-1] if self.requests else None
        return None if last is None or last.deed == "resume" else last

    def following(self, number: int) -> dict[str, Answer]:
        """The answers to one request, by worker."""
        return {name: answer for name, answer in sorted(self.answers.items()) if answer.request == number}


def control_topic(names: Names) -> str:
    """The name of a topology version's control topic."""
    return f"{names.prefix}.control"


def create_control(log: Log, names: Names) -> None:
    """Makes the control topic, if it is not there."""
    topic = control_topic(names)
    if topic not in log.topics():
        log.create_topic(topic, SETTINGS)


class ControlReader:
    """Follows a control topic; `standing` is what was read so far."""

    def __init__(self, log: Log, names: Names) -> None:
        self.standing = Standing()
        self._log = log
        self._place = TopicPartition(control_topic(names), 0)
        self._next: int | None = None

    def look(self) -> bool:
        """Reads what is new; whether there was anything. The first look reads to the end, later ones what is at hand.

        Raises CorruptLog for a request that cannot be read: to guess what was asked for would be worse.
        """
        if self._next is None:
            self._next, end = self._log.start_offset(self._place), self._log.end_offset(self._place)
        else:
            end = self._log.available(self._place, self._next)
        seen = False
        while self._next < end:
            block = self._log.read(self._place, self._next, max_records=1_024)
            if not len(block):
                self._next = end
                break
            for row in range(len(block)):
                self._take(block.key(row), block.value(row), int(block.offsets[row]))
            self._next = int(block.offsets[-1]) + 1
            seen = True
        return seen

    def _take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        name = (key or b"").decode(errors="replace")
        if value is None:
            return
        try:
            told = orjson.loads(value)
            if name.startswith(_REQUEST):
                request = _request_of(told, offset)
                self.standing = Standing((*self.standing.requests, request), self.standing.answers)
            elif name.startswith(_ANSWER):
                answer = _answer_of(name.removeprefix(_ANSWER), told)
                self.standing = Standing(self.standing.requests, {**self.standing.answers, answer.member: answer})
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptLog(
                f"{self._place.topic}-0@{offset} is neither a request nor an answer: {type(error).__name__}: {error}",
                hint="write requests with 'streamproc pause', 'resume' and 'drain' only",
            ) from None


def ask(log: Log, names: Names, request: Request) -> int:
    """Writes a request; gives its number. Workers see it within about a second."""
    body = {
        "deed": request.deed,
        "who": request.who,
        "when_us": request.when_us,
        "why": request.why,
        "offsets": _offsets_form(request.offsets),
    }
    key = f"{_REQUEST}{request.when_us}-{request.deed}"
    return _append(log, names, f"{names.prefix}.control.{request.who}", key, body)


def where_all_stand(answers: Mapping[str, Answer], tasks: int) -> dict[TopicPartition, int] | None:
    """Where the sources of a paused topology version stand, over all tasks; None while answers do not cover every task.

    Of several tasks or inputs that read one partition the furthest counts: the others catch up with it.
    """
    covered = {number for answer in answers.values() for number in answer.tasks}
    if covered != set(range(tasks)):
        return None
    out: dict[TopicPartition, int] = {}
    for answer in answers.values():
        for positions in answer.tasks.values():
            for place, offset in positions.items():
                out[place] = max(offset, out.get(place, offset))
    return out


class WorkerControl:
    """A worker's side: reads requests, and answers once per request and change of its tasks."""

    def __init__(self, log: Log, names: Names, member: str) -> None:
        self._reader = ControlReader(log, names)
        self._log, self._names, self._member = log, names, member
        self._said: tuple[int, State, Mapping[int, Any]] | None = None

    def in_force(self) -> Request | None:
        """What is in force now."""
        self._reader.look()
        return self._reader.standing.in_force

    def answer(self, state: State, tasks: Mapping[int, Task]) -> None:
        """Says what state the worker is in and where its tasks stand, which must be committed.

        Says nothing where nobody ever asked, and nothing twice. An answer that the log does not take is no reason to
        stop: it is given again at the next look.
        """
        requests = self._reader.standing.requests
        if not requests:
            return
        positions = {number: _source_positions(task) for number, task in sorted(tasks.items())}
        said = (requests[-1].number, state, positions if state != "running" else dict.fromkeys(positions))
        if said == self._said:
            return
        body = {
            "request": requests[-1].number,
            "state": state,
            "tasks": {str(number): _offsets_form(at) for number, at in positions.items()},
        }
        writer = f"{self._names.prefix}.control.{self._member}"
        try:
            _append(self._log, self._names, writer, f"{_ANSWER}{self._member}", body)
        except LogError as error:
            logger.warning("%s could not answer on the control topic: %s", self._member, error)
            return
        self._said = said


def _append(log: Log, names: Names, writer: str, key: str, body: Mapping[str, Any]) -> int:
    topic = control_topic(names)
    producer = log.producer(writer)
    try:
        transaction = producer.begin()
        try:
            transaction.append(block_of(topic, 0, [orjson.dumps(body)], keys=[key.encode()]))
            return transaction.commit()[TopicPartition(topic, 0)][0]
        except BaseException:
            transaction.abort()
            raise
    finally:
        producer.close()


def _source_positions(task: Task) -> dict[TopicPartition, int]:
    out: dict[TopicPartition, int] = {}
    for c, channel in enumerate(task.channels):
        if task.stage.stage.inputs[channel.inlet].source is None:
            continue
        # A record of which some rows are taken has to be finished: the offset behind it is the earliest stop.
        offset = int(task.state.positions[c, 0]) + bool(task.state.positions[c, 1])
        out[channel.place] = max(offset, out.get(channel.place, offset))
    return out


def _offsets_form(offsets: Mapping[TopicPartition, int]) -> list[tuple[str, int, int]]:
    return [(place.topic, place.partition, offset) for place, offset in sorted(offsets.items())]


def _offsets_of(form: Sequence[Sequence[Any]]) -> dict[TopicPartition, int]:
    return {TopicPartition(str(topic), int(partition)): int(offset) for topic, partition, offset in form}


def _request_of(told: Mapping[str, Any], number: int) -> Request:
    deed = told["deed"]
    if deed not in _DEEDS:
        raise ValueError(f"'{deed}' cannot be asked for")
    return Request(deed, str(told["who"]), int(told["when_us"]), str(told["why"]), _offsets_of(told["offsets"]), number)


def _answer_of(member: str, told: Mapping[str, Any]) -> Answer:
    tasks = {int(number): _offsets_of(form) for number, form in told["tasks"].items()}
    return Answer(member, int(told["request"]), told["state"], tasks)


def refuse_held(request: Request | None, names: Names) -> None:
    """Raises InputError where a finite run would wait for ever, because the topology is paused or drained."""
    if request is None:
        return
    held = "paused" if request.deed == "pause" else "drained"
    why = f": {request.why}" if request.why else ""
    raise InputError(
        f"version {names.version} of '{names.topology}' is {held} by {request.who}{why}",
        hint="'streamproc resume' lets it go on",
    )
