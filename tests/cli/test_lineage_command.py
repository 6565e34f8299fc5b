"""`lineage` says which source columns have a part in what a topology writes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from command_line import CommandLine


def test_all_columns_of_all_sinks_are_told_with_their_sources(project: Path, command: CommandLine) -> None:
    out = command.fine("lineage", "card_risk.py").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    at = lines.index("card_risk.daily")
    assert lines[at + 1] == "column version from how through"
    spend = next(n for n, line in enumerate(lines) if line.startswith("spend "))
    assert lines[spend].endswith(" payments.amount AGGREGATION tumbling")
    assert lines[spend + 1] == "payments.card_id GROUP_BY tumbling"
    assert "payments.amount FILTER require, large" in lines[lines.index("card_risk.large") :]
    assert not (project / ".streamproc").exists(), "it needs no log"


def test_one_column_is_told_by_the_name_of_its_sink_or_topic(project: Path, command: CommandLine) -> None:
    told = command.fine("lineage", "card_risk.py", "--column", "card_risk.daily.spend", "--json").json
    assert told == command.fine("lineage", "card_risk.py", "--column", "daily.spend", "--json").json
    (sink,) = told["sinks"].values()
    assert list(sink["columns"]) == ["spend"]
    assert sink["columns"]["spend"]["from"] == [
        {"topic": "payments", "column": "amount", "direct": True, "how": {"AGGREGATION": ["tumbling"]}},
        {"topic": "payments", "column": "card_id", "direct": False, "how": {"GROUP_BY": ["tumbling"]}},
        {"topic": "payments", "column": "paid_at", "direct": False, "how": {"WINDOW": ["tumbling"]}},
    ]
    assert {part["column"] for part in sink["rows"]} == {"amount", "card_id", "paid_at"}
    whole = command.fine("lineage", "card_risk.py", "--json").json
    assert whole["sinks"]["daily"]["columns"]["spend"] == sink["columns"]["spend"]


def test_of_a_source_column_it_is_told_what_it_has_a_part_in(project: Path, command: CommandLine) -> None:
    out = command.fine("lineage", "card_risk.py", "--column", "payments.amount").out
    assert "card_risk.daily.spend" in out and "card_risk.large.amount" in out
    assert "card_risk.large.payment_id" not in out and "card_risk.large (which rows)" in out
    told = command.fine("lineage", "card_risk.py", "--column", "payments.payment_id", "--json").json
    assert told["part_in"] == [
        {"topic": "card_risk.large", "column": "payment_id", "direct": True, "how": {"IDENTITY": []}}
    ]
    (project / "less.py").write_text(
        (project / "card_risk.py").read_text().replace('sp.select("payment_id", "amount")', 'sp.select("amount")')
    )
    unread = command.fine("lineage", "less.py", "--column", "payments.payment_id").out
    assert unread == "payments.payment_id has no part in any of 2 sinks\n"


def test_an_event_of_openlineage_goes_to_a_file_or_to_stdout(project: Path, command: CommandLine) -> None:
    event = command.fine("lineage", "card_risk.py", "--openlineage", "-").json
    assert event["job"]["name"] == "card_risk" and len(event["inputs"]) == 1
    assert event["inputs"][0]["name"] == f"{project.as_posix()}/.streamproc/log.db/payments"
    assert command.fine("lineage", "card_risk.py", "--openlineage", "event.json").out == ""
    written = orjson.loads((project / "event.json").read_bytes())
    assert {**written, "eventTime": ""} == {**event, "eventTime": ""}
    (project / "kafka.toml").write_text('[kafka]\nbrokers = ["localhost:9092"]\n')
    on_kafka = command.fine("lineage", "card_risk.py", "--openlineage", "-", "--bind", "kafka.toml").json
    assert (on_kafka["inputs"][0]["namespace"], on_kafka["inputs"][0]["name"]) == ("kafka://localhost:9092", "payments")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lineage card_risk.py --column daily.spent", "'daily' has no column 'spent'; did you mean 'spend'?"),
        ("lineage card_risk.py --column dayly.spend", "'dayly.spend' names no column of a topic"),
        ("lineage card_risk.py --column spend", "did you mean 'daily.spend'?"),
        ("lineage card_risk.py --column daily.spend --openlineage -", "leave out --column and --json"),
        ("lineage card_risk.py --openlineage - --json", "leave out --column and --json"),
        ("lineage card_risk.py --openlineage no/such/folder.json", "cannot be written"),
    ],
)
def test_a_mistake_about_lineage_is_named(project: Path, command: CommandLine, line: str, said: str) -> None:
    answer = command(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert said in " ".join(answer.err.split())
