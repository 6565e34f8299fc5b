"""Conflicting definitions: one word, as each owner means it, and the one that counts from which day on.

"Active customer" of sales is another one than that of support. Both are written down as named clauses, by owner and
version; all flags are emitted, with the clauses on account of which owners disagree, and a dated choice says which flag
is the canonical one. Versions and choices hold by event time, so a switch at T touches no event before T, in a replay
neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.event_time import MIN_TIME, Span, instant_us, span_us
from streamproc.graph import Step, Stream
from streamproc.operator import Output, StepTime, StreamType, passes_through
from streamproc.operators.aggregates import total
from streamproc.operators.columns import select
from streamproc.operators.expressions import check_predicate, expression_columns
from streamproc.operators.key_by import key_by
from streamproc.operators.quality.rule import Rule, row
from streamproc.operators.quality.rules import TAGS, broken_rows
from streamproc.operators.quality.tally import RuleTally
from streamproc.operators.windows import tumbling
from streamproc.ports import Int64s

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """One version of an owner's definition: all clauses hold.

    since_us  the event time from which it holds
    """

    version: int
    clauses: tuple[tuple[str, pl.Expr], ...]
    since_us: int


@dataclass(frozen=True, slots=True)
class Definitions:
    """Emits what each owner calls so, see `definitions`.

    owners     their meanings, ascending in time
    canonical  (since_us, owner), ascending in time
    """

    concept: str
    owners: tuple[tuple[str, tuple[Meaning, ...]], ...]
    canonical: tuple[tuple[int, str], ...]
    watch: tuple[Step, ...] = ()
    verb: str = "definitions"

    @property
    def _made(self) -> tuple[str, ...]:
        flags = tuple(f"{self.concept}_{owner}" for owner, _ in self.owners)
        return (self.concept, f"{self.concept}_by", *flags, f"{self.concept}_because")

    def schema(self, *inputs: StreamType) -> StreamType:
        """The input's columns, the canonical flag and whose it is, a flag per owner, and the clauses that part them."""
        (stream,) = inputs
        read: list[Field] = []
        for owner, meanings in self.owners:
            for meaning in meanings:
                for clause, test in meaning.clauses:
                    made = check_predicate(test, stream.schema, f"{self.verb}: {owner}.{clause}")
                    read.append(made)
        for name in self._made:
            if name in stream.schema:
                raise DuplicateName(
                    f"step '{self.verb}' makes '{name}', which is there already", hint="choose another word"
                )
        origins: frozenset[str] = frozenset().union(*(field.origins for field in read))
        canonical, by, *flags, because = self._made
        fields = (
            Field(canonical, pl.Boolean(), nullable=True),
            Field(by, pl.String(), nullable=True, doc="whose definition it is: owner and version"),
            *(Field(name, pl.Boolean(), nullable=True) for name in flags),
            Field(because, TAGS, doc="clauses that do not hold for owners who say no where another says yes"),
        )
        pii = strictest(field.pii for field in read)
        made_fields = (replace(field, pii=pii, origins=origins) for field in fields)
        return replace(stream, schema=Schema((*stream.schema, *made_fields)))

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """What is needed further down, and the columns of all clauses."""
        tests = [test for _, meanings in self.owners for meaning in meanings for _, test in meaning.clauses]
        return (passes_through(needed, [name for test in tests for name in expression_columns(test)], self._made),)

    def open(self, *inputs: StreamType) -> None:
        """No state."""

    def process(self, state: None, inputs: tuple[Batch, ...], time: StepTime) -> tuple[None, Output]:
        """One Polars expression per clause of the versions that hold."""
        (batch,) = inputs
        times = np.ascontiguousarray(batch.event_time)
        said, lacking, versions = [], [], []
        for _, meanings in self.owners:
            version = _holding([meaning.since_us for meaning in meanings], times)
            flag, missing = _judged(batch.frame, meanings, version)
            said.append(flag)
            lacking.append(missing)
            versions.append(version)
        anybody = np.zeros(len(batch), np.bool_)
        for flag in said:
            anybody |= flag
        columns = [
            pl.Series(f"{self.concept}_{owner}", flag).set(pl.Series(version < 0), None)
            for (owner, _), flag, version in zip(self.owners, said, versions, strict=True)
        ]
        canonical, by = self._chosen(times, said, versions)
        frame = batch.frame.with_columns(canonical, by, *columns, self._because(lacking, anybody))
        return None, Output(batch.with_frame(frame))

    def _chosen(self, times: Int64s, said: Sequence[Flags], versions: Sequence[Int64s]) -> tuple[pl.Series, pl.Series]:
        """The canonical flag and whose it is, null before anything was chosen."""
        choice = _holding([since for since, _ in self.canonical], times)
        places = {owner: place for place, (owner, _) in enumerate(self.owners)}
        flag, label = np.zeros(times.size, np.bool_), np.full(times.size, -1, np.int64)
        labels: list[str | None] = []
        for number, (_, owner) in enumerate(self.canonical):
            place = places[owner]
            for index, meaning in enumerate(self.owners[place][1]):
                mine = (choice == number) & (versions[place] == index)
                flag[mine] = said[place][mine]
                label[mine] = len(labels)
                labels.append(f"{owner}.v{meaning.version}")
        none = pl.Series(label < 0)
        by = pl.Series([*labels, None], dtype=pl.String).gather(np.where(label < 0, len(labels), label))
        return pl.Series(self.concept, flag).set(none, None), by.alias(f"{self.concept}_by")

    def _because(self, lacking: Sequence[Mapping[str, Flags]], anybody: Flags) -> pl.Series:
        parts = [
            pl.Series(f"{owner}.{clause}", [f"{owner}.{clause}", None], dtype=pl.String).gather(
                np.where(missing & anybody, 0, 1)
            )
            for (owner, _), clauses in zip(self.owners, lacking, strict=True)
            for clause, missing in clauses.items()
        ]
        return pl.DataFrame(parts).select(
            pl.concat_list(pl.all()).list.drop_nulls().alias(f"{self.concept}_because")
        ).to_series()  # fmt: skip

    def disagreements(self, rows: Stream) -> Stream:
        """The matrix of who calls so what another does not, by window, over the rows that this step gives."""
        for step in self.watch:
            rows = rows | step
        return rows


