"""A resolve that is shared out gives what the single writer gives, on any number of partitions and however cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_resolve_laws import GOLDEN, commands, model, people

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry, Registry
from streamproc.entities.cluster_quality import cluster_quality
from streamproc.entities.comparisons import block, compare
from streamproc.entities.linkage_model import LinkageModel
from streamproc.graph import Step, Stream
from streamproc.planning.plan import Plan
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.workspace import shipped_contracts
from streamproc.testing.drive import Driven, drive
from streamproc.testing.simulation.case import Case
from streamproc.testing.simulation.inputs import Inputs, of_frames
from streamproc.testing.simulation.run import quick, simulate, told
from topologies.people.load import RECORDS, read_records, truth
from topologies.people.topology import LINKAGE

PERSON = parse_contract(
    """{"type": "record", "name": "sharded_person", "sp:version": 1, "fields": [
    {"name": "id", "type": ["null", "string"]}, {"name": "source", "type": ["null", "string"]},
    {"name": "name", "type": ["null", "string"]}, {"name": "town", "type": ["null", "string"]},
    {"name": "card", "type": ["null", "string"]}, {"name": "born", "type": ["null", "double"]},
    {"name": "note", "type": ["null", "long"]}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
COMMAND = parse_contract(
    """{"type": "record", "name": "sharded_command", "sp:version": 1, "fields": [
    {"name": "action", "type": ["null", "string"]}, {"name": "record", "type": ["null", "string"]},
    {"name": "other", "type": ["null", "string"]}, {"name": "at", "type": "long", "sp:role": "event_time"}]}"""
)
CONTRACTS = (PERSON, COMMAND)
SINKS = ("records", "events", "golden", "review", "links")


def titles() -> LinkageModel:
    """Blocks of rare words, as titles have them."""
    return LinkageModel(
        (compare("town", "words"), compare("name", "name")), (block("rare(town)"), block("name[:2]", "card")), 0.1,
        ((0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.01), (0.8, 0.1, 0.05, 0.03, 0.02)),
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4), (0.1, 0.02, 0.03, 0.1, 0.75)),
    )  # fmt: skip


def linked(case: str, orders: Stream | None) -> Step:
    """The resolve of a case."""
    if case == "plain":
        return sp.resolve(model(), record="id", golden={"name": "longest"}, commands=orders)
    if case == "all options":
        return sp.resolve(
            model(), record="id", source="source", review=0.2, threshold=0.8, golden=GOLDEN,
            source_order=("crm", "shop"), commands=orders,
        )  # fmt: skip
    if case == "full blocks":
        return sp.resolve(model(), record="id", review=0.2, threshold=0.6, block_cap=2, commands=orders)
    if case == "across":
        return sp.resolve(
            model(), record="id", source="source", sources="across", one_per_source=True, threshold=0.6, review=0.2,
            block_cap=3, commands=orders,
        )  # fmt: skip
    return sp.resolve(titles(), record="id", threshold=0.7, block_cap=3, commands=orders)


CASES = ("plain", "all options", "full blocks", "across", "rare words")


def topology(case: str, *, shared: bool, commanded: bool) -> sp.Topology:
    records = sp.source("people", contract=PERSON, lateness="20us")
    orders = sp.source("orders", contract=COMMAND, lateness="20us") if commanded else None
    if shared:
        people = records | sp.sharded(linked(case, orders))
    else:
        # What `sharded` promises to equal.
        one = None if orders is None else orders | sp.key_by() | sp.ordered(("record", "other"))
        people = records | sp.key_by() | sp.ordered("id") | linked(case, one)
    views: dict[str, Any] = {kind: people | sp.entity_rows(kind, name=f"{kind}_rows") for kind in SINKS}  # type: ignore[arg-type]
    if case in ("plain", "rare words"):
        del views["review"]
    if not linked(case, None).operator.golden:  # type: ignore[attr-defined]
        del views["golden"]
    return sp.Topology("shared", sinks={**views, "capped": people.side("capped")})


