"""Topologies made by chance, run in many ways: all ways must agree, with each other and with the same on paper."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from plain_interpreter import computed, shown
from random_topologies import BASE, MADE, MOVED, PLACED, Maker, Recipe, built, random_rows

import streamproc as sp
from streamproc.contracts.registry import MemoryRegistry
from streamproc.ports import TopicPartition, TopicSettings, block_of
from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.replay import (
    TopicSum,
    last_entries,
    recorded_sums,
    replay_as_recorded,
    replay_by_event_time,
    source_ends,
)
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from streamproc.testing.drive import Driven, driven

SEEDS = range(40)
MORE = range(40, 2_000)
GARBAGE = [b"", b"\x00\x00\x00\x00\x01\xff", b"no avro", None]


@dataclass
class Case:
    """A topology and its rows, all of it made from a seed."""

    seed: int
    recipes: tuple[Recipe, ...]
    topology: sp.Topology
    frames: dict[str, pl.DataFrame]
    plain: bool
    placed: bool
    garbage: bool

    def told(self) -> str:
        sinks = "\n".join(f"  o{n}: {recipe.told()}" for n, recipe in enumerate(self.recipes))
        rows = "\n".join(f"  {topic}: {frame.to_dict(as_series=False)}" for topic, frame in self.frames.items())
        return f"seed {self.seed}\n{sinks}\n{rows}"


def made(seed: int, *, plain: bool, placed: bool = False) -> Case:
    random = np.random.default_rng(seed)
    lateness = int(random.choice((0, 3, 10)))
    maker = Maker(random, plain, placed)
    recipes = maker.topology()
    known: dict[int, sp.graph.Stream] = {}
    sinks = {f"o{n}": built(recipe, known, placed=placed, lateness=lateness) for n, recipe in enumerate(recipes)}
    timed = [r for r in recipes if r.kind in ("tumbling", "sliding", "session", "deduped", "ordered", "looked_back")]
    if timed and not plain:
        sinks["tardy"] = known[id(timed[0])].late if timed[0].kind != "looked_back" else known[id(timed[0])]
    topology = sp.Topology("t", sinks=sinks)
    topics = [one.args[0] for one in maker.sources if one.args[0] in read_by(recipes)]
    frames = random_rows(random, topics, late=not plain, lateness=lateness)
    return Case(seed, recipes, topology, frames, plain, placed, bool(random.random() < 0.4))


def read_by(recipes: tuple[Recipe, ...]) -> set[str]:
    found: set[str] = set()
    todo = list(recipes)
    while todo:
        one = todo.pop()
        todo += one.inputs
        if one.kind == "source":
            found.add(one.args[0])
    return found


@dataclass
class Run:
    """A log with its sources, and what ran on it."""

    case: Case
    partitions: int = 1

    def __post_init__(self) -> None:
        self.contract = PLACED if self.case.placed else MOVED
        self.log = MemoryLog(now=2**60)
        self.registry = MemoryRegistry([self.contract])
        for topic in self.case.frames:
            self.log.create_topic(topic, TopicSettings(self.partitions))

    def append(self, *, share: tuple[float, float] = (0.0, 1.0)) -> Run:
        """A share of the rows of each source, and records that nobody can read."""
        for topic, frame in self.case.frames.items():
            first, last = (int(frame.height * part) for part in share)
            append_frame(self.log, self.registry, topic, self.contract, frame[first:last])
            if self.case.garbage:
                transaction = self.log.producer("garbage").begin()
                transaction.append(block_of(topic, 0, GARBAGE))
                transaction.commit()
        return self

    def bound(self) -> Binding:
        return bind(self.case.topology, self.log, self.registry)

    def work(
        self, *, steps: Iterator[int] | None = None, in_stages: bool = True, close: bool = True, commits: int = 0
    ) -> Driven:
        binding = self.bound()
        worker = Worker(
            binding, self.log, until_end=source_ends(binding, self.log), close=close, in_stages=in_stages, steps=steps
        )
        if commits:
            counted = itertools.count(1)
            worker.on_commit = lambda _: worker.stop() if next(counted) >= commits else None
        progress = worker.run()
        return driven(binding, self.log, self.registry, progress)


def sizes(seed: int) -> Iterator[int]:
    random = np.random.default_rng(seed)
    return iter(random.choice((1, 4, 9, 25), 10_000).tolist())


def bodies(driven: Driven) -> dict[str, list[bytes | None]]:
    """What was written to each topic but edges, in order."""
    found: dict[str, list[bytes | None]] = {}
    names = driven.binding.names
    for topic in (*(sink.topic for sink in driven.binding.plan.sinks), names.late, names.dead_letters):
        place = TopicPartition(topic, 0)
        values = found.setdefault(topic, [])
        while len(values) < driven.log.end_offset(place):
            block = driven.log.read(place, len(values))
            values += [block.value(row) for row in range(len(block))]
    return found


def require_conserved(run: Run, ended: Driven, *, closed: bool = True) -> None:
    """Every record has one fate, and every row of an edge that was written was read."""
    fates: dict[str, dict[str, int]] = {}
    for entry in last_entries(ended.binding, ended.log).values():
        for inlet, counts in entry.fates.items():
            mine = fates.setdefault(inlet, {})
            for fate, rows in counts.items():
                mine[fate] = mine.get(fate, 0) + rows
    for inlet, counts in fates.items():
        assert all(rows >= 0 for rows in counts.values()), (inlet, counts)
        if closed:
            assert counts["held"] == 0, (inlet, counts)
        if inlet in run.case.frames:
            records = sum(run.log.end_offset(TopicPartition(inlet, p)) for p in range(run.partitions))
            assert counts["in"] == records, (inlet, counts, records)
        else:
            wrote = ended.sums.get(ended.binding.names.edge(inlet), TopicSum(0, ""))
            assert counts["in"] == wrote.rows, (inlet, counts, wrote)
    late = sum(counts["late"] for counts in fates.values())
    assert ended.late.height >= late


def without_edges(sums: dict[str, TopicSum]) -> dict[str, TopicSum]:
    return {topic: one for topic, one in sums.items() if ".edge." not in topic}


def columns_of(recipe: Recipe) -> tuple[str, ...]:
    return (*(recipe.key or ()), *MADE) if recipe.result else (*BASE, *(("items",) if recipe.items else ()))


def require_as_on_paper(case: Case, ended: Driven) -> None:
    known: dict[int, list[dict[str, object]]] = {}
    for number, recipe in enumerate(case.recipes):
        on_paper = shown(recipe, computed(recipe, case.frames, known))
        frame = ended[f"o{number}"]
        moments = [name for name in ("window_start", "window_end") if name in frame.columns]
        frame = frame.with_columns(pl.col(moments).to_physical()).select(columns_of(recipe))
        rows = sorted(
            (tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in frame.iter_rows()), key=repr
        )
        assert rows == on_paper, f"o{number}"


def check_plain(seed: int) -> None:
    """On paper; and one of: from 3 partitions, live in pieces against by event time, stopped and restored."""
    case = made(seed, plain=True)
    try:
        run = Run(case).append()
        ended = run.work()
        require_conserved(run, ended)
        require_as_on_paper(case, ended)
        match seed % 3:
            case 0:
                wide = Run(case, partitions=3).append()
                spread = wide.work(steps=sizes(seed))
                require_conserved(wide, spread)
                assert without_edges(dict(spread.sums)) == without_edges(dict(ended.sums))
                assert replay_as_recorded(spread.binding, wide.log).sums == spread.sums
                assert not verify(spread.binding, wide.log).findings
            case 1:
                live = Run(case, partitions=1 + seed % 2)
                live.append(share=(0.0, 0.4)).work(in_stages=False, close=False, steps=sizes(seed))
                live.append(share=(0.4, 0.7)).work(in_stages=False, close=False, steps=sizes(seed))
                done = live.append(share=(0.7, 1.0)).work(in_stages=False, steps=sizes(seed))
                require_conserved(live, done)
                again, log, _ = replay_by_event_time(case.topology, live.log, live.registry, MemoryLog(now=2**60))
                assert without_edges(recorded_sums(again, log)) == without_edges(dict(done.sums))
                assert replay_as_recorded(done.binding, live.log).sums == done.sums
                assert not verify(done.binding, live.log).findings
            case _:
                broken = Run(case, partitions=2).append()
                for _ in range(4):
                    broken.work(in_stages=False, close=False, commits=1 + seed % 4, steps=sizes(seed))
                done = broken.work(steps=sizes(seed + 1))
                require_conserved(broken, done)
                assert without_edges(dict(done.sums)) == without_edges(dict(ended.sums))
    except BaseException:
        print(case.told())
        raise


def check_late(seed: int) -> None:
    """With late rows: whole, in small steps, and stopped and restored; all sums agree, in one stage the order too."""
    case = made(seed, plain=False, placed=seed % 2 == 0)
    try:
        run = Run(case).append()
        ended = run.work()
        require_conserved(run, ended)
        small = Run(case).append()
        cut = small.work(steps=sizes(seed))
        require_conserved(small, cut)
        assert dict(cut.sums) == dict(ended.sums)
        if len(ended.binding.stages) == 1:
            assert bodies(cut) == bodies(ended)
        if seed % 4 == 1:
            assert replay_as_recorded(cut.binding, small.log).sums == cut.sums
            assert not verify(cut.binding, small.log).findings
        elif seed % 4 == 2:
            broken = Run(case).append()
            for _ in range(3):
                broken.work(close=False, commits=1 + seed % 3, steps=sizes(seed + 1))
            done = broken.work(steps=sizes(seed + 2))
            assert dict(done.sums) == dict(ended.sums)
    except BaseException:
        print(case.told())
        raise


@pytest.mark.parametrize("tenth", range(10))
def test_every_way_of_running_a_topology_gives_what_comes_out_on_paper(tenth: int) -> None:
    for seed in SEEDS[tenth::10][: len(SEEDS) // 20]:
        check_plain(seed)


@pytest.mark.parametrize("tenth", range(10))
def test_late_rows_and_broken_records_are_the_same_however_the_input_is_cut(tenth: int) -> None:
    for seed in SEEDS[tenth::10][len(SEEDS) // 20 :]:
        check_late(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", MORE)
def test_many_more_topologies_agree(seed: int) -> None:
    check_plain(seed)
    check_late(seed)
