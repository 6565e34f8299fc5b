"""Features of entities as a person computes them: for each row, who belongs together at its moment, then a scan.

Everything is looked up in all that ever came, for every row anew: what an entity is, which rows are its own, what they
add up to. Nothing is handed over, so nothing can be lost or counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Link(NamedTuple):
    """From `at` on, a leaf belongs to an entity; None: to none. Of several at one moment the last holds."""

    leaf: str
    entity: str | None
    at: int


class Paid(NamedTuple):
    """A row of a leaf: rows of one moment stand in order of `name`."""

    name: str
    leaf: str
    at: int
    amount: float | None


def entity_at(leaf: str, moment: int, links: Sequence[Link]) -> str:
    """The entity of a leaf at a moment; a leaf that belongs to none stands for itself.

    >>> entity_at("a", 5, [Link("a", "e1", 5), Link("a", None, 6)]), entity_at("a", 6, [Link("a", None, 6)])
    ('e1', 'a')
    """
    entity: str | None = None
    newest = None
    for link in links:
        if link.leaf == leaf and link.at <= moment and (newest is None or link.at >= newest):
            entity, newest = link.entity, link.at
    return leaf if entity is None else entity


def seen(row: Paid, rows: Sequence[Paid], links: Sequence[Link], span_us: int) -> list[Paid]:
    """The rows that a row sees: of all leaves that belong to its entity now, in the span that ends with it."""
    mine = entity_at(row.leaf, row.at, links)
    return [
        other
        for other in sorted(rows, key=lambda one: (one.at, one.name))
        if entity_at(other.leaf, row.at, links) == mine
        and row.at - span_us < other.at
        and (other.at, other.name) <= (row.at, row.name)
    ]
