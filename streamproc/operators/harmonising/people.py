"""Names of people taken apart: titles, given names, particles, family name, suffixes.

Rules, not a model: the same name is taken apart in the same way on every machine. "Family, Given" is told by its comma;
without one the last word is the family name, together with the particles before it (van, de, al, ...). Names of
cultures that write the family name first without a comma are not recognised as such: say order="family_first".
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import polars as pl

from streamproc.contracts.model import Field, Schema
from streamproc.errors import DefinitionError
from streamproc.operators.harmonising.contacts import Made
from streamproc.operators.harmonising.distinct import Remembered, by_value
from streamproc.operators.harmonising.ladder import (
    Converted,
    Converter,
    Otherwise,
    column_of,
    require_policy,
    require_type,
)
from streamproc.ports import Int64s

Order = Literal["given_first", "family_first"]
_PARTS: Final = ("title", "given", "middle", "family", "suffix")
_TITLES_TEXT: Final = """
mr mrs ms miss mx dr prof professor sir dame lady lord rev reverend fr herr frau hr fru m mme mlle sr sra srta don doña
dott dottssa ing dipl-ing mag ir dhr mevr capt captain col colonel gen general lt sgt judge hon
"""
_TITLES: Final = frozenset(_TITLES_TEXT.split())
_SUFFIXES_TEXT: Final = """
jr sr ii iii iv v phd md dds esq mba cpa qc kc obe mbe cbe bsc msc ba ma llm llb junior senior
"""
_SUFFIXES: Final = frozenset(_SUFFIXES_TEXT.split())
_PARTICLES_TEXT: Final = """
van von vom zu zum zur de del della delle der den des di da dal dos das do du la le las los el al bin ibn ben bint ter
ten te op af av st saint mac san santa y e
"""
_PARTICLES: Final = frozenset(_PARTICLES_TEXT.split())


@dataclass(frozen=True, slots=True)
class PersonName:
    """A person's name and its parts, see `canonical.person_name`."""

    column: str
    order: Order
    otherwise: Otherwise = "quarantine"
    default: Any = None
    causes: ClassVar[tuple[str, ...]] = ("no name of a person",)
    suffixes: ClassVar[tuple[str, ...]] = tuple(f"_{part}" for part in _PARTS)

    def __post_init__(self) -> None:
        require_policy(self.otherwise, self.default, "a person's name")
        if self.order not in ("given_first", "family_first"):
            raise DefinitionError(
                f"a person's name with order={self.order!r}", hint="order='given_first' or order='family_first'"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ()

    def fields(self, name: str, schema: Schema) -> tuple[Field, ...]:
        """The name as "Given Middle Family", and its parts."""
        column = column_of(schema, self.column, name)
        require_type(column, isinstance(column.dtype, pl.String), name, needs="text")
        parts = (Field(f"{name}_{part}", pl.String(), doc=part) for part in _PARTS)
        return (Field(name, pl.String(), doc="given, middle and family name"), *parts)

    def converter(self, types: Mapping[str, pl.DataType]) -> Converter:
        remembered = _names(self.order)

        def convert(frame: pl.DataFrame, times: Int64s) -> Converted:
            columns, rungs, causes = by_value(frame.get_column(self.column), remembered, 1 + len(_PARTS))
            return Converted(tuple(columns), rungs, causes)

        return convert


@functools.lru_cache(maxsize=2)
def _names(order: Order) -> Remembered:
    return Remembered(functools.partial(name_parts, order))


def name_parts(order: Order, text: str) -> Made:
    """The whole name, then title, given, middle, family, suffix; or 0 where there is no letter.

    >>> name_parts("given_first", "Dr. Ludwig van BEETHOVEN jr.")
    ('Ludwig van Beethoven', 'Dr', 'Ludwig', None, 'van Beethoven', 'Jr')
    """
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if not any(letter.isalpha() for letter in text) or any(letter.isdigit() or letter == "@" for letter in text):
        return 0
    parts = [part.split() for part in text.split(",")]
    parts = [words for words in parts if words]
    suffix: list[str] = []
    while len(parts) > 1 and all(_bare(word) in _SUFFIXES for word in parts[-1]):
        suffix = parts.pop() + suffix
    titles: list[str] = []
    if len(parts) > 1:
        family, rest = parts[0], [word for part in parts[1:] for word in part]
        while len(rest) > 1 and _bare(rest[0]) in _TITLES:
            titles.append(rest.pop(0))
        while len(rest) > 1 and _bare(rest[-1]) in _SUFFIXES:
            suffix.insert(0, rest.pop())
        # A particle may stand behind the given names: "Beethoven, Ludwig van".
        while len(rest) > 1 and _bare(rest[-1]) in _PARTICLES:
            family.insert(0, rest.pop())
        given = rest
    else:
        words = parts[0] if parts else []
        while len(words) > 1 and _bare(words[0]) in _TITLES:
            titles.append(words.pop(0))
        while len(words) > 2 and _bare(words[-1]) in _SUFFIXES:
            suffix.insert(0, words.pop())
        given, family = _split(words, order)
    cased = [_cased(words) for words in (titles, given[:1], given[1:], family, suffix)]
    whole = " ".join(part for part in cased[1:4] if part)
    if not whole:
        return 0
    return whole, *(part or None for part in cased)


def _split(words: list[str], order: Order) -> tuple[list[str], list[str]]:
    if len(words) < 2:
        return [], words
    if order == "family_first":
        last = next((at for at, word in enumerate(words) if _bare(word) not in _PARTICLES), 0)
        return words[last + 1 :], words[: last + 1]
    first = len(words) - 1
    while first > 1 and _bare(words[first - 1]) in _PARTICLES:
        first -= 1
    return words[:first], words[first:]


def _bare(word: str) -> str:
    return word.replace(".", "").replace("'", "").casefold()


def _cased(words: list[str]) -> str:
    """Words with capitals where people write them; mixed case is left as it came."""
    return " ".join(_word(word.rstrip(".") if len(word) > 2 else word) for word in words)


def _word(word: str) -> str:
    bare = _bare(word)
    if bare in _PARTICLES and (word.islower() or word.isupper()):
        return word.lower()
    if bare in ("ii", "iii", "iv", "phd", "md", "mba", "qc", "kc"):
        return word.upper().replace("PHD", "PhD")
    if not (word.islower() or word.isupper()) or len(bare) == 1:
        return word.upper() if len(bare) == 1 else word
    out = []
    for index, letter in enumerate(word.lower()):
        begins = index == 0 or word[index - 1] in "-'’"
        out.append(letter.upper() if begins else letter)
    return "".join(out)
