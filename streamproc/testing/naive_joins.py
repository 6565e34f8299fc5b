"""Joins as a person does them: both sides kept for ever in lists, and every row compared with every other.

Port 0 is the left side, port 1 the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from streamproc.testing.naive import Row


class _InTurn(ABC):
    """What both joins of a row with a side that is kept do with time: rows wait for their turn, or count at once."""

    in_order: bool
    waiting: list[Row]

    def due(self) -> int | None:
        """The earliest event time that waits; nothing does where inputs are not ordered."""
        return min((row.event_time for row in self.waiting), default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Applies all rows of one event time."""
        rows = [row for row in self.waiting if row.event_time == due]
        self.waiting = [row for row in self.waiting if row.event_time != due]
        rows.sort(key=lambda row: (-row.port, row.coordinate))
        made = [one for row in rows for one in self.apply(row)]
        return [replace(row, watermark=due, position=(2 * at, due, rank)) for row in made]

    def take(self, row: Row) -> list[Row] | None:
        """Applies the row, or lets it wait for its turn."""
        if not row.in_time:
            return None
        if self.in_order:
            self.waiting.append(row)
            return []
        return self.apply(row)

    @abstractmethod
    def apply(self, row: Row) -> list[Row]:
        """What comes of a row whose turn it is."""


@dataclass(slots=True)
class AsOf(_InTurn):
    """Each left row with the newest right row at or before its event time.

    columns    columns of the right side to bring, each with its name in the output
    in_order   both inputs are ordered: rows are applied by event time, the right side first
    deletes    the column of a right row that says that its key is gone
    covered    intervals [from, to) in which the right side was there; None: always
    """

    columns: dict[str, str]
    max_age_us: int | None = None
    name: str = "as_of"
    in_order: bool = False
    deletes: str = ""
    covered: tuple[tuple[int, int], ...] | None = None
    right: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)
    strict: bool = True

    def apply(self, row: Row) -> list[Row]:
        """Keeps a right row; looks a left one up."""
        if row.port == 1:
            self.right.append(row)
            return []
        best: Row | None = None
        for other in self.right:
            # Of several at one moment the last one counts, so an equal time replaces.
            usable = other.key == row.key and other.event_time <= row.event_time
            if usable and (best is None or other.event_time >= best.event_time):
                best = other
        if best is not None and self.deletes and best.values[self.deletes]:
            best = None
        age = None if best is None else row.event_time - best.event_time
        status = "MATCHED"
        if self.max_age_us is not None and age is not None and age > self.max_age_us:
            status = "EXPIRED"
        if age is None or (self.max_age_us is not None and age > 2 * self.max_age_us):
            status, age = "MISSING", None
        if self.covered is not None and not self.knows(row.event_time, age):
            status, age = "NOT_COVERED", None
        found = best.values if best is not None and status == "MATCHED" else {}
        values: dict[str, Any] = {**row.values}
        values |= {new: found.get(old) for old, new in self.columns.items()}
        values |= {f"{self.name}_status": status, f"{self.name}_age": age}
        return [replace(row, values=values)]

    def knows(self, time: int, age: int | None) -> bool:
        """Whether the right side was there at every moment that decides what a left row finds."""
        assert self.covered is not None
        first = min(begin for begin, _ in self.covered) if self.max_age_us is None else time - 2 * self.max_age_us
        moments = range(time - age if age is not None else min(first, time), time + 1)
        return all(any(begin <= moment < end for begin, end in self.covered) for moment in moments)


