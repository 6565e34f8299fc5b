"""k-anonymity before and after linking, against a count by hand over all persons."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl
import pytest
from command_line import CommandLine

Row = dict[str, object]
AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
WHO = '{"name": "who", "type": "long", "sp:role": "key", "sp:pii": "pseudonym"}'
BUYER = f"""{{"type": "record", "name": "buyer", "sp:version": 1, "fields": [{WHO},
    {{"name": "zip", "type": ["null", "string"], "default": null, "sp:pii": "quasi"}}, {AT}]}}"""
CALLER = f"""{{"type": "record", "name": "caller", "sp:version": 1, "fields": [{WHO},
    {{"name": "born", "type": "int", "sp:pii": "quasi"}}, {{"name": "topic", "type": "string"}}, {AT}]}}"""
LINKED = """
buyers = sp.source("buyers", contract="buyer", lateness="1h") | sp.key_by("who") | sp.ordered()
callers = sp.source("callers", contract="caller", lateness="1h") | sp.key_by("who") | sp.ordered()
linked = callers | sp.as_of(buyers, columns=("zip",), name="home")
both = sp.Topology("both", sinks={
    "linked": linked | sp.with_columns(decade=pl.col("born") // 10) | sp.select("who", "zip", "decade", "topic", "at"),
    "topics": callers | sp.select("who", "topic", "at")})
"""


def k_by_hand(rows: Iterable[Row], columns: tuple[str, ...], by: str, least: int) -> tuple[int, int, int, int]:
    """Persons, groups, the smallest group, persons in small groups: every pair of rows could be looked at."""
    groups: dict[tuple[object, ...], set[object]] = defaultdict(set)
    for row in rows:
        groups[tuple(row[name] for name in columns)].add(row[by])
    sizes = [len(persons) for persons in groups.values()]
    return sum(sizes), len(sizes), min(sizes), sum(size for size in sizes if size < least)


@pytest.fixture
def linked(
    project: Path, topology: Callable[[str, str], str], command: CommandLine, request: pytest.FixtureRequest
) -> dict[str, list[Row]]:
    """Runs the topology over random persons; gives the rows of each topic."""
    chance, begin = random.Random(request.node.name), datetime(2026, 1, 1, tzinfo=UTC)
    buyers: list[Row] = [
        {"who": chance.randrange(150), "zip": chance.choice(["10", "20", "30", None]),
         "at": begin + timedelta(minutes=n)}
        for n in range(300)
    ]  # fmt: skip
    callers: list[Row] = [
        {"who": chance.randrange(150), "born": chance.randrange(1950, 1990), "topic": "bill",
         "at": begin + timedelta(minutes=n + 400)}
        for n in range(300)
    ]  # fmt: skip
    for name, text, rows in (("buyer", BUYER, buyers), ("caller", CALLER, callers)):
        (project / "schemas_avro" / f"{name}.v1.avsc").write_text(text)
        pl.DataFrame(rows).write_parquet(project / f"{name}.parquet")
        command.fine("produce", f"{name}.parquet", f"{name}s", "--contract", name, "--partitions", 2)
    command.fine("run", topology("both.py", LINKED), "--until-end", "--close")
    text = command.fine("subscribe", "both.linked").out
    return {"buyers": buyers, "callers": callers, "both.linked": [orjson.loads(line) for line in text.splitlines()]}


def test_k_is_that_of_a_count_by_hand_before_and_after_linking(
    linked: dict[str, list[Row]], command: CommandLine
) -> None:
    told = command.fine("anonymity", "both.py", "--json", "--least", 7).json["topics"]
    found = {one["topic"]: one for one in told}
    assert list(found) == ["buyers", "callers", "both.linked"], "nothing of a person is in the other sink"
    for topic, columns in (("buyers", ("zip",)), ("callers", ("born",)), ("both.linked", ("zip", "decade"))):
        one = found[topic]
        assert (tuple(one["columns"]), one["by"], one["rows"]) == (columns, ["who"], len(linked[topic]))
        wanted = k_by_hand(linked[topic], columns, "who", 7)
        assert (one["individuals"], one["groups"], one["k"], one["exposed"]) == wanted
    # What each source hides well enough, the linked rows hide less: that is what linking costs.
    assert found["both.linked"]["k"] < found["buyers"]["k"]


def test_a_group_that_is_too_small_can_end_with_1(linked: dict[str, list[Row]], command: CommandLine) -> None:
    k = k_by_hand(linked["both.linked"], ("zip", "decade"), "who", 1)[2]
    assert command("anonymity", "both.py", "--require", "--least", k).code == 0
    answer = command("anonymity", "both.py", "--require", "--least", k + 1)
    assert answer.code == 1 and "both.linked" in answer.out


def test_a_topology_without_such_columns_says_so(ran: Path, command: CommandLine) -> None:
    assert "no source of 'card_risk' has a column of class \"quasi\"" in command.fine("anonymity", "card_risk.py").out
