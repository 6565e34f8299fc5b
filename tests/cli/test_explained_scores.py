"""`explain` says why the models behind a decision said what they said, as they stood when they were asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from command_line import CommandLine

from connectors.embedded import EmbeddedLog
from streamproc.ports import TopicPartition
from streamproc.runtime.workspace import workspace_of

ROWS = 400
CONTRACTS = {
    "paid": """{"type": "record", "name": "paid", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "amount", "type": ["null", "double"]},
        {"name": "hour", "type": "double"}, {"name": "country", "type": "string"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
    "back": """{"type": "record", "name": "back", "sp:version": 1, "fields": [
        {"name": "id", "type": "string", "sp:role": "key"}, {"name": "fraud", "type": "boolean"},
        {"name": "at", "type": "long", "sp:role": "event_time"}]}""",
}
TOPOLOGY = """
from river import linear_model, naive_bayes, preprocessing, tree
paid = sp.source("paid", contract="paid") {order}
back = sp.source("back", contract="back") {order}
scored = paid
for name, model, inputs, every in (
    ("line", preprocessing.StandardScaler() | linear_model.LogisticRegression(), ("amount", "hour"), {every}),
    ("tree", tree.HoeffdingTreeClassifier(grace_period=30, delta=0.1, tau=0.3), ("amount", "country"), 1),
    ("bayes", preprocessing.StandardScaler() | naive_bayes.GaussianNB(), ("amount", "hour"), 1),
):
    scored = scored | sp.learn(model, inputs=inputs, into=name, labels=back, on="id", label="fraud", horizon="1h",
                               every=every, name=f"of_{{name}}")
decided = scored | sp.fallback("score", full="line", reduced="tree", prior=0.05) | sp.decide(
    sp.when(pl.col("score") > 0.5, then="block", name="high"), otherwise="allow",
    log=("id", "line", "tree", "bayes", "amount", "hour", "score_rung"))
risk = sp.Topology("risk", sinks={{"decisions": decided, "log": decided.side("log")}})
"""


def written(project: Path, command: CommandLine, partitions: int) -> None:
    dice = np.random.default_rng(8)
    paid, back = ["id,amount,hour,country,at"], ["id,fraud,at"]
    for n in range(ROWS):
        amount, hour = float(dice.random()), float(dice.integers(0, 24))
        told = "" if dice.random() < 0.1 else amount
        paid.append(f"p{n},{told},{hour},{'DE' if n % 3 else 'FR'},{n * 1_000_000}")
        back.append(f"p{n},{'true' if amount + 0.01 * hour + dice.random() > 1.2 else 'false'},{n * 1_000_000 + 5}")
    for topic, lines in (("paid", paid), ("back", back)):
        (project / "schemas_avro" / f"{topic}.v1.avsc").write_text(CONTRACTS[topic])
        (project / f"{topic}.csv").write_text("\n".join(lines) + "\n")
        command.fine("produce", f"{topic}.csv", topic, "--contract", topic, "--partitions", partitions)


def lines_of(command: CommandLine) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in command.fine("subscribe", "risk.log").out.splitlines()]


ORDERED = "| sp.key_by('id') | sp.ordered('id')"


