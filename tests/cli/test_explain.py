"""`explain` makes decisions again from their log."""

from __future__ import annotations

from pathlib import Path

import orjson
from command_line import CommandLine

from connectors.embedded import EmbeddedLog
from streamproc.ports import block_of
from streamproc.runtime.reading import read_blocks
from streamproc.runtime.workspace import workspace_of

TOPOLOGY = """
import polars as pl
import streamproc as sp

payments = sp.source("payments", contract="payment", lateness="1m")
decided = payments | sp.decide(
    sp.when(pl.col("amount") > 500, then="review", name="large"), otherwise="pay", log=("payment_id",))
decisions = sp.Topology("decisions", sinks={"decided": decided, "decision_log": decided.side("log")})
"""


def test_a_decision_is_made_again_with_reason_and_nearest_other_one(project: Path, command: CommandLine) -> None:
    (project / "decisions.py").write_text(TOPOLOGY)
    command.fine("produce", "payments.csv", "payments", "--contract", "payment")
    command.fine("run", "decisions.py", "--until-end")
    lines = command.fine("subscribe", "decisions.decision_log").out.splitlines()
    assert len(lines) == 200
    large = next(line for line in map(orjson.loads, lines) if line["decision"] == "review")
    told = command.fine("explain", "decisions.py", large["decision_id"], "--json").json
    assert (told["decision"], told["rule"]) == ("review", "large")
    assert told["rules"][0]["held"] and told["inputs"]["payment_id"] == large["payment_id"]
    assert told["counterfactual"]["decision"] == "pay" and 499 < told["counterfactual"]["value"] <= 500
    said = command.fine("explain", "decisions.py", large["decision_id"]).out
    assert "nearest other decision: pay, were amount just below 500\n" in said
    small = next(line for line in map(orjson.loads, lines) if line["decision"] == "pay")
    said = command.fine("explain", "decisions.py", small["decision_id"]).out
    assert "nearest other decision: review, were amount just above 500\n" in said
    every = command.fine("explain", "decisions.py").out.splitlines()
    assert every[0] == "sound: 200 decisions made again, equal to the log" and len(every) == 2
    assert command("explain", "decisions.py", 12345).code == 2
    (project / "decisions.py").write_text(TOPOLOGY.replace("> 500", "> 600"))
    other = command("explain", "decisions.py", large["decision_id"])
    assert other.code == 1 and "version" in other.err
    every = command("explain", "decisions.py")
    assert every.code == 1 and "version" in every.err


def test_a_line_that_was_changed_in_the_log_is_found_at_its_offset(project: Path, command: CommandLine) -> None:
    (project / "decisions.py").write_text(TOPOLOGY)
    command.fine("produce", "payments.csv", "payments", "--contract", "payment")
    command.fine("run", "decisions.py", "--until-end")
    topic = "decisions.decision_log"
    with EmbeddedLog(workspace_of(None).log_path) as log:
        values = [block.value(row) for block in read_blocks(log, topic) for row in range(len(block))]
        settings = log.topics()[topic]
    assert len(values) == 200
    hash_of_117 = values[117]
    assert hash_of_117 is not None
    values[117] = hash_of_117[:-1] + bytes([hash_of_117[-1] ^ 1])
    with EmbeddedLog(workspace_of(None).log_path) as log:
        log.delete_topic(topic)
        log.create_topic(topic, settings)
        transaction = log.producer("meddler").begin()
        transaction.append(block_of(topic, 0, values))
        transaction.commit()
    changed = command("explain", "decisions.py")
    assert changed.code == 1 and f"was changed at {topic}-0@117, decision" in changed.err
