"""What a sink writes, the source reads back: every format, every column type, every cut."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import fastavro
import polars as pl
import pytest
from file_values import filled
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from connectors.files.sink import FileSink
from connectors.files.source import read_file
from streamproc.contracts.model import Contract

ENDINGS = ("csv", "tsv", "csv.gz", "jsonl", "ndjson.gz", "parquet", "avro")


def read_back(path: Path, contract: Contract, *, rows: int = 100_000) -> pl.DataFrame:
    pieces = list(read_file(path, contract=contract, rows=rows))
    bad = [row for piece in pieces for row in piece.bad.rows()]
    assert not bad
    assert all(piece.frame.height <= rows for piece in pieces)
    numbers = list(itertools.chain.from_iterable(piece.lines.tolist() for piece in pieces))
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == sum(piece.frame.height for piece in pieces)
    return pl.concat([contract.schema.empty(), *(piece.frame for piece in pieces)])


@settings(deadline=None, max_examples=30)
@given(sample=filled(), rows=st.integers(2, 9), cut=st.integers(0, 8))
def test_a_file_gives_back_what_was_written(sample: tuple[Contract, pl.DataFrame], rows: int, cut: int) -> None:
    contract, frame = sample
    with tempfile.TemporaryDirectory() as folder:
        for ending in ENDINGS:
            path = Path(folder) / f"rows.{ending}"
            with FileSink(path, contract.schema, avro=contract.avro) as sink:
                sink.write(frame[:cut])
                sink.write(frame[cut:])
            if "json" in ending and not frame.height:
                continue  # a file without a line says nothing, and is refused
            assert_frame_equal(read_back(path, contract, rows=rows), frame, check_exact=True)
        assert sorted(p.name for p in Path(folder).iterdir()) == sorted(f"rows.{ending}" for ending in ENDINGS)


@pytest.mark.parametrize("codec", ["null", "deflate"])
@settings(deadline=None, max_examples=15)
@given(sample=filled())
def test_fastavro_reads_our_containers_and_we_read_fastavros(codec: str, sample: tuple[Contract, pl.DataFrame]) -> None:
    contract, frame = sample
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.avro", Path(folder) / "theirs.avro"
        with FileSink(ours, contract.schema, avro=contract.avro, codec=codec) as sink:
            sink.write(frame)
        with ours.open("rb") as stream:
            reader = fastavro.reader(stream)
            records = list(reader)
            schema = reader.writer_schema
        assert len(records) == frame.height
        assert schema is not None
        if any(isinstance(field.dtype, pl.Datetime) and field.dtype.time_unit == "ns" for field in contract.schema):
            return  # fastavro knows no nanoseconds
        with theirs.open("wb") as stream:
            fastavro.writer(stream, schema, records, codec=codec)
        read = list(read_file(theirs, contract=contract))
        assert sum(piece.frame.height for piece in read) == frame.height


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl", "parquet", "avro"])
def test_equal_rows_give_equal_bytes(ending: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", "", None]})
    from streamproc.contracts.model import Field, Schema

    schema = Schema((Field("a", pl.Int64(), nullable=True), Field("b", pl.String(), nullable=True)))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with FileSink(tmp_path / folder / f"rows.{ending}", schema) as sink:
            sink.write(frame)
    assert (tmp_path / "one" / f"rows.{ending}").read_bytes() == (tmp_path / "two" / f"rows.{ending}").read_bytes()
