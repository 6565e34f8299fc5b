"""Version 2 of the story beside live version 1, then in its place: each record is worked on once, by one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from ordered_sinks import below_ordered
from retail_2 import OF_WEEK, retail_2

from streamproc.cli.app import run
from streamproc.contracts.registry import Registry
from streamproc.engine.compiled import Names
from streamproc.planning.plan import PlannedSink
from streamproc.planning.topology import Topology
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.compare import compare
from streamproc.runtime.journal import journal_entries
from streamproc.runtime.reading import read_topic
from streamproc.runtime.replay import replay_by_event_time
from streamproc.runtime.workspace import workspace_of
from streamproc.testing import MemoryLog
from tests.deploy.deployed import answer_of
from tests.services.kafka import kafka_cluster
from topologies.retail import retail
from topologies.retail.load import CONTRACTS, shipped_story
from topologies.retail.make_story import MOVEMENTS

ONE, TWO = "topologies.retail", f"{Path(__file__).with_name('retail_2.py')}:retail_2"
PLACE = ("_partition", "_offset")
PARTITIONS = 2
CUTS = tuple(datetime(2011, 1, day, tzinfo=UTC) for day in (13, 20))
"""Up to the first version 2 is run beside version 1, which ends at the second."""


@pytest.fixture(scope="module")
def story() -> dict[str, pl.DataFrame]:
    """A month, few of the stock codes."""
    topics = shipped_story("2011-01", "2011-01").topics
    codes = topics[MOVEMENTS]["stock_code"].unique().sort().gather_every(40)
    return {**topics, MOVEMENTS: topics[MOVEMENTS].filter(pl.col("stock_code").is_in(codes.implode()))}


def calm(topology: Topology, log: Log, registry: Registry) -> dict[str, pl.DataFrame]:
    """The sinks of one run over everything that lies in the log: ids of decisions hang on where it lies."""
    bound, ran, _ = replay_by_event_time(topology, log, registry, MemoryLog(now=1 << 60))
    return {sink.name: rows_of(ran, registry, sink) for sink in bound.plan.sinks}


def rows_of(log: Log, registry: Registry, sink: PlannedSink) -> pl.DataFrame:
    """What a sink holds, without places."""
    return read_topic(log, registry, sink.topic, sink.contract.schema.polars()).drop(PLACE)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.long)])
def binding(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A binding of an empty log, in a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with ExitStack() as stack:
        log = '[log]\npath = "log.db"\n'
        if request.param == "kafka":
            log = f'[kafka]\nbrokers = ["{stack.enter_context(kafka_cluster()).bootstrap}"]\n'
        Path("bind.toml").write_text(log + '[checkpoints]\npath = "checkpoints"\n')
        yield "bind.toml"


def produce(story: dict[str, pl.DataFrame], part: int, binding: str) -> None:
    """All that happened before the first cut, between the two, or after the second."""
    for topic, contract in CONTRACTS.items():
        frame = story[topic]
        at = pl.col(frame.columns[[str(kind).startswith("Datetime") for kind in frame.dtypes].index(True)])
        begins = [at >= cut for cut in CUTS[part - 1 : part] if part]
        ends = [at < cut for cut in CUTS[part : part + 1]]
        frame.filter(*begins, *ends).write_parquet(f"{topic}.{part}.parquet")
        options = ["--contract", contract.partition(".")[0], "--partitions", str(PARTITIONS), "--bind", binding]
        assert run(["produce", f"{topic}.{part}.parquet", topic, *options]) == 0


def worked_on(version: int, log: Log) -> dict[TopicPartition, list[tuple[int, int, int]]]:
    """Where each step of a version began in a source's partition, where it ended, and how many rows it took."""
    names, found = Names("retail", version), {}
    for number in range(log.topics()[names.tasks].partitions):
        place = TopicPartition(names.tasks, number)
        for _, entry in journal_entries(log, place, log.start_offset(place), log.end_offset(place)):
            for one in entry.ranges:
                if one.topic in CONTRACTS and one.units:
                    found.setdefault(TopicPartition(one.topic, one.partition), []).append(
                        (one.first, one.last, one.units)
                    )
    return found


