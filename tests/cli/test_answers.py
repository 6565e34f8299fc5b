"""What commands answer: fine is 0, a finding 1; tables in a pipe are plain; --json is one JSON value."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson
import polars as pl
import pytest
from command_line import CommandLine


def test_check_says_what_it_planned_and_which_contracts_to_commit(project: Path, command: CommandLine) -> None:
    answer = command.fine("check", "card_risk.py")
    assert answer.out.startswith("card_risk version 1 is sound: ")
    assert "commit this as schemas_avro/card_risk_daily.v1.avsc" in answer.out
    told = command.fine("check", "card_risk.py", "--json").json
    assert told["ok"] and told["derived_contracts"] == ["card_risk_daily.v1", "card_risk_large.v1"]


def test_describe_shows_each_step_with_its_columns(project: Path, command: CommandLine) -> None:
    told = command.fine("describe", "card_risk.py", "--json").json
    assert [source["topic"] for source in told["sources"]] == ["payments"]
    assert {sink["topic"] for sink in told["sinks"]} == {"card_risk.large", "card_risk.daily"}
    assert "window_start: Datetime(us, UTC)" in command.fine("describe", "card_risk.py").out


def test_produce_names_each_row_that_it_cannot_use_and_exits_1(project: Path, command: CommandLine) -> None:
    with (project / "payments.csv").open("a") as file:
        file.write("px,c1,abc,2026-11-01T00:00:00Z\npy,c1\n")
    answer = command("produce", "payments.csv", "payments", "--contract", "payment", "--bad-rows", "bad.csv")
    assert answer.code == 1
    assert answer.out == "200 rows written to 'payments' under payment.v1, 2 could not be used\n"
    assert "line 202: column 'amount': 'abc' is not a value" in answer.err
    assert pl.read_csv(project / "bad.csv")["raw"].to_list() == ["px,c1,abc,2026-11-01T00:00:00Z", "py,c1"]
    told = command("produce", "payments.csv", "payments", "--contract", "payment", "--json")
    assert (told.code, told.json["rows"], told.json["bad"]) == (1, 200, 2)
    assert command.fine("topics", "--json").json == [
        {"topic": "payments", "partitions": 4, "records": 400, "kept": "for ever"}
    ]


@pytest.mark.parametrize("name", ["payments.parquet", "payments.jsonl", "payments.avro"])
def test_what_replay_writes_to_a_file_produce_reads(filled: Path, command: CommandLine, name: str) -> None:
    (filled / "forward.py").write_text(
        'import streamproc as sp\nt = sp.Topology("copy", sinks={"copied": sp.source("payments", contract="payment", '
        'lateness="1m") | sp.select("payment_id", "card_id", "amount", "paid_at")})\n'
    )
    command.fine("replay", "forward.py", "--by-event-time", "--out", name)
    command.fine("produce", name, "again", "--contract", "payment")
    assert command.fine("diff", "payments", "again").out == "equal: 200 rows\n"
    assert command.fine("diff", name, "again").out == "equal: 200 rows\n"


def test_run_tells_what_became_of_each_row(filled: Path, command: CommandLine) -> None:
    told = command.fine("run", "card_risk.py", "--until-end", "--json").json
    assert told["rows"] == 200
    assert told["sources"]["payments"]["dead_lettered"] == 20
    for fates in told["inputs"].values():
        assert fates["in"] == sum(count for fate, count in fates.items() if fate != "in")
    again = command.fine("run", "card_risk.py", "--until-end")
    assert "card_risk version 1: nothing new to read" in again.out
    lines = again.out.splitlines()
    assert lines[3].split() == ["input", "in", "emitted", "held", "filtered", "late", "dead_lettered"]
    assert lines[4].split()[:2] == ["payments", "200"]
    assert not set(again.out) & set("┃│━─")


def test_rows_that_a_later_step_found_late_are_told_too(ran: Path, command: CommandLine) -> None:
    command.fine("produce", "payments.csv", "payments", "--contract", "payment")
    told = command.fine("run", "card_risk.py", "--until-end", "--json").json
    assert sum(fates["late"] for fates in told["inputs"].values()) == 180
    late = command.fine("dlq", "list", "card_risk.py", "--late", "--json").json
    assert sum(row["rows"] for row in late) == 180


def test_a_replay_by_event_time_equals_a_closed_run(ran: Path, command: CommandLine) -> None:
    answer = command.fine("replay", "card_risk.py", "--by-event-time", "--must-equal", "--out", "out", "--json").json
    assert answer["equal"] is True
    assert answer["sinks"]["large"] == {"rows": 27, "live_rows": 27, "equal": True}
    assert command.fine("diff", "out/daily.parquet", "card_risk.daily").out == "equal: 5 rows\n"
    assert "every digest agrees" in command.fine("replay", "card_risk.py").out
    assert command.fine("replay", "card_risk.py", "--json").json["equal"] is True


def test_a_replay_that_differs_from_the_run_is_a_finding(filled: Path, command: CommandLine) -> None:
    command.fine("run", "card_risk.py", "--until-end")
    answer = command("replay", "card_risk.py", "--by-event-time", "--must-equal")
    assert answer.code == 1
    assert "compare it with --no-close" in answer.err
    command.fine("replay", "card_risk.py", "--by-event-time", "--must-equal", "--no-close")


def test_a_part_of_history_can_be_replayed(ran: Path, command: CommandLine) -> None:
    everything = command.fine("replay", "card_risk.py", "--by-event-time", "--since", "2000-01-01", "--json").json
    nothing = command.fine("replay", "card_risk.py", "--by-event-time", "--until", "2000-01-01", "--json").json
    assert (everything["rows"], nothing["rows"]) == (200, 0)
    assert everything["equal"] is None


def test_diff_tells_changed_rows_from_missing_ones(project: Path, command: CommandLine) -> None:
    pl.DataFrame({"id": [1, 2, 3], "v": [1.0, 2.0, 3.0]}).write_parquet(project / "a.parquet")
    pl.DataFrame({"id": [1, 2, 4], "v": [1.0, 2.5, 3.0]}).write_parquet(project / "b.parquet")
    whole = command("diff", "a.parquet", "b.parquet")
    assert whole.code == 1
    assert whole.out.startswith("1 rows are the same, 2 only in a.parquet, 2 only in b.parquet")
    told = command("diff", "a.parquet", "b.parquet", "--key", "id", "--json")
    assert told.code == 1
    assert {name: told.json[name] for name in ("same", "changed", "only_a", "only_b")} == {
        "same": 1, "changed": 1, "only_a": 1, "only_b": 1,
    }  # fmt: skip


def test_subscribe_reads_what_no_committed_contract_promises(ran: Path, command: CommandLine) -> None:
    rows = [orjson.loads(line) for line in command.fine("subscribe", "card_risk.large").out.splitlines()]
    assert len(rows) == 27
    assert set(rows[0]) == {"_partition", "_offset", "payment_id", "amount"}


def test_a_subscriber_goes_on_where_its_group_was(filled: Path, command: CommandLine) -> None:
    first = command.fine("subscribe", "payments", "--group", "g", "--limit", 150).out.splitlines()
    rest = command.fine("subscribe", "payments", "--group", "g").out.splitlines()
    assert sorted(first + rest) == sorted(command.fine("subscribe", "payments").out.splitlines())
    assert command.fine("subscribe", "payments", "--group", "g").out == ""
    assert command.fine("subscribe", "payments", "--from", "latest").out == ""
    assert len(command.fine("subscribe", "payments", "--from", 2, "--until", 3).out.splitlines()) == 2
    assert len(command.fine("subscribe", "payments", "--from", "2000-01-01").out.splitlines()) == 200


def test_dead_letters_are_counted_shown_and_sent_again_once(ran: Path, command: CommandLine) -> None:
    assert command.fine("dlq", "list", "card_risk.py").out.splitlines()[1].split() == [
        "payments", "require", "amount_above_zero", "20",
    ]  # fmt: skip
    assert '"amount":-1.0' in command.fine("dlq", "show", "card_risk.py", "--limit", 1).out
    assert command.fine("dlq", "show", "card_risk.py", "--reason", "no").out == "no dead letters with the reason 'no'\n"
    assert command.fine("dlq", "replay", "card_risk.py", "--dry-run", "--json").json["sent"] == {"payments": 20}
    again = command.fine("dlq", "replay", "card_risk.py", "--reason", "amount_above_zero", "--json").json
    assert again["sent"] == {"payments": 20}
    for arguments in ([], ["--reason", "amount_above_zero"]):
        assert command.fine("dlq", "replay", "card_risk.py", *arguments, "--json").json["sent"] == {}


def test_a_fixed_rule_under_a_new_version_takes_what_is_sent_again(ran: Path, command: CommandLine) -> None:
    text = (ran / "card_risk.py").read_text()
    (ran / "card_risk.py").write_text(text.replace("> 0)", "> -2)").replace("version=1", "version=2"))
    told = command.fine("run", "card_risk.py", "--from", "earliest", "--until-end", "--json").json
    assert told["version"] == 2
    assert told["sources"]["payments"]["dead_lettered"] == 0


def test_verify_finds_a_changed_block(ran: Path, command: CommandLine) -> None:
    assert command.fine("verify", "card_risk.py").out.startswith("sound: ")
    assert command.fine("verify", "--json").json == {"sound": True, "findings": []}
    with sqlite3.connect(ran / ".streamproc" / "log.db") as database:
        (number, payload) = database.execute("SELECT id, payload FROM block ORDER BY id LIMIT 1").fetchone()
        changed = bytearray(payload)
        changed[len(changed) // 2] ^= 1
        database.execute("UPDATE block SET payload = ? WHERE id = ?", (bytes(changed), number))
    database.close()
    answer = command("verify")
    assert answer.code == 1
    assert "payments-" in answer.out
    told = command("verify", "--json")
    assert (told.code, told.json["sound"]) == (1, False)


def test_verify_finds_a_log_that_is_cut_off(ran: Path, command: CommandLine) -> None:
    (ran / "cut.db").write_bytes((ran / ".streamproc" / "log.db").read_bytes()[:20_000])
    answer = command("verify", "--log", "cut.db")
    assert answer.code == 1
    assert "is damaged" in answer.out
    assert command("topics", "--log", "cut.db").code == 2


def test_contracts_are_listed_registered_and_checked(project: Path, command: CommandLine) -> None:
    answer = command("contracts", "check")
    assert answer.code == 1
    assert "it has no schema id" in answer.out
    assert command.fine("contracts", "register", "--json").json == {"payment.v1": 100_000}
    assert command.fine("contracts", "register").out == "every contract has its id already\n"
    assert command.fine("contracts", "check").out == "every contract is sound\n"
    assert command.fine("contracts", "check", "--json").json == []
    listed = {row["contract"]: row["id"] for row in command.fine("contracts", "list", "--json").json}
    assert listed["payment.v1"] == 100_000


def test_a_binding_says_where_everything_is(project: Path, command: CommandLine) -> None:
    (project / "schemas_avro").rename(project / "contracts")
    (project / "local.toml").write_text('[log]\npath = "data/my.db"\n[contracts]\nfolders = ["contracts"]\n')
    command.fine("produce", "payments.csv", "payments", "--contract", "payment", "--bind", "local.toml")
    assert (project / "data" / "my.db").exists()
    command.fine("run", "card_risk.py", "--until-end", "--bind", "local.toml")
    assert command.fine("topics", "--bind", "local.toml", "--json").json[-1]["records"] == 200


def test_why_names_the_records_behind_a_row_and_what_they_say(ran: Path, command: CommandLine) -> None:
    rows = [orjson.loads(line) for line in command.fine("subscribe", "card_risk.daily", "--limit", 1).out.splitlines()]
    answer = command.fine("why", "card_risk.py", "card_risk.daily", 0, 0, "--json").json
    assert {name: answer["row"][name] for name in ("card_id", "payments", "spend")} == {
        name: rows[0][name] for name in ("card_id", "payments", "spend")
    }
    records = [c["record"] for c in answer["contributors"]]
    assert len(records) == rows[0]["payments"]
    assert sum(record["amount"] for record in records) == rows[0]["spend"]
    assert {record["card_id"] for record in records} == {rows[0]["card_id"]}
    lineage = command.fine("lineage", "card_risk.py", "--column", "card_risk.daily.spend", "--json").json
    assert answer["versions"]["spend"] == lineage["sinks"]["daily"]["columns"]["spend"]["version"]
    told = command.fine("why", "card_risk.py", "card_risk.daily", 0, 0).out
    assert told.startswith("card_risk.daily-0@0, made by step ")
    assert "payments-" in told


def test_why_of_what_is_not_there_is_one_line(ran: Path, command: CommandLine) -> None:
    for topic, offset, said in (("payments", 0, "no sink"), ("card_risk.daily", 10_000, "card_risk.daily-0@10000")):
        answer = command("why", "card_risk.py", topic, 0, offset)
        assert answer.code == 2
        assert said in answer.err
        assert len(answer.err.strip().splitlines()) <= 2
