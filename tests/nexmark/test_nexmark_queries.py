"""Each of Nexmark's questions, answered as a stream, gives what DuckDB gives from all events at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from benchmarks.nexmark.answers import ANSWERS, agree, answer, top_ten
from benchmarks.nexmark.events import BID, Nexmark
from benchmarks.nexmark.queries import NOT_EXPRESSED, QUERIES, query
from streamproc.cli.app import run
from streamproc.testing import drive

EVENTS = Nexmark(6_000, rate=200, seed=7)
READS = {
    "q3": ("persons", "auctions"),
    "q4": ("auctions", "bids"),
    "q6": ("auctions", "bids"),
    "q8": ("persons", "auctions"),
    "q9": ("auctions", "bids"),
    "q13": ("bids", "side"),
    "q20": ("auctions", "bids"),
}


@pytest.fixture(scope="module")
def topics() -> Mapping[str, pl.DataFrame]:
    return EVENTS.frames()


def given(name: str, topics: Mapping[str, pl.DataFrame], **how: Any) -> pl.DataFrame:
    """What the stream gives; nothing came late or was refused."""
    out = drive(query(name), {topic: topics[topic] for topic in READS.get(name, ("bids",))}, **how)
    assert out.late.height == out.dead_letters.height == 0
    return out["out"]


@pytest.mark.parametrize("name", [name for name in QUERIES if name in ANSWERS])
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_question_is_answered_as_from_all_events_at_once(
    name: str, partitions: int, topics: Mapping[str, pl.DataFrame]
) -> None:
    columns, holds, _ = ANSWERS[name]
    rows = given(name, topics, partitions=partitions)
    if holds:
        # What a table of the newest row of each key would hold: each key's rows stand in one partition, in order.
        rows = rows.unique(holds, keep="last", maintain_order=True)
    expected = answer(name, topics)
    assert expected.height > 0
    assert agree(rows.select(columns), expected)


def test_the_ten_highest_bids_are_told_as_they_come(topics: Mapping[str, pl.DataFrame]) -> None:
    rows = given("q19", topics, partitions=3)
    assert agree(rows.select("auction", "price", "date_time", "rank"), top_ten(topics["bids"]))


def test_every_question_is_answered_or_its_absence_has_a_reason() -> None:
    assert {f"q{number}" for number in range(23)} == QUERIES.keys() | NOT_EXPRESSED.keys()
    assert QUERIES.keys() - ANSWERS.keys() == {"q10", "q19"}  # Both have a test of their own.
    assert all(NOT_EXPRESSED.values())


def test_one_seed_gives_one_stream_of_events_in_the_shares_of_the_suite(topics: Mapping[str, pl.DataFrame]) -> None:
    again = EVENTS.frames()
    assert all(again[name].equals(frame) for name, frame in topics.items())
    assert not Nexmark(6_000, rate=200, seed=8).frames()["bids"].equals(topics["bids"])
    assert {name: topics[name].height for name in ("persons", "auctions", "bids")} == {
        "persons": 120, "auctions": 360, "bids": 5_520,
    }  # fmt: skip
    bids = topics["bids"].join(topics["auctions"], left_on="auction", right_on="id", suffix="_opened")
    assert bids.height == 5_520
    assert (bids["date_time"] > bids["date_time_opened"]).all()
    sellers = topics["auctions"].join(topics["persons"], left_on="seller", right_on="id", suffix="_registered")
    assert sellers.height == 360
    assert (sellers["date_time"] > sellers["date_time_registered"]).all()
    assert max(Counter(topics["bids"]["auction"].to_list()).values()) > 20 * math.ceil(5_520 / 360)


def test_an_answer_that_differs_in_one_cell_is_not_taken_for_the_same(topics: Mapping[str, pl.DataFrame]) -> None:
    whole = answer("q17", topics)
    assert agree(whole, whole.sample(fraction=1.0, shuffle=True, seed=1))
    for column in ("bids", "average"):
        assert not agree(whole, whole.with_columns(pl.col(column) + (pl.int_range(pl.len()) == 3)))
    assert not agree(whole, whole.head(whole.height - 1))


def test_bids_are_written_to_files_by_a_replay(
    tmp_path: Path, topics: Mapping[str, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """q10, with the commands that a person would use."""
    monkeypatch.chdir(tmp_path)
    topics["bids"].write_parquet("bids.parquet")
    Path("schemas_avro").mkdir()
    Path("schemas_avro/bid.v1.avsc").write_bytes(orjson.dumps(dict(BID.avro)))
    Path("q10.py").write_text("from benchmarks.nexmark.queries import query\nq10 = query('q10')\n")
    for command in (
        ["produce", "bids.parquet", "bids", "--contract", "bid"],
        ["run", "q10.py", "--until-end", "--close"],
        ["replay", "q10.py", "--by-event-time", "--must-equal", "--out", "files"],
    ):
        assert run(command) == 0, command
    assert agree(pl.read_parquet("files/out.parquet").select(topics["bids"].columns), topics["bids"])
