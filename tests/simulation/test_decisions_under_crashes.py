"""A process that decides and dies at any of its requests: each decision has one line in the log, and each line one.

Every run is held against one that nobody disturbed: the same decisions, the same lines with the same hashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import planted
import polars as pl
import pytest
import shop

import streamproc as sp
from streamproc.contracts.registry import MemoryRegistry
from streamproc.decisions.decide import Decide, DecideState
from streamproc.decisions.decision_log import FIRST, first_broken, strays
from streamproc.decisions.explain import made_again
from streamproc.errors import StreamprocError
from streamproc.planning.plan import type_of
from streamproc.ports import Block
from streamproc.runtime import restore
from streamproc.runtime.reading import read_blocks, read_topic
from streamproc.testing.simulation.case import Case, payloads
from streamproc.testing.simulation.faults import Fault
from streamproc.testing.simulation.log import SimulatedLog
from streamproc.testing.simulation.process import Failure
from streamproc.testing.simulation.run import VARIANTS, quick, verdict
from streamproc.testing.simulation.scene import Scene
from streamproc.testing.simulation.world import World

CRASHES = ("crash before", "crash after")
SINKS = ("desk.decisions", "desk.log")
CHECKPOINTED = 15
"""A seed whose worker writes a checkpoint after each step and is stopped in between."""
MOVED = 10
"""A seed whose source has records of an aborted transaction, or not, as it comes."""


def deciding() -> sp.Topology:
    """Sales, each once, decided by their amount and by how often the card was seen: two stages."""
    sales = sp.source("sales", contract=shop.SALE, lateness="5s") | sp.ordered(by=("id", "card", "shop"))
    cards = sales | sp.dedupe("id", within="1m", per="partition") | sp.key_by("card") | sp.ordered(by=("id", "shop"))
    decided = (
        cards
        | sp.features(n=sp.count().over("20s"))
        | sp.decide(
            sp.when(pl.col("n") > 2, then="block", name="often"),
            sp.when(pl.col("amount") > 0, then="review", name="large"),
            otherwise="allow",
            log=("id", "card"),
        )
    )
    return sp.Topology("desk", sinks={"decisions": decided, "log": decided.side("log")}, commit="100ms")


@lru_cache(maxsize=2)
def desk(partitions: int) -> Case:
    """The topology bound, on topics of so many partitions.

    Ids of decisions are made of offsets, which are others in the log that a case is usually held against.
    """
    made = Case(deciding(), MemoryRegistry([shop.SALE]), partitions=partitions, rows=40)
    made.compared = (made.binding.names.dead_letters,)
    return made


def require_one_to_one(case: Case, log: SimulatedLog) -> None:
    """Decisions and lines name each other, each once, each made again is the same, and each task's chain holds."""
    node = next(node for node in case.plan.nodes if isinstance(node.origin, Decide))
    step: Any = node.operator
    schema = type_of(case.plan.nodes, node.inputs[0]).schema
    form = step.form(schema)
    decisions, lines = (read_topic(log, case.registry, f"desk.{sink}") for sink in ("decisions", "log"))
    told = ["decision_id", "id", "card", "amount", "n", "decision", "decision_rule"]
    assert lines["decision_id"].n_unique() == lines.height == decisions.height
    assert lines.select(told).sort("decision_id").equals(decisions.select(told).sort("decision_id"))
    assert strays(form, lines) == []
    # One task writes to one partition of the log.
    parts = lines.partition_by("_partition", maintain_order=True)
    assert [first_broken(form, part) for part in parts] == [None] * len(parts)
    assert made_again(step, schema, lines) == lines.height


@dataclass(frozen=True)
class Left:
    """What a run left: offsets of its source, records of its sinks, and decisions and lines as rows without ids.

    Ids of decisions, and so the hashes of their lines, are made of the source's offsets. These are not the same in all
    runs: before a portion of rows there may be records of an aborted transaction.
    """

    offsets: tuple[int, ...]
    records: dict[str, Counter[bytes | None]]
    rows: dict[str, Counter[str]]

    def same(self, other: Left) -> bool:
        """Whether each decision and line is there as often; byte for byte where the offsets are the same."""
        return self.rows == other.rows and (self.offsets != other.offsets or self.records == other.records)


