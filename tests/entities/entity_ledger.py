"""A second account of `resolve`, which shares nothing with it nor with its naive twin: the reader of its events.

A `Ledger` is told each operation and the events that it made. It believes only what events say, holds them against the
state before them, and computes from the records that are there, in one go, what has to come out.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Token = tuple[str, int]
OWN = ("created", "joined", "corrected")


@dataclass
class Rules:
    """What the linkage says: per column the weight of values that agree, and of values that differ."""

    prior: float
    weights: dict[str, tuple[float, float]]
    blocks: tuple[str, ...]
    match: float
    review: float
    across: bool = False
    one_per_source: bool = False
    caps: bool = False  # blocks or components may be full: then the partition is not a function of records alone

    def weight(self, a: Row, b: Row) -> float:
        total = self.prior
        for column, (equal, different) in self.weights.items():
            if a[column] is not None and b[column] is not None:
                total += equal if a[column] == b[column] else different
        return total

    def met(self, a: Row, b: Row) -> bool:
        if self.across and a["source"] == b["source"]:
            return False
        return any(a[column] is not None and a[column] == b[column] for column in self.blocks)


@dataclass
class Ledger:
    rules: Rules
    rows: dict[str, Row] = field(default_factory=dict)
    moments: dict[str, int] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)  # of the records that are there
    commands: dict[frozenset[str], str] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    entity: dict[str, str] = field(default_factory=dict)  # as events tell it
    tokens: dict[str, tuple[int, Token]] = field(default_factory=dict)  # what a record carries, the smallest founds
    names: dict[Token, str] = field(default_factory=dict)  # of entities
    issued: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)  # ids whose last record was deleted
    golden: dict[str, Row] = field(default_factory=dict)  # told last
    told: Counter[str] = field(default_factory=Counter)

    # ── what is done ─────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, row: Row, moment: int, events: list[Row]) -> None:
        name = row["id"]
        fresh = name not in self.rows
        self.rows[name], self.moments[name] = row, moment
        if fresh:
            age = len(self.ages) + sum(self.deaths.values())
            self.ages[name], self.tokens[name] = age, (age, (name, self.deaths[name]))
        own = [event for event in events if event["event"] in OWN]
        assert len(own) == 1 and own[0] is events[0] and own[0]["records"] == [name], own
        assert (own[0]["event"] == "corrected") == (not fresh)
        assert (own[0]["reason"] == "corrected") == (not fresh)
        self.believe(events)
        if fresh:
            assert (own[0]["event"] == "joined") == (own[0]["size"] > 1)
        asked = [event for event in events if event["event"] == "review"]
        self.check_reviews(name, asked)

    def command(self, action: str, record: str, other: str | None, events: list[Row]) -> None:
        told = {event["event"] for event in events}
        assert not told & {*OWN, "review"}
        if action == "delete":
            assert (told == {"ignored"}) == (record not in self.rows) and ("removed" in told) == (record in self.rows)
            if record in self.rows:
                self.believe(events, removed=record)
            return
        pair = frozenset((record, str(other)))
        if action == "withdraw":
            assert ("ignored" in told) == (pair not in self.commands)
            self.commands.pop(pair, None)
        else:
            self.commands[pair] = action
        self.believe(events)

    # ── what events say ──────────────────────────────────────────────────────────────────────────────────────────────

    def believe(self, events: list[Row], removed: str = "") -> None:
        before, moved, subject = dict(self.entity), set(), ""
        for event in events:
            kind, at, other = event["event"], event["entity_id"], event["other_id"]
            self.told[kind] += 1
            if kind == "ignored":
                continue
            assert at is not None and at not in self.over, "an id whose records are all gone was issued again"
            self.issued.add(at)
            if kind in OWN:
                (subject,) = event["records"]
                assert (kind == "corrected") == (subject in before)
                if kind == "created":
                    assert event["size"] == 1
                self.entity[subject] = at
            elif kind == "removed":
                assert event["records"] == [removed] and self.entity.pop(removed) == at == before.pop(removed)
                assert event["size"] == sum(one == at for one in self.entity.values())
                if not event["size"]:
                    self.over.add(at)
                    del self.golden[at]
                self.bury(removed, before, at)
            elif kind in ("merged", "split"):
                assert event["records"] and at != other
                for record in event["records"]:
                    assert record not in moved and before[record] == other, "it was elsewhere, or had moved"
                    assert record == subject or self.entity[record] == other
                    moved.add(record)
                    self.entity[record] = at
            elif kind == "golden":
                self.golden[at] = event
        members: dict[str, list[str]] = {}
        for record, one in self.entity.items():
            members.setdefault(one, []).append(record)
        for event in events:
            if event["event"] in (*OWN, "merged", "split", "golden"):
                assert event["size"] == len(members[event["entity_id"]]), event
            if event["event"] in ("merged", "split"):
                assert (event["other_id"] in members) == (event["event"] == "split"), event
        quiet = {record for record in before if before[record] != self.entity[record]} - moved - {subject}
        assert not quiet, f"moved without an event: {quiet}"
        if subject in before and before[subject] != self.entity[subject]:
            assert subject in moved
        for one in set(self.golden) - set(members):
            del self.golden[one]
        self.check_names(members)
        self.check_golden(members)
        self.check_members(members)

    def bury(self, name: str, before: dict[str, str], at: str) -> None:
        """The oldest record left carries on what a founder carried."""
        rest = [record for record, one in before.items() if one == at]
        mine = self.tokens.pop(name)
        if rest:
            heir = min(rest, key=lambda record: self.tokens[record])
            self.tokens[heir] = min(self.tokens[heir], mine)
        del self.rows[name], self.ages[name], self.moments[name]
        self.deaths[name] += 1

    # ── what has to come out ─────────────────────────────────────────────────────────────────────────────────────────

    def check_names(self, members: dict[str, list[str]]) -> None:
        """The id of an entity is that of the oldest thing that its records carry, for good."""
        for one, records in members.items():
            token = min(self.tokens[record] for record in records)[1]
            assert self.names.setdefault(token, one) == one
        assert len(set(self.names.values())) == len(self.names)
        assert set(self.entity) == set(self.rows)

    def check_golden(self, members: dict[str, list[str]]) -> None:
        assert set(self.golden) == set(members)
        for one, records in members.items():
            told = self.golden[one]
            assert told["size"] == len(records), (told, records)
            order = sorted(records, key=lambda record: (self.moments[record], self.ages[record]))
            for column, rule in (("name", "most_frequent"), ("town", "most_recent"), ("card", "longest")):
                having = [record for record in order if self.rows[record][column] is not None]
                count = Counter(self.rows[record][column] for record in having)
                if rule == "most_frequent":
                    having = [record for record in having if count[self.rows[record][column]] == max(count.values())]
                elif rule == "longest":
                    longest = max((len(self.rows[record][column]) for record in having), default=0)
                    having = [record for record in having if len(self.rows[record][column]) == longest]
                best = having[-1] if having else None
                value = None if best is None else self.rows[best][column]
                assert (told[f"golden_{column}"], told[f"golden_{column}_from"]) == (value, best), (one, column)

    def check_members(self, members: dict[str, list[str]]) -> None:
        for pair, action in self.commands.items():
            a, b = (self.entity.get(name) for name in pair)
            assert action != "cannot_link" or a is None or a != b, f"{set(pair)} were forbidden"
        if self.rules.one_per_source:
            for records in members.values():
                sources = [self.rows[record]["source"] for record in records if self.rows[record]["source"]]
                assert len(sources) == len(set(sources)), sources
        if not self.rules.caps:
            assert {frozenset(records) for records in members.values()} == self.partition()

    def partition(self) -> set[frozenset[str]]:
        """All at once, from the records that are there and the commands that hold."""
        links: list[tuple[int, float, int, int, str, str]] = []
        order = sorted(self.rows, key=lambda record: self.ages[record])
        for (i, a), (j, b) in itertools.combinations(enumerate(order), 2):
            if self.commands.get(frozenset((a, b))) == "must_link":
                links.append((0, 0.0, i, j, a, b))
            weight = self.rules.weight(self.rows[a], self.rows[b])
            if weight >= self.rules.match and self.rules.met(self.rows[a], self.rows[b]):
                links.append((1, -weight, i, j, a, b))
        group = {record: [record] for record in order}
        for rank, _, _, _, a, b in sorted(links):
            if group[a] is not group[b] and self.fits(group[a], group[b], rank == 0):
                both = sorted(group[a] + group[b], key=lambda record: self.ages[record])
                group.update(dict.fromkeys(both, both))
        return {frozenset(records) for records in group.values()}

    def fits(self, left: list[str], right: list[str], must: bool) -> bool:
        for a, b in itertools.product(left, right):
            if self.commands.get(frozenset((a, b))) == "cannot_link":
                return False
            source = self.rows[a]["source"]
            if self.rules.one_per_source and source is not None and source == self.rows[b]["source"]:
                return False
        if must or len(left) == len(right) == 1:
            return True
        sampled = [(self.rows[a], self.rows[b]) for a in left[:5] for b in right[:5]]
        sampled = [pair for pair in sampled if not self.rules.across or pair[0]["source"] != pair[1]["source"]]
        return 2 * sum(self.rules.weight(a, b) > 0 for a, b in sampled) >= len(sampled)

    def check_reviews(self, name: str, asked: list[Row]) -> None:
        """Open pairs that match and stand apart, and those of the grey zone, four at most."""
        mine, open_pairs = self.rows[name], {}
        for other, row in self.rows.items():
            if other != name and self.rules.met(mine, row) and frozenset((name, other)) not in self.commands:
                weight = self.rules.weight(mine, row)
                if weight >= self.rules.review and self.entity[other] != self.entity[name]:
                    open_pairs[other] = "transitivity" if weight >= self.rules.match else "grey_zone"
        told = {event["records"][1]: event["reason"] for event in asked}
        assert len(told) == len(asked) <= 4 and all(event["records"][0] == name for event in asked)
        for event in asked:
            assert (event["entity_id"], event["other_id"]) == (self.entity[name], self.entity[event["records"][1]])
        assert told.items() <= open_pairs.items()
        if not self.rules.caps and len(open_pairs) <= 4:
            near = [row for other, row in self.rows.items() if other != name and self.rules.met(mine, row)]
            grey = sum(self.rules.review <= self.rules.weight(mine, row) < self.rules.match for row in near)
            if grey <= 4:
                assert told == open_pairs


def bits(m: float, u: float) -> float:
    """The weight of a level."""
    return math.log2(m / u)
