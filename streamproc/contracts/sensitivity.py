"""How sensitive columns are, and how linking records makes them more so.

    direct     names a person: a name, an address, a phone number
    pseudonym  stands for a person: a customer number
    quasi      says nothing of a person by itself, and much together with others: a postcode, a year of birth

A contract may use words of its own too; they rank below `direct` and above `quasi`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from streamproc.contracts.model import Schema

_RANK: Final = {"direct": 3, "pseudonym": 2, "quasi": 0, "": -1}
LINKING: Final = frozenset({"as_of", "follow", "join", "within", "resolve"})
"""Verbs of steps that bring records of one person together."""


def strictest(tags: Iterable[str]) -> str:
    """The most sensitive of these classes; "" where there is none.

    >>> strictest(["quasi", "", "pseudonym"])
    'pseudonym'
    """
    return max(tags, key=lambda tag: (_RANK.get(tag, 1), tag), default="")


def linked(schema: Schema) -> Schema:
    """The columns of linked records: what was harmless for itself now belongs to somebody.

    Beside a column that names or stands for a person, each quasi-identifier becomes as sensitive as that one. Without
    such a column, two or more of them together stand for a person.

    >>> from streamproc.contracts.model import Field
    >>> import polars as pl
    >>> made = linked(Schema((Field("id", pl.Int64(), pii="pseudonym"), Field("zip", pl.String(), pii="quasi"))))
    >>> made["zip"].pii
    'pseudonym'
    """
    quasi = [column for column in schema if column.pii == "quasi"]
    identifying = strictest(column.pii for column in schema if column.pii in ("direct", "pseudonym"))
    if not quasi or not (identifying or len(quasi) > 1):
        return schema
    return schema.with_fields(replace(column, pii=identifying or "pseudonym") for column in quasi)
