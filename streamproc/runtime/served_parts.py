"""The parts of a `features` over rows that come and are kept: each computed as they come, or when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from streamproc.batch import C1 as OFFSET
from streamproc.batch import WATERMARK, Batch
from streamproc.contracts.model import Schema
from streamproc.errors import UnknownColumn, did_you_mean
from streamproc.feature.operator import Features
from streamproc.feature.parts import Part, only, parts_of
from streamproc.operator import StepTime, StreamType
from streamproc.ports import Int64s
from streamproc.runtime.kept_rows import KeptRows, Key, kept_rows
from streamproc.runtime.two_ways import ON_DEMAND, PRECOMPUTED, Account, changing

_MANY: Final = 64
"""Sets of parts that are asked for together, for each of which a plan is kept."""
_NOBODY: Final = (-1, ())


@dataclass(slots=True)
class ServedPart:
    """A part of the features.

    chosen  whether its way may be chosen: otherwise it is precomputed, as what it is made of is not kept
    values  by key, the offset of a row and the part's columns of it, as they were computed last
    asked   by key, the offset of its newest row when it was asked for last
    """

    part: Part
    account: Account
    chosen: bool
    values: dict[Key, tuple[int, tuple[Any, ...]]] = field(default_factory=dict)
    asked: dict[Key, int] = field(default_factory=dict)

    @property
    def is_precomputed(self) -> bool:
        """Whether it is computed at every row now."""
        return not self.chosen or self.account.way == PRECOMPUTED

    def note(self, keys: Sequence[Key], offsets: Sequence[int], made: pl.DataFrame) -> None:
        """Keeps what was computed for rows of these keys, at these offsets."""
        self.values.update(zip(keys, zip(offsets, made.select(self.part.columns).rows(), strict=True), strict=True))


@dataclass(slots=True)
class _Pass:
    """One operator over each row as it comes, for all parts that are precomputed and may be made anew, or may not."""

    operator: Features
    parts: list[ServedPart]
    states: list[Any]


@dataclass(slots=True)
class ServedParts:
    """All parts, and what they share.

    type    the columns under the features, and the key
    chosen  whether ways are chosen by what they cost
    kept    the rows of each partition
    places, columns  by the name of a feature: its part, and the columns that it makes
    """

    features: Features
    type: StreamType
    parts: list[ServedPart]
    kept: list[KeptRows]
    chosen: bool
    places: dict[str, int]
    columns: dict[str, tuple[str, ...]]
    _always: _Pass | None
    _common: _Pass | None
    _recalls: dict[tuple[int, ...], Features] = field(default_factory=dict)

    def take(self, partition: int, batch: Batch, keys: pl.DataFrame, newest: Int64s, named: Sequence[Key]) -> None:
        """Takes rows of a partition in, none of them late.

        batch   the columns under the features; meta with event time, watermark and coordinate (partition, offset)
        keys    the key columns of the rows
        newest  the last row of each key of the batch; named: those keys
        """
        kept = self.kept[partition]
        slots = kept.take(batch, keys)
        offsets = batch.meta[newest, OFFSET].tolist()
        time = StepTime(batch.meta[:, WATERMARK].copy(), 0)
        for one in (self._always, self._common):
            if one is not None:
                one.states[partition], out = one.operator.process(one.states[partition], (batch,), time)
                made = out.rows.frame[newest]
                for part in one.parts:
                    part.note(named, offsets, made)
        seen = int(kept.held[slots].sum())
        for part in self.parts:
            part.account.wrote(len(batch), seen)
        if kept.is_untidy:
            self._let_go(kept, int(batch.meta[-1, WATERMARK]))
        self._choose()

    def values(self, key: Key, partition: int, offset: int, names: Sequence[str]) -> tuple[dict[str, Any], bool]:
        """The columns of these features for the newest row of a key, and whether they were known already.

        Raises UnknownColumn for a feature that there is not.
        """
        kept = self.kept[partition]
        slot = kept.slot_of.get(key)
        held = int(kept.held[slot]) if slot is not None else 0
        places = dict.fromkeys(map(self._place_of, names))
        lacking = tuple(place for place in places if self.parts[place].values.get(key, _NOBODY)[0] != offset)
        if lacking:
            assert slot is not None  # before the rows of a key are let go of, all that they say is computed
            batch = kept.of(slot)
            made = self._recalled(lacking, batch, len(batch) - 1)
            for place in lacking:
                self.parts[place].note([key], [offset], made)
        known: dict[str, Any] = {}
        for place in places:
            part = self.parts[place]
            known.update(zip(part.part.columns, part.values[key][1], strict=True))
            if part.asked.get(key) != offset:
                part.asked[key] = offset
                part.account.read(held)
        self._choose()
        wanted = [column for name in names for column in self.columns[name]]
        return {column: known[column] for column in wanted}, not lacking

    def _place_of(self, name: str) -> int:
        place = self.places.get(name)
        if place is None:
            raise UnknownColumn(f"'{name}' is none of the features", hint=did_you_mean(name, self.places))
        return place

    def _recalled(self, places: tuple[int, ...], batch: Batch, unread: int) -> pl.DataFrame:
        """Rows from `unread` on with the columns of these parts, from rows alone."""
        operator = self._recalls.get(places)
        if operator is None:
            if len(self._recalls) == _MANY:
                self._recalls.clear()
            operator = self._recalls[places] = only(self.features, tuple(self.parts[place].part for place in places))
        return operator.recall(operator.open(self.type), batch, unread)

    def _let_go(self, kept: KeptRows, watermark: int) -> None:
        """Lets go of rows on which nobody looks back any more, once what they say of silent keys is computed."""
        silent = kept.silent(watermark)
        if silent.size:
            named = [kept.key_of[slot] for slot in silent.tolist()]
            offsets = kept.rows.meta[kept.newest[silent], OFFSET].tolist()
            for part in self.parts:
                newest = enumerate(zip(named, offsets, strict=True))
                asking = [place for place, (key, at) in newest if part.asked.get(key) != at]
                part.asked.update((named[place], offsets[place]) for place in asking)
                if asking:
                    part.account.read(int(kept.held[silent[asking]].sum()))
            self._settle(kept, silent, named, offsets)
        kept.tidy(silent)

    def _settle(self, kept: KeptRows, silent: Int64s, named: list[Key], offsets: list[int]) -> None:
        """Computes what nobody has asked for yet of keys whose rows go."""
        lacking = tuple(place for place, part in enumerate(self.parts) if not part.is_precomputed)
        which = [
            number for number, (key, at) in enumerate(zip(named, offsets, strict=True))
            if any(self.parts[place].values.get(key, _NOBODY)[0] != at for place in lacking)
        ]  # fmt: skip
        if which:
            batch, _ = kept.of_all(silent[which])
            made = self._recalled(lacking, batch, len(batch) - len(which))
            for place in lacking:
                self.parts[place].note([named[one] for one in which], [offsets[one] for one in which], made)

    def _choose(self) -> None:
        """Lets parts change their way, where that pays."""
        if not self.chosen:
            return
        open_to = [part for part in self.parts if part.chosen]
        rows = sum(kept.rows.live for kept in self.kept)
        places = changing([part.account for part in open_to], rows, len(self.kept))
        if not places:
            return
        for place in places:
            open_to[place].account.change()
        joined = [open_to[place] for place in places if open_to[place].is_precomputed]
        self._common = self._caught_up([part for part in open_to if part.is_precomputed], joined)

    def _caught_up(self, parts: list[ServedPart], joined: list[ServedPart]) -> _Pass | None:
        """A pass for these parts that has seen all rows that are kept; those that join know the newest of each key."""
        made = _new_pass(self.features, self.type, parts, len(self.kept))
        if made is None:
            return None
        rows = sum(kept.rows.live for kept in self.kept)
        for part in parts:
            part.account.spent += part.account.change_cost(rows, len(self.kept))
        for state, kept in zip(made.states, self.kept, strict=True):
            batch, slots = kept.of_all()
            if not len(batch):
                continue
            found = made.operator.recall(state, batch, len(batch) - slots.size)
            named = [kept.key_of[slot] for slot in slots.tolist()]
            offsets = kept.rows.meta[kept.newest[slots], OFFSET].tolist()
            for part in joined:
                part.note(named, offsets, found)
        return made


def _new_pass(features: Features, kind: StreamType, parts: list[ServedPart], partitions: int) -> _Pass | None:
    if not parts:
        return None
    operator = only(features, tuple(part.part for part in parts))
    return _Pass(operator, parts, [operator.open(kind) for _ in range(partitions)])


def served_parts(features: Features, kind: StreamType, partitions: int, way: str) -> ServedParts:
    """No row yet; all parts go this way, or begin on demand where it is none of the two.

    Raises DefinitionError (UnknownColumn, TypeMismatch) where the features do not fit the columns.
    """
    features.schema(kind)
    found = parts_of(features, kind.schema)
    reach = max((part.reach_us for part in found), default=1)
    reach = max(reach, 1)
    columns = Schema(tuple(kind.schema[name] for name in sorted(features.reads(frozenset(), kind.schema)[0])))
    bound = StreamType(columns, kind.keyed_by)
    parts = []
    for part in found:
        chosen = part.reach_us > 0
        account = Account(len(part.names), sum(part.scans_us) / reach if chosen else 0.0)
        account.way = way if chosen and way in (PRECOMPUTED, ON_DEMAND) else ON_DEMAND if chosen else PRECOMPUTED
        parts.append(ServedPart(part, account, chosen))
    fixed = [one for one in parts if not one.chosen]
    begun = [one for one in parts if one.chosen and one.is_precomputed]
    return ServedParts(
        features,
        bound,
        parts,
        [kept_rows(columns.polars(), reach) for _ in range(partitions)],
        way not in (PRECOMPUTED, ON_DEMAND),
        {name: place for place, one in enumerate(found) for name in one.names},
        {name: some for one in found for name, some in zip(one.names, one.columns_of, strict=True)},
        _new_pass(features, bound, fixed, partitions),
        _new_pass(features, bound, begun, partitions),
    )


def explained(parts: Sequence[ServedPart], names: Sequence[str]) -> pl.DataFrame:
    """What each feature costs, see `ServedFeatures.explain`: of what its part costs, an equal share."""
    rows: dict[str, tuple[Any, ...]] = {}
    for one in parts:
        account, share = one.account, len(one.part.names)
        on_demand = account.on_demand if one.chosen else None
        best = account.precomputed if on_demand is None else min(account.precomputed, on_demand)
        totals = (account.precomputed, on_demand, account.spent, best)
        costs = [None if total is None else total / share for total in totals]
        rows |= {name: (name, account.way, one.part.names[0], *costs, account.changes) for name in one.part.names}
    return pl.DataFrame([rows[name] for name in names if name in rows], schema=_EXPLAINED, orient="row")


_EXPLAINED: Final = {
    "feature": pl.String, "way": pl.String, "goes_with": pl.String, "precomputed": pl.Float64, "on_demand": pl.Float64,
    "spent": pl.Float64, "best": pl.Float64, "changes": pl.Int64,
}  # fmt: skip
