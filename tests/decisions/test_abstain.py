"""What is decided without a person is wrong no more often than was asked for, also when the world turns."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.errors import DefinitionError
from streamproc.graph import Stream
from streamproc.testing.drive import drive

ROW = parse_contract(
    '{"type": "record", "name": "row", "sp:version": 1, "fields": [{"name": "id", "type": "long", "sp:role": "key"},'
    ' {"name": "risk", "type": "double"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}'
)
LABEL = parse_contract(
    '{"type": "record", "name": "label", "sp:version": 1, "fields": [{"name": "id", "type": "long", "sp:role": "key"},'
    ' {"name": "bad", "type": "boolean"}, {"name": "at", "type": "long", "sp:role": "event_time"}]}'
)


def automated(risk: np.ndarray, bad: np.ndarray, target: float) -> pl.DataFrame:
    """Rows with what was said of them, in order; labels come 200 rows later."""
    rows = pl.DataFrame({"id": np.arange(risk.size), "risk": risk, "at": np.arange(risk.size)})
    labels = pl.DataFrame({"id": rows["id"], "bad": bad, "at": rows["at"] + 200})
    step = sp.abstain(
        "risk", labels=sp.source("labels", contract=LABEL) | sp.ordered(), label="bad", horizon="1h", on="id",
        target=target, window=4_000,
    )  # fmt: skip
    topology = sp.Topology("auto", sinks={"out": sp.source("rows", contract=ROW) | sp.ordered() | step})
    done = drive(topology, rows=rows, labels=labels, contracts=(ROW, LABEL))["out"].sort("id")
    return done.with_columns(wrong=pl.Series((done["risk"].to_numpy() >= 0.5) != bad))


def calibrated(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    risk = random.beta(0.4, 0.4, n)
    return risk, random.random(n) < risk


@pytest.mark.parametrize("seed", range(4))
def test_errors_among_rows_decided_alone_stay_below_the_target_and_many_are(seed: int) -> None:
    risk, bad = calibrated(np.random.default_rng(seed), 20_000)
    done = automated(risk, bad, 0.03)
    alone = done.filter(pl.col("alone"))
    assert alone.height > 4_000
    assert alone["wrong"].mean() <= 0.03  # type: ignore[operator]
    assert done[:200]["alone"].sum() == 0 and done["alone_threshold"][0] == 2.0


def test_when_scores_stop_meaning_anything_automation_stops() -> None:
    random = np.random.default_rng(9)
    risk, bad = calibrated(random, 24_000)
    bad[12_000:] = random.random(12_000) < 0.5
    done = automated(risk, bad, 0.05)
    before, after = done[6_000:12_000], done[15_000:]
    assert before["alone"].mean() > 0.2  # type: ignore[operator]
    assert after["alone"].mean() < 0.01  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(4))
def test_while_scores_mean_ever_less_errors_of_rows_decided_alone_stay_below_the_target(seed: int) -> None:
    """Of a share of labels that grows from none to 30 % the score says nothing; labels come 200 rows late."""
    random, n, target = np.random.default_rng(20 + seed), 40_000, 0.1
    risk, bad = calibrated(random, n)
    guessed = random.random(n) < 0.3 * np.arange(n) / n
    bad[guessed] = random.random(int(guessed.sum())) < 0.5
    done = automated(risk, bad, target)
    shares = []
    for start in range(0, n, n // 8):
        alone = done[start : start + n // 8].filter(pl.col("alone"))
        wrong = int(alone["wrong"].sum())
        shares.append(alone.height / (n // 8))
        assert wrong <= target * alone.height + 2.6 * (target * (1 - target) * alone.height) ** 0.5
    alone = done.filter(pl.col("alone"))
    print(f"wrong {alone['wrong'].mean():.4f} of {alone.height} decided alone; shares by eighths {np.round(shares, 2)}")
    assert alone["wrong"].mean() <= target  # type: ignore[operator]
    assert shares[1] > 0.3 > 3 * shares[7]


def test_mistakes_are_told() -> None:
    stream = Stream(sp.key_by("id").operator)
    with pytest.raises(DefinitionError, match="target"):
        sp.abstain("risk", labels=stream, label="bad", horizon="1h", on="id", target=0.7)
    with pytest.raises(DefinitionError, match="how long"):
        sp.abstain("risk", labels=stream, on="id", target=0.1)
