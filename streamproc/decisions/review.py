"""`review`: rows that a person decides, each a case with an answer or, when its time is over, a safe default.

A case is open from the row that asks to the first answer in time, else to its deadline. Answers are feedback: they come
from a topic that `streamproc review` writes. Which verdict a case gets follows from its row and its answers alone: the
first one that was given before the deadline and came while the case was open, else the default. Only the moment at
which the default is given is a clock's: when everything that was said before the deadline has been heard (`heard`, see
`StepTime`), so that no answer is passed over because a worker was down. A run by event time has no clock; there the
watermark says that a deadline is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import (
    ACCOUNT,
    DUE,
    EVENT_TIME,
    LATE,
    OUTSIDE,
    RANK,
    ROW,
    WATERMARK,
    WIDTH,
    Batch,
    Keys,
    merge,
    row_ids,
)
from streamproc.columns import grow, next_rows
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract, Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MAX_TIME, MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream, feedback
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.columns import where
from streamproc.operators.lateness import split_late
from streamproc.operators.released import coordinates, released_meta, released_up_to
from streamproc.operators.row_store import RowStore, row_store
from streamproc.ports import Int64s
from streamproc.state import KeyTable

_MOMENT: Final = '{"type": "long", "logicalType": "timestamp-micros"}'

ANSWER: Final[Contract] = parse_contract(f"""{{
 "type": "record", "name": "sp_review_answer", "namespace": "streamproc",
 "doc": "What a person says of a case: that it is hers for some time, or how it is decided.",
 "sp:version": 1, "sp:owner": "streamproc",
 "fields": [
  {{"name": "case", "type": "string", "sp:role": "key"}},
  {{"name": "deed", "type": "string", "doc": "claim or answer"}},
  {{"name": "by", "type": "string", "sp:pii": "pseudonym"}},
  {{"name": "at", "type": {_MOMENT}, "sp:role": "event_time"}},
  {{"name": "subject", "type": ["null", "string"], "default": null, "doc": "as in the case", "sp:pii": "pseudonym"}},
  {{"name": "verdict", "type": ["null", "string"], "default": null}},
  {{"name": "note", "type": ["null", "string"], "default": null, "sp:pii": "direct"}},
  {{"name": "until", "type": ["null", {_MOMENT}], "default": null, "doc": "of a claim: when it lapses"}},
  {{"name": "token", "type": "string", "doc": "the same of all that was written at once"}}
 ]}}""")
"""The records of an answer topic, written by `streamproc review`."""

CASE: Final = "case"
OPEN: Final = "open"
ANSWERED: Final = "answered"
TIMED_OUT: Final = "timed_out"
_TIME: Final = pl.Datetime("us", "UTC")

REVIEW: Final = (
    Field("subject", pl.String(), nullable=True), Field("priority", pl.Float64()), Field("asked_at", _TIME),
    Field("deadline", _TIME), Field("choices", pl.List(pl.String())), Field("default", pl.String()),
    Field("answers", pl.String()), Field("status", pl.String()), Field("verdict", pl.String(), nullable=True),
    Field("answered_by", pl.String(), nullable=True, pii="pseudonym"), Field("answered_at", _TIME, nullable=True),
    Field("note", pl.String(), nullable=True, pii="direct"),
)  # fmt: skip
"""Columns of a case behind the row's own and `case`, its id: the same in every run.

