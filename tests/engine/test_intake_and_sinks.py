"""What leaves: records as they came where nothing changed, keys and partitions, older schemas, columns read."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.ports import Block, TopicPartition, TopicSettings
from streamproc.runtime.binding import bind, plan_topology
from streamproc.runtime.replay import source_ends
from streamproc.runtime.worker import Worker
from streamproc.testing import MemoryLog, append_frame
from streamproc.testing.drive import Driven, driven

AT = """{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}"""
OLD = parse_contract(
    f"""{{"type": "record", "name": "pay", "sp:version": 1, "fields": [
    {{"name": "card", "type": ["null", "string"], "default": null, "sp:role": "key"}},
    {{"name": "n", "type": "long"}}, {AT}]}}"""
)
NEW = parse_contract(
    f"""{{"type": "record", "name": "pay", "sp:version": 2, "fields": [
    {{"name": "card", "type": ["null", "string"], "default": null, "sp:role": "key"}},
    {{"name": "n", "type": "long"}}, {AT},
    {{"name": "more", "type": "long", "default": 7}}]}}"""
)
ROWS = pl.DataFrame({"card": ["a", None, "b", "c", None, "a", "d", "e"], "n": range(8), "at": range(8)})
PAY = sp.source("pays", contract="pay.v2", lateness="1s")


def run(sinks: dict[str, sp.graph.Stream | sp.Sink], *, partitions: int = 1, sink_partitions: int = 0) -> Driven:
    """A run over records that an old producer and a new one wrote."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([OLD, NEW])
    log.create_topic("pays", TopicSettings(partitions))
    append_frame(log, registry, "pays", OLD, ROWS[:4])
    append_frame(log, registry, "pays", NEW, ROWS[4:].with_columns(more=pl.col("n") * 10))
    if sink_partitions:
        for name in sinks:
            log.create_topic(f"t.{name}", TopicSettings(sink_partitions))
    binding = bind(sp.Topology("t", sinks=sinks), log, registry)
    progress = Worker(binding, log, until_end=source_ends(binding, log), close=True, in_stages=True).run()
    return driven(binding, log, registry, progress)


