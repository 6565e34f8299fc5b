"""`route`: who goes to which arm, for good.

An entity's place is a number in [0, 1), the hash of its key and the experiment's salt, so it is the same in every
worker, run and place. Arms own pieces of [0, 1). When weights change, arms that shrink give up the upper ends of their
pieces, arms that grow take those, and nobody else moves: that is why a change is written behind the weights before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError, DuplicateName, UnknownColumn, did_you_mean
from streamproc.graph import Step
from streamproc.hashing import hash_bytes, mix64
from streamproc.keys import key_kinds, keys_of
from streamproc.operator import Output, StepTime, StreamType, passes_through

Piece = tuple[Fraction, Fraction, str]
"""From, up to, arm."""


@dataclass(frozen=True, slots=True)
class Route:
    """Gives each row the arm of its entity, see `route`.

    pieces   of [0, 1), rising
    weights  what each arm gets now
    """

    by: tuple[str, ...]
    salt: str
    pieces: tuple[Piece, ...]
    weights: tuple[tuple[str, float], ...]
    into: str

    @property
    def verb(self) -> str:
        return "route"

    @property
    def _made(self) -> tuple[str, str]:
        return self.into, f"{self.into}_propensity"

    def schema(self, *inputs: StreamType) -> StreamType:
        """The rows' columns, arm and propensity.  Raises UnknownColumn, DuplicateName, TypeMismatch for floats."""
        (rows,) = inputs
        for name in self.by:
            if name not in rows.schema:
                raise UnknownColumn(f"step 'route' reads '{name}'", hint=did_you_mean(name, rows.schema.names))
        key_kinds(rows.schema, self.by)
        for name in self._made:
            if name in rows.schema:
                raise DuplicateName(f"step 'route' makes '{name}', which is there", hint="choose another into=")
        fields = (Field(self._made[0], pl.String()), Field(self._made[1], pl.Float64()))
        return replace(rows, schema=rows.schema.with_fields(fields))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (passes_through(needed, self.by, self._made),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        (batch,) = inputs
        number = np.searchsorted(_uppers(self.pieces), self.places(batch.frame), side="right")
        arms = pl.Series([arm for _, _, arm in self.pieces], dtype=pl.String).gather(number)
        weight = dict(self.weights)
        chances = pl.Series([weight[arm] for _, _, arm in self.pieces], dtype=pl.Float64).gather(number)
        made = [arms.alias(self._made[0]), chances.alias(self._made[1])]
        return None, Output(batch.with_frame(pl.DataFrame([*batch.frame.get_columns(), *made])))

    def places(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Each row's place in [0, 1)."""
        return places(frame, self.by, self.salt)


def route(
    by: str | tuple[str, ...],
    *,
    salt: str,
    weights: Mapping[str, float] | Sequence[Mapping[str, float]],
    into: str = "arm",
    name: str = "",
) -> Step:
    """Sends each entity to an arm, always the same one.

    by       the columns of the entity, each row's own at its moment: `sp.as_of(links)` brings it. Of entities that
             `resolve` merges the oldest keeps its id, and with it its arm; rows of the alias go there from the link
             on, to an arm that may be another than theirs was. Who splits off goes by the id that it then has
    salt     the name of the experiment: another salt deals anew
    weights  shares of the arms; they must add up to 1. To change them later, write the new ones behind the old ones:
             of the entities only those move that must
    into     the column of the arm; `<into>_propensity` is the chance with which the row got it

    >>> changed = route("customer", salt="e1", weights=[{"old": 0.9, "new": 0.1}, {"old": 0.8, "new": 0.2}])
    >>> [(float(a), float(b), arm) for a, b, arm in changed.operator.pieces]
    [(0.0, 0.8, 'old'), (0.8, 0.9, 'new'), (0.9, 1.0, 'new')]
    """
    history = [weights] if isinstance(weights, Mapping) else list(weights)
    columns = (by,) if isinstance(by, str) else tuple(by)
    if not columns or not salt:
        raise DefinitionError("step 'route' needs the columns of the entity and a salt", hint="salt='checkout-2026'")
    pieces: tuple[Piece, ...] = ()
    for one in history:
        pieces = _dealt(pieces, _exact(one))
    last = [(arm, float(share)) for arm, share in _exact(history[-1]).items() if share > 0] if history else []
    return Step(Route(columns, salt, pieces, tuple(last), into), name=name)


def places(frame: pl.DataFrame, by: tuple[str, ...], salt: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row, which its key and the salt decide."""
    text = np.frombuffer(salt.encode(), np.uint8)
    salted = hash_bytes(text, np.zeros(1, np.int64), np.array([text.size], np.int64))
    hashes = keys_of(frame, by).hashes
    mixed = mix64(hashes, np.full(hashes.size, salted[0]))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def _exact(weights: Mapping[str, float]) -> dict[str, Fraction]:
    shares = {arm: Fraction(str(share)) for arm, share in weights.items()}
    if not shares or sum(shares.values()) != 1 or min(shares.values()) < 0:
        raise DefinitionError(
            f"step 'route': weights {dict(weights)} do not add up to 1", hint="{'champion': 0.9, 'challenger': 0.1}"
        )
    return shares


def _dealt(pieces: tuple[Piece, ...], shares: Mapping[str, Fraction]) -> tuple[Piece, ...]:
    """The pieces after arms that shrink gave up the upper ends of theirs, and arms that grow took those in order."""
    owned: dict[str, Fraction] = {}
    for a, b, arm in pieces:
        owned[arm] = owned.get(arm, Fraction(0)) + b - a
    kept: list[Piece] = []
    free: list[tuple[Fraction, Fraction]] = [] if pieces else [(Fraction(0), Fraction(1))]
    excess = {arm: size - shares.get(arm, Fraction(0)) for arm, size in owned.items()}
    for a, b, arm in reversed(pieces):
        given = min(max(excess[arm], Fraction(0)), b - a)
        excess[arm] -= given
        if given:
            free.append((b - given, b))
        if b - given > a:
            kept.append((a, b - given, arm))
    free.sort()
    for arm, share in shares.items():
        lacking = share - owned.get(arm, Fraction(0))
        while lacking > 0:
            a, b = free.pop(0)
            taken = min(lacking, b - a)
            kept.append((a, a + taken, arm))
            lacking -= taken
            if a + taken < b:
                free.insert(0, (a + taken, b))
    return tuple(sorted(kept))


def _uppers(pieces: tuple[Piece, ...]) -> npt.NDArray[np.float64]:
    return np.array([float(upper) for _, upper, _ in pieces[:-1]])