def _holding(since: Sequence[int], times: Int64s) -> Int64s:
    """The last of these moments that each time has reached, -1 before the first."""
    places: Int64s = np.searchsorted(np.array(since, np.int64), times, side="right") - 1
    return places


def _judged(frame: pl.DataFrame, meanings: Sequence[Meaning], version: Int64s) -> tuple[Flags, dict[str, Flags]]:
    """What an owner says of each row, and per clause the rows where it belongs to the definition and does not hold."""
    flag = np.zeros(version.size, np.bool_)
    lacking: dict[str, Flags] = {}
    for number, meaning in enumerate(meanings):
        mine = version == number
        broken = broken_rows(frame, [test for _, test in meaning.clauses]) if version.size else []
        holds = mine.copy()
        for place, (clause, _) in enumerate(meaning.clauses):
            missing = mine & broken[place] if version.size else mine
            holds &= ~missing
            lacking[clause] = lacking[clause] | missing if clause in lacking else missing
        flag |= holds
    return flag, lacking


def meaning(version: int = 1, *, since: str = "", **clauses: pl.Expr) -> Meaning:
    """One version of a definition: every clause holds. A null counts as no.

    since  the event time from which it holds ("2026-07-01", or with time and offset); without it, always

    >>> meaning(2, since="2026-07-01", bought=pl.col("orders") > 0).version
    2
    """
    if not clauses:
        raise DefinitionError("a meaning without a clause", hint="sp.meaning(1, bought=pl.col('orders') > 0)")
    return Meaning(version, tuple(clauses.items()), instant_us(since) if since else MIN_TIME)


