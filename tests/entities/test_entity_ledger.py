"""What events of entities say, read one by one, is what the records that are there make in one go."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from entity_ledger import Ledger, Row, Rules, bits
from test_resolve_laws import COMMAND, PERSON

import streamproc as sp
from streamproc.batch import ACCOUNT, C1, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.entities.comparisons import block, compare
from streamproc.entities.entity_ids import current_ids
from streamproc.entities.linkage_model import LinkageModel, weight_of
from streamproc.entities.resolve import Resolve
from streamproc.entities.tables import LARGE, Tables
from streamproc.graph import Stream
from streamproc.operator import StepTime
from streamproc.operators.key_by import KeyBy
from streamproc.state import export_state, import_state

M, U = {"name": (0.9, 0.1), "card": (0.9, 0.1), "town": (0.8, 0.2)}, {"name": 0.02, "card": 0.01, "town": 0.3}
LINKAGE = LinkageModel(
    (compare("name"), compare("card"), compare("town")), (block("name"), block("card")), 0.05, tuple(M.values()),
    tuple((u, 1 - u) for u in U.values()),
)  # fmt: skip
GOLDEN = {"name": "most_frequent", "town": "most_recent", "card": "longest"}
Op = tuple[str, Any]
"""("row", a record) or (an action, (record, other))."""


def opened(**more: Any) -> tuple[Resolve, Tables, Rules]:
    caps = more.pop("caps", False)
    more = {"threshold": 0.9, "review": 0.4, **more}
    step = sp.resolve(LINKAGE, record="id", source="source", golden=GOLDEN, commands=Stream(KeyBy(())), **more).operator
    assert isinstance(step, Resolve)
    weights = {name: (bits(M[name][0], U[name]), bits(M[name][1], 1 - U[name])) for name in M}
    rules = Rules(
        math.log2(0.05 / 0.95), weights, ("name", "card"), weight_of(more["threshold"]), weight_of(more["review"]),
        more.get("sources") == "across", more.get("one_per_source", False), caps,
    )  # fmt: skip
    return step, step.open(PERSON, COMMAND), rules


def person(record: str, **columns: Any) -> Op:
    return ("row", dict.fromkeys(PERSON.schema.names) | {"id": record, **columns})


def drawn(random: np.random.Generator, n: int, names: int, ids: int, first: int) -> list[Op]:
    """Records that come, come again, go and come back; commands about anybody, there or not; answers to reviews.

    The `first` of them are others each time, and all of one card: a component that is too large to look at.
    """
    out: list[Op] = []
    for number in range(first + n):
        chance = 0.0 if number < first else random.random()
        one, two = (f"r{i}" for i in random.choice(ids, 2, replace=False))
        one = f"r{number}" if number < first else one
        if chance < 0.6:
            name, town, source = (int(i) for i in random.integers(0, (names, 3, 6)))
            card = 1 if number < first else int(random.integers(0, 2 * names))
            out.append(person(
                one, source=f"s{source}" if source else None, name=f"n{name}" if name else None,
                town=f"t{town}" if town else None, card=f"c{'c' * (card % 3)}{card}" if card else None,
            ))  # fmt: skip
        elif chance < 0.75:
            out.append(("delete", (one, None)))
        elif chance < 0.85:
            out.append(("answer", int(random.integers(0, 1_000_000))))
        else:
            out.append((("must_link", "cannot_link", "withdraw")[int(random.integers(0, 3))], (one, two)))
    return out


def fed(step: Resolve, state: Tables, ops: list[Op], first: int) -> tuple[Tables, pl.DataFrame]:
    """Operations from number `first` on as one step, in their order; each has a moment of its own."""
    ports = []
    for port in (0, 1):
        mine = [(first + at, op) for at, op in enumerate(ops) if (op[0] == "row") == (port == 0)]
        rows = [what if kind == "row" else {"action": kind, "record": what[0], "other": what[1]}
                for _, (kind, what) in mine]  # fmt: skip
        meta = np.zeros((len(mine), WIDTH), np.int64)
        numbers = np.array([number for number, _ in mine], np.int64)
        meta[:, ROW] = 2 * (numbers - first) + 1
        meta[:, ACCOUNT] = np.arange(len(mine))
        meta[:, C1] = meta[:, EVENT_TIME] = 10 * numbers
        ports.append(Batch(pl.DataFrame(rows, (PERSON, COMMAND)[port].schema.polars()), meta))
    time = StepTime(np.full(len(ops), 10 * (first + len(ops)), np.int64), 1)
    state, output = step.process(state, tuple(ports), time)
    return state, output.rows.frame


def told(events: pl.DataFrame) -> list[Row]:
    return events.with_columns(pl.col("event", "reason").cast(pl.String)).to_dicts()


def answered(op: Op, asked: list[tuple[str, str]]) -> Op | None:
    """An answer to any question that was ever put: early, late, a second time, against the first one."""
    kind, number = op
    if kind != "answer":
        return op
    if not asked:
        return None
    return ("cannot_link" if number % 3 else "must_link"), asked[(number // 3) % len(asked)]


def followed(ops: list[Op], step: Resolve, state: Tables, ledger: Ledger) -> tuple[Tables, list[Op], pl.DataFrame]:
    """One operation after the other, each judged; gives what was done, and all events."""
    asked: list[tuple[str, str]] = []
    done: list[Op] = []
    out = []
    for one in ops:
        op = answered(one, asked)
        if op is None:
            continue
        state, events = fed(step, state, [op], len(done))
        rows = told(events)
        asked += [(row["records"][0], row["records"][1]) for row in rows if row["event"] == "review"]
        if op[0] == "row":
            ledger.take(op[1], 10 * len(done), rows)
        else:
            ledger.command(op[0], *op[1], rows)
        done.append(op)
        out.append(events)
    return state, done, pl.concat(out)


def cut(ops: list[Op], step: Resolve, random: np.random.Generator, longest: int) -> pl.DataFrame:
    """The same in steps of any size, saved and restored between some of them."""
    state, out, at = step.open(PERSON, COMMAND), [], 0
    while at < len(ops):
        n = int(random.integers(1, longest))
        state, events = fed(step, state, ops[at : at + n], at)
        out.append(events)
        at += n
        if random.random() < 0.3:
            saved = {name: array.copy() for name, array in export_state(state).items()}
            state = import_state(step.open(PERSON, COMMAND), saved)
    return pl.concat(out)


def lead_somewhere(ledger: Ledger, state: Tables) -> None:
    ids = sorted(ledger.issued)
    now = dict(zip(ids, current_ids(state, ids, 0), strict=True))
    there = set(ledger.entity.values())
    carried = {ledger.names[token]: ledger.entity[record]
               for record, (_, token) in ledger.tokens.items() if token in ledger.names}  # fmt: skip
    for one, to in now.items():
        assert to is None or to in there
        assert to == carried.get(one, to)
        assert one not in ledger.over or to is None


CASES: dict[str, dict[str, Any]] = {
    "alone": {}, "one a source": {"one_per_source": True}, "across": {"sources": "across", "one_per_source": True},
    "full blocks": {"block_cap": 3, "caps": True},
    "large": {"caps": True}, "large, one a source": {"caps": True, "one_per_source": True},
}  # fmt: skip


def judged(case: str, seed: int, n: int, names: int, ids: int, first: int = 0) -> tuple[Counter[str], Tables]:
    step, state, rules = opened(**CASES[case])
    ledger = Ledger(rules)
    random = np.random.default_rng(seed)
    state, done, events = followed(drawn(random, n, names, ids, first), step, state, ledger)
    lead_somewhere(ledger, state)
    assert events.equals(cut(done, step, random, 40))
    assert min(ledger.told[kind] for kind in ("created", "joined", "merged", "split", "removed", "review")) > 0
    return ledger.told, state


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", ["alone", "one a source", "across", "full blocks"])
def test_events_lead_to_what_the_records_make_in_one_go(case: str, seed: int) -> None:
    judged(case, seed, 100, names=5, ids=20)


@pytest.mark.parametrize("case", ["large", "large, one a source"])
def test_events_of_large_components_hold_together_and_nothing_forbidden_is_one_entity(case: str) -> None:
    _, state = judged(case, 1, 90, names=2, ids=230, first=210)
    assert state.counters[LARGE] > 60


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_events_lead_there_in_longer_streams_too(case: str) -> None:
    large = case.startswith("large")
    for seed in range(100, 103 if large else 140):
        if large:
            judged(case, seed, 500, names=2, ids=300, first=250)
        else:
            judged(case, seed, 200, names=5, ids=25)


def fed_at_once(state: Tables, step: Resolve, ops: list[Op]) -> list[Row]:
    """What the last operation makes."""
    state, _ = fed(step, state, ops[:-1], 0)
    return told(fed(step, state, ops[-1:], len(ops))[1])


def crowd(names: int, each: int) -> list[Op]:
    """Each is one entity with all of its card."""
    return [person(f"{name}_{i}", card=f"c{name}", town="t") for name in range(names) for i in range(each)]


def test_a_record_that_joins_many_large_entities_names_each_of_their_records_once() -> None:
    """From the youngest entity to the oldest, so that all of them move again and again; there is room for one move."""
    step, state, _ = opened()
    links: list[Op] = [("must_link", ("x", f"{name}_1")) for name in range(16)]
    events = fed_at_once(state, step, [*crowd(16, 200), *links, person("x")])
    assert [event["event"] for event in events] == ["joined", *["merged"] * 15, "golden"]
    moved = [record for event in events[1:-1] for record in event["records"]]
    assert len(moved) == len(set(moved)) == 15 * 200 and "x" not in moved
    assert {event["size"] for event in events} == {16 * 200 + 1}


def test_a_record_that_is_deleted_from_an_entity_too_large_to_look_at_leaves_its_golden_record() -> None:
    step, state, _ = opened()
    x = person("x", card="c0", town="t", name="one")
    events = fed_at_once(state, step, [*crowd(1, 4_200), x, ("cannot_link", ("0_1", "0_2"))])
    assert [(event["event"], event["reason"]) for event in events] == [("ignored", "too_large")]
    events = told(fed(step, state, [("delete", ("x", None))], 5_000)[1])
    assert [event["event"] for event in events] == ["removed", "golden"]
    assert events[-1]["golden_name"] is None and events[-1]["size"] == 4_200