def world(seed: int, n: int) -> dict[str, pl.DataFrame]:
    """Records that come again, many at one moment, out of order by less than the lateness; commands among them."""
    random = np.random.default_rng(seed)
    frame = people(random, n).with_columns(at=pl.Series(random.integers(0, n // 2 + 1, n)))
    if seed % 2:
        words = ["red chair", "red table", "oak table", "oak red chair", "lamp", None, "Lamp red"]
        frame = frame.with_columns(town=pl.Series([words[i] for i in random.integers(0, len(words), n)]))
    frame = frame.unique(["id", "at"], keep="first", maintain_order=True)
    frame = frame[np.argsort(frame["at"].to_numpy() + random.integers(0, 15, frame.height), kind="stable")]
    few = n // 4
    orders = commands(random, few).with_columns(at=pl.Series(np.sort(random.integers(0, n // 2 + 1, few))))
    return {"people": frame, "orders": orders.unique(["record", "other", "at"], keep="first", maintain_order=True)}


def rows_of(ran: Driven) -> Mapping[str, pl.DataFrame]:
    return {name: frame.drop("_partition", "_offset", strict=False) for name, frame in ran.items()}


def require_equal(one: Mapping[str, pl.DataFrame], two: Mapping[str, pl.DataFrame], what: str) -> None:
    assert set(one) == set(two)
    for name in one:
        assert one[name].equals(two[name]), f"{what}: {name}\n{one[name]}\n{two[name]}"


def both(case: str, seed: int, partitions: int, cut: int, *, commanded: bool = True, n: int = 40) -> Driven:
    frames = world(seed, n)
    given_frames = frames if commanded else {"people": frames["people"]}
    alone = drive(topology(case, shared=False, commanded=commanded), given_frames, contracts=CONTRACTS)
    steps = itertools.cycle([cut, 1, 3]) if cut else None
    shared = drive(
        topology(case, shared=True, commanded=commanded), given_frames, contracts=CONTRACTS, partitions=partitions,
        steps=steps,
    )  # fmt: skip
    require_equal(rows_of(alone), rows_of(shared), f"{case}, seed {seed}, {partitions} partitions, cut {cut}")
    return shared


@pytest.mark.parametrize("partitions", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_the_single_writer(case: str, partitions: int) -> None:
    seen = 0
    for seed in range(4):
        seen += both(case, seed, partitions, 5 * (seed % 2), commanded=seed != 3)["capped"].height
    assert (seen > 0) == (case in ("full blocks", "across", "rare words"))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=st.sampled_from(CASES), seed=st.integers(0, 10_000), partitions=st.sampled_from([1, 2, 4]),
    cut=st.integers(0, 9),
)  # fmt: skip
def test_small_worlds_resolve_as_the_single_writer_does(case: str, seed: int, partitions: int, cut: int) -> None:
    both(case, seed, partitions, cut)


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=st.sampled_from(CASES), seed=st.integers(0, 1_000_000), partitions=st.sampled_from([1, 2, 3, 4]),
    cut=st.integers(0, 20), n=st.integers(4, 120),
)  # fmt: skip
def test_many_worlds_resolve_as_the_single_writer_does(
    case: str, seed: int, partitions: int, cut: int, n: int
) -> None:  # fmt: skip
    both(case, seed, partitions, cut, n=n)


def test_worlds_of_this_test_have_what_it_is_about() -> None:
    """Merges, splits, corrections, deletions, reviews and moved golden records come about in these small worlds."""
    seen: set[str] = set()
    for seed in range(4):
        ran = both("all options", seed, 2, 0)
        seen |= set(ran["events"]["event"].cast(pl.String)) | ({"review"} if ran["review"].height else set())
    assert seen >= {"created", "joined", "corrected", "merged", "split", "removed", "ignored", "review"}


def test_a_pair_that_several_blocks_bring_is_asked_about_once() -> None:
    twice = pl.DataFrame({"id": ["a", "b"], "name": ["bernd", "bernd"], "town": ["Ulm", "Ulm"], "at": [0, 1]})
    ran = drive(topology("all options", shared=True, commanded=False), people=twice, contracts=CONTRACTS)
    assert ran["review"]["records"].to_list() == [["b", "a"]]


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_a_register_of_people_has_the_single_writers_ids(partitions: int) -> None:
    registry = FolderRegistry((shipped_contracts(),))
    records = sp.source(RECORDS, contract="person_record")
    step = sp.resolve(LINKAGE, record="record_id", golden={"surname": "most_frequent"})
    found = []
    for one in (records | sp.key_by() | sp.ordered("record_id") | step, records | sp.sharded(step)):
        made = sp.Topology("register", sinks={kind: one | sp.entity_rows(kind) for kind in ("records", "golden")})
        shards = 1 if one.origin is step.operator else partitions
        found.append(rows_of(drive(made, {RECORDS: read_records().head(2_000)}, registry=registry, partitions=shards)))
    require_equal(*found, f"{partitions} partitions")
    last = found[1]["records"].join(truth(), on="record_id")
    assert last.height == 2_000 and cluster_quality(last["entity_id"], last["person"]).f1 > 0.9


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 400), marks=pytest.mark.long)], ids=["few", "many"]
)
def test_workers_under_faults_end_as_an_undisturbed_run(seeds: range) -> None:
    """Workers that crash, stand still, come and go, two partitions a stage; entities by id, whatever was cut where."""

    def worlds(plan: Plan, registry: Registry, number: int, partitions: int) -> Inputs:
        return of_frames(plan, registry, world(number, 40), seed=number, partitions=partitions)

    made = topology("all options", shared=True, commanded=True)
    case = Case(made, MemoryRegistry(CONTRACTS), partitions=2, given=worlds)
    assert {name.rpartition(".")[2] for name in case.compared} >= {*SINKS}
    with quick():
        for seed in seeds:
            outcome = simulate(case, seed)
            assert outcome.finding is None, told(outcome)


def test_every_row_has_one_fate_and_copies_are_no_loss() -> None:
    ran = both("all options", 2, 2, 3)
    frames = world(2, 40)
    nameless = frames["people"]["id"].null_count()
    assert nameless and ran.dead_letters["reason"].to_list().count("record_is_null") == nameless
    fates = ran.fates("people")
    assert fates["emitted"] + fates["late"] == frames["people"].height
    inner = [told for stages in ran.progress.fates.values() for name, told in stages.items() if ".s" in name]
    assert inner and all(told.get("filtered", 0) == 0 for told in inner)


def test_the_plan_shows_the_stages() -> None:
    plan = plan_topology(topology("plain", shared=True, commanded=False), MemoryRegistry(CONTRACTS))
    stages = [[node.operator.verb for node in stage.nodes if node.inputs] for stage in plan.stages]
    assert stages[1:] == [
        ["ordered", "block_copies", "key_by"], ["ordered", "block_pairs", "key_by"],
        ["ordered", "resolve", *["entity_rows"] * 4],
    ]  # fmt: skip
    assert [stage.single for stage in plan.stages] == [False, False, False, True]


def test_mistakes_name_the_step_and_the_way_out() -> None:
    with pytest.raises(sp.StreamprocError, match=r"got a step 'key_by'") as found:
        sp.sharded(sp.key_by())
    assert "sp.sharded(sp.resolve(" in (found.value.hint or "")
    with pytest.raises(sp.StreamprocError, match="got a step 'resolve'"):
        sp.sharded(sp.sharded(linked("plain", None)))
    for wrong, message in (
        (sp.resolve(model(), record="nobody"), "reads 'nobody'"),
        (sp.resolve(LINKAGE, record="id"), "step 'resolve' reads 'given_name'"),
        (sp.resolve(model(), record="id", source="sauce", sources="across"), "step 'resolve' reads 'sauce'"),
        (sp.resolve(model(), record="note"), "takes 'note' for an id"),
    ):
        made = sp.Topology("wrong", sinks={"out": sp.source("people", contract=PERSON) | sp.sharded(wrong)})
        with pytest.raises(sp.StreamprocError, match=message):
            plan_topology(made, MemoryRegistry(CONTRACTS))
    taken = sp.source("people", contract=PERSON) | sp.with_columns(entity_block=pl.col("note"))
    made = sp.Topology("taken", sinks={"out": taken | sp.sharded(linked("plain", None)) | sp.entity_rows("links")})
    with pytest.raises(sp.StreamprocError, match="a column 'entity_block'") as found:
        plan_topology(made, MemoryRegistry(CONTRACTS))
    assert "rename" in (found.value.hint or "")