def definitions(
    concept: str,
    *,
    canonical: str | Mapping[str, str],
    window: Span = "1d",
    name: str = "",
    **owners: Meaning | Sequence[Meaning],
) -> Step:
    """Emits what each owner calls `concept`, and which of them counts.

    owners     by name: a `meaning`, or several of ascending `since`, of which each row gets the one of its event time
    canonical  the owner whose flag counts; or a mapping from moments to owners: {"2025-01-01": "sales",
               "2026-07-01": "support"}. A choice touches no row before its moment
    window     of the matrix

    Columns: `<concept>` (the canonical flag), `<concept>_by` ("sales.v2"), `<concept>_<owner>` for each, and
    `<concept>_because`: where owners disagree, the clauses ("support.calm") that do not hold for those who say no.
    Flags are null before an owner's first version. `defined.disagreements` is a stream of counts per window: `one`,
    `other`, `says` ("yes/no", ...; or "clause" with its name in `other`), `count` of `rows`.

    >>> step = definitions(
    ...     "active", canonical="sales", sales=meaning(1, bought=pl.col("orders") > 0),
    ...     support=meaning(1, bought=pl.col("orders") > 0, calm=pl.col("tickets") == 0))
    >>> [owner for owner, _ in step.operator.owners]
    ['sales', 'support']
    """
    if len(owners) < 2:
        raise DefinitionError(
            f"'{concept}' has {len(owners)} owner",
            hint="sp.definitions('active', canonical='sales', sales=..., support=...)",
        )
    kept: list[tuple[str, tuple[Meaning, ...]]] = []
    for owner, given in owners.items():
        meanings = tuple(given) if isinstance(given, Sequence) else (given,)
        if not meanings or not all(isinstance(one, Meaning) for one in meanings):
            raise DefinitionError(f"'{owner}' of '{concept}' is no meaning", hint="sp.meaning(1, clause=expression)")
        since = [one.since_us for one in meanings]
        if since != sorted(set(since)) or len({one.version for one in meanings}) < len(meanings):
            raise DefinitionError(
                f"the versions of '{owner}' do not follow each other",
                hint="number them, and give each later one a `since`",
            )
        kept.append((owner, meanings))
    chosen = (
        [(MIN_TIME, canonical)] if isinstance(canonical, str) else [(instant_us(at), o) for at, o in canonical.items()]
    )
    for _, owner in chosen:
        if owner not in owners:
            raise DefinitionError(f"'{owner}' defines no '{concept}'", hint=f"owners are {', '.join(owners)}")
    span = span_us(window)
    if span <= 0:
        raise DefinitionError(f"'{concept}' is compared over windows of {window}", hint="spans are above zero")
    watch = (
        Step(RuleTally(_cells(concept, kept), span)),
        key_by("rule"),
        tumbling("1us", rows=total("rows"), broken=total("broken")),
        select(
            "rows",
            window_end=pl.col("window_start"),
            window_start=pl.col("window_start") - pl.duration(microseconds=span),
            one=pl.col("rule").str.split("|").list.get(0, null_on_oob=True),
            other=pl.col("rule").str.split("|").list.get(1, null_on_oob=True),
            says=pl.col("rule").str.split("|").list.get(2, null_on_oob=True),
            count=pl.col("broken"),
        ),
    )
    return Step(Definitions(concept, tuple(kept), tuple(sorted(chosen)), watch), name=name)


def _cells(concept: str, owners: Sequence[tuple[str, Sequence[Meaning]]]) -> tuple[tuple[str, Rule], ...]:
    """What is counted: four cells per pair of owners, and each clause on account of which somebody says no."""
    cells = []
    for (one, _), (other, _) in combinations(owners, 2):
        a, b = pl.col(f"{concept}_{one}"), pl.col(f"{concept}_{other}")
        for says, test in (("yes/yes", a & b), ("yes/no", a & ~b), ("no/yes", ~a & b), ("no/no", ~a & ~b)):
            cells.append((f"{one}|{other}|{says}", row(~test.fill_null(False))))
    for owner, meanings in owners:
        for clause in dict.fromkeys(clause for meaning in meanings for clause, _ in meaning.clauses):
            test = pl.col(f"{concept}_because").list.contains(f"{owner}.{clause}")
            cells.append((f"{owner}|{clause}|clause", row(~test)))
    return tuple(cells)
