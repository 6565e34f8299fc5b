"""How long a decision took stands beside its line, never in it: a replay writes the same bytes at other moments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
from command_line import CommandLine

from connectors.embedded import EmbeddedLog
from streamproc.runtime.reading import read_blocks
from streamproc.runtime.workspace import workspace_of

TOPOLOGY = """
import polars as pl
import streamproc as sp

payments = sp.source("payments", contract="payment", lateness="1m")
decided = payments | sp.where(pl.col("amount") > 1) | sp.key_by("card_id") | sp.decide(
    sp.when(pl.col("amount") > 500, then="review", name="large"), otherwise="pay", log=("payment_id",))
decisions = sp.Topology("decisions", sinks={"decided": decided, "decision_log": decided.side("log")})
"""


def lines_of(command: CommandLine) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in command.fine("subscribe", "decisions.decision_log").out.splitlines()]


def records(topic: str) -> list[tuple[bytes | None, int]]:
    """Value and the log's own time of each record."""
    with EmbeddedLog(workspace_of(None).log_path) as log:
        return [
            (block.value(row), int(block.timestamps[row]))
            for block in read_blocks(log, topic)
            for row in range(len(block))
        ]


def test_a_replay_gives_the_same_bytes_and_the_same_chain_at_other_moments(
    project: Path, command: CommandLine
) -> None:
    (project / "decisions.py").write_text(TOPOLOGY)
    command.fine("produce", "payments.csv", "payments", "--contract", "payment", "--partitions", 2)
    command.fine("run", "decisions.py", "--until-end")
    told = command.fine("explain", "decisions.py", "--json").json
    took = told["latency"]["decisions.decision_log"]
    assert took["decisions"] == told["decisions"] > 150
    assert 0 < took["p50_us"] <= took["p99_us"] <= took["most_us"] < 600_000_000
    command.fine("replay", "decisions.py")  # as recorded: every digest agrees
    command.fine("replay", "decisions.py", "--by-event-time", "--id", "again")
    live, again = records("decisions.decision_log"), records("decisions.decision_log.v1.again")
    assert sorted(str(value) for value, _ in live) == sorted(str(value) for value, _ in again)
    assert max(at for _, at in live) < min(at for _, at in again)


def test_a_decision_names_its_record_and_how_long_it_took(project: Path, command: CommandLine) -> None:
    (project / "decisions.py").write_text(TOPOLOGY)
    command.fine("produce", "payments.csv", "payments", "--contract", "payment", "--partitions", 2)
    command.fine("run", "decisions.py", "--until-end")
    rows = lines_of(command)
    stamps = [at for _, at in records("decisions.decision_log")]
    came = {}
    with EmbeddedLog(workspace_of(None).log_path) as log:
        for block in read_blocks(log, "payments"):
            for row in range(len(block)):
                came[block.partition, int(block.offsets[row])] = (int(block.timestamps[row]), block.value(row))
    for line, written in list(zip(rows, stamps, strict=True))[::29]:
        told = command.fine("explain", "decisions.py", line["decision_id"], "--json").json
        record = told["record"]
        assert record["topic"] == "payments"
        moment, value = came[record["partition"], record["offset"]]
        assert value is not None and line["payment_id"].encode() in value
        assert told["latency_us"] == written - moment
    text = command.fine("explain", "decisions.py", rows[0]["decision_id"]).out
    assert re.search(r"^written .* after payments-\d@\d+, which it is about$", text, re.M)


def test_a_decision_about_a_window_has_no_record_of_its_own(project: Path, command: CommandLine) -> None:
    (project / "decisions.py").write_text(TOPOLOGY.replace(
        """sp.key_by("card_id") | sp.decide(
    sp.when(pl.col("amount")""", """sp.key_by("card_id") | sp.tumbling("1h", amount=sp.total("amount")) | sp.decide(
    sp.when(pl.col("amount")""").replace('"payment_id"', '"card_id"'))
    command.fine("produce", "payments.csv", "payments", "--contract", "payment")
    command.fine("run", "decisions.py", "--until-end", "--close")
    line = lines_of(command)[0]
    told = command.fine("explain", "decisions.py", line["decision_id"], "--json").json
    assert told["record"] is None and told["latency_us"] is None
    assert command.fine("explain", "decisions.py", "--json").json["latency"] == {"decisions.decision_log": {}}
