"""`winner`: which of the arms of `route` earns the most, asked at every report, with one error for all of them.

Each reward is divided by the chance with which its row got the arm, so the mean over all rows is what the arm would
earn if everybody got it; its bounds hold at every moment at once (`mean_bounds`), for all arms together. An arm whose
lowest value is above the highest of every other one is the winner. A t-test that is looked at every day finds a winner
among equal arms sooner or later; here the chance is `error` over all looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.arms import ARMS, no_rewards, play
from streamproc.decisions.bandit import BanditState
from streamproc.decisions.rewards import check_reward, rewards_of, shares_of_largest
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span
from streamproc.graph import Step, Stream
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.event_order import absorb
from streamproc.operators.follow import require_own_id
from streamproc.operators.lateness import split_late, split_late_labels
from streamproc.operators.outcome import Outcome
from streamproc.operators.pending import no_pending
from streamproc.operators.reports import Side, report_meta
from streamproc.operators.waiting import meet

Floats = npt.NDArray[np.float64]

WINNER = Schema((*ARMS, Field("winner", pl.Boolean())))
"""Columns of the reports, a row for each arm: those of a bandit's, and whether the arm is shown to be the best."""
STRANGER = "an arm that is not compared"
RARER = "a propensity below the least one"


@dataclass(frozen=True, slots=True)
class Winner:
    """Compares arms by what they earn, see `winner`."""

    arm: str
    propensity: str
    arms: tuple[str, ...]
    reward: str
    on: tuple[str, ...]
    horizon_us: int
    silence: float
    least: float
    largest: float
    report: int
    error: float

    @property
    def verb(self) -> str:
        return "winner"

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...]:
        """Rows and rewards meet under this key."""
        return self.on, self.on

    def schema(self, *inputs: StreamType) -> StreamType:
        """Reports.  Raises UnknownColumn, TypeMismatch."""
        rows, rewards = inputs
        reads = ((rows, (*self.on, self.arm, self.propensity), "its rows"),
                 (rewards, self.on, "its rewards"))  # fmt: skip
        for kind, names, whose in reads:
            for name in names:
                if name not in kind.schema:
                    hint = did_you_mean(name, kind.schema.names)
                    raise UnknownColumn(f"step 'winner' reads '{name}' of {whose}", hint=hint)
            require_own_id(self.verb, kind.schema, self.on, f"joins {whose}")
        if not isinstance(rows.schema[self.arm].dtype, (pl.String, pl.Enum, pl.Categorical)):
            raise TypeMismatch(f"step 'winner': '{self.arm}' is {rows.schema[self.arm].dtype}, not the name of an arm")
        if not rows.schema[self.propensity].dtype.is_float():
            raise TypeMismatch(f"step 'winner': '{self.propensity}' is {rows.schema[self.propensity].dtype}, no chance")
        check_reward(self.verb, rewards.schema, self.reward)
        return StreamType(WINNER)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        reward = frozenset((self.reward,) if self.reward else ())
        return frozenset((self.arm, self.propensity, *self.on)), reward | frozenset(self.on)

    def open(self, *inputs: StreamType) -> BanditState:
        return BanditState(no_pending(), np.zeros((0, 2)), no_rewards(len(self.arms)), 0, MIN_TIME)

    def process(self, state: BanditState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[BanditState, Output]:
        (left, late), (right, late_right) = split_late(inputs[0]), split_late_labels(inputs[1])
        numbers = {arm: i for i, arm in enumerate(self.arms)}
        codes = left.frame[self.arm].cast(pl.String).replace_strict(numbers, default=-1, return_dtype=pl.Int64)
        chances = left.frame[self.propensity].cast(pl.Float64).fill_null(0.0).to_numpy()
        strange, rare = (codes < 0).to_numpy(), ~(chances >= self.least)
        rejected = tuple(
            (reason, left.take(np.flatnonzero(which)))
            for reason, which in ((STRANGER, strange), (RARER, rare & ~strange)) if which.any()
        )  # fmt: skip
        fit = np.flatnonzero(~strange & ~rare)
        left, given, chances = left.take(fit), codes.to_numpy()[fit].copy(), chances[fit].copy()
        absorb(time.fates, left.meta)
        absorb(time.fates, right.meta)
        earned = shares_of_largest(right, self.reward, self.largest)
        events, merged = meet(
            state.pending, left, right, earned, time=time, passed=state.passed, horizon=self.horizon_us,
            negative=self.silence,
        )  # fmt: skip
        state.kept = grow(state.kept, state.pending.places)
        side, at, arms, n = Side(WINNER, merged.shape[1]), 0, state.arms, events.kinds.size
        nobody = np.zeros(given.size)
        while at < n:
            wait = self.report - arms.rewards % self.report
            before = arms.rewards
            at = play(
                at, wait, events.kinds, events.lefts, events.places, events.labels, nobody, 1.0, state.kept,
                arms.beliefs, arms.shares, arms.figures, arms.numbers, given, chances,
            )  # fmt: skip
            if arms.rewards == before + wait:
                state.reports += 1
                told = self._told(state)
                side.add(told, report_meta(events, at - 1, merged, time, state.reports, told.height))
        state.passed = state.passed if time.end is None else time.end
        others = () if late_right is None else (late_right,)
        return state, Output(side.batch, late, late_others=others, rejected=rejected)

    def _told(self, state: BanditState) -> pl.DataFrame:
        told = state.arms.report(self.arms, least=self.least, largest=self.largest, error=self.error)
        lows, highs = told["low"].to_list(), told["high"].to_list()
        best = [
            all(low > high for other, high in enumerate(highs) if other != one) for one, low in enumerate(lows)
        ]
        return told.with_columns(winner=pl.Series(best))


def winner(
    arm: str,
    *,
    arms: Sequence[str],
    rewards: Stream | Outcome,
    on: str | tuple[str, ...],
    reward: str = "",
    horizon: Span | None = None,
    propensity: str = "",
    least: float,
    largest: float = 1.0,
    report: int = 1000,
    error: float = 0.05,
    name: str = "",
) -> Step:
    """Tells what each arm of `sp.route` earns, and which is the best as soon as that is shown; valid at every look.

    arm         the column of the arm, one row an entity (`sp.dedupe` first): rows of one entity share their arm, and
                would count as if they were as many entities
    arms        the arms to compare, two at least; a row of another one is a dead letter
    rewards     a stream with `reward` and `horizon`, or `sp.outcome(...)`: an event is a reward of 1, silence one of 0.
                A reward belongs to the row of its key with row <= reward <= row + horizon, as a label in `sp.learn`
    on          the columns that join rewards to rows
    propensity  the column of the chance with which the row got its arm; by default `<arm>_propensity`
    least       the smallest chance that any arm had, ever: bounds are as wide as 1 / least asks. A row with a smaller
                one is a dead letter
    largest     the reward that counts as 1; rewards outside of [0, largest] count as its ends, null and NaN as none
    report      a report every so many rewards: a row for each arm with its value, bounds, and whether it is the winner
    error       the chance that any report ever names a winner that is none, or has an arm outside of its bounds

    Late rows and late rewards go to `.late`.  Cost 0.1 us a row and arm.

    Raises DefinitionError.

    >>> step = winner("arm", arms=("a", "b"), rewards=Stream(None), reward="y", horizon="1d", on="id", least=0.1)
    >>> step.operator.propensity
    'arm_propensity'
    """
    columns = (on,) if isinstance(on, str) else tuple(on)
    names = tuple(arms) if not isinstance(arms, str) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise DefinitionError("step 'winner' compares two arms at least, each of its own name", hint="('old', 'new')")
    if not columns:
        raise DefinitionError("step 'winner' needs the columns that join rewards to rows", hint="on='customer'")
    if not 0.0 < least <= 1.0 / len(names):
        raise DefinitionError(
            f"step 'winner': least={least} of {len(names)} arms", hint=f"above 0, at most {1 / len(names):g}"
        )
    if not 0.0 < largest < math.inf or report < 1 or not 0.0 < error < 1.0:
        raise DefinitionError("step 'winner': largest is above 0, report counts from 1 on, error lies between 0 and 1")
    stream, span, silence = rewards_of("winner", rewards, reward, horizon, largest)
    made = Winner(
        arm, propensity or f"{arm}_propensity", names, reward, columns, span, silence, float(least), float(largest),
        report, float(error),
    )  # fmt: skip
    return Step(made, (stream,), name)
