"""Tables: a compacted topic whose records without a value delete their keys, looked up and joined as of event time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import DefinitionError, DuplicateName
from streamproc.ports import TopicPartition, block_of
from streamproc.runtime.binding import bind
from streamproc.runtime.worker import Worker
from streamproc.testing import drive
from streamproc.testing.drive import append_frame, driven, prepared

CUSTOMER = parse_contract("""{"type": "record", "name": "customer", "sp:version": 1, "fields": [
    {"name": "id", "type": "string", "sp:role": "key"}, {"name": "city", "type": "string"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
ACCOUNT = parse_contract("""{"type": "record", "name": "account", "sp:version": 1, "fields": [
    {"name": "owner", "type": "string", "sp:role": "key"}, {"name": "limit", "type": "long"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
ORDER = parse_contract("""{"type": "record", "name": "order", "sp:version": 1, "fields": [
    {"name": "order", "type": "string"}, {"name": "id", "type": "string"},
    {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
PAIR = parse_contract("""{"type": "record", "name": "pair", "sp:version": 1, "fields": [
    {"name": "shop", "type": "string", "sp:role": "key"}, {"name": "number", "type": "int", "sp:role": "key"},
    {"name": "stock", "type": "long"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}""")

LATE = "20us"
customers = sp.table("customers", contract=CUSTOMER, lateness=LATE)
accounts = sp.table("accounts", contract=ACCOUNT, lateness=LATE)
orders = sp.source("orders", contract=ORDER, lateness=LATE) | sp.key_by("id")


def told(*rows: tuple[str, str | None, int]) -> pl.DataFrame:
    """Changes of customers: id, city (None deletes) and event time."""
    ids, cities, times = ([row[i] for row in rows] for i in range(3))
    values = {"id": ids, "city": [city or "" for city in cities], "at": times}
    return pl.DataFrame({**values, "deleted": [city is None for city in cities]})


def test_a_key_that_was_deleted_is_missing_from_that_moment_on() -> None:
    joined = orders | sp.ordered("order") | sp.as_of(customers | sp.ordered(), columns=("city",), name="c")
    rows = pl.DataFrame({"order": list("abcde"), "id": ["x"] * 5, "at": [5, 10, 20, 25, 30]})
    changes = told(("x", "Bonn", 10), ("x", None, 20), ("x", "Kiel", 30))
    made = drive(sp.Topology("t", sinks={"out": joined}), orders=rows, customers=changes)["out"].sort("order")
    assert made["city"].to_list() == [None, "Bonn", None, None, "Kiel"]
    assert made["c_status"].to_list() == ["MISSING", "MATCHED", "MISSING", "MISSING", "MATCHED"]
    assert made["c_age"].to_list() == [None, 0, None, None, 0]


def test_a_table_is_written_and_read_again_with_its_deletes() -> None:
    first = drive(sp.Topology("first", sinks={"table": sp.sink(customers, latest=True)}),
                  customers=told(("x", "Bonn", 10), ("y", "Kiel", 20), ("x", None, 30)))  # fmt: skip
    assert sorted(first["table"]["id"]) == ["x", "y"]
    table = sp.FeatureTable("first.table", first.log, first.binding.registry, key=("id",), at="at")
    table.refresh()
    assert table.read("x").row == {} and table.read("y").row["city"] == "Kiel"
    block = first.log.read(TopicPartition("first.table", 0), 0)
    assert [block.value(row) is None for row in range(3)] == [False, False, True]
    assert block.key(2) == b"x" and int.from_bytes(block.header(2, "sp-at") or b"", "big") == 30
    contract = next(sink.contract for sink in first.binding.plan.sinks)
    assert "deleted" not in contract.schema
    again = sp.table("first.table", contract=parse_contract(with_roles(contract)))
    topology = sp.Topology("second", sinks={"out": again})
    registry = first.binding.registry
    binding = bind(topology, first.log, registry)
    Worker(binding, first.log, until_end=ends(first.log, "first.table"), close=True, in_stages=True).run()
    made = driven(binding, first.log, registry, None)["out"]  # type: ignore[arg-type]  # progress is not looked at
    assert made.select("id", "city", "at", "deleted").rows() == [
        ("x", "Bonn", 10, False), ("y", "Kiel", 20, False), ("x", None, 30, True)]  # fmt: skip


def with_roles(contract: Any) -> str:
    avro = json.loads(json.dumps(contract.avro))
    for field in avro["fields"]:
        if field["name"] in ("id", "at"):
            field["sp:role"] = {"id": "key", "at": "event_time"}[field["name"]]
    return json.dumps(avro)


def ends(log: Any, topic: str) -> dict[TopicPartition, int]:
    places = [TopicPartition(topic, number) for number in range(log.topics()[topic].partitions)]
    return {place: log.end_offset(place) for place in places}


def test_a_delete_without_a_header_holds_from_its_records_timestamp_and_does_not_move_time() -> None:
    topology = sp.Topology("t", sinks={"out": customers | sp.ordered()})
    registry = MemoryRegistry((CUSTOMER,))
    log = prepared(topology, {"customers": told(("x", "Bonn", 10))}, registry)
    log.now = 2**60
    transaction = log.producer("p").begin()
    transaction.append(
        block_of("customers", 0, [None, None, None], keys=[b"x", b"\xff", None], timestamps=[500, 501, 502])
    )
    transaction.commit()
    append_frame(log, registry, "customers", CUSTOMER, told(("y", "Kiel", 11), ("y", "Ulm", 900)))
    binding = bind(topology, log, registry)
    progress = Worker(binding, log, until_end=ends(log, "customers"), close=True, in_stages=True).run()
    made = driven(binding, log, registry, progress)
    assert made["out"].select("id", "city", "deleted").rows() == [
        ("x", "Bonn", False), ("y", "Kiel", False), ("x", None, True), ("y", "Ulm", False)]  # fmt: skip
    assert not made.late.height
    assert made.dead_letters["reason"].to_list() == ["null payload"] * 2


def test_keys_of_deletes_are_read_back_or_refused_one_by_one() -> None:
    topology = sp.Topology("t", sinks={"out": sp.table("pairs", contract=PAIR)})
    registry = MemoryRegistry((PAIR,))
    log = prepared(topology, {}, registry)
    good = b"\0\0\0\x02ab" + b"\0\0\0\x08" + (-7).to_bytes(8, "big", signed=True)
    bad = [b"", b"\0\0\0\x02ab", good + b"!", b"\x7f\xff\xff\xffab" + good[6:], b"\0\0\0\x02\xff\xfe" + good[6:],
           good[:10] + (2**40).to_bytes(8, "big")]  # fmt: skip
    keys = [good, *bad, good]
    transaction = log.producer("p").begin()
    transaction.append(block_of("pairs", 0, [None] * len(keys), keys=keys, timestamps=list(range(len(keys)))))
    transaction.commit()
    binding = bind(topology, log, registry)
    progress = Worker(binding, log, until_end=ends(log, "pairs"), close=True, in_stages=True).run()
    made = driven(binding, log, registry, progress)
    assert made["out"].select("shop", "number", "stock", "at", "deleted").rows() == [
        ("ab", -7, None, 0, True), ("ab", -7, None, 7, True)]  # fmt: skip
    assert made.dead_letters.height == len(bad)


def expected(changes: list[list[tuple[str, int, Any]]], how: str) -> dict[str, tuple[Any, Any]]:
    """What stands in the end: the newest of each side, all changes gone through for every key."""
    out = {}
    for key in {row[0] for side in changes for row in side}:
        newest: list[Any] = []
        for side in changes:
            mine = [(time, place, value) for place, (k, time, value) in enumerate(side) if k == key]
            newest.append(max(mine)[2] if mine else None)
        left, right = newest
        stands = {"inner": left is not None and right is not None, "left": left is not None,
                  "full": left is not None or right is not None}[how]  # fmt: skip
        if stands:
            out[key] = (left, right)
    return out


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("how", ["inner", "left", "full"])
def test_what_a_join_of_tables_leaves_is_the_join_of_what_the_tables_leave(how: Any, partitions: int) -> None:
    random = np.random.default_rng(partitions)
    sides: list[list[tuple[str, int, Any]]] = []
    for number in range(2):
        chosen = random.permutation(120)[:70]
        chosen = chosen[np.argsort(chosen + random.integers(0, 12, chosen.size), kind="stable")]
        sides.append([
            (f"k{random.integers(9)}", int(time), None if random.random() < 0.3 else (f"c{time}", int(time))[number])
            for time in chosen
        ])  # fmt: skip
    left = told(*[(key, city, time) for key, time, city in sides[0]])
    owners, times, limits = ([row[i] for row in sides[1]] for i in range(3))
    gone = [limit is None for limit in limits]
    right = pl.DataFrame({"owner": owners, "limit": [limit or 0 for limit in limits], "at": times, "deleted": gone})
    for order in (False, True):
        a, b = (customers | sp.ordered(), accounts | sp.ordered()) if order else (customers, accounts)
        sinks = {"all": a | sp.join(b, how=how), "table": sp.sink(a | sp.join(b, how=how), latest=True)}
        ran = drive(sp.Topology("t", sinks=sinks), customers=left, accounts=right, partitions=partitions)
        last = ran["all"].unique("id", keep="last", maintain_order=True).filter(~pl.col("deleted"))
        rows = {key: (city, limit) for key, city, limit in last.select("id", "city", "limit").iter_rows()}
        assert rows == expected(sides, how) and not ran.late.height
        table = sp.FeatureTable("t.table", ran.log, ran.binding.registry, key=("id",), at="at")
        table.refresh()
        assert {key: (row["city"], row["limit"]) for (key,), (_, row) in table._rows.items()} == expected(sides, how)


def test_changes_of_a_database_are_a_table() -> None:
    events = parse_contract("""{"type": "record", "name": "cdc", "sp:version": 1, "fields": [
        {"name": "id", "type": "string"}, {"name": "op", "type": "string"}, {"name": "city", "type": "string"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
    table = sp.source("cdc", contract=events) | sp.key_by("id") | sp.changes(pl.col("op") == "d") | sp.drop("op")
    made = orders | sp.ordered() | sp.as_of(table | sp.ordered(), name="c", columns=("city",))
    rows = pl.DataFrame({"order": ["a", "b"], "id": ["x", "x"], "at": [15, 25]})
    cdc = pl.DataFrame({"id": ["x", "x"], "op": ["c", "d"], "city": ["Bonn", "Bonn"], "at": [10, 20]})
    out = drive(sp.Topology("t", sinks={"out": made}), orders=rows, cdc=cdc)["out"]
    assert out["c_status"].to_list() == ["MATCHED", "MISSING"]


def test_a_contract_may_say_which_column_tells_deletes() -> None:
    contract = parse_contract("""{"type": "record", "name": "soft", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "gone", "type": "boolean", "sp:role": "deleted"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
    made = orders | sp.ordered() | sp.as_of(sp.source("soft", contract=contract) | sp.key_by("id") | sp.ordered())
    rows = pl.DataFrame({"order": ["a", "b"], "id": ["x", "x"], "at": [15, 25]})
    soft = pl.DataFrame({"id": ["x", "x"], "gone": [False, True], "at": [10, 20]})
    out = drive(sp.Topology("t", sinks={"out": made}), orders=rows, soft=soft)["out"]
    assert out["as_of_status"].to_list() == ["MATCHED", "MISSING"]


def test_a_table_needs_a_key_and_its_own_name_for_deletes() -> None:
    named = parse_contract("""{"type": "record", "name": "named", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "deleted", "type": "boolean"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""")
    with pytest.raises(DefinitionError, match=r"table 'orders' has no key.*sp:role"):
        drive(sp.Topology("t", sinks={"out": sp.table("orders", contract=ORDER)}))
    with pytest.raises(DuplicateName, match=r"'deleted' of contract 'named.v1' already.*role"):
        drive(sp.Topology("t", sinks={"out": sp.table("named", contract=named)}))
