"""A file becomes records: every row once, by key, in order, and what cannot be written is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from connectors.embedded.log import EmbeddedLog
from connectors.files.produce import produce_file, produce_frame
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import InputError, UnknownTopic
from streamproc.hashing import partitions_of
from streamproc.ports import Block, TopicPartition, TopicSettings
from streamproc.wire.decoder import Decoder

SALE = parse_contract("""{"type": "record", "name": "sale", "fields": [
  {"name": "customer", "type": ["null", "string"], "sp:role": "key"},
  {"name": "number", "type": "long"},
  {"name": "code", "type": {"type": "fixed", "name": "code", "size": 2}}]}""")


def blocks_of(log: EmbeddedLog, topic: str, partition: int) -> list[Block]:
    place = TopicPartition(topic, partition)
    found = []
    offset = log.start_offset(place)
    while offset < log.end_offset(place):
        found.append(log.read(place, offset))
        offset = int(found[-1].offsets[-1]) + 1
    return found


def sales(rows: int) -> pl.DataFrame:
    customers = [None if number % 5 == 0 else f"c{number % 7}" for number in range(rows)]
    return pl.DataFrame({"customer": customers, "number": range(rows), "code": [b"ab"] * rows})


def test_every_row_is_in_the_partition_of_its_key_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("sales", TopicSettings(partitions=3))
    report = produce_frame(log, sales(1000), "sales", contract=SALE, schema_id=7, rows=300)
    assert (report.rows, report.bad) == (1000, 0)
    seen: list[int] = []
    for partition in range(3):
        numbers: list[int] = []
        for block in blocks_of(log, "sales", partition):
            assert block.value(0)[:5] == b"\0\0\0\0\7"  # type: ignore[index]  # no null values here
            frame = Decoder(SALE.avro).decode(block.buffer, block.value_starts + 5, block.value_ends).frame
            numbers += frame["number"].to_list()
            for row, customer in enumerate(frame["customer"]):
                assert block.key(row) == (None if customer is None else customer.encode())
                if customer is None:
                    assert frame["number"][row] % 3 == partition
                else:
                    bytes_ = np.frombuffer(customer.encode(), np.uint8)
                    assert partitions_of(bytes_, np.zeros(1, np.int64), np.full(1, bytes_.size), 3)[0] == partition
        assert numbers == sorted(numbers)
        assert len(numbers) == report.partitions[partition]
        seen += numbers
    assert sorted(seen) == list(range(1000))
    log.close()


def test_rows_that_cannot_be_written_are_told_and_the_others_are_written(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("sales", TopicSettings())
    path = tmp_path / "sales.csv"
    path.write_text("customer,number,code\na,1,YWI=\nb,x,YWI=\nc,3,YWJj\nd,4,YWI=\n")
    seen: list[int] = []
    report = produce_file(log, path, "sales", contract=SALE, schema_id=1, progress=seen.append)
    assert (report.rows, report.bad, report.partitions, seen) == (2, 2, {0: 2}, [4])
    assert report.examples["line"].to_list() == [3, 4]
    assert report.examples["reason"].to_list() == [
        "column 'number': 'x' is not a value of the type Int64",
        "the value of 'code' (b'abc') does not have the size that its fixed type asks for",
    ]
    assert [block.key(0) for block in blocks_of(log, "sales", 0)] == [b"a"]
    log.close()


def test_an_unknown_topic_or_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("sales", TopicSettings())
    with pytest.raises(UnknownTopic, match="there is no topic 'sale'; did you mean 'sales'"):
        produce_frame(log, sales(3), "sale", contract=SALE, schema_id=1)
    with pytest.raises(InputError, match=r"the key column 'costumer' is not in 'sale.v1'; did you mean 'customer'"):
        produce_frame(log, sales(3), "sales", contract=SALE, schema_id=1, key=("costumer",))
    assert log.end_offset(TopicPartition("sales", 0)) == 0
    log.close()
