"""`sample_ratio`: do the arms get what they should, asked after every row.

Bets on the next row's arm with the shares seen so far (Dirichlet, one half each) against the shares declared: the
product of payoffs is 1 on average while rows come as declared, so it reaches 1 / alpha with a chance of at most alpha,
ever (Ville; Lindon & Malek 2022). A chi-square test looked at every day reaches any threshold in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, C2, C3, LATE, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, TypeMismatch, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.hashing import frozen
from streamproc.kernels import kernel
from streamproc.operator import Output, StepTime, StreamType
from streamproc.ports import Int64s

Floats = npt.NDArray[np.float64]
MISMATCH: Final = Schema((
    Field("arm", pl.String()), Field("rows", pl.Int64()), Field("expected", pl.Float64()),
    Field("evidence", pl.Float64()), Field("threshold", pl.Float64()),
))  # fmt: skip
"""A row per arm, once, when the evidence is there; "" stands for arms that were not declared."""


@dataclass(slots=True)
class RatioState:
    """Rows per arm (undeclared ones last), and log evidence, infinite once it was told."""

    counts: Floats
    evidence: Floats


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Tests the shares of arms, see `sample_ratio`."""

    arm: str
    weights: tuple[tuple[str, float], ...]
    alpha: float

    @property
    def verb(self) -> str:
        return "sample_ratio"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Mismatches.  Raises UnknownColumn, TypeMismatch."""
        schema = inputs[0].schema
        if self.arm not in schema:
            raise UnknownColumn(f"step 'sample_ratio' reads '{self.arm}'", hint=did_you_mean(self.arm, schema.names))
        if not isinstance(schema[self.arm].dtype, (pl.String, pl.Enum, pl.Categorical)):
            raise TypeMismatch(f"step 'sample_ratio': '{self.arm}' is {schema[self.arm].dtype}, not the name of an arm")
        return StreamType(MISMATCH)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset((self.arm,)),)

    def open(self, *inputs: StreamType) -> RatioState:
        return RatioState(np.zeros(len(self.weights) + 1), np.zeros(1))

    def process(self, state: RatioState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[RatioState, Output]:
        (batch,) = inputs
        numbers = {arm: i for i, (arm, _) in enumerate(self.weights)}
        arms = batch.frame[self.arm].cast(pl.String)
        codes = arms.replace_strict(numbers, default=len(numbers), return_dtype=pl.Int64).to_numpy()
        shares = np.array([share for _, share in self.weights])
        row = _bet(frozen(codes), shares, state.counts, state.evidence, -math.log(self.alpha))
        time.fates.absorb(np.ascontiguousarray(batch.meta[batch.meta[:, ACCOUNT] >= 0, ACCOUNT]))
        if row < 0:
            return state, Output(Batch(MISMATCH.empty(), batch.meta[:0].copy()))
        evidence, state.evidence[0] = float(state.evidence[0]), math.inf
        # What came after the row within the batch must not show.
        counts = state.counts - np.bincount(codes[row + 1 :], minlength=shares.size + 1)
        total = float(counts.sum())
        rows = [
            (arm, int(counts[i]), total * share, math.exp(min(evidence, 700.0)), 1.0 / self.alpha)
            for i, (arm, share) in enumerate((*self.weights, ("", 0.0)))
            if arm or counts[i]
        ]
        meta = np.repeat(batch.meta[row : row + 1], len(rows), axis=0)
        meta[:, ACCOUNT], meta[:, LATE] = -1, 0
        meta[:, C0], meta[:, C1], meta[:, C2], meta[:, C3] = time.rank << 32, 0, 0, np.arange(len(rows))
        return state, Output(Batch(pl.DataFrame(rows, MISMATCH.polars(), orient="row"), meta))


def sample_ratio(arm: str, *, weights: Mapping[str, float], alpha: float = 0.001, name: str = "") -> Step:
    """Tells, once, when rows do not come to the arms in the shares declared: events are lost, or doubled, by arm.

    arm      the column of the arm; one row an entity (`sp.dedupe` first), or shares follow the busiest ones
    weights  the shares declared; a row of another arm is a mismatch at once
    alpha    the chance of a false alarm over all rows ever; one may look after each

    >>> sample_ratio("arm", weights={"old": 0.9, "new": 0.1}).operator.alpha
    0.001
    """
    if not 0 < alpha < 1 or not weights or abs(sum(weights.values()) - 1) > 1e-9 or min(weights.values()) <= 0:
        raise DefinitionError("step 'sample_ratio': shares must be above 0 and add up to 1, alpha lies between 0 and 1")
    return Step(SampleRatio(arm, tuple((a, float(w)) for a, w in weights.items()), alpha), name=name)


@kernel
def _bet(codes: Int64s, shares: Floats, counts: Floats, evidence: Floats, enough: float) -> int:
    """Bets on every row, counts it, and gives the row at which there was enough evidence, -1 if there was none yet."""
    told = -1
    n = counts.sum()
    for i in range(codes.size):
        code = codes[i]
        if evidence[0] < enough:
            if code == shares.size:
                evidence[0] = 1e300
            else:
                seen = (counts[code] + 0.5) / (n + 0.5 * shares.size)
                evidence[0] += math.log(seen / shares[code])
            if evidence[0] >= enough:
                told = i
        counts[code] += 1.0
        n += 1.0
    return told
