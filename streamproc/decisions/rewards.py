"""Rewards of arms: where they come from, what silence counts as, and what part of the largest one each is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.event_time import Span, span_us
from streamproc.graph import Stream
from streamproc.operators.outcome import Outcome

Floats = npt.NDArray[np.float64]


def rewards_of(
    verb: str, rewards: Stream | Outcome, reward: str, horizon: Span | None, largest: float
) -> tuple[Stream, int, float]:
    """The stream of rewards, how many us one may take to come, and what counts where none came (NaN: nothing).

    Raises DefinitionError.
    """
    if isinstance(rewards, Outcome):
        if reward or horizon is not None or largest != 1.0:
            raise DefinitionError(
                f"step '{verb}': an outcome is the reward, 1 or 0", hint="leave out reward=, horizon= and largest="
            )
        return rewards.events, span_us(rewards.within), 0.0
    if not reward or horizon is None:
        raise DefinitionError(
            f"step '{verb}' needs to know which column the reward is, and how long it may take to come",
            hint="reward='paid', horizon='1d'",
        )
    return rewards, span_us(horizon), math.nan


def check_reward(verb: str, rewards: Schema, reward: str) -> None:
    """Raises UnknownColumn or TypeMismatch where that column is no reward; "" is none: each event is one."""
    if not reward:
        return
    if reward not in rewards:
        hint = did_you_mean(reward, rewards.names)
        raise UnknownColumn(f"step '{verb}' reads '{reward}' of its rewards", hint=hint)
    dtype = rewards[reward].dtype
    if not (dtype.is_numeric() or isinstance(dtype, pl.Boolean)):
        raise TypeMismatch(f"step '{verb}': '{reward}' is {dtype}, no reward", hint="make it a number")


def shares_of_largest(right: Batch, reward: str, largest: float) -> Floats:
    """float64[rows] in [0, 1], NaN where there is none; 1 for each event where no column is the reward."""
    if not reward:
        return np.ones(len(right))
    given = right.frame[reward].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.clip(given / largest, 0.0, 1.0)
