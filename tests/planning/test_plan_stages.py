"""Where the plan cuts, what it inserts, and that keys meet whatever the partitions of sources are."""

from __future__ import annotations

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.planning.plan import Plan
from streamproc.ports import TopicSettings
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.replay import recorded_sums, replay_as_recorded, source_ends
from streamproc.runtime.verify import verify
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame, drive
from streamproc.testing.drive import Driven, driven

FIELDS = """{"name": "k", "type": %s, "sp:role": "key"}, {"name": "x", "type": "long"}, {"name": "y", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}"""


def contract(name: str, *, partitioner: str = "unknown", key: str = '"string"') -> Contract:
    return parse_contract(
        f'{{"type": "record", "name": "{name}", "sp:version": 1, "sp:partitioner": "{partitioner}", '
        f'"fields": [{FIELDS % key}]}}'
    )


ANY = contract("any")
PLACED = contract("placed", partitioner="murmur2")
LOOSE = contract("loose", partitioner="murmur2", key='["null", "string"]')
CONTRACTS = (ANY, PLACED, LOOSE)
ROWS = pl.DataFrame({"k": [f"k{i % 7}" for i in range(60)], "x": [i % 4 for i in range(60)], "y": range(60),
                     "at": [i // 2 for i in range(60)]})  # fmt: skip


def plan(stream: Stream) -> Plan:
    return plan_topology(sp.Topology("t", sinks={"o": stream}), MemoryRegistry(CONTRACTS))


def verbs(planned: Plan) -> list[list[str]]:
    return [[node.name for node in stage.nodes] for stage in planned.stages]


def ran(stream: Stream, counts: dict[str, int], contracts: dict[str, Contract], **frames: pl.DataFrame) -> Driven:
    """A run over sources with different numbers of partitions."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry(CONTRACTS)
    for topic, partitions in counts.items():
        log.create_topic(topic, TopicSettings(partitions))
        append_frame(log, registry, topic, contracts[topic], frames[topic])
    binding = bind(sp.Topology("t", sinks={"o": stream}), log, registry)
    progress = Worker(binding, log, until_end=source_ends(binding, log), close=True, in_stages=True).run()
    return driven(binding, log, registry, progress)


def counted(stream: Stream) -> Stream:
    return stream | sp.tumbling("1s", n=sp.count())


def test_a_key_that_placed_the_rows_moves_none() -> None:
    planned = plan(counted(sp.source("p", contract=PLACED) | sp.key_by("k")))
    assert verbs(planned) == [["p", "key_by", "tumbling"]]
    made = drive(planned.topology, p=ROWS, contracts=CONTRACTS, partitions=3)["o"]
    assert made["n"].sum() == 60 and made.height == 7


def test_a_key_that_may_be_null_places_nothing() -> None:
    assert len(plan(counted(sp.source("p", contract=LOOSE) | sp.key_by("k"))).stages) == 2


def test_once_moved_rows_are_no_longer_where_their_producers_placed_them() -> None:
    twice = sp.source("p", contract=PLACED) | sp.key_by("x") | sp.where(pl.col("y") >= 0) | sp.key_by("k")
    made = drive(sp.Topology("t", sinks={"o": counted(twice)}), p=ROWS, contracts=CONTRACTS, partitions=3)["o"]
    assert made.height == 7


def test_a_dedupe_below_another_key_brings_ids_together() -> None:
    ids = sp.source("p", contract=PLACED) | sp.key_by("x") | sp.where(pl.col("y") >= 0) | sp.dedupe("k", within="1h")
    made = drive(sp.Topology("t", sinks={"o": ids}), p=ROWS, contracts=CONTRACTS, partitions=3)["o"]
    assert sorted(made["k"]) == sorted(set(ROWS["k"]))


@pytest.mark.parametrize("counts", [(2, 3), (3, 2), (1, 4), (3, 3)])
def test_rows_that_stay_where_they_were_placed_meet_rows_that_were_moved(counts: tuple[int, int]) -> None:
    stays = sp.source("p", contract=PLACED) | sp.ordered(by="y") | sp.key_by("k")
    moved = sp.source("a", contract=ANY) | sp.ordered(by="y") | sp.key_by("k")
    joined = stays | sp.as_of(moved | sp.select("k", z=pl.col("y") + 0)) | sp.select("k", "y", "z", "as_of_status")
    parts = dict(zip(("p", "a"), counts, strict=True))
    made = ran(joined, parts, {"p": PLACED, "a": ANY}, p=ROWS, a=ROWS)["o"]
    # Right rows of the same moment count, the last one by the order that `by` gives.
    assert made.filter(pl.col("as_of_status") != "MATCHED").height == 0
    assert made.filter(pl.col("z") != pl.col("y")).height == 0


def test_sources_that_were_placed_on_different_partitions_do_not_meet_by_key() -> None:
    left, right = (sp.source(topic, contract=PLACED) | sp.key_by("k") for topic in ("p", "q"))
    with pytest.raises(DefinitionError, match="'p' has 2, 'q' has 3"):
        ran(left | sp.as_of(right), {"p": 2, "q": 3}, {"p": PLACED, "q": PLACED}, p=ROWS, q=ROWS)


def test_an_id_that_placed_rows_on_different_partitions_is_refused_too() -> None:
    both = sp.source("p", contract=PLACED) | sp.union(sp.source("q", contract=PLACED)) | sp.dedupe("k", within="1h")
    with pytest.raises(DefinitionError, match="differ in partitions"):
        ran(both, {"p": 2, "q": 3}, {"p": PLACED, "q": PLACED}, p=ROWS, q=ROWS)


def test_sources_of_different_partitions_may_be_joined_before_they_get_a_key() -> None:
    both = sp.source("a", contract=ANY) | sp.union(sp.source("b", contract=ANY)) | sp.key_by("k")
    made = ran(counted(both), {"a": 2, "b": 3}, {"a": ANY, "b": ANY}, a=ROWS, b=ROWS)["o"]
    assert made["n"].sum() == 120 and made.height == 7


# ── order below a change of key ──────────────────────────────────────────────────────────────────────────────────────


def test_rows_in_order_are_put_in_order_again_below_a_change_of_key() -> None:
    source = sp.source("a", contract=ANY, lateness="5us") | sp.ordered(by="y")
    planned = plan(source | sp.key_by("k") | sp.with_columns(z=pl.col("x") + 1))
    assert verbs(planned)[1] == ["ordered_2", "with_columns"]
    assert planned.stages[1].nodes[0].operator.by == ("y",)  # type: ignore[attr-defined]


def test_the_columns_of_the_order_are_known_by_their_new_names() -> None:
    source = sp.source("a", contract=ANY) | sp.ordered(by="y") | sp.rename(y="z")
    planned = plan(counted(source | sp.key_by("k")))
    assert planned.stages[1].nodes[0].operator.by == ("z",)  # type: ignore[attr-defined]


def test_results_of_windows_stay_in_order_below_another_key() -> None:
    once = counted(sp.source("a", contract=ANY) | sp.ordered(by="y") | sp.key_by("k"))
    planned = plan(once | sp.key_by("n") | sp.tumbling("1h", m=sp.count()))
    assert [node.operator.by for node in planned.stages[2].nodes if node.name == "ordered_2"] == []
    again = planned.stages[2].nodes[0].operator
    assert again.verb == "ordered" and again.by == ()  # type: ignore[attr-defined]
    made = drive(planned.topology, a=ROWS, contracts=CONTRACTS, partitions=3)["o"]
    assert made["m"].sum() == 7


def test_windows_of_rows_without_order_can_be_keyed_again() -> None:
    once = counted(sp.source("a", contract=ANY) | sp.key_by("k"))
    made = drive(sp.Topology("t", sinks={"o": once | sp.key_by("n") | sp.tumbling("1h", m=sp.count())}),
                 a=ROWS, contracts=CONTRACTS, partitions=3)["o"]  # fmt: skip
    assert made["m"].sum() == 7


def test_an_order_by_a_column_that_is_gone_names_the_way_out() -> None:
    lost = sp.source("a", contract=ANY) | sp.ordered(by="y") | sp.drop("y") | sp.key_by("k")
    with pytest.raises(DefinitionError, match=r"'key_by' moves rows that are in order by 'y'.*sp\.ordered"):
        plan(counted(lost))
    assert verbs(plan(counted(lost | sp.ordered(by="x"))))[1] == ["ordered_2", "tumbling"]


def test_a_stream_that_waits_for_a_deeper_one_arrives_in_order() -> None:
    stays = sp.source("p", contract=PLACED, lateness="3us") | sp.ordered(by="y") | sp.key_by("k")
    moved = sp.source("a", contract=ANY, lateness="3us") | sp.ordered(by="y") | sp.key_by("k")
    planned = plan(stays | sp.as_of(moved))
    joined = next(node for node in planned.nodes if node.name == "as_of")
    assert joined.type.ordered
    assert all(planned.nodes[rank].type.ordered for rank, _ in joined.inputs)
    assert {planned.nodes[rank].stage for rank, _ in joined.inputs} == {joined.stage}


# ── late rows as streams ─────────────────────────────────────────────────────────────────────────────────────────────

LATE = pl.DataFrame({"k": ["a", "a", "b", "a"], "x": [1, 2, 3, 4], "y": [5, 6, 7, 8], "at": [0, 100, 1, 2]})


def test_late_rows_have_the_columns_of_the_input() -> None:
    window = sp.source("a", contract=ANY) | sp.key_by("k") | sp.tumbling("5us", n=sp.count())
    again = window.late | sp.key_by("x") | sp.select("x")
    sinks = {"o": window.late | sp.select("y"), "all": window.late, "again": again}
    made = drive(sp.Topology("t", sinks=sinks), a=LATE, contracts=CONTRACTS)
    assert made["o"]["y"].to_list() == [7, 8]
    assert made["all"].columns[:4] == ["k", "x", "y", "at"]
    assert sorted(made["again"]["x"]) == [3, 4]


def test_late_rows_of_late_rows_are_rows() -> None:
    window = sp.source("a", contract=ANY) | sp.key_by("k") | sp.tumbling("5us", n=sp.count())
    twice = (window.late | sp.key_by("k") | sp.dedupe("k", within="1us")).late
    made = drive(sp.Topology("t", sinks={"o": twice | sp.with_columns(z=pl.col("y") * 2)}), a=LATE, contracts=CONTRACTS)
    assert made["o"]["z"].to_list() == [14, 16]


def test_late_rows_keep_their_key() -> None:
    window = sp.source("a", contract=ANY) | sp.key_by("k") | sp.tumbling("5us", n=sp.count())
    again = window.late | sp.union(sp.source("b", contract=ANY) | sp.key_by("k") | sp.where(pl.col("x") >= 0))
    assert plan(again | sp.tumbling("5us", n=sp.count())).nodes[-1].type.keyed_by == ("k",)


# ── one topic read twice ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_topic_can_be_read_with_two_latenesses() -> None:
    strict, patient = (sp.source("a", contract=ANY, lateness=f"{late}us") for late in (0, 50))
    sides = (strict | sp.with_columns(side=pl.lit(1))) | sp.union(patient | sp.with_columns(side=pl.lit(2)))
    log, registry = MemoryLog(now=2**60), MemoryRegistry(CONTRACTS)
    log.create_topic("a", TopicSettings(2))
    append_frame(log, registry, "a", ANY, ROWS)
    binding = bind(sp.Topology("t", sinks={"o": sides}), log, registry)
    for turns in (3, 10**6):
        worker = Worker(binding, log, until_end=source_ends(binding, log), close=True, steps=iter([4] * turns))
        done = worker.run()
    made = driven(binding, log, registry, done)
    assert made["o"]["side"].value_counts(sort=True)["count"].to_list() == [60, 60]
    assert replay_as_recorded(binding, log).sums == recorded_sums(binding, log)
    assert verify(binding, log).findings == []