subject      the text by which labels find what was asked about
priority     higher first
asked_at     event time of the row
deadline     until then an answer counts
answers      the topic that answers are written to
status       "open", "answered" or "timed_out"
"""


@dataclass(frozen=True, slots=True)
class CaseIds:
    """Gives each row the id of its case: that of the row, as it is asked about by this topic of answers."""

    answers: str
    verb: str = "case"

    def schema(self, *inputs: StreamType) -> StreamType:
        (rows,) = inputs
        for name in (CASE, *(field.name for field in REVIEW)):
            if name in rows.schema:
                raise DuplicateName(
                    f"step 'review' makes '{name}', which is there", hint="rename it before: sp.rename(...)"
                )
        return replace(rows, schema=rows.schema.with_fields((Field(CASE, pl.String()),)))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, (), (CASE,)),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        (batch,) = inputs
        data = row_ids(batch.meta, self.answers).tobytes()
        ids = pl.Series(CASE, [data[16 * i : 16 * i + 16] for i in range(len(batch))], dtype=pl.Binary)
        return None, Output(batch.with_frame(batch.frame.with_columns(ids.bin.encode("hex"))))


@dataclass(slots=True)
class ReviewState:
    """Open cases: their rows with deadlines, and which of them each case is (int64 by slot of the table, -1: none)."""

    table: KeyTable
    numbers: Int64s
    store: RowStore
    passed: int


@dataclass(frozen=True, slots=True)
class Review:
    """Opens cases and closes them, see `review`."""

    answers: str
    priority: str
    subject: str
    timeout_us: int
    choices: tuple[str, ...]
    default: str
    verb: str = "review"
    clocked: bool = True

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...]:
        """Cases and answers meet under the case."""
        return (CASE,), (CASE,)

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns and those of `REVIEW`.  Raises UnknownColumn, TypeMismatch."""
        rows = inputs[0]
        for name, what in ((self.priority, "takes priority from"), (self.subject, "takes the subject from")):
            if name and name not in rows.schema:
                raise UnknownColumn(f"step 'review' {what} '{name}'", hint=did_you_mean(name, rows.schema.names))
        if self.priority and not rows.schema[self.priority].dtype.is_numeric():
            raise TypeMismatch(
                f"step 'review': '{self.priority}' is {rows.schema[self.priority].dtype}, not a priority"
            )
        if self.subject and not (
            rows.schema[self.subject].dtype.is_integer() or rows.schema[self.subject].dtype == pl.String
        ):
            raise TypeMismatch(
                f"step 'review': '{self.subject}' is {rows.schema[self.subject].dtype}, no text and no integer"
            )
        if self.subject and rows.schema[self.subject].pii == "direct":
            raise DefinitionError(
                f"step 'review': '{self.subject}' names a person, and answers repeat it on a topic of their own",
                hint="let the subject be a number that stands for the row",
            )
        fields = {field.name: field for field in REVIEW}
        for made, read in (("subject", self.subject), ("priority", self.priority)):
            if read:
                told = rows.schema[read]
                fields[made] = replace(fields[made], pii=told.pii, origins=told.origins)
        return StreamType(rows.schema.with_fields(fields.values()), (CASE,))

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "cases": each case when it is opened, and again when it is closed."""
        return {"cases": self.schema(*inputs)}

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """Everything: what the row said is shown to the person, and kept."""
        return frozenset(inputs[0].names), frozenset(ANSWER.schema.names)

    def open(self, *inputs: StreamType) -> ReviewState:
        return ReviewState(
            KeyTable(), np.empty(0, np.int64), row_store(inputs[0].schema.polars(), keyed=True), MIN_TIME
        )

    def process(self, state: ReviewState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[ReviewState, Output]:
        rows, late = split_late(inputs[0])
        opened, fresh = self._open(state, rows, time)
        answered, by_answer, refused = self._answered(state, inputs[1], fresh, time)
        self._forget(state, by_answer)
        timed_out = self._timed_out(state, time)
        renumbered = state.store.compact()
        if renumbered is not None:
            known = state.numbers >= 0
            state.numbers[known] = renumbered[state.numbers[known]]
        state.passed = state.passed if time.end is None else time.end
        verdicts = merge((answered, timed_out))
        side = merge((opened, verdicts))
        return state, Output(verdicts, late, refused, sides=(("cases", side),))

    def _open(self, state: ReviewState, rows: Batch, time: StepTime) -> tuple[Batch, int]:
        """The cases that rows open, and the number of the first of them."""
        assert rows.keys is not None, "the plan gives both sides a key"
        _absorb(time, rows)
        slots = state.table.intern(rows.keys)
        state.numbers = grow(state.numbers, next_rows(state.numbers.size, int(slots.max(initial=-1)) + 1), fill=-1)
        # One row may come by two ways: it is one case.
        first = np.zeros(len(rows), np.bool_)
        first[np.unique(slots, return_index=True)[1]] = True
        first &= state.numbers[slots] < 0
        if not first.all():
            rows, slots = rows.filter(first), slots[first]
        fresh = state.store.used
        state.numbers[slots] = state.store.append(rows, rows.event_time + self.timeout_us, owners=slots)
        frame = self._told(rows.frame, rows.event_time, status=OPEN)
        return replace(rows.with_frame(frame), raw=None), fresh

    def _answered(
        self, state: ReviewState, said: Batch, fresh: int, time: StepTime
    ) -> tuple[Batch, Int64s, tuple[tuple[str, Batch], ...]]:
        """The cases that answers close, their numbers, and the answers that close none, with the reason."""
        answers = (said.frame["deed"] == "answer").to_numpy()
        _absorb(time, said.filter(~answers))
        said = said.filter(answers)
        n, store = len(said), state.store
        assert said.keys is not None, "the plan gives both sides a key"
        slots = state.table.find(said.keys)
        numbers = np.where(slots >= 0, state.numbers[slots] if state.numbers.size else -1, -1)
        there = numbers >= 0
        at = np.maximum(numbers, 0)
        deadlines = store.deadlines[at] if store.deadlines.size else np.zeros(n, np.int64)
        if store.used > fresh:
            # A case of this step is there from its own row on.
            there &= (numbers < fresh) | (store.meta[at, ROW] < said.meta[:, ROW])
        if time.clock is None:
            there &= released_up_to(said.meta) < deadlines
        in_time = said.event_time < deadlines
        known = said.frame["verdict"].is_in(list(self.choices)).fill_null(False).to_numpy()
        good = np.flatnonzero(there & in_time & known)
        closed, firsts = np.unique(numbers[good], return_index=True)
        taken = good[firsts]
        # What comes behind the answer that counts finds the case closed, as it would in a later step.
        ends = np.full(store.used if n else 0, n)
        ends[closed] = taken
        there &= np.arange(n) <= (ends[at] if ends.size else 0)
        taken = np.sort(taken)
        reasons = (
            ("no_open_case", ~there), ("timed_out", there & ~in_time), ("no_such_verdict", there & in_time & ~known)
        )  # fmt: skip
        refused = tuple((reason, said.filter(mask)) for reason, mask in reasons if mask.any())
        told, mine = said.take(taken), numbers[taken]
        _absorb(time, told)
        asked = store.meta[mine, EVENT_TIME] if mine.size else np.empty(0, np.int64)
        meta = told.meta.copy()
        meta[:, EVENT_TIME], meta[:, ACCOUNT], meta[:, LATE] = np.maximum(meta[:, EVENT_TIME], asked), -1, OUTSIDE
        keys = _keys(store, mine)
        coordinates(meta, time, keys.hashes, asked, np.ones(mine.size, np.int64))
        frame = self._told(
            store.frame(mine), asked, status=ANSWERED, verdict=told.frame["verdict"], by=told.frame["by"],
            at=pl.Series(np.ascontiguousarray(told.event_time)), note=told.frame["note"],
        )  # fmt: skip
        return Batch(frame, meta, keys), closed, refused

    def _timed_out(self, state: ReviewState, time: StepTime) -> Batch:
        """The cases whose time is over, by deadline and id."""
        store, end = state.store, MIN_TIME if time.end is None else time.end
        limit = end
        if time.clock is not None and end < MAX_TIME:
            limit = MIN_TIME if time.heard is None else time.heard
        due = store.take_due(limit + 1) if limit > MIN_TIME else np.empty(0, np.int64)
        deadlines = store.meta[due, EVENT_TIME] + self.timeout_us if due.size else np.empty(0, np.int64)
        frame = store.frame(due)
        order = pl.DataFrame({"at": deadlines, CASE: frame[CASE]}).select(pl.arg_sort_by("at", CASE)).to_series()
        due, deadlines, frame = due[order], deadlines[order], frame[order]
        keys, asked = _keys(store, due), deadlines - self.timeout_us
        if limit == end:
            meta = released_meta(np.minimum(deadlines, end), time, keys.hashes, asked)
        else:
            # A clock's: behind all rows of the step.
            meta = np.zeros((due.size, WIDTH), np.int64)
            meta[:, EVENT_TIME] = meta[:, DUE] = deadlines
            meta[:, WATERMARK], meta[:, RANK], meta[:, ACCOUNT] = max(state.passed, end), time.rank, -1
            meta[:, ROW] = 2 * time.watermarks.size
        meta[:, LATE] = OUTSIDE
        coordinates(meta, time, keys.hashes, asked, np.ones(due.size, np.int64))
        self._forget(state, due)
        verdict = pl.Series([self.default], dtype=pl.String).new_from_index(0, due.size)
        return Batch(self._told(frame, asked, status=TIMED_OUT, verdict=verdict), meta, keys)

    def _forget(self, state: ReviewState, numbers: Int64s) -> None:
        if numbers.size:
            slots = state.store.owners[numbers]
            state.numbers[slots] = -1
            state.store.remove(numbers)
            state.table.release(np.sort(slots))

    def _told(
        self, frame: pl.DataFrame, asked: Int64s, *, status: str, verdict: pl.Series | None = None,
        by: pl.Series | None = None, at: pl.Series | None = None, note: pl.Series | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        n = frame.height

        def constant(value: object, dtype: pl.DataType) -> pl.Series:
            return pl.Series([value], dtype=dtype).new_from_index(0, n)

        moments = pl.Series(np.ascontiguousarray(asked))
        made: dict[str, pl.Series] = {
            "subject": frame[self.subject].cast(pl.String) if self.subject else constant(None, pl.String()),
            "priority": (
                frame[self.priority].cast(pl.Float64).fill_nan(0.0).fill_null(0.0)
                if self.priority
                else constant(0.0, pl.Float64())
            ),
            "asked_at": moments.cast(_TIME),
            "deadline": (moments + self.timeout_us).cast(_TIME),
            "choices": constant(list(self.choices), pl.List(pl.String())),
            "default": constant(self.default, pl.String()),
            "answers": constant(self.answers, pl.String()),
            "status": constant(status, pl.String()),
            "verdict": constant(None, pl.String()) if verdict is None else verdict,
            "answered_by": constant(None, pl.String()) if by is None else by,
            "answered_at": constant(None, _TIME) if at is None else at.cast(_TIME),
            "note": constant(None, pl.String()) if note is None else note,
        }
        return frame.with_columns(column.alias(name) for name, column in made.items())


def review(
    *,
    answers: str,
    default: str,
    choices: Sequence[str],
    timeout: Span,
    priority: str = "",
    subject: str = "",
    name: str = "",
) -> Step:
    """Asks a person about each row, and goes on with the verdict: hers, or the default when the time is over.

    answers   the topic that answers come back by, one for each review; `streamproc review` writes it
    default   the verdict of a case that nobody answers in time: what is safe
    choices   the verdicts that there are, the default among them
    timeout   from the row's event time; an answer given later is refused
    priority  a column of numbers: higher ones are shown first; null and NaN are 0
    subject   a column, text or integer, that answers repeat as text: by it `sp.learn` joins them as labels

    The output has one row for each case that is closed, with the row's columns and those of `REVIEW`: it tells what
    was shown, who answered what, and when. The side "cases" has it too, and a row for each case that is opened: the
    review topic, which `streamproc review list` reads; give it a sink with key="case".

    That nobody answered is said by the clock (it is left out where live is compared with a run by event time, which
    goes by the watermark). Late rows go to `.late`; answers that close no case are dead letters, with the reason.
    State: one row for each open case.

    >>> step = review(answers="card_risk.answers", default="block", choices=("allow", "block"), timeout="4h")
    >>> step.operator.timeout_us
    14400000000
    """
    if not answers:
        raise DefinitionError(
            "step 'review' needs the topic that answers come back by", hint="answers='card_risk.answers'"
        )
    if default not in choices:
        raise DefinitionError(
            f"step 'review': default='{default}' is not one of its choices", hint="choices=('allow', 'block')"
        )
    if span_us(timeout) <= 0:
        raise DefinitionError("step 'review': a person needs some time", hint="timeout='4h'")
    step = Review(answers, priority, subject, span_us(timeout), tuple(choices), default)
    source = feedback(answers, contract=ANSWER)
    return Step(step, (source,), name, (Step(CaseIds(answers)),))


def review_answers(topic: str) -> Stream:
    """What people answered, as a stream: `case`, `subject`, `verdict`, `by`, `at` and `note`.

    It does not hang on the review that asked, so it can be the labels of a model above it:
    `sp.review_answers("card_risk.answers") | sp.with_columns(fraud=pl.col("verdict") == "block", ...)`. A default is
    no answer and is not there.

    >>> review_answers("card_risk.answers").name
    ''
    """
    return feedback(topic, contract=ANSWER) | where(pl.col("deed") == "answer")


def _absorb(time: StepTime, rows: Batch) -> None:
    time.fates.absorb(np.ascontiguousarray(rows.meta[rows.meta[:, ACCOUNT] >= 0, ACCOUNT]))


def _keys(store: RowStore, numbers: Int64s) -> Keys:
    keys = store.keys(numbers)
    assert keys is not None, "the store keeps keys"
    return keys

