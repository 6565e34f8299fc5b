"""`retrain`: when a model is to be made anew, and over which history, as rows: a function of the stream alone.

Harm, volume and schedule ask for a run; what is asked for between two runs is one request. A request names its *cut*,
the moment up to which history is to be learned, and is told once the watermark has passed it: when every input above
the step has given all that it had to say of the time before. Who makes the model reads the requests
(`streamproc model retrain`); nothing here runs anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, UnknownColumn
from streamproc.event_time import MAX_TIME, MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.columns import select, where, with_columns
from streamproc.operators.key_by import key_by
from streamproc.operators.ordered import ordered
from streamproc.operators.released import released_meta, released_up_to
from streamproc.operators.union import union
from streamproc.ports import Int64s
from streamproc.row_loops import copy_rows

SIGNAL: Final = "signal"
LABEL_CAME: Final = 0
HARM_CAME: Final = 1
HARM: Final = 1
VOLUME: Final = 2
SCHEDULE: Final = 4
REASONS: Final = (("harm", HARM), ("volume", VOLUME), ("schedule", SCHEDULE))
_TIME: Final = pl.Datetime("us", "UTC")

REQUEST: Final = Schema((
    Field("request", pl.String()), Field("reasons", pl.List(pl.String())), Field("asked_at", _TIME),
    Field("since", _TIME, nullable=True), Field("cut", _TIME), Field("labels", pl.Int64()),
    Field("alarms", pl.Int64()),
))  # fmt: skip
"""Columns of a request; its event time is the cut.