def ran(case: Case, seed: int, faults: Sequence[Fault]) -> tuple[World, Left]:
    """Runs a seed with these faults and judges all that it left; gives its end, and what lies in the sinks."""
    scene = Scene(case, case.variant(seed % VARIANTS), seed)
    world = World(scene, faults)
    world.run()
    assert world.loud is None and len(world.fired) == len(faults)
    assert verdict(world) is None
    log = SimulatedLog(world.cluster)
    require_one_to_one(case, log)
    offsets = tuple(int(at) for block in read_blocks(log, "sales") for at in block.offsets)
    rows = {}
    for sink in SINKS:
        made = read_topic(log, case.registry, sink).drop("decision_id", "chain", "_partition", "_offset", strict=False)
        rows[sink] = Counter(map(repr, made.iter_rows()))
    return world, Left(offsets, payloads(log, SINKS, case.binding.names.dead_letters), rows)


def require_one_line_a_decision(case: Case, seed: int, thinned: int = 1) -> int:
    """A crash before and after every request of a run, or some of them, leaves what none leaves; gives crashes."""
    calm, whole = ran(case, seed, [])
    assert whole.records["desk.log"].total() > 2
    crashes = [Fault(kind, at) for at in range(len(calm.scene.requests)) for kind in CRASHES][::thinned]
    unmoved = 0
    with quick():
        for fault in crashes:
            left = ran(case, seed, [fault])[1]
            assert left.same(whole), f"{fault}: {calm.scene.requests[fault.at]}"
            unmoved += left.offsets == whole.offsets
    assert 2 * unmoved > len(crashes), "else hardly any line was held against its bytes"
    return len(crashes)


def test_a_crash_at_any_request_leaves_one_line_for_each_decision() -> None:
    assert require_one_line_a_decision(desk(1), 3) > 100


@pytest.mark.parametrize(
    ("partitions", "seed", "thinned"), [(1, CHECKPOINTED, 11), (1, MOVED, 31), (2, 12, 47)]
)
def test_so_does_one_with_checkpoints_or_among_several_workers_thinned(
    partitions: int, seed: int, thinned: int
) -> None:  # fmt: skip
    assert require_one_line_a_decision(desk(partitions), seed, thinned) > 20


class LogLater(planted.RowsLater):
    """Lines of the log go in a transaction behind the one of their decisions."""

    def append(self, block: Block) -> None:
        if block.topic == "desk.log":
            self.rows.append(block)
        else:
            self.inner.append(block)


def forgets_the_chain(loaded: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpoint gives back no numbers and no hashes."""

    def load(*given: Any) -> Any:
        state = loaded(*given)
        if state is not None and "decide" in state.operators:
            state.operators["decide"] = DecideState(0, FIRST)
        return state

    return load


PLANTED = {
    "lines in a transaction of their own": planted.within(LogLater),
    "rows committed before their journal": planted.PLANTED["rows committed before their journal"].plant,
    "the chain is forgotten": planted.wrapped(restore, "_loaded", forgets_the_chain),
}


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_slip_is_found(name: str) -> None:
    case = desk(1)
    calm, whole = ran(case, CHECKPOINTED, [])

    def shows(at: int) -> bool:
        try:
            return not ran(case, CHECKPOINTED, [Fault("crash after", at)])[1].same(whole)
        except (AssertionError, StreamprocError, Failure):
            return True

    with PLANTED[name](case), quick():
        assert any(shows(at) for at in range(len(calm.scene.requests) - 1, 0, -3))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(VARIANTS))
@pytest.mark.parametrize("partitions", [1, 2])
def test_so_do_more_seeds(partitions: int, seed: int) -> None:
    require_one_line_a_decision(desk(partitions), seed)
