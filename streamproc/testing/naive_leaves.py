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


def told_again(rows: Sequence[Paid], links: Sequence[Link], keep_us: int) -> list[tuple[int, str]]:
    """The moments and entities of which features are told again: a leaf with rows to hand over came or left.

    >>> told_again([Paid("p", "a", 1, 2.0)], [Link("a", "e", 5), Link("a", "e", 6), Link("b", "e", 7)], 10)
    [(5, 'a'), (5, 'e')]
    """
    belongs: dict[str, str] = {}
    touched = set()
    for link in sorted(links, key=lambda one: one.at):
        before = belongs.get(link.leaf, link.leaf)
        belongs[link.leaf] = now = link.leaf if link.entity is None else link.entity
        if now != before and any(row.leaf == link.leaf and link.at - keep_us < row.at < link.at for row in rows):
            touched |= {(link.at, before), (link.at, now)}
    return sorted(touched)


def known(entity: str, moment: int, rows: Sequence[Paid], links: Sequence[Link], span_us: int) -> list[Paid]:
    """The rows of an entity just before those of a moment, in the span that ends there."""
    return [
        row
        for row in sorted(rows, key=lambda one: (one.at, one.name))
        if entity_at(row.leaf, moment, links) == entity and moment - span_us < row.at < moment
    ]


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


def became(row: Paid, events: Sequence[Paid], links: Sequence[Link], span_us: int) -> tuple[bool, int]:
    """Whether a row met an event of its entity within the span behind it, and the moment at which that was known.

    >>> became(Paid("o", "b", 0, None), [Paid("r", "a", 4, None)], [Link("b", "e", 6), Link("a", "e", 3)], 9)
    (True, 6)
    """
    for moment in sorted({one.at for one in events} | {link.at for link in links}):
        if row.at < moment <= row.at + span_us:
            mine = entity_at(row.leaf, moment, links)
            known = [event for event in events if row.at < event.at <= moment]
            if any(entity_at(event.leaf, moment, links) == mine for event in known):
                return True, moment
    return False, row.at + span_us
