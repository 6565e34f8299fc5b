"""`abstain`: decide alone where that is right often enough, ask a person elsewhere.

A row's confidence is the larger of chance and 1 - chance; it is wrong where the likelier side is not the label. Of the
last `window` labels, also of rows that were asked about, errors are counted by confidence. The threshold is the least
of fifty at which the rows above it are shown to be wrong no more often than `target`: Chernoff's bound on the binomial
tail, at 5 % split over the fifty (learn then test, Angelopoulos et al. 2021). Until something is shown, everything is
asked. The window lets the threshold follow a drift; it is set anew every `every` labels, in the order in which labels
became known, so that neither a cut nor a restart shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span, span_us
from streamproc.graph import Step, Stream
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb
from streamproc.operators.follow import require_own_id
from streamproc.operators.lateness import split_late, split_late_labels
from streamproc.operators.outcome import Outcome
from streamproc.operators.pending import LEARN, PREDICT, Pending, no_pending
from streamproc.operators.waiting import meet
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
_LEVELS = 50
_SURE = 0.05
_NOTHING = 2.0
"""A threshold above every confidence: ask."""


@dataclass(slots=True)
class AbstainState:
    """What waits for its label, and what is known of errors.

    kept       float64[places]: the score of each waiting row
    recent     int64[window]: per label 2 * level + wrong, in a ring
    counts     int64[50, 2]: labels and errors by level of confidence, of those in the ring
    numbers    int64[1]: labels ever
    threshold  float64[1]
    """

    pending: Pending
    kept: Floats
    recent: Int64s
    counts: Int64s
    numbers: Int64s
    threshold: Floats
    passed: int


@dataclass(frozen=True, slots=True)
class Abstain:
    """Says which rows may be decided without a person, see `abstain`."""

    chance: str
    into: str
    label: str
    on: tuple[str, ...]
    horizon_us: int
    negative: float
    target: float
    window: int
    every: int

    @property
    def verb(self) -> str:
        return "abstain"

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...]:
        """Rows and labels meet under this key."""
        return self.on, self.on

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns, whether to decide alone, and the threshold that held."""
        rows, labels = inputs
        if self.chance not in rows.schema:
            raise UnknownColumn(
                f"step 'abstain' reads '{self.chance}'", hint=did_you_mean(self.chance, rows.schema.names)
            )
        if not rows.schema[self.chance].dtype.is_numeric():
            raise TypeMismatch(f"step 'abstain': '{self.chance}' is {rows.schema[self.chance].dtype}, not a chance")
        for kind, whose in ((rows, "its rows"), (labels, "its labels")):
            for name in self.on:
                if name not in kind.schema:
                    raise UnknownColumn(
                        f"step 'abstain' joins {whose} by '{name}'", hint=did_you_mean(name, kind.schema.names)
                    )
            require_own_id(self.verb, kind.schema, self.on, f"joins {whose}")
        if self.label:
            if self.label not in labels.schema:
                raise UnknownColumn(
                    f"step 'abstain' reads '{self.label}'", hint=did_you_mean(self.label, labels.schema.names)
                )
            if not isinstance(labels.schema[self.label].dtype, pl.Boolean):
                raise TypeMismatch(f"step 'abstain': '{self.label}' is not true or false")
        made = (Field(self.into, pl.Boolean()), Field(f"{self.into}_threshold", pl.Float64()))
        for field in made:
            if field.name in rows.schema:
                raise DuplicateName(f"step 'abstain' makes '{field.name}', which is there", hint="choose another into=")
        return replace(rows, schema=rows.schema.with_fields(made), ordered=False)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        made = (self.into, f"{self.into}_threshold")
        label = frozenset((self.label,) if self.label else ())
        return passes_through(needed, (self.chance, *self.on), made), label | frozenset(self.on)

    def open(self, *inputs: StreamType) -> AbstainState:
        return AbstainState(
            no_pending(), np.zeros(0), np.zeros(self.window, np.int64), np.zeros((_LEVELS, 2), np.int64),
            np.zeros(1, np.int64), np.full(1, _NOTHING), MIN_TIME,
        )  # fmt: skip

    def process(self, state: AbstainState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[AbstainState, Output]:
        (left, late), (right, late_right) = split_late(inputs[0]), split_late_labels(inputs[1])
        absorb(time.fates, right.meta)
        known = (
            right.frame[self.label].cast(pl.Float64).fill_null(np.nan).to_numpy() if self.label else np.ones(len(right))
        )
        events, _ = meet(
            state.pending, left, right, known, time=time, passed=state.passed, horizon=self.horizon_us,
            negative=self.negative,
        )  # fmt: skip
        state.kept = grow(state.kept, state.pending.places)
        chances = left.frame[self.chance].cast(pl.Float64).fill_null(np.nan).to_numpy()
        alone, thresholds = np.zeros(len(left), np.bool_), np.full(len(left), _NOTHING)
        _control(
            events.kinds, events.lefts, events.places, events.labels, frozen(chances), state.kept, state.recent,
            state.counts, state.numbers, state.threshold, self.target, self.every, alone, thresholds,
        )  # fmt: skip
        state.passed = state.passed if time.end is None else time.end
        made = [pl.Series(self.into, alone), pl.Series(f"{self.into}_threshold", np.minimum(thresholds, _NOTHING))]
        rows = left.with_frame(left.frame.with_columns(made))
        return state, Output(rows, late, late_others=() if late_right is None else (late_right,))


def abstain(
    chance: str,
    *,
    labels: Stream | Outcome,
    on: str | tuple[str, ...],
    target: float,
    label: str = "",
    horizon: Span | None = None,
    into: str = "alone",
    window: int = 20_000,
    every: int = 100,
    name: str = "",
) -> Step:
    """Says which rows may be decided without a person, so that those are wrong no more often than `target`.

    chance   the column of chances that decides (true from one half on)
    labels   a stream of labels with `label` and `horizon`, or `sp.outcome(...)`, as of `sp.learn`. Labels of rows that
             were decided alone must come too, else errors among them cannot be seen
    target   the largest share of errors among rows decided alone
    into     the column that says so; `<into>_threshold` is the confidence that was asked for, 2 while nothing is shown
    window   labels that count, the last ones: less of them follow a drift sooner and show less

    Rows with a null chance are never decided alone.  Late rows and labels go to `.late`.

    >>> abstain("risk", labels=Stream(None), label="fraud", horizon="1d", on="id", target=0.02).operator.window
    20000
    """
    columns = (on,) if isinstance(on, str) else tuple(on)
    if not columns:
        raise DefinitionError("step 'abstain' joins labels to rows by columns", hint="on='payment_id'")
    if not 0.0 < target < 0.5 or window < 100 or every < 1:
        raise DefinitionError("step 'abstain': target lies between 0 and 0.5, window is 100 at least, every 1")
    if isinstance(labels, Outcome):
        if label or horizon is not None:
            raise DefinitionError("step 'abstain': an outcome is the label", hint="leave out label= and horizon=")
        stream, span, negative = labels.events, span_us(labels.within), 0.0
    else:
        if not label or horizon is None:
            raise DefinitionError(
                "step 'abstain' needs to know which column the label is, and how long it may take to come",
                hint="label='fraud', horizon='30d'",
            )
        stream, span, negative = labels, span_us(horizon), math.nan
    return Step(Abstain(chance, into, label, columns, span, negative, target, window, every), (stream,), name)


@kernel
def _control(
    kinds: Int64s, lefts: Int64s, places: Int64s, labels: Floats, chances: Floats, kept: Floats, recent: Int64s,
    counts: Int64s, numbers: Int64s, threshold: Floats, target: float, every: int, alone: npt.NDArray[np.bool_],
    thresholds: Floats,
) -> None:  # fmt: skip
    """Judges rows as they come, labels as they become known."""
    for e in range(kinds.size):
        place = places[e]
        if kinds[e] == PREDICT:
            row = lefts[e]
            chance = chances[row]
            kept[place] = chance
            confidence = max(chance, 1.0 - chance)
            alone[row] = confidence >= threshold[0] and confidence <= 1.0
            thresholds[row] = threshold[0]
        elif kinds[e] == LEARN:
            chance, label = kept[place], labels[e]
            confidence = max(chance, 1.0 - chance)
            if np.isnan(label) or not confidence <= 1.0:
                continue
            level = min(int((confidence - 0.5) * 2.0 * 50), 49)
            wrong = 1 if (chance >= 0.5) != (label != 0.0) else 0
            at = numbers[0] % recent.size
            if numbers[0] >= recent.size:
                counts[recent[at] >> 1, 0] -= 1
                counts[recent[at] >> 1, 1] -= recent[at] & 1
            recent[at] = 2 * level + wrong
            counts[level, 0] += 1
            counts[level, 1] += wrong
            numbers[0] += 1
            if numbers[0] % every == 0:
                threshold[0] = _threshold(counts, target)


@kernel
def _threshold(counts: Int64s, target: float) -> float:
    """The least confidence above which errors are shown to be rare enough; 2 if there is none."""
    best = 2.0
    n = wrong = 0.0
    for level in range(49, -1, -1):
        n += counts[level, 0]
        wrong += counts[level, 1]
        if n == 0.0 or wrong >= target * n:
            continue
        share = wrong / n
        divergence = (1.0 - share) * math.log((1.0 - share) / (1.0 - target))
        if share > 0.0:
            divergence += share * math.log(share / target)
        if n * divergence >= math.log(50 / 0.05):
            best = 0.5 + level / 100.0
    return best