@pytest.mark.parametrize(("order", "every", "partitions"), [("", 1, 2), (ORDERED, 32, 1)])
def test_models_are_asked_again_as_they_stood_and_say_the_same(
    order: str, every: int, partitions: int, project: Path, command: CommandLine, topology: Callable[[str, str], str],
) -> None:  # fmt: skip
    """In whichever order rows and labels come, row by row or in blocks: the score is the logged one, bit for bit."""
    written(project, command, partitions)
    name = topology("risk.py", TOPOLOGY.format(order=order, every=every))
    command.fine("run", name, "--until-end", "--close")
    lines = lines_of(command)
    assert len(lines) == ROWS
    ways: dict[str, set[str]] = {}
    for line in [*lines[5:350:60], *lines[-2:]]:
        told = command.fine("explain", name, line["decision_id"], "--json").json["models"]
        assert [one["learner"] for one in told] == ["of_line", "of_tree", "of_bayes"]
        for one, column in zip(told, ("line", "tree", "bayes"), strict=True):
            assert one["score"] == line[column] and column in one["read_as"], (line, one)
            assert one["told"].get("amount") == line["amount"]
            found = one["contributions"]
            ways.setdefault(column, set()).add(found["way"])
            total = math.fsum((found["base"], *(term["adds"] for term in found["terms"])))
            assert total == pytest.approx(found["total"], abs=1e-9)
            said = math.log(line[column] / (1.0 - line[column])) if column == "line" else line[column]
            assert total == pytest.approx(said, abs=1e-9)
    assert ways == {"line": {"linear"}, "tree": {"tree"}, "bayes": {"permutation"}}


RACE = """
from river import linear_model, preprocessing, tree
models = sp.race({"line": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
                  "tree": tree.HoeffdingTreeClassifier(grace_period=30, delta=0.1, tau=0.3)},
                 error=0.9, reign=20, memory=20, champion="who", costs_us={"line": 1, "tree": 1}, budget_us=5,
                 measure=7)
scored = sp.source("paid", contract="paid") | sp.learn(
    models, inputs=("amount", "country"), into="said", calibrated="chance", importance=sp.importance(share=0.5),
    labels=sp.source("back", contract="back"), on="id", label="fraud", horizon="1h", segment="country", name="race")
decided = scored | sp.decide(sp.when(pl.col("chance") > 0.5, then="block"), otherwise="allow", log=("said", "who"))
risk = sp.Topology("risk", sinks={"decisions": decided, "log": decided.side("log")})
"""


def test_of_a_race_the_model_that_spoke_is_asked(
    project: Path, command: CommandLine, topology: Callable[[str, str], str]
) -> None:
    written(project, command, 1)
    name = topology("risk.py", RACE)
    command.fine("run", name, "--until-end", "--close")
    spoke = set()
    for line in lines_of(command)[30::61]:
        (told,) = command.fine("explain", name, line["decision_id"], "--json").json["models"]
        assert (told["model"], told["score"], told["calibrated"]) == (line["who"], line["said"], line["chance"])
        assert told["read_as"] == ["chance", "said"] and told["contributions"]["total"] is not None
        spoke.add(told["model"])
    assert spoke == {"line", "tree"}


def test_the_answer_reads_as_text(project: Path, command: CommandLine, topology: Callable[[str, str], str]) -> None:
    written(project, command, 1)
    name = topology("risk.py", TOPOLOGY.format(order="", every=1))
    command.fine("run", name, "--until-end", "--close")
    line = lines_of(command)[300]
    text = command.fine("explain", name, line["decision_id"]).out
    shown = text[text.index("of_line") :]
    golden = Path(__file__).parent / "data" / "explained_scores.txt"
    assert shown == golden.read_text()
    # Another model gives other scores: that is said, and what the rules made of the recorded ones all the same.
    (project / "risk.py").write_text((project / "risk.py").read_text().replace("grace_period=30", "grace_period=90"))
    other = command("explain", name, line["decision_id"])
    assert other.code == 1 and "made again: equal" in other.out
    assert other.out.count("said cannot be told: step ") == 3
    # Where what the learners read is gone, so is the answer; the line alone still tells of the decision.
    topology("risk.py", TOPOLOGY.format(order="", every=1))
    assert command.fine("explain", name, line["decision_id"]).out == text
    with EmbeddedLog(workspace_of(None).log_path) as log:
        for topic in log.topics():
            if topic == "paid" or ".edge." in topic:
                log.delete_records(TopicPartition(topic, 0), log.end_offset(TopicPartition(topic, 0)))
    gone = command.fine("explain", name, line["decision_id"]).out
    assert "made again: equal" in gone and gone.count("said cannot be told: step ") == 3
    assert "which it is about" in text and "which it is about" not in gone