@dataclass(slots=True)
class Join(_InTurn):
    """Two tables joined: after each row the joined row of its key is looked up in all rows that ever came.

    key      columns of the key; columns, right those of either side, each with its name in the output
    deletes  the column that says that a row's key is gone, of the left and of the right side
    """

    key: tuple[str, ...]
    columns: dict[str, str]
    right: dict[str, str]
    how: str = "inner"
    deletes: tuple[str, str] = ("", "")
    in_order: bool = False
    sides: tuple[list[Row], list[Row]] = field(default_factory=lambda: ([], []))
    standing: set[bytes] = field(default_factory=set)
    waiting: list[Row] = field(default_factory=list)
    strict: bool = True

    def newest(self, port: int, key: bytes) -> Row | None:
        """The newest row of a key on one side; of several at one moment the last."""
        rows = [row for row in self.sides[port] if row.key == key]
        return max(enumerate(rows), key=lambda pair: (pair[1].event_time, pair[0]))[1] if rows else None

    def apply(self, row: Row) -> list[Row]:
        """What is told of the row's key once the row counts."""
        before = self.newest(row.port, row.key)
        self.sides[row.port].append(row)
        if before is not None and before.event_time > row.event_time:
            return []
        known = [self.newest(port, row.key) for port in (0, 1)]
        moment = max(one.event_time for one in known if one is not None)
        there = [
            None if one is None or (name and one.values[name]) else one
            for one, name in zip(known, self.deletes, strict=True)
        ]
        left, right = there
        sides = {"inner": left and right, "left": left, "full": left or right}
        stands = sides[self.how] is not None
        if not stands and row.key not in self.standing:
            return []
        (self.standing.add if stands else self.standing.discard)(row.key)
        values: dict[str, Any] = {name: row.values[name] for name in self.key}
        for one, columns in ((left, self.columns), (right, self.right)):
            values |= {new: one.values[old] if stands and one is not None else None for old, new in columns.items()}
        return [replace(row, values={**values, "deleted": not stands}, event_time=moment)]


@dataclass(slots=True)
class Within:
    """Every pair of rows of one key with left - before <= right <= left + after.

    columns     columns of the right side to bring, each with its name in the output
    keep_alone  a left row without a partner goes on, with nulls, once the watermark is above its time + after
    """

    columns: dict[str, str]
    before_us: int
    after_us: int
    keep_alone: bool = False
    in_order: bool = False
    sides: tuple[list[Row], list[Row]] = field(default_factory=lambda: ([], []))
    alone: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)
    strict: bool = True

    def due(self) -> int | None:
        """The earliest moment at which a row is applied, or a left one without a partner goes on alone."""
        times = [row.event_time for row in self.waiting]
        return min([*times, *(row.event_time + self.after_us for row in self.alone)], default=None)

    def release(self, due: int, at: int, rank: int) -> list[Row]:
        """Rows whose turn it is, then rows that stay alone, in order of key bytes."""
        rows = [row for row in self.waiting if row.event_time == due]
        self.waiting = [row for row in self.waiting if row.event_time != due]
        rows.sort(key=lambda row: (-row.port, row.coordinate))
        made = [one for row in rows for one in self.apply(row)]
        left = [row for row in self.alone if row.event_time + self.after_us == due]
        left.sort(key=lambda row: (row.key, row.coordinate))
        self.alone = [row for row in self.alone if row not in left]
        made += [self.pair(row, None, due) for row in left]
        return [replace(row, watermark=due, position=(2 * at, due, rank)) for row in made]

    def take(self, row: Row) -> list[Row] | None:
        """Applies the row, or lets it wait for its turn."""
        if not row.in_time:
            return None
        if self.in_order:
            self.waiting.append(row)
            return []
        return self.apply(row)

    def apply(self, row: Row) -> list[Row]:
        """The pairs that the row completes, by the partner's event time, then its arrival."""
        made = []
        for other in sorted(self.sides[1 - row.port], key=lambda other: other.event_time):
            left, right = (row, other) if row.port == 0 else (other, row)
            close = left.event_time - self.before_us <= right.event_time <= left.event_time + self.after_us
            if close and left.key == right.key:
                pair = self.pair(left, right, max(left.event_time, right.event_time))
                made.append(replace(pair, watermark=row.watermark, position=row.position))
                self.alone = [one for one in self.alone if one is not left]
        self.sides[row.port].append(row)
        if row.port == 0 and self.keep_alone and not made:
            self.alone.append(row)
        return made

    def pair(self, left: Row, right: Row | None, event_time: int) -> Row:
        """Both rows as one."""
        found = {} if right is None else right.values
        values = {**left.values, **{new: found.get(old) for old, new in self.columns.items()}}
        return replace(left, values=values, event_time=event_time)
