"""Decisions are what the rules say, and the log can prove it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.decisions.decision_log import first_broken, strays
from streamproc.decisions.explain import explain_line, made_again
from streamproc.errors import DefinitionError, DuplicateName, ReplayDiverged, UnknownColumn
from streamproc.graph import Step
from streamproc.operator import StreamType
from streamproc.testing.drive import Driven, drive
from streamproc.testing.runs import run_trial
from streamproc.testing.trials import random_trial

ROW = Schema((Field("risk", pl.Float64(), nullable=True), Field("amount", pl.Float64()), Field("n", pl.Int64())))
RULES = (
    sp.when(pl.col("risk") > 0.9, then="block", name="high risk"),
    sp.when((pl.col("amount") > 500) & (pl.col("risk") > 0.5), then="review", name="large"),
    sp.when(pl.col("n") > 3, then="review", name="often"),
)


def sampled(random: np.random.Generator, n: int) -> pl.DataFrame:
    risk = np.where(random.random(n) < 0.1, np.nan, random.random(n))
    return pl.DataFrame({"risk": risk, "amount": random.random(n) * 1000, "n": random.integers(0, 6, n)}).with_columns(
        pl.col("risk").fill_nan(None)
    )


def by_hand(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Every rule that holds for a row, in order."""
    risk = -1.0 if row["risk"] is None else row["risk"]
    found = [("block", "high risk")] if risk > 0.9 else []
    found += [("review", "large")] if row["amount"] > 500 and risk > 0.5 else []
    return found + ([("review", "often")] if row["n"] > 3 else [])


@pytest.mark.parametrize("seed", range(10))
def test_decisions_are_those_of_a_person_with_the_table(seed: int) -> None:
    trial = random_trial(seed, (StreamType(ROW),), rows=40, samplers=(sampled,))
    rows = trial.ports[0].frame.to_dicts()
    hits = [by_hand(row) for row in rows]
    first = run_trial(sp.decide(*RULES, otherwise="allow").operator, trial, (7, 20)).rows.frame
    expected = [one[0] if one else ("allow", "otherwise") for one in hits]
    assert list(zip(first["decision"], first["decision_rule"], strict=True)) == expected
    every = run_trial(sp.decide(*RULES, otherwise="allow", hit="collect").operator, trial).rows.frame
    assert every["decision_rule"].to_list() == [[name for _, name in one] or ["otherwise"] for one in hits]
    ran = run_trial(sp.decide(*RULES, otherwise="allow", hit="unique").operator, trial)
    assert ran.rows.frame.height == sum(len(one) < 2 for one in hits)
    several = ran.outputs.get("rows that break 'several rules hold'")
    assert (several.frame.height if several else 0) == sum(len(one) > 1 for one in hits)


def test_costs_decide_and_what_is_no_chance_is_decided_otherwise() -> None:
    step = sp.decide(sp.cheapest("risk", allow=(0.0, 100.0), block=(5.0, 5.0)), otherwise="ask")
    frame = pl.DataFrame({"risk": [0.04, 0.06, None, math.nan, 1.5, -0.1, 0.05]})
    assert step.operator.table.decide(frame)[0].to_list() == ["allow", "block", "ask", "ask", "ask", "ask", "allow"]


PAY = parse_contract(
    '{"type": "record", "name": "pay", "sp:version": 1, "fields": [{"name": "id", "type": "string", "sp:role": "key"},'
    ' {"name": "risk", "type": ["null", "double"]}, {"name": "amount", "type": "double"},'
    ' {"name": "n", "type": "long"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}'
)


def topology(rules: tuple[Any, ...] = RULES) -> sp.Topology:
    decided = sp.source("pays", contract=PAY) | sp.decide(*rules, otherwise="allow", log=("id",))
    return sp.Topology("decide", sinks={"decisions": decided, "log": decided.side("log")})


def payments(n: int) -> pl.DataFrame:
    frame = sampled(np.random.default_rng(5), n)
    return frame.with_columns(id=pl.Series([f"p{i}" for i in range(n)]), at=pl.Series(np.arange(n)))


def driven(n: int = 1000, **how: Any) -> tuple[Driven, Step, Schema]:
    done = drive(topology(), pays=payments(n), contracts=(PAY,), **how)
    node = next(node for node in done.binding.plan.nodes if node.name == "decide")
    return done, node.operator, done.binding.plan.nodes[node.inputs[0][0]].type.schema  # type: ignore[return-value]


