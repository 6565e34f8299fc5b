"""`bandit`: arms that earn more are drawn more often, each with a chance that is known and written down.

A row draws its arm with the hash of its key and the salt, so a replay draws the same. What was earned counts once it is
known, as labels do in `learn`: in the order in which rewards became known, and the chances are set anew every so many
of them, so that neither a cut nor a restart shows. For who stays with an arm for good see `route`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.columns import grow
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.arms import ARMS, Arms, Policy, drawn_shares, no_rewards, play
from streamproc.decisions.rewards import check_reward, rewards_of, shares_of_largest
from streamproc.decisions.routing import places
from streamproc.errors import DefinitionError, DuplicateName, UnknownColumn, did_you_mean
from streamproc.event_time import MIN_TIME, Span
from streamproc.graph import Step, Stream
from streamproc.keys import key_kinds
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.event_order import absorb
from streamproc.operators.follow import require_own_id
from streamproc.operators.lateness import split_late, split_late_labels
from streamproc.operators.outcome import Outcome
from streamproc.operators.pending import Pending, no_pending
from streamproc.operators.reports import Side, report_meta
from streamproc.operators.waiting import meet

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class BanditState:
    """What waits for its reward, and what is known of arms.

    kept  float64[places, 2]: arm and propensity of each waiting row
    """

    pending: Pending
    kept: Floats
    arms: Arms
    reports: int
    passed: int


@dataclass(frozen=True, slots=True)
class Bandit:
    """Gives each row an arm, see `bandit`."""

    arms: tuple[str, ...]
    reward: str
    on: tuple[str, ...]
    horizon_us: int
    silence: float
    salt: str
    into: str
    policy: Policy
    least: float
    largest: float
    every: int
    memory: int
    report: int

    @property
    def verb(self) -> str:
        return "bandit"

    @property
    def keys_wanted(self) -> tuple[tuple[str, ...], ...]:
        """Rows and rewards meet under this key."""
        return self.on, self.on

    @property
    def _made(self) -> tuple[str, str]:
        return self.into, f"{self.into}_propensity"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns, the arm, and the chance with which it was drawn.

        Raises UnknownColumn, DuplicateName, TypeMismatch.
        """
        rows, rewards = inputs
        for kind, whose in ((rows, "its rows"), (rewards, "its rewards")):
            for name in self.on:
                if name not in kind.schema:
                    raise UnknownColumn(
                        f"step 'bandit' joins {whose} by '{name}'", hint=did_you_mean(name, kind.schema.names)
                    )
            require_own_id(self.verb, kind.schema, self.on, f"joins {whose}")
        key_kinds(rows.schema, self.on)
        check_reward(self.verb, rewards.schema, self.reward)
        for name in self._made:
            if name in rows.schema:
                raise DuplicateName(f"step 'bandit' makes '{name}', which is there", hint="choose another into=")
        fields = (Field(self._made[0], pl.String()), Field(self._made[1], pl.Float64()))
        return replace(rows, schema=rows.schema.with_fields(fields), ordered=False)

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "arms": what each arm is worth so far, every `report` rewards."""
        return {"arms": StreamType(ARMS)}

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        reward = frozenset((self.reward,) if self.reward else ())
        return passes_through(needed, self.on, self._made), reward | frozenset(self.on)

    def open(self, *inputs: StreamType) -> BanditState:
        return BanditState(no_pending(), np.zeros((0, 2)), no_rewards(len(self.arms)), 0, MIN_TIME)

    def process(self, state: BanditState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[BanditState, Output]:
        (left, late), (right, late_right) = split_late(inputs[0]), split_late_labels(inputs[1])
        absorb(time.fates, right.meta)
        earned = shares_of_largest(right, self.reward, self.largest)
        events, merged = meet(
            state.pending, left, right, earned, time=time, passed=state.passed, horizon=self.horizon_us,
            negative=self.silence,
        )  # fmt: skip
        state.kept = grow(state.kept, state.pending.places)
        uniform = places(left.frame, self.on, self.salt)
        drawn, chances = np.full(len(left), -1, np.int64), np.zeros(len(left))
        keep, side, at = 1.0 - 1.0 / self.memory if self.memory else 1.0, Side(ARMS, merged.shape[1]), 0
        arms, n = state.arms, events.kinds.size
        while at < n:
            wait = min(every - arms.rewards % every for every in (self.every, self.report))
            before = arms.rewards
            at = play(
                at, wait, events.kinds, events.lefts, events.places, events.labels, uniform, keep, state.kept,
                arms.beliefs, arms.shares, arms.figures, arms.numbers, drawn, chances,
            )  # fmt: skip
            if arms.rewards < before + wait:
                break
            if arms.rewards % self.every == 0:
                arms.shares[:] = drawn_shares(arms.beliefs, self.policy, self.least)
            if arms.rewards % self.report == 0:
                state.reports += 1
                told = arms.report(self.arms, least=self.least, largest=self.largest)
                side.add(told, report_meta(events, at - 1, merged, time, state.reports, told.height))
        state.passed = state.passed if time.end is None else time.end
        made = [pl.Series(self.arms, dtype=pl.String).gather(drawn).alias(self._made[0]),
                pl.Series(self._made[1], chances)]  # fmt: skip
        others = () if late_right is None else (late_right,)
        rows = left.with_frame(left.frame.with_columns(made))
        return state, Output(rows, late, late_others=others, sides=(("arms", side.batch),))


def bandit(
    arms: Sequence[str],
    *,
    rewards: Stream | Outcome,
    on: str | tuple[str, ...],
    salt: str,
    reward: str = "",
    horizon: Span | None = None,
    into: str = "arm",
    policy: Policy = "thompson",
    least: float = 0.02,
    largest: float = 1.0,
    every: int = 100,
    memory: int | None = None,
    report: int = 1000,
    name: str = "",
) -> Step:
    """Gives each row an arm: the more an arm has earned, the more often it is drawn.

    arms     their names, two at least
    rewards  a stream with `reward` and `horizon`, or `sp.outcome(...)`: an event is a reward of 1, silence one of 0. A
             reward belongs to the row of its key with row <= reward <= row + horizon, as a label in `sp.learn`
    on       the columns that join rewards to rows: they name the request, under which it waits whatever becomes of its
             entity (`sp.outcomes` brings rewards of entities). Rows go to the task of that key; each learns by itself
    salt     the name of the experiment: another salt draws anew
    into     the column of the arm; `<into>_propensity` is the chance with which the row drew it, exactly
    policy   "thompson": with the chance that the arm is the best; "greedy": the best so far
    least    the chance that every arm keeps: what is never drawn can never be judged
    largest  the reward that counts as 1; rewards outside of [0, largest] count as its ends, null and NaN as none
    every    the chances are set anew every so many rewards
    memory   rewards that are remembered, older ones counting ever less; None: all of them
    report   a report every so many rewards on the side "arms": means, and values without bias, with bounds

    Late rows and late rewards go to `.late`. Where a good reward comes sooner than a bad one (an outcome does), what is
    known so far flatters until all of it is known.  Cost: 0.1 us a row and arm, 2 ms each time that chances are set.

    Raises DefinitionError.

    >>> bandit(("a", "b"), rewards=Stream(None), reward="paid", horizon="1d", on="id", salt="e1").operator.least
    0.02
    """
    columns = (on,) if isinstance(on, str) else tuple(on)
    names = tuple(arms) if not isinstance(arms, str) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise DefinitionError("step 'bandit' needs two arms at least, each of its own name", hint="('old', 'new')")
    if not columns or not salt:
        raise DefinitionError("step 'bandit' needs the columns of the request and a salt", hint="salt='checkout-2026'")
    if not 0.0 < least < 1.0 / len(names):
        raise DefinitionError(
            f"step 'bandit': least={least} of {len(names)} arms", hint=f"above 0 and below {1 / len(names):g}"
        )
    if policy not in ("thompson", "greedy"):
        raise DefinitionError(f"step 'bandit' knows no policy '{policy}'", hint="'thompson' or 'greedy'")
    if not 0.0 < largest < math.inf or every < 1 or report < 1 or (memory is not None and memory < 1):
        raise DefinitionError("step 'bandit': largest is above 0; every, report and memory count rewards, from 1 on")
    stream, span, silence = rewards_of("bandit", rewards, reward, horizon, largest)
    made = Bandit(
        names, reward, columns, span, silence, salt, into, policy, float(least), float(largest), every, memory or 0,
        report,
    )  # fmt: skip
    return Step(made, (stream,), name)
