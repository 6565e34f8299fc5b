"""What of two records is compared, and on which levels: the words in which a linkage is declared.

A comparison looks at one column and sorts each pair of records into the first of its levels that holds: equal, more or
less alike, or (the last) neither. Where a value is missing on either side, it says nothing.

A block says which pairs are looked at at all: those that agree in all its parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from streamproc.errors import DefinitionError, did_you_mean

MEASURES: Final = (
    "equal", "jaro_winkler", "damerau_levenshtein", "levenshtein", "difference", "share", "kilometres", "jaccard",
    "cosine",
)  # fmt: skip
"""Measures of a level, each with a limit; similarities hold from the limit upwards, distances up to it."""
DISTANCES: Final = frozenset({"damerau_levenshtein", "levenshtein", "difference", "share", "kilometres"})

How = Literal["exact", "name", "typing", "date", "number", "place", "set", "words"]
_DAYS: Final = (31.0, 366.0, 3653.0)
_PART = re.compile(r"(?P<column>[^\[\]()]+?)(\[:(?P<letters>[1-9][0-9]*)\])?")
_WORDS = re.compile(r"rare\((?P<column>[^()]+)\)")
MOST_LEVELS: Final = 8
MOST_COMPARISONS: Final = 15
RARE_WORDS: Final = 6
"""Of a record's words, so many of the rarest ones are its blocks."""


@dataclass(frozen=True, slots=True)
class Level:
    """A degree of agreement: `measure` of the two values reaches `limit`."""

    measure: str
    limit: float = 0.0

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise DefinitionError(
                f"a level knows no measure '{self.measure}'", hint=did_you_mean(self.measure, MEASURES)
            )

    def __str__(self) -> str:
        if self.measure == "equal":
            return "equal"
        return f"{self.measure} {'<=' if self.measure in DISTANCES else '>='} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One column of two records, and the levels on which they may agree, the strictest first; see `compare`.

    form         how the column is read: "text", "date", "number", "place", "set" or "words"
    other        of a place: the column of longitudes
    frequencies  whether agreeing in a rare value says more than agreeing in a common one
    """

    column: str
    form: str
    levels: tuple[Level, ...]
    frequencies: bool = False
    other: str = ""

    def __post_init__(self) -> None:
        if not self.levels:
            raise DefinitionError(f"the comparison of '{self.column}' has no level", hint="compare(column, 'name')")
        if len(self.levels) >= MOST_LEVELS:
            raise DefinitionError(
                f"the comparison of '{self.column}' has {len(self.levels)} levels; {MOST_LEVELS - 1} is the most",
                hint="take some away",
            )
        if self.frequencies and self.levels[0].measure != "equal":
            raise DefinitionError(
                f"the comparison of '{self.column}' cannot weigh frequencies: its first level is not equality",
                hint="frequencies=False",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The levels in words, the last one being that none of them holds."""
        return (*(str(level) for level in self.levels), "different")


@dataclass(frozen=True, slots=True)
class Block:
    """Pairs that agree in all `parts`: columns, or the first letters of one (a count of 0 is the whole value).

    words  the block of a text column instead: pairs that share one of their `RARE_WORDS` rarest words
    """

    parts: tuple[tuple[str, int], ...]
    words: str = ""

    def __str__(self) -> str:
        if self.words:
            return f"rare({self.words})"
        return " + ".join(column if not letters else f"{column}[:{letters}]" for column, letters in self.parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.words,) if self.words else tuple(column for column, _ in self.parts)


_LIMITS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "exact": ("equal", ()),
    "name": ("jaro_winkler", (0.92, 0.88, 0.7)),
    "typing": ("damerau_levenshtein", (1, 2)),
    "date": ("damerau_levenshtein", (1, 2)),
    "number": ("difference", ()),
    "place": ("kilometres", (0.1, 1, 10)),
    "set": ("jaccard", (0.9, 0.5)),
    "words": ("cosine", (0.9, 0.75, 0.6, 0.45, 0.3)),
}


def compare(
    column: str,
    how: How = "exact",
    *,
    limits: Sequence[float] | None = None,
    frequencies: bool = False,
    longitude: str = "",
) -> Comparison:
    """How one column of two records is compared.

    exact   equal or not
    name    equal, or Jaro-Winkler similarity >= .92, .88, .7: names of people and places
    typing  equal, or at most 1 or 2 typing errors (Damerau-Levenshtein): numbers on cards, codes, phone numbers
    date    equal, at most 1 or 2 typing errors of YYYYMMDD, or within 31, 366, 3653 days: a Date, or text of that form
    number  equal, or a difference of at most each of the limits
    place   degrees of latitude, with `longitude`: equal, or within .1, 1, 10 km
    set     a list column: equal, or Jaccard overlap >= .9, .5
    words   titles and descriptions: equal, or tf-idf cosine >= .9, .75, .6, .45, .3

    limits       other limits, the strictest first (of a date: of typing errors)
    frequencies  agreeing in a rare value says more than in a common one: for names, towns; not for numbers

    Text is compared without case and outer blanks; empty text is missing.

    >>> compare("surname", "name", frequencies=True).names
    ('equal', 'jaro_winkler >= 0.92', 'jaro_winkler >= 0.88', 'jaro_winkler >= 0.7', 'different')
    """
    if how not in _LIMITS:
        raise DefinitionError(f"'{column}' cannot be compared as '{how}'", hint=did_you_mean(how, _LIMITS))
    if (how == "place") != bool(longitude):
        raise DefinitionError(
            f"the comparison of '{column}' needs {'a' if how == 'place' else 'no'} longitude",
            hint="compare('latitude', 'place', longitude='longitude')",
        )
    measure, usual = _LIMITS[how]
    chosen = tuple(float(limit) for limit in (usual if limits is None else limits))
    inner = [Level(measure, limit) for limit in chosen] if measure != "equal" else []
    rising = sorted(chosen, reverse=measure not in DISTANCES)
    if list(chosen) != rising:
        raise DefinitionError(f"the limits of '{column}' are {chosen}: the strictest stands first", hint=f"{rising}")
    if how == "date":
        inner += [Level("difference", days) for days in _DAYS]
    form = {"exact": "text", "name": "text", "typing": "text"}.get(how, how)
    return Comparison(column, form, (Level("equal"), *inner), frequencies, longitude)


def block(*parts: str) -> Block:
    """Pairs of records that agree in all parts are compared: columns, or first letters of one ("surname[:3]").

    "rare(title)", alone, are the pairs that share one of the rarest words of a text.

    >>> str(block("surname[:3]", "postcode"))
    'surname[:3] + postcode'
    """
    if not parts:
        raise DefinitionError("a block needs a column", hint="block('surname', 'postcode')")
    words = _WORDS.fullmatch(parts[0])
    if words is not None and len(parts) == 1:
        return Block((), words["column"])
    read = []
    for part in parts:
        found = _PART.fullmatch(part)
        if found is None:
            raise DefinitionError(f"'{part}' is no part of a block", hint="a column, or 'surname[:3]'")
        read.append((found["column"], int(found["letters"] or 0)))
    return Block(tuple(read))
