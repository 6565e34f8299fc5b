"""Entity resolution written down from its description: one record at a time, everything found anew each time.

Independent of the kernels but for the hash of ids: similarities are rapidfuzz's, clusters are lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rapidfuzz.distance import DamerauLevenshtein, JaroWinkler, Levenshtein

from streamproc.entities.comparisons import Level
from streamproc.entities.linkage_model import LinkageModel, weight_of
from streamproc.entities.resolve import Resolve
from streamproc.hashing import hash_bytes, mix64
from streamproc.testing.trials import Event

FIELDS = ("event", "reason", "entity_id", "other_id", "records", "matched", "weight", "posterior", "size")
Claim = tuple[str, int]


def entity_id(claim: Claim) -> str:
    raw = np.frombuffer(claim[0].encode(), np.uint8)
    words = []
    for number in (1, 2):
        hashes = hash_bytes(raw, np.array([0]), np.array([raw.size]), seed=number)
        words.append(int(mix64(hashes.view(np.int64), np.array([claim[1]]), np.array([number]))[0]))
    return f"e{words[0]:016x}{words[1]:016x}"


@dataclass
class Known:
    """A record that is there."""

    name: str
    row: dict[str, Any]
    time: int
    born: int
    claim: Claim
    claim_born: int
    entered: int


def text(value: Any) -> str | None:
    value = None if value is None else str(value).strip().lower()
    return value or None


@dataclass
class NaiveResolve:
    """Takes events, gives rows of the operator's schema."""

    step: Resolve
    columns: list[str]
    there: dict[str, Known] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    commands: dict[frozenset[str], str] = field(default_factory=dict)
    partition: dict[str, str] = field(default_factory=dict)  # record -> founder of its entity
    number: int = 0
    entered: int = 0

    # ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def weight(self, a: Known, b: Known) -> float:
        model: LinkageModel = self.step.model
        total = model.prior_weight
        for one, weights in zip(model.comparisons, model.weights(), strict=True):
            x, y = a.row[one.column], b.row[one.column]
            if one.form == "number":
                x = None if x is None or math.isnan(x) else x
                y = None if y is None or math.isnan(y) else y
            else:
                x, y = text(x), text(y)
            if x is None or y is None:
                continue
            if x == y:
                total += weights[0]
                if one.frequencies:
                    total += self.rarity(one.column, x)
                continue
            level = len(one.levels)
            for k, this in enumerate(one.levels):
                if self.holds(this, x, y):
                    level = k
                    break
            total += weights[level]
        return total

    def holds(self, level: Level, x: Any, y: Any) -> bool:
        match level.measure:
            case "jaro_winkler":
                return bool(JaroWinkler.similarity(x, y) >= level.limit)
            case "damerau_levenshtein":
                return bool(DamerauLevenshtein.distance(x, y) <= level.limit)
            case "levenshtein":
                return bool(Levenshtein.distance(x, y) <= level.limit)
            case "difference":
                return bool(abs(x - y) <= level.limit)
        return False

    def rarity(self, column: str, value: str) -> float:
        at = [one.column for one in self.step.model.comparisons].index(column)
        known = self.step.model.frequencies[column]
        raw = np.frombuffer(value.encode(), np.uint8)
        hashes = hash_bytes(raw, np.array([0]), np.array([raw.size]))
        share = known.of(hashes, 1 / max(self.step.model.records, 1))[0]
        return float(np.log2(self.step.model.u[at][0] / share))

    def keys(self, one: Known) -> list[tuple[str, ...] | None]:
        made = []
        for rule in self.step.model.blocks:
            parts = [text(one.row[column]) for column, _ in rule.parts]
            cut = [p if p is None or not n else p[:n] for p, (_, n) in zip(parts, rule.parts, strict=True)]
            made.append(None if None in cut else tuple(str(part) for part in cut))
        return made

    def candidates(self, x: Known) -> list[Known]:
        """In the order in which blocks bring them: rule by rule, the record that came last first."""
        out: dict[str, Known] = {}
        for at, key in enumerate(self.keys(x)):
            if key is not None:
                for y in sorted(self.there.values(), key=lambda other: -other.entered):
                    if y.name != x.name and self.keys(y)[at] == key and self.comparable(x, y):
                        out.setdefault(y.name, y)
        return list(out.values())

    def comparable(self, a: Known, b: Known) -> bool:
        if self.step.sources == "both":
            return True
        same = a.row[self.step.source] == b.row[self.step.source]
        return same == (self.step.sources == "within")

    # ── clusters ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def edges(self) -> list[tuple[int, float, int, int, Known, Known]]:
        found = []
        least = weight_of(self.step.threshold)
        for a in self.there.values():
            for b in self.candidates(a):
                if a.born < b.born:
                    # As when the younger one came: sums run from the record that came.
                    weight = self.weight(a, b)
                    if weight >= least:
                        found.append((1, -weight, a.born, b.born, a, b))
        for pair, action in self.commands.items():
            ends = [self.there.get(name) for name in sorted(pair)]
            if action == "must_link" and None not in ends:
                a, b = sorted((end for end in ends if end), key=lambda one: one.born)
                found.append((0, 0.0, a.born, b.born, a, b))
        return sorted(found, key=lambda edge: edge[:4])

    def clusters(self) -> dict[str, list[Known]]:
        """Record to its cluster, in order of age."""
        mine = {name: [one] for name, one in self.there.items()}
        for must, _, _, _, a, b in self.edges():
            left, right = mine[a.name], mine[b.name]
            if left is not right and self.may_merge(left, right, must == 0):
                both = sorted(left + right, key=lambda one: one.born)
                for one in both:
                    mine[one.name] = both
        return mine

    def may_merge(self, left: list[Known], right: list[Known], must: bool) -> bool:
        pairs = [(a, b) for a in left for b in right]
        if any(self.commands.get(frozenset((a.name, b.name))) == "cannot_link" for a, b in pairs):
            return False
        if self.step.one_per_source:
            sources = [(a.row[self.step.source], b.row[self.step.source]) for a, b in pairs]
            if any(one is not None and one == two for one, two in sources):
                return False
        if must or len(pairs) == 1:
            return True
        sampled = [(a, b) for a in left[:5] for b in right[:5]]
        if self.step.sources == "across":
            sampled = [(a, b) for a, b in sampled if a.row[self.step.source] != b.row[self.step.source]]
        return 2 * sum(self.weight(a, b) > 0 for a, b in sampled) >= len(sampled)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def told(self, event: str, reason: str, founder: Claim | None, size: int, **more: Any) -> dict[str, Any]:
        weight = more.get("weight")
        row = dict.fromkeys(self.columns)
        row.update(
            event=event, reason=reason, entity_id=None if founder is None else entity_id(founder),
            other_id=more.get("other"), records=more.get("records", []), matched=more.get("matched"), weight=weight,
            posterior=None if weight is None else 1 / (1 + 2.0**-weight), size=size,
        )  # fmt: skip
        return row

    def reclustered(self, x: str | None, event: str, reason: str) -> list[dict[str, Any]]:
        """The record's own event, moves, golden records."""
        mine = self.clusters()
        founders = {name: min(of, key=lambda one: one.claim_born).name for name, of in mine.items()}
        out = []
        if x is not None and event:
            own, others = self.there[x], [one for one in mine[x] if one.name != x]
            named = "joined" if event == "created" and others else event
            agreeing = [
                (-self.weight(*sorted((own, other), key=lambda one: one.born)), other.born, other.name)
                for other in others
                if other in self.candidates(own) and self.weight(own, other) >= weight_of(self.step.threshold)
            ]
            must = any(self.commands.get(frozenset((x, other.name))) == "must_link" for other in others)
            why = {"created": "new", "joined": "must_link" if must else "match"}.get(named, reason)
            best = min(agreeing, default=None)
            row = self.told(
                named, why, self.there[founders[x]].claim, len(mine[x]), records=[x],
                matched=best[2] if best else None, weight=-best[0] if best else None,
            )  # fmt: skip
            row.update({name: value for name, value in own.row.items() if name in self.columns})
            out.append(row)
        ages = sorted(self.there.values(), key=lambda one: one.born)
        done = set()
        for one in ages:
            was = self.partition.get(one.name)
            if was is None or one.name in done or founders[one.name] == was:
                continue
            stays = founders.get(was) == was
            moved = [o.name for o in ages if self.partition.get(o.name) == was and mine[o.name] is mine[one.name]]
            done |= set(moved)
            out.append(
                self.told(
                    "split" if stays else "merged", reason, self.there[founders[one.name]].claim, len(mine[one.name]),
                    other=entity_id(self.there[was].claim), records=moved,
                )
            )  # fmt: skip
        before = {
            name: {n for n, f in self.partition.items() if f == founder} for name, founder in self.partition.items()
        }
        gilded = set()
        for one in ages:
            now = {other.name for other in mine[one.name]}
            changed = any(before.get(name) != now or self.partition.get(name) != founders[name] for name in now)
            if (changed or (x in now and event)) and founders[one.name] not in gilded:
                gilded.add(founders[one.name])
                out += self.gild(mine[one.name], self.there[founders[one.name]].claim, reason)
        self.partition = founders
        self.gilded = gilded
        self.mine = mine
        return out

    def gild(self, members: list[Known], founder: Claim, reason: str) -> list[dict[str, Any]]:
        if not self.step.golden:
            return []
        row = self.told("golden", reason, founder, len(members))
        for column, rule in self.step.golden:
            having = [one for one in members if one.row[column] is not None]
            scored = [(self.score(rule, column, one, having), one.time, one.born, one) for one in having]
            best = max(scored)[-1] if scored else None
            row[f"golden_{column}"] = None if best is None else best.row[column]
            row[f"golden_{column}_from"] = None if best is None else best.name
        return [row]

    def score(self, rule: str, column: str, one: Known, having: list[Known]) -> int:
        order = {name: number for number, name in enumerate(self.step.source_order)}
        match rule:
            case "most_frequent":
                return sum(other.row[column] == one.row[column] for other in having)
            case "source_rank":
                return -order.get(one.row[self.step.source], len(order))
            case "longest":
                return len(one.row[column].encode())
        return 0

    def take(self, row: dict[str, Any], time: int) -> list[dict[str, Any]]:
        name = row[self.step.record]
        old = self.there.pop(name, None)
        self.entered += 1
        if old is None:
            claim = (name, self.deleted.get(name, 0))
            new = Known(name, row, time, self.number, claim, self.number, self.entered)
            self.number += 1
        else:
            new = Known(name, row, time, old.born, old.claim, old.claim_born, self.entered)
        candidates = self.candidates(new)
        self.there[name] = new
        event, reason = ("created", "match") if old is None else ("corrected", "corrected")
        out = self.reclustered(name, event, reason)
        return out + self.reviews(new, candidates)

    def reviews(self, x: Known, candidates: list[Known]) -> list[dict[str, Any]]:
        least = weight_of(self.step.threshold)
        grey = least if self.step.review is None else weight_of(self.step.review)
        weighed = sorted(((self.weight(x, y), y) for y in candidates), key=lambda pair: -pair[0])
        open_pairs = [(w, y) for w, y in weighed if frozenset((x.name, y.name)) not in self.commands]
        apart = [(w, y, "transitivity") for w, y in open_pairs if w >= least]
        unsure = [(w, y, "grey_zone") for w, y in open_pairs if grey <= w < least][:4]
        asked = [one for one in apart + unsure if self.partition[x.name] != self.partition[one[1].name]][:4]
        return [
            self.told(
                "review", why, self.there[self.partition[x.name]].claim, len(self.mine[x.name]), weight=w,
                matched=y.name, other=entity_id(self.there[self.partition[y.name]].claim), records=[x.name, y.name],
            )
            for w, y, why in asked
        ]  # fmt: skip

    def command(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        action, name, other = row["action"], row["record"], row["other"]
        if action not in ("must_link", "cannot_link", "withdraw", "delete") or name is None:
            return []
        if action != "delete" and (other is None or other == name):
            return []
        if action == "delete":
            return self.delete(name)
        pair = frozenset((name, other))
        if action == "withdraw":
            if pair not in self.commands:
                return [self.told("ignored", "unknown_record", None, 0, records=[name])]
            del self.commands[pair]
            return self.reclustered(None, "", "withdrawn")
        self.commands.pop(pair, None)
        self.commands[pair] = action
        return self.reclustered(None, "", action)

    def delete(self, name: str) -> list[dict[str, Any]]:
        if name not in self.there:
            return [self.told("ignored", "unknown_record", None, 0, records=[name])]
        gone = self.there[name]
        founder = self.partition[name]
        claim = self.there[founder].claim
        rest = [one for one in self.there.values() if self.partition[one.name] == founder and one is not gone]
        out = [self.told("removed", "deleted", claim, len(rest), records=[name])]
        del self.there[name], self.partition[name]
        self.deleted[name] = self.deleted.get(name, 0) + 1
        if rest and founder == name:
            heir = min(rest, key=lambda one: one.claim_born)
            heir.claim, heir.claim_born = gone.claim, gone.claim_born
            for one in rest:
                self.partition[one.name] = heir.name
        out += self.reclustered(None, "", "deleted")
        for one in rest:
            keeper = self.partition[one.name]
            if self.there[keeper].claim == claim:
                if keeper not in self.gilded:
                    out += self.gild(self.mine[keeper], claim, "deleted")
                break
        return out


def twin(step: Resolve, columns: list[str]):  # type: ignore[no-untyped-def]
    """The twin of an operator, for `check_operator`."""

    def play(events: Iterable[Event]) -> list[dict[str, Any]]:
        naive = NaiveResolve(step, columns)
        out: list[dict[str, Any]] = []
        for event in events:
            if event.port == 0 and event.row[step.record] is not None:
                out += naive.take(event.row, event.time)
            elif event.port == 1:
                out += naive.command(event.row)
        return out

    return play
