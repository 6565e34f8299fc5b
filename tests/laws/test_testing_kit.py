"""The testing kit itself: strategies give valid rows, golden files tell what changed."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.operator import StreamType
from streamproc.operators.columns import where
from streamproc.testing import check_operator, drive
from streamproc.testing.golden import GoldenError, agrees_with_golden
from streamproc.testing.strategies import crashes, cuts, event_rows, rows, timelines, trials
from streamproc.testing.topology_checks import check_hash_seeds
from streamproc.testing.trials import Event, Trial

EVENT = parse_contract(
    '{"type": "record", "name": "event", "sp:version": 1, "fields": [{"name": "k", "type": "string"},'
    '{"name": "x", "type": ["null", "double"], "default": null}, {"name": "at", "type": '
    '{"type": "long", "logicalType": "timestamp-millis"}, "sp:role": "event_time"}]}'
)


@settings(max_examples=30, deadline=None)
@given(rows(EVENT), event_rows(EVENT, max_disorder=5), timelines(ties=False), cuts(rows=9), crashes())
def test_strategies_give_rows_of_the_contract(
    frame: pl.DataFrame, arriving: pl.DataFrame, line: object, where_to_cut: list[int], deaths: list[int]
) -> None:
    assert frame.schema == arriving.schema == EVENT.schema.polars()
    assert arriving["at"].null_count() == 0
    assert where_to_cut == sorted(where_to_cut) and all(death > 0 for death in deaths)


@settings(max_examples=30, deadline=None)
@given(trials(StreamType(EVENT.schema, ("k",)), StreamType(EVENT.schema, ("k",), ordered=True)))
def test_trials_stand_in_order_of_position(trial: Trial) -> None:
    times = [event.time for event in trial.events() if event.port == 1]
    assert times == sorted(times)


def test_a_twin_is_held_against_the_operator() -> None:
    schema = Schema((Field("i", pl.Int64()),))

    def twin(events: Iterable[Event]) -> list[dict[str, object]]:
        return [event.row for event in events if event.port == 0 and event.row["i"] >= 0]

    with pytest.raises(AssertionError, match="breaks the law of twin: rows, row 0"):
        check_operator(where(pl.col("i") > 0), schema, seeds=20, twin=twin)


def test_a_golden_file_tells_the_first_difference(tmp_path: Path) -> None:
    file = tmp_path / "golden" / "a.json"
    frame = pl.DataFrame({"a": [1, 2], "x": [0.1, float("nan")], "l": [[1], []]})
    with pytest.raises(GoldenError, match="there is no golden file"):
        agrees_with_golden(frame, file)
    agrees_with_golden(frame, file, accept=True)
    agrees_with_golden(frame, file)
    with pytest.raises(GoldenError, match=r"row 1, column 'a': accepted is '2', now it is '3'"):
        agrees_with_golden(frame.with_columns(a=pl.Series([1, 3])), file)


def test_the_kit_needs_no_hypothesis() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import streamproc.testing; streamproc.testing.check_operator"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def digests() -> str:
    """What a run gives: called under several hash seeds."""
    import streamproc as sp

    frame = pl.DataFrame({"k": ["a", "b", "c"] * 9, "x": [0.1] * 27, "at": range(27)})
    rows_in = sp.source("events", contract=EVENT)
    spend = rows_in | sp.key_by("k") | sp.tumbling("10ms", total=sp.total("x"), n=sp.distinct("x"))
    ran = drive(sp.Topology("t", sinks={"spend": spend}), events=frame, contracts=(EVENT,), partitions=2)
    return "".join(f"{topic}={part.sum};" for topic, part in ran.sums.items())


def test_nothing_depends_on_the_hash_seed() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    assert "t.spend=" in check_hash_seeds("test_testing_kit", "digests", seeds=(0, 1))


def test_many_runs_in_one_process_look_once_at_what_was_there_before() -> None:
    """A worker freezes what is older than itself for the collector; one inside others must not thaw theirs."""
    topology = sp.Topology("many", sinks={"out": sp.source("events", contract=EVENT)})
    events = pl.DataFrame({"k": ["a"], "x": [1.0], "at": [0]})
    assert gc.get_freeze_count() == 0
    drive(topology, events=events)
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        drive(topology, events=events)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