def test_version_2_is_compared_with_the_live_version_1_and_takes_over_without_gap_or_overlap(
    story: dict[str, pl.DataFrame], binding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = ("--bind", binding)
    produce(story, 0, binding)
    assert run(["run", ONE, "--until-end", *bound]) == 0
    assert run(["run", TWO, "--shadow", "--until-end", *bound]) == 0
    # What would change is one column of one sink, for the same rows; and nothing else.
    changed = answer_of(capsys, "diff", ONE, TWO, "--topic", "decisions", "--key", "order_id", *bound, code=1)
    assert changed["same"] == changed["missing"] == changed["extra"] == 0 < changed["mismatch"] == changed["rows_a"]
    assert {name for name, one in changed["columns"].items() if one["verdict"] != "same"} == {"reason"}
    assert answer_of(capsys, "diff", ONE, TWO, "--topic", "refund_alerts", *bound)["equal"]
    beside = answer_of(capsys, "diff", "retail.customers", "retail.customers.v2", *bound)
    assert beside["same"] > 500

    produce(story, 1, binding)
    assert run(["run", ONE, "--until-end", *bound]) == 0
    assert run(["drain", ONE, "--reason", "version 2", "--wait", "0s", *bound]) == 0
    over = answer_of(capsys, "upgrade", TWO, *bound)
    assert (over["from_version"], over["state"]) == (1, "shadow")
    produce(story, 2, binding)
    assert run(["run", TWO, "--until-end", "--close", *bound]) == 0
    assert run(["verify", TWO, *bound]) == 0
    place = workspace_of(Path(binding))
    with place.log() as log:
        cut = {TopicPartition(one["topic"], one["partition"]): one["at"] for one in over["offsets"]}
        require_each_offset_once(log, cut, story)
        require_each_row_once(log, place.registry())


def require_each_offset_once(log: Log, cut: dict[TopicPartition, int], story: dict[str, pl.DataFrame]) -> None:
    """Version 1 worked on all below the cut, version 2 on all from there on."""
    first, second = worked_on(1, log), worked_on(2, log)
    rows = dict.fromkeys(CONTRACTS, 0)
    for place, at in cut.items():
        steps = first[place] + second[place]
        assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(steps)), (place, steps)
        assert first[place][-1][1] <= at <= second[place][0][0], (place, at)
        rows[place.topic] += sum(units for _, _, units in steps)
    assert rows == {topic: story[topic].height for topic in CONTRACTS}


def require_each_row_once(log: Log, registry: Registry) -> None:
    """Sinks that did not change show no seam; decisions are those of version 1, and then those of version 2."""
    old, new = calm(retail, log, registry), calm(retail_2, log, registry)
    plan = plan_topology(retail, registry)
    sinks = {sink.name: rows_of(log, registry, sink) for sink in plan.sinks}
    same = below_ordered(plan) - {"decisions"}
    # A month is too short for these.
    assert {name for name in same if not sinks[name].height} <= {"doubts", "drift", "label_drift", "stock_alerts"}
    for name in sorted(same):
        both = compare(old[name], sinks[name])
        assert both.equal, (name, both)
    found = sinks["decisions"]
    by_two = pl.col("reason").fill_null("").str.contains(OF_WEEK)
    one, two = found.filter(~by_two), found.filter(by_two)
    assert one.height > 200 and two.height > 200
    assert found["order_id"].is_unique().all() and found.height == old["decisions"].height
    for rows, calmly in ((one, old), (two, new)):
        both = compare(rows, calmly["decisions"].join(rows, on="order_id", how="semi"))
        assert both.equal, both
    # Version 1 read all orders before the second cut; the last ones waited for rates, and version 2 decided them.
    assert one["ordered_at"].max() <= two["ordered_at"].min() <= CUTS[1]  # type: ignore[operator]
    assert CUTS[1] - two["ordered_at"].min() < timedelta(days=4)  # type: ignore[operator]