def records(made: Driven, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
    """Partition, key and value of each record."""
    out = []
    for partition in range(made.log.topics()[topic].partitions):
        place = TopicPartition(topic, partition)
        at, end = 0, made.log.end_offset(place)
        while at < end:
            block: Block = made.log.read(place, at)
            out += [(partition, block.key(row), block.value(row)) for row in range(len(block))]
            at = int(block.offsets[-1]) + 1
    return out


def test_records_that_nothing_changed_leave_as_the_bytes_that_they_came_in() -> None:
    filtered = PAY | sp.where(pl.col("n") != 3) | sp.require(positive=pl.col("n") >= 0)
    made = run({"same": filtered, "named": sp.sink(filtered, contract="pay.v2")})
    came = [record for record in records(made, "pays") if record != records(made, "pays")[3]]
    assert records(made, "t.same") == records(made, "t.named") == came


@pytest.mark.parametrize(
    "changed",
    [
        lambda rows: rows | sp.with_columns(n=pl.col("n") + 0),
        lambda rows: rows | sp.select("card", "n", "at", "more"),
        lambda rows: rows | sp.rename(n="m") | sp.rename(m="n"),
        lambda rows: rows | sp.ordered(),
        lambda rows: rows | sp.key_by("n") | sp.where(pl.col("n") >= 0),
    ],
)
def test_records_that_a_step_may_have_changed_are_encoded_anew(changed: object) -> None:
    made = run({"o": changed(PAY)})  # type: ignore[operator]
    assert made["o"].sort("n")["more"].to_list() == [7, 7, 7, 7, 40, 50, 60, 70]
    assert len({value[1:5] for _, _, value in records(made, "t.o") if value}) == 1


def test_records_under_an_older_contract_are_not_forwarded() -> None:
    made = run({"old": sp.sink(PAY | sp.drop("more"), contract="pay.v1")})
    assert [value[1:5] for _, _, value in records(made, "t.old") if value] == [records(made, "pays")[0][2][1:5]] * 8  # type: ignore[index]


def test_a_key_of_its_own_chooses_key_and_partition_also_of_forwarded_records() -> None:
    made = run({"o": sp.sink(PAY, key="card")}, partitions=2, sink_partitions=3)
    values = {record[2] for record in records(made, "pays")}
    for partition, key, value in records(made, "t.o"):
        assert value in values
        if key is not None:
            frame = pl.DataFrame({"card": [key.decode()]})
            keys = keys_of(frame, ["card"])
            assert partition == partitions_of(keys.buffer, keys.starts, keys.ends, 3)[0]
    assert sorted(key for _, key, _ in records(made, "t.o") if key) == [b"a", b"a", b"b", b"c", b"d", b"e"]
    assert sum(key is None for _, key, _ in records(made, "t.o")) == 2


def test_rows_without_a_key_stay_in_their_partition_and_keep_the_record_key() -> None:
    made = run({"o": PAY | sp.where(pl.col("n") >= 0)}, partitions=2)
    assert sorted(map(repr, records(made, "t.o"))) == sorted(map(repr, records(made, "pays")))


def test_a_stream_with_one_key_for_all_rows_leaves_without_key() -> None:
    window = PAY | sp.key_by() | sp.tumbling("4us", n=sp.count())
    made = run({"o": window}, partitions=3)
    assert [key for _, key, _ in records(made, "t.o")] == [None, None]
    assert made["o"]["n"].to_list() == [4, 4]


def test_a_key_by_before_a_sink_moves_nothing_but_sets_the_key() -> None:
    made = run({"o": PAY | sp.key_by("n")}, partitions=2)
    assert len(made.binding.stages) == 1
    assert sorted(int.from_bytes(key or b"", "big") for _, key, _ in records(made, "t.o")) == list(range(8))


def test_only_columns_that_somebody_reads_are_decoded() -> None:
    def read(*streams: sp.graph.Stream | sp.Sink) -> frozenset[str]:
        sinks = {f"o{n}": stream for n, stream in enumerate(streams)}
        return plan_topology(sp.Topology("t", sinks=sinks), MemoryRegistry([OLD, NEW])).sources[0].columns

    assert read(PAY) == {"at"}
    assert read(PAY | sp.where(pl.col("n") > 1)) == {"at", "n"}
    assert read(sp.sink(PAY, key="card")) == {"at", "card"}
    assert read(PAY | sp.ordered(by="more") | sp.select("n")) == {"at", "more", "n"}
    counted = PAY | sp.key_by("card") | sp.tumbling("1s", n=sp.count())
    assert read(counted) == {"at", "card"}
    assert read(counted.late | sp.select("more")) == {"at", "card", "more"}
    assert read(PAY | sp.dedupe("n") | sp.select("card")) == {"at", "n", "card"}


def test_a_record_that_the_log_cannot_hand_out_is_a_dead_letter_with_its_place_and_the_rest_goes_on() -> None:
    log, registry = MemoryLog(now=2**60), MemoryRegistry([OLD, NEW])
    log.create_topic("pays", TopicSettings())
    append_frame(log, registry, "pays", NEW, ROWS.with_columns(more=pl.col("n")))
    block = log.read(TopicPartition("pays", 0), 0)
    gone = {name: getattr(block, name).copy() for name in ("value_starts", "value_ends", "key_starts", "key_ends")}
    for bounds in gone.values():
        bounds[5] = -1
    log.replace_block(
        TopicPartition("pays", 0), replace(block, **gone, unreadable=((5, "the batch cannot be inflated"),))
    )
    binding = bind(sp.Topology("t", sinks={"all": PAY}), log, registry)
    progress = Worker(binding, log, until_end=source_ends(binding, log), steps=iter([3, 3, 3, 3])).run()
    made = driven(binding, log, registry, progress)
    (letter,) = made.dead_letters.select("offset", "payload", "reason").to_dicts()
    assert (letter["offset"], letter["payload"]) == (5, None)
    assert letter["reason"] == "unreadable: the batch cannot be inflated"
    assert made.fates("pays")["dead_lettered"] == 1
    assert len(records(made, "t.all")) == 7