request   its id: the cut as text, so a step never asks twice for one cut
reasons   "harm", "volume", "schedule": all that asked for it
asked_at  event time of the first that did
since     the first event time to learn from; null: all history
cut       all that happened before is to be learned
labels    labels that came since the cut before, and before this one; alarms likewise
"""

_LABELS, _ALARMS, _CUT, _ASKED, _REASONS, _LAST_CUT, _BOUNDARY, _OWED = range(8)
_MADE: Final = 5
_NEVER: Final = MAX_TIME


@dataclass(slots=True)
class RetrainState:
    """int64[8]: labels and alarms since the last cut; the cut that is asked for, when and why (none: the largest
    time); the last cut; the next moment of the schedule; what waits for the end of the cooldown."""

    numbers: Int64s


@dataclass(frozen=True, slots=True)
class Retrain:
    """Asks for runs, see `retrain`.

    volume, every_us  0 where that asks for nothing; window_us: 0 for all history
    """

    volume: int
    every_us: int
    cooldown_us: int
    cut_us: int
    window_us: int

    @property
    def verb(self) -> str:
        return "retrain"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Requests.  Raises UnknownColumn, DefinitionError for rows that are not signals in one order."""
        rows = inputs[0]
        if SIGNAL not in rows.schema:
            raise UnknownColumn(f"step 'retrain' reads '{SIGNAL}'", hint="labels | sp.retrain(...)")
        if rows.keyed_by != () or not rows.ordered:
            raise DefinitionError("step 'retrain' reads all signals in order", hint="labels | sp.retrain(...)")
        return StreamType(REQUEST)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset((SIGNAL,)),)

    def open(self, *inputs: StreamType) -> RetrainState:
        return RetrainState(np.array([0, 0, _NEVER, 0, 0, MIN_TIME, _NEVER, 0], np.int64))

    def process(self, state: RetrainState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[RetrainState, Output]:
        (batch,) = inputs
        meta = batch.meta
        time.fates.absorb(np.ascontiguousarray(meta[meta[:, ACCOUNT] >= 0, ACCOUNT]))
        times = np.ascontiguousarray(batch.event_time)
        signals = batch.frame[SIGNAL].cast(pl.Int64).to_numpy()
        end = MIN_TIME if time.end is None else time.end
        made = _asked(
            frozen(times), frozen(signals), released_up_to(meta), end, state.numbers,
            self.volume, self.every_us, self.cooldown_us, self.cut_us,
        )  # fmt: skip
        return state, Output(self._told(made, time))

    def _told(self, made: Int64s, time: StepTime) -> Batch:
        cuts = np.ascontiguousarray(made[:, 0])
        moments = pl.Series(cuts).cast(_TIME)
        reasons = [[name for name, bit in REASONS if int(bits) & bit] for bits in made[:, 2]]
        since = pl.Series(np.ascontiguousarray(cuts - self.window_us)).cast(_TIME)
        frame = pl.DataFrame({
            "request": moments.dt.strftime("%Y%m%dT%H%M%S.%6fZ"),
            "reasons": pl.Series(reasons, dtype=pl.List(pl.String())),
            "asked_at": pl.Series(np.ascontiguousarray(made[:, 1])).cast(_TIME),
            "since": since if self.window_us else pl.Series([None], dtype=_TIME).new_from_index(0, cuts.size),
            "cut": moments, "labels": made[:, 3], "alarms": made[:, 4],
        }, schema=REQUEST.polars())  # fmt: skip
        return Batch(frame, released_meta(cuts, time, np.zeros(cuts.size, np.uint64), cuts))


def retrain(
    *,
    harm: Stream | None = None,
    volume: int | None = None,
    every: Span | None = None,
    cooldown: Span,
    cut: Span,
    window: Span | None = None,
    also: tuple[Stream, ...] = (),
    name: str = "",
) -> Step:
    """Asks for a model to be made anew: `labels | sp.retrain(harm=alarms, volume=50_000, cooldown="1d", cut="1d")`.

    The rows are labels, of which only number and event time count. What asks:
    harm      a stream of which every row is an alarm (`sp.drift`, `sp.alert`); those of a cooldown are counted and ask
              for nothing: what still harms after it raises alarms again
    volume    so many labels since the last cut
    every     a span of event time; nothing is asked for if no label came since the last cut
    cooldown  after a cut so long nothing asks; volume and schedule wait for its end
    cut       a run learns all that happened before its cut, a multiple of this span since 1970 UTC: the first one after
              what asked. Until then further triggers are the same request
    window    how much history a run learns from, up to the cut; all of it by default
    also      streams whose time has to have passed the cut too. Sources above labels and alarms have to anyhow

    A request (columns: `REQUEST`) is told when the watermark is at its cut or beyond: an input that is late holds it
    back, unless its source has `idle_after`. Give it a sink, and run `streamproc model retrain`.

    >>> from streamproc.graph import source
    >>> labels = source("labels", contract="label.v1")
    >>> retrain(volume=10_000, cooldown="1d", cut="1h").operator.volume
    10000
    """
    if harm is None and volume is None and every is None:
        raise DefinitionError("step 'retrain' never asks", hint="harm=alarms, volume=50_000, every='7d'")
    if volume is not None and volume < 1:
        raise DefinitionError(f"step 'retrain': volume={volume}", hint="labels, 1 at least")
    spans = {"every": every, "cooldown": cooldown, "cut": cut, "window": window}
    us = {word: 0 if span is None else span_us(span) for word, span in spans.items()}
    for word, span in spans.items():
        least = 0 if word == "cooldown" else 1
        if span is not None and us[word] < least:
            raise DefinitionError(f"step 'retrain': {word}={span!r}", hint=f"{word}='1d'")
    signals = tuple(
        stream | with_columns(pl.lit(kind, pl.Int64).alias(SIGNAL)) | select(SIGNAL) | key_by()
        for stream, kind in ((harm, HARM_CAME),) if stream is not None
    )  # fmt: skip
    silent = tuple(
        stream | with_columns(pl.lit(LABEL_CAME, pl.Int64).alias(SIGNAL)) | select(SIGNAL)
        | where(pl.col(SIGNAL) != LABEL_CAME) | key_by()
        for stream in also
    )  # fmt: skip
    before = [with_columns(pl.lit(LABEL_CAME, pl.Int64).alias(SIGNAL)), select(SIGNAL), key_by()]
    if signals or silent:
        before.append(union(*signals, *silent))
    operator = Retrain(volume or 0, us["every"], us["cooldown"], us["cut"], us["window"])
    return Step(operator, (), name, (*before, ordered()))


@kernel
def _first_after(moment: int, span: int) -> int:
    """The first multiple of a span beyond a moment."""
    return (moment // span + 1) * span


@kernel
def _ask(moment: int, cut: int, reason: int, cooldown: int, numbers: Int64s) -> None:
    """Something asks for a run over what happened before `cut`."""
    if numbers[_CUT] != _NEVER:
        numbers[_REASONS] |= reason
    elif numbers[_LAST_CUT] != MIN_TIME and moment < numbers[_LAST_CUT] + cooldown:
        if reason != HARM:
            numbers[_OWED] |= reason
    else:
        numbers[_CUT], numbers[_ASKED], numbers[_REASONS] = cut, moment, reason


@kernel
def _advance(
    limit: int, numbers: Int64s, made: Int64s, n: int, every: int, cooldown: int, grid: int
) -> tuple[Int64s, int]:
    """Lets time come to a moment, itself included: what is due happens in its order, whatever the steps of time."""
    while True:
        boundary = numbers[_BOUNDARY]
        cool = numbers[_LAST_CUT] + cooldown if numbers[_OWED] != 0 else _NEVER
        cut = numbers[_CUT]
        first = min(boundary, cool, cut)
        if first > limit or first == _NEVER:
            return made, n
        if first == boundary:
            if numbers[_LABELS] > 0:
                # Nothing of the moment itself is learned: a schedule on the grid of cuts cuts at its own moment.
                _ask(boundary, _first_after(boundary - 1, grid), SCHEDULE, cooldown, numbers)
                numbers[_BOUNDARY] = boundary + every
            else:
                # Without a label none is asked for; what lies between here and the limit asks for nothing either.
                numbers[_BOUNDARY] = _first_after(min(limit, cool, cut), every)
        elif first == cool:
            owed, numbers[_OWED] = numbers[_OWED], 0
            _ask(cool, _first_after(cool - 1, grid), owed, cooldown, numbers)
        else:
            if n == made.shape[0]:
                more = np.empty((2 * n, _MADE), np.int64)
                copy_rows(made, more, n)
                made = more
            made[n, 0], made[n, 1], made[n, 2] = cut, numbers[_ASKED], numbers[_REASONS]
            made[n, 3], made[n, 4] = numbers[_LABELS], numbers[_ALARMS]
            n += 1
            numbers[_LAST_CUT], numbers[_CUT], numbers[_LABELS], numbers[_ALARMS] = cut, _NEVER, 0, 0
    return made, n


@kernel
def _asked(
    times: Int64s, signals: Int64s, limits: Int64s, end: int, numbers: Int64s, volume: int, every: int, cooldown: int,
    grid: int,
) -> Int64s:  # fmt: skip
    """Goes through signals in order; gives int64[requests, 5]: cut, when it was asked for, why, labels, alarms."""
    made, n = np.empty((4, _MADE), np.int64), 0
    for i in range(times.size):
        # A signal of a moment that is a cut happened after it, wherever in the order of release it stands.
        made, n = _advance(max(limits[i], times[i]), numbers, made, n, every, cooldown, grid)
        if every > 0 and numbers[_BOUNDARY] == _NEVER:
            numbers[_BOUNDARY] = _first_after(times[i], every)
        if signals[i] == HARM_CAME:
            numbers[_ALARMS] += 1
            _ask(times[i], _first_after(times[i], grid), HARM, cooldown, numbers)
        else:
            numbers[_LABELS] += 1
            if volume > 0 and numbers[_LABELS] >= volume:
                _ask(times[i], _first_after(times[i], grid), VOLUME, cooldown, numbers)
    made, n = _advance(end, numbers, made, n, every, cooldown, grid)
    return made[:n]
