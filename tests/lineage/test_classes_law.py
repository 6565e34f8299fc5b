"""How sensitive the columns of a sink are, against lineage: no operator loses the class of what a column is made of.

The oracle is the lineage of the whole plan (held to by another run, and accepted column by column in
`golden/lineage.json`): a sink's column is at least as sensitive as each source column that gives it its value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import lineage_topologies
import numpy as np
import orjson
import pytest
from lineage_topologies import EVERY, FIELDS, plain
from river import linear_model

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.contracts.sensitivity import strictest
from streamproc.planning.lineage import Part, plan_lineage
from streamproc.runtime.binding import plan_topology

COLUMNS = tuple(field["name"] for field in orjson.loads(f"[{FIELDS}]"))
CLASSES = ("", "quasi", "health", "pseudonym", "direct")
ALL = "all"

# Columns that are made of sensitive ones and say nothing of them: (topology, sink) to columns, and why.
SILENT: dict[tuple[str, str], tuple[str, ...]] = {}


def silent(why: str, topology: str, **sinks: str) -> None:
    assert why
    for sink, columns in sinks.items():
        SILENT[topology, sink] = SILENT.get((topology, sink), ()) + tuple(columns.split())


silent("a flag: the row deletes its key", "one_row_at_a_time", ended="deleted")
silent("which rung of the ladder a value took: cast, default, ...", "one_row_at_a_time",
       formed="text_status kilos_status euros_status", refused="text_status")  # fmt: skip
silent("names of rules that the row breaks", "one_row_at_a_time", ruled="broken")
silent("whether there is a value, and whether it is a stand-in", "features", both="of_a_status of_b_status any_status "
       "who_status", filled="held_status zero_status told_known")  # fmt: skip
silent("figures of a model over all of its labels; the segment alone is a value of rows", "learning",
       metrics="labels delay contender n log_loss brier auc accuracy kappa_temporal mae rmse low high given_up failed",
       calibration="labels contender n log_loss brier ece bin_n bin_score bin_true", importance=ALL)  # fmt: skip
silent("what a race tells of its models, and which of them speaks", "race",
       race="labels event learner champion loss evidence wanted cost_us bytes reason", scored="champion")
silent("figures of arms over all who drew them", "learning", arms=ALL)
silent("an arm is drawn by a hash, its chance is one for all", "learning", drawn="arm arm_propensity")
silent("a threshold is set by the last hundred labels together", "learning", unsure="alone_threshold")
silent("counts of labels and alarms, and words for what asks", "learning", asked="reasons labels alarms")
silent("an arm is drawn by a hash, its chance is one for all", "decisions", routed="arm arm_propensity")
silent("a test over all rows", "decisions", ratio=ALL)
silent("raised or resolved, and how many rows", "decisions", alerts="status alert_rows", held="status alert_rows")
silent("which score was taken, and why not the best", "decisions", best="score_rung score_cause")
silent("a rule over a window of all rows: counts and shares", "watching", alerts=ALL, told=ALL)
silent("a test over all rows, and the bars of a histogram", "watching", windows=ALL, evidence=ALL, report=ALL,
       river=ALL)  # fmt: skip
silent("counts of pairs of a block", "shared_out", capped="rule held unseen compared matched")

# An entity's id is opaque: it stands for a person where records do, and for nothing more.
OPAQUE = {("shared_out", "found", name) for name in ("entity_id", "other_id")}
# What a whole definition reads gives all of its columns a class, also that which names the definition that counts.
WHOLE = {("one_row_at_a_time", "means", f"sold_{word}") for word in ("by", "sales", "support")}


def race() -> dict[str, Any]:
    """Models that learn side by side: `EVERY` has one alone."""
    a = plain("a") | sp.select("id", "v", "x", "g", "at")
    scored = a | sp.learn(
        sp.race({"one": linear_model.LogisticRegression(), "other": linear_model.Perceptron()}),
        inputs=("v",), into="risk", labels=plain("y") | sp.select("id", "b", "at"), label="b", horizon="1h", on="id",
        segment="g", every=4, report=20,
    )  # fmt: skip
    return {"scored": scored, "shadows": scored.side("shadows"), "race": scored.side("race")}


def sinks_of(topology: str) -> dict[str, Any]:
    if topology == "race":
        return race()
    return lineage_topologies.review_sinks() if topology == "reviews" else EVERY[topology]()[0]


def told(topology: str, tags: dict[str, str]) -> Iterator[tuple[str, str, str, tuple[Part, ...], dict[Any, str]]]:
    """(sink, column, its class, its lineage, class of every source column) of a topology over columns of classes."""
    avro = copy.deepcopy(dict(lineage_topologies.EVENT.avro))
    for field in avro["fields"]:  # type: ignore[attr-defined]  # JSON
        field.update({"sp:pii": tags[field["name"]]} if tags.get(field["name"]) else {})
    contract = parse_contract(orjson.dumps(avro).decode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage_topologies, "EVENT", contract)
        plan = plan_topology(sp.Topology("t", sinks=sinks_of(topology)), MemoryRegistry((contract,)))
    known: dict[Any, str] = {}
    for node in plan.sources:
        assert node.contract is not None
        known |= {(node.origin.topic, field.name): field.pii for field in node.contract.schema}  # type: ignore[union-attr]  # a source
    for sink, lineage in plan_lineage(plan).items():
        for column, parts in lineage.columns.items():
            schema = lineage.sink.contract.schema
            assert schema[column].pii == lineage.sink.type.schema[column].pii
            yield sink, column, schema[column].pii, parts, known


def speaks(topology: str, sink: str, column: str) -> bool:
    quiet = SILENT.get((topology, sink), ())
    return column not in quiet and ALL not in quiet and (topology, sink, column) not in OPAQUE


@pytest.mark.parametrize("topology", [*EVERY, "race"])
def test_each_column_that_a_class_reaches_has_it_and_no_other_column_has(topology: str) -> None:
    """One source column at a time is sensitive."""
    reached = 0
    for column in COLUMNS:
        for sink, made, pii, parts, known in told(topology, {column: "health"}):
            values = strictest(known[part.topic, part.column] for part in parts if part.direct)
            # The branch that an expression takes gives its result a class too.
            branches = strictest(known[p.topic, p.column] for p in parts if p.direct or "CONDITIONAL" in p.how)
            if speaks(topology, sink, made):
                allowed = {values, branches} | ({"health"} if (topology, sink, made) in WHOLE else set())
                assert pii in allowed, (sink, made, column)
                reached += pii == "health"
            elif (topology, sink, made) in OPAQUE:
                assert pii == "pseudonym"
            else:
                assert pii == "", f"{sink}.{made} is not silent any more"
    assert reached > 4 or topology == "watching", "of rules and tests all columns are silent"


@pytest.mark.parametrize("topology", [*EVERY, "race"])
def test_of_several_classes_the_strictest_arrives_and_linking_only_raises(topology: str) -> None:
    for seed in range(2):
        chosen = np.random.default_rng(seed).choice(CLASSES, len(COLUMNS))
        tags = dict(zip(COLUMNS, chosen.tolist(), strict=True))
        if topology == "reviews":
            tags["n"] = "pseudonym"  # The subject of a case may not name a person.
        for sink, made, pii, parts, known in told(topology, tags):
            values = strictest(known[part.topic, part.column] for part in parts if part.direct)
            if speaks(topology, sink, made):
                assert strictest((pii, values)) == pii, (sink, made, tags)


def test_by_hand_what_people_and_machines_are_told_is_as_sensitive_as_what_it_is_made_of() -> None:
    """Chosen columns whose class the operators of their own accord did not say, written down without lineage."""
    tags = {"id": "pseudonym", "k": "direct", "v": "health", "w": "direct", "x": "pseudonym", "at": "quasi"}
    wanted = {
        "decisions": {
            "alerts": {"k": "direct", "value": "health", "peak": "health", "since": "quasi",
                       "cause": "direct", "status": "", "alert": ""},
            "log": {"v": "health", "w": "direct", "n": "", "decision": "direct", "chain": "direct", "number": ""},
            "best": {"score": "direct", "score_rung": ""},
            "cheap": {"decision": "pseudonym", "decision_rule": "pseudonym"},
        },
        "learning": {
            "scored": {"risk": "health", "chance": "health"}, "silent": {"risk": "pseudonym"},
            "metrics": {"segment": "", "n": ""},
        },
        "race": {"shadows": {"id": "pseudonym", "one": "health", "other": "health"}, "scored": {"risk": "health"}},
        "by_key_and_time": {"tumbling": {"k": "direct", "window_start": "quasi", "rows": "", "sum": "health"}},
        "leaves": {"followed": {"entity": "direct", "leaf": "direct", "leaf_time": "direct"}},  # raised by linking
        "features": {"known": {"spent": "health", "since": "quasi", "large": "", "same": "health"}},
    }  # fmt: skip
    for topology, sinks in wanted.items():
        found = {(sink, column): pii for sink, column, pii, *_ in told(topology, tags)}
        for sink, columns in sinks.items():
            assert {column: found[sink, column] for column in columns} == columns, (topology, sink)


def test_a_segment_is_as_sensitive_as_the_column_that_it_is_a_value_of() -> None:
    for topology, sink in (("learning", "metrics"), ("learning", "calibration"), ("race", "race")):
        found = {(s, column): pii for s, column, pii, *_ in told(topology, {"g": "health"})}
        assert found[sink, "segment"] == "health" and found[sink, "labels"] == ""


