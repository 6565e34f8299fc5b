"""A race as a person runs it: a product for every 32nd label, at which one begins, River called row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamproc.models.snapshot import write_snapshot

TILTS = (1 / 32, 1 / 12, 1 / 5, 2 / 5, 2 / 3, 9 / 10)


def stake(number: int) -> float:
    """What is laid on the product that begins with this number, from 1 on; all of them make 1."""
    return 1 / (1 + math.log2(number)) - 1 / (1 + math.log2(number + 1))


@dataclass(slots=True)
class Bets:
    """For each tilt a list of products, one for each 32nd gain, at which it began."""

    cap: float
    gains: int = 0
    products: list[list[float]] = field(default_factory=lambda: [[] for _ in TILTS])

    def gain(self, gain: float) -> None:
        self.gains += 1
        for tilt, mine in zip(TILTS, self.products, strict=True):
            if self.gains % 32 == 1:
                mine.append(stake(len(mine) + 1))
            mine[:] = [one * (1 + tilt * gain) for one in mine]
            if sum(mine) > self.cap:
                mine[:] = [one * self.cap / sum(mine) for one in mine]

    @property
    def evidence(self) -> float:
        return sum(sum(mine) for mine in self.products) / len(TILTS)


@dataclass(slots=True)
class NaiveRace:
    """Models by name; the first one is the champion.

    happened  (labels, event, learner, champion after it, segment)
    """

    models: dict[str, Any]
    wanted: float
    most_segments: int = 1000
    reign: int = 1
    memory: int = 2000
    delta: float | None = None
    patience: int = 0
    costs_us: Mapping[str, float] = field(default_factory=dict)
    budget_us: float = math.inf
    budget_bytes: float = math.inf
    measure: int = 10**9
    champion: str = ""
    labels: list[float] = field(default_factory=list)
    since: int = 0
    bets: dict[Any, Bets] = field(default_factory=dict)
    segments: list[str] = field(default_factory=list)
    waited: dict[str, int] = field(default_factory=dict)
    told: set[tuple[str, str]] = field(default_factory=set)
    recent: dict[str, float] = field(default_factory=dict)
    remembered: dict[str, list[float]] = field(default_factory=dict)
    happened: list[tuple[int, str, str, str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.champion = next(iter(self.models))
        self.recent = dict.fromkeys(self.models, 0.0)

    def score(self, told: dict[str, float], segment: str | None) -> dict[str, float | None]:
        """What each model says of a row, None where it says nothing."""
        if segment is not None and segment not in self.segments:
            self.segments.append(segment)
        said: dict[str, float | None] = {}
        for name, model in self.models.items():
            chances = model.predict_proba_one(told)
            said[name] = chances.get(True, 0.0) if chances else None
        return said

    def mean(self) -> float:
        return sum(self.labels) / len(self.labels) if self.labels else 0.5

    def learn(self, told: dict[str, float], given: dict[str, float], segment: str | None, label: bool) -> None:
        """A label is known: `given` is what models had said, the mean where one said nothing."""
        for model in self.models.values():
            model.predict_proba_one(told)
            model.learn_one(told, label)
        self.labels.append(float(label))
        self.since += 1
        losses = {name: (given[name] - label) ** 2 for name in self.models}
        for name, loss in losses.items():
            self.recent[name] += loss
            self.remembered.setdefault(name, []).append(loss)
            if name == self.champion:
                continue
            gain = losses[self.champion] - loss
            self.bet(name, self.wanted, gain)
            if self.delta is not None and segment is not None:
                self.bet((name, segment, "clear"), self.wanted, gain + self.delta)
                harm = (-gain - self.delta) / (1 + self.delta)
                self.bet((name, segment, "hurt"), self.wanted * self.most_segments, harm)
        first = not any(event == "promoted" for _, event, *_ in self.happened)
        if self.since >= self.reign or (first and self.delta is None):
            self.judge()
        if len(self.labels) % self.measure == 0:
            self.look()

    def bet(self, which: Any, wanted: float, gain: float) -> None:
        self.bets.setdefault(which, Bets(100 * wanted)).gain(gain)

    def shown(self, which: Any) -> float:
        return self.bets[which].evidence if which in self.bets else 0.0

    def lost(self, name: str) -> float:
        """Losses, each older one weighing less."""
        return sum(loss * (1 - 1 / self.memory) ** age for age, loss in enumerate(reversed(self.remembered[name])))

    def judge(self) -> None:
        ready = {name: self.shown(name) for name in self.models if self.shown(name) >= self.wanted}
        ready = {name: shown for name, shown in ready.items() if self.lost(name) < self.lost(self.champion)}
        free, speaks = {}, []
        for name, evidence in ready.items():
            hurt, unsure = [], []
            for segment in self.segments if self.delta is not None else []:
                if self.shown((name, segment, "hurt")) >= self.wanted * self.most_segments:
                    hurt.append(segment)
                elif self.shown((name, segment, "clear")) < self.wanted:
                    unsure.append(segment)
            if not hurt and unsure:
                self.waited[name] = self.waited.get(name, 0) + 1
                if self.waited[name] > self.patience:
                    unsure = []
            if not hurt and not unsure:
                free[name] = evidence
            elif hurt and (name, "held") not in self.told:
                speaks.append((name, "held", hurt[0]))
            elif not hurt and not {(name, "held"), (name, "waits")} & self.told:
                speaks.append((name, "waits", unsure[0]))
        if free:
            self.crown(max(free, key=lambda name: free[name]))
        elif speaks:
            name, event, segment = speaks[0]
            self.told.add((name, event))
            self.happened.append((len(self.labels), event, name, self.champion, segment))

    def crown(self, name: str) -> None:
        self.champion, self.since = name, 0
        self.bets, self.waited, self.told = {}, {}, set()
        self.happened.append((len(self.labels), "promoted", name, name, None))

    def look(self) -> None:
        size = {name: len(write_snapshot(model)) for name, model in self.models.items()}
        began, order = len(self.models), list(self.models)
        champion = self.champion
        large = [name for name in order if size[name] > self.budget_bytes]
        gone = []

        def loser() -> str:
            left = [name for name in order if name not in gone and name != champion]
            return sorted(left, key=lambda name: (self.recent[name], order.index(name)))[-1]

        def over(each: Mapping[str, float], budget: float) -> bool:
            left = [name for name in order if name not in gone]
            return len(left) > 1 and sum(each[name] for name in left) > budget

        if champion in large and len(large) < began:
            champion = min((name for name in order if name not in large), key=lambda name: self.recent[name])
        gone += [name for name in large if name != champion]
        while over(size, self.budget_bytes):
            gone.append(loser())
        halved = 0
        while self.costs_us and halved < began // 2 and over(self.costs_us, self.budget_us):
            gone.append(loser())
            halved += 1
        for name in gone:
            del self.models[name]
        if champion != self.champion:
            self.crown(champion)
        self.happened += [(len(self.labels), "dropped", name, champion, None) for name in gone]
        if size[champion] > self.budget_bytes:
            self.happened.append((len(self.labels), "over budget", champion, champion, None))
        self.recent = dict.fromkeys(self.models, 0.0)