def turned_of(step: Step, schema: Schema, log: pl.DataFrame) -> int:
    """How many decisions have a counterfactual; each must really decide otherwise."""
    turned = 0
    for i in range(log.height):
        line = log[i : i + 1]
        why = explain_line(step, schema, line)  # type: ignore[arg-type]
        assert (why.decision, why.rule) == (line["decision"][0], line["decision_rule"][0])
        if why.counterfactual is not None:
            column, value, other = why.counterfactual
            changed = line.with_columns(pl.lit(value).cast(line.schema[column]).alias(column))
            assert step.table.decide(changed)[0][0] == other != why.decision  # type: ignore[attr-defined]
            turned += 1
    return turned


def test_decisions_made_again_from_the_log_are_equal_and_every_counterfactual_turns() -> None:
    done, step, schema = driven()
    log: Any = done["log"]
    assert log.height == done["decisions"].height == 1000
    assert set(log["decision_id"]) == set(done["decisions"]["decision_id"]) and log["decision_id"].n_unique() == 1000
    assert made_again(step, schema, log) == 1000  # type: ignore[arg-type]
    assert turned_of(step, schema, log[:150]) > 130


@pytest.mark.long
def test_so_are_1000() -> None:
    done, step, schema = driven()
    assert turned_of(step, schema, done["log"]) > 900


def test_another_rule_or_another_outcome_diverges() -> None:
    done, step, schema = driven(20)
    line: Any = done["log"][:1]
    told = line.with_columns(pl.lit("block" if line["decision"][0] != "block" else "allow").alias("decision"))
    with pytest.raises(ReplayDiverged, match="logged is"):
        explain_line(step, schema, told)  # type: ignore[arg-type]
    log: Any = done["log"]
    assert made_again(step, schema, log) == 20  # type: ignore[arg-type]
    with pytest.raises(ReplayDiverged, match=f"decision {told['decision_id'][0]}: logged is"):
        made_again(step, schema, pl.concat([log[1:9], told, log[9:]]))  # type: ignore[arg-type]
    other = sp.decide(*RULES[:2], otherwise="allow", log=("id",)).operator
    with pytest.raises(ReplayDiverged, match="version"):
        explain_line(other, schema, line)  # type: ignore[arg-type]


def test_a_line_that_was_changed_or_taken_out_is_found_at_its_place() -> None:
    done, step, schema = driven(60)
    form = step.form(schema)  # type: ignore[attr-defined]
    log: Any = done["log"]
    assert first_broken(form, log) is None
    for at in (0, 17, 59):
        changed = log.with_columns(
            pl.when(pl.int_range(pl.len()) == at)
            .then(pl.col("amount") + 1e-9)
            .otherwise(pl.col("amount"))
            .alias("amount")
        )
        assert first_broken(form, changed) == at
    assert strays(form, log.reverse()) == []
    assert strays(form, log.with_columns(pl.col("amount") + (pl.int_range(pl.len()) == 17))) == [17]
    assert first_broken(form, pl.concat([log[:17], log[18:]])) == 17
    assert first_broken(form, log[[*range(10), 11, 10, *range(12, 60)]]) == 10


def test_of_1000_lines_the_one_that_was_changed_is_found_wherever_it_is() -> None:
    done, step, schema = driven()
    form = step.form(schema)  # type: ignore[attr-defined]
    log: Any = done["log"]
    assert strays(form, log) == []
    for at in (0, *np.random.default_rng(7).integers(1, 999, 20).tolist(), 999):
        for column, other in (("decision", pl.lit("other")), ("amount", pl.col("amount") + 1e-9)):
            here = pl.int_range(pl.len()) == at
            changed = log.with_columns(pl.when(here).then(other).otherwise(column).alias(column))
            assert first_broken(form, changed) == at
            assert strays(form, changed) == [at]


def test_the_log_does_not_depend_on_how_the_stream_was_cut() -> None:
    whole, _, _ = driven(300)
    parts, _, _ = driven(300, steps=iter(lambda: 7, None))
    assert whole["log"].equals(parts["log"]) and whole["decisions"].equals(parts["decisions"])


def test_mistakes_are_told() -> None:
    with pytest.raises(DefinitionError, match="rules, or one"):
        sp.decide(sp.cheapest("risk", a=(0, 1), b=(1, 0)), RULES[0], otherwise="x")
    with pytest.raises(DefinitionError, match="otherwise"):
        sp.decide(*RULES, otherwise="")
    with pytest.raises(DuplicateName):
        sp.decide(RULES[0], RULES[0], otherwise="x")
    with pytest.raises(DefinitionError, match="hit="):
        sp.decide(*RULES, otherwise="x", hit="last")  # type: ignore[arg-type]
    with pytest.raises(UnknownColumn, match="'size'"):
        sp.decide(*RULES, otherwise="x", log=("size",)).operator.schema(StreamType(ROW))
    with pytest.raises(DefinitionError):
        sp.decide(sp.when(pl.col("risk") > pl.col("risk").mean(), then="x"), otherwise="y").operator.schema(
            StreamType(ROW)
        )
