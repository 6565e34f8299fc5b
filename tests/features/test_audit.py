"""The audit finds features that look ahead, and finds none where none do."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from feature_shop import CHARGEBACK, PAYMENT, chargebacks, payments, topology

import streamproc as sp
from connectors.embedded import EmbeddedLog
from connectors.registry import FolderRegistry
from streamproc.cli.app import cli
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.derive import avsc_text
from streamproc.contracts.registry import MemoryRegistry
from streamproc.errors import InputError
from streamproc.ports import TopicSettings
from streamproc.testing import drive
from streamproc.testing.drive import append_frame
from streamproc.testing.feature_audit import auc, audit_features


class Peeking:
    """A person's own step, which looks into the future: it holds a batch and gives each row the amount of the next."""

    def schema(self, rows: Any) -> Any:
        from streamproc.contracts.model import Field, Schema

        return Schema((*rows.fields, Field("next_amount", pl.Float64())))

    def open(self) -> None:
        return None

    def process(self, state: None, rows: pl.DataFrame) -> tuple[None, pl.DataFrame]:
        later = rows.select(pl.col("amount").shift(-1).over("card_id").fill_null(0.0)).to_series()
        return None, rows.select(PAYMENT.schema.names).with_columns(next_amount=later)


def test_features_do_not_look_ahead_and_equal_the_brute_force() -> None:
    audit = audit_features(topology(), {"payments": payments()}, MemoryRegistry((PAYMENT,)), sample=60)
    assert audit.fine, (audit.looks_ahead, audit.wrong)
    assert audit.recomputed > 300
    scores = audit.auc["features"]
    assert set(scores) == {"payments_1h", "spend_1h", "large", "typical", "usual", "since", "share", "first"}
    assert set(scores.values()) == {0.5}


def test_a_step_that_peeks_is_found() -> None:
    peeking = (
        sp.source("payments", contract=PAYMENT, lateness="1m")
        | sp.key_by("card_id")
        | sp.custom(Peeking(), key=("card_id",))
        | sp.features(spend_1h=sp.total("next_amount").over("1h"), n=sp.count().over("1h"))
    )
    leaky = sp.Topology("leaky", sinks={"features": peeking})
    audit = audit_features(leaky, {"payments": payments()}, MemoryRegistry((PAYMENT,)), sample=10)
    assert not audit.fine
    assert any("'spend_1h'" in found for found in audit.looks_ahead)
    assert audit.auc["features"]["spend_1h"] > 0.5 and audit.auc["features"]["n"] == 0.5


def test_a_planted_feature_equal_to_a_future_label_scores_as_a_coin() -> None:
    """The last chargeback of the card, as known at each payment, says nothing of the payment's own coming one."""
    paid = payments(3_000, 200, seed=5)
    coins = chargebacks(paid)
    labels = (
        sp.source("chargebacks", contract=CHARGEBACK)
        | sp.key_by("card_id")
        | sp.ordered("payment_id")
        | sp.select("card_id", "is_fraud", "reported_at")
    )
    planted = (
        sp.source("payments", contract=PAYMENT, lateness="1m")
        | sp.key_by("card_id")
        | sp.ordered("payment_id")
        | sp.as_of(labels, columns=("is_fraud",), name="label")
    )
    ran = drive(sp.Topology("planted", sinks={"rows": planted}), payments=paid, chargebacks=coins,
                contracts=(PAYMENT, CHARGEBACK))  # fmt: skip
    rows = ran["rows"].join(coins.select("payment_id", coin="is_fraud"), on="payment_id").drop_nulls("is_fraud")
    assert rows.height > 500
    score = auc(rows.filter(pl.col("coin") == 0)["is_fraud"], rows.filter(pl.col("coin") == 1)["is_fraud"])
    assert abs(score - 0.5) < 3 * np.sqrt(1 / (3 * rows.height)), "three standard errors of a coin"


def test_a_planted_feature_that_is_the_label_scores_half_until_the_label_is_known_and_one_from_then_on() -> None:
    """The payment's own chargeback as a feature of the payment: nothing but the engine keeps the label away from it."""
    paid = payments(1_000, 50, seed=6)
    coins = chargebacks(paid)
    both = sp.together(
        paid=sp.source("payments", contract=PAYMENT, lateness="1m")
        | sp.select("payment_id", at=pl.col("paid_at")) | sp.key_by("payment_id"),
        back=sp.source("chargebacks", contract=CHARGEBACK, lateness="1m")
        | sp.select("payment_id", "is_fraud", at=pl.col("reported_at")) | sp.key_by("payment_id"),
    ) | sp.ordered()  # fmt: skip
    planted = both | sp.features(label=sp.last("is_fraud").of("back").over("30d").indicator(-1))
    topology = sp.Topology("planted", sinks={"rows": planted | sp.where(pl.col("source") == "paid")})

    def score(reported: pl.Expr) -> float:
        known = coins.with_columns(reported_at=reported).sort("reported_at")
        ran = drive(topology, payments=paid, chargebacks=known, contracts=(PAYMENT, CHARGEBACK), partitions=2)
        rows = ran["rows"].join(coins.select("payment_id", coin="is_fraud"), on="payment_id")
        assert rows.height == paid.height
        return auc(rows.filter(pl.col("coin") == 0)["label"], rows.filter(pl.col("coin") == 1)["label"])

    # A day later as it is, and a microsecond later: the nearest future that there is.
    assert score(pl.col("reported_at")) == 0.5
    assert score(pl.col("reported_at") - timedelta(days=1) + timedelta(microseconds=1)) == 0.5
    assert score(pl.col("reported_at") - timedelta(days=1, microseconds=1)) == 1.0, "else nothing was tried"


def test_a_delay_is_measured_on_the_values_of_the_other_sources() -> None:
    both = sp.together(
        paid=sp.source("payments", contract=PAYMENT, lateness="1m") | sp.select("card_id", "payment_id", "amount",
            at=pl.col("paid_at")) | sp.key_by("card_id"),
        back=sp.source("chargebacks", contract=CHARGEBACK) | sp.select("card_id", "is_fraud", at=pl.col("reported_at"))
        | sp.key_by("card_id"),
    ) | sp.ordered()  # fmt: skip
    made = both | sp.features(frauds=sp.total("is_fraud").of("back").ever(), n=sp.count().of("paid").over("1h"))
    paid = payments(600, 20)
    at_once = chargebacks(paid).with_columns(pl.col("reported_at") - timedelta(days=1))
    frames = {"payments": paid, "chargebacks": at_once}
    audit = audit_features(
        sp.Topology("delayed", sinks={"features": made}), frames, MemoryRegistry((PAYMENT, CHARGEBACK)),
        delays={"chargebacks": 3_600_000_000},
    )  # fmt: skip
    assert audit.fine, (audit.looks_ahead, audit.wrong)
    shares = audit.delayed["chargebacks"]["features"]
    assert shares["frauds"] > 0.3 and shares["n"] == 0.0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "schemas_avro"
    folder.mkdir()
    for contract in (PAYMENT, CHARGEBACK):
        (folder / f"{contract}.avsc").write_text(avsc_text(contract))
    (tmp_path / "cards_shop.py").write_text(
        (Path(__file__).parent / "feature_shop.py").read_text() + "\n\ncards = topology()\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamproc").mkdir()
    with EmbeddedLog(tmp_path / ".streamproc" / "log.db") as log:
        registry = FolderRegistry((folder,))
        paid = payments(200)
        for topic, contract, frame in (("payments", PAYMENT, paid), ("chargebacks", CHARGEBACK, chargebacks(paid))):
            log.create_topic(topic, TopicSettings(2))
            append_frame(log, registry, topic, registry.contract(contract.name), frame)
    return tmp_path


def test_both_commands_work_on_a_log(project: Path) -> None:
    audited = CliRunner().invoke(cli, ["audit-features", "cards_shop.py:cards", "--sample", "20", "--json"])
    assert audited.exit_code == 0, audited.output
    assert json.loads(audited.stdout)["ok"]
    call = ["training-set", "cards_shop.py:cards", "features", "chargebacks", "--on", "payment_id",
            "--label", "is_fraud", "--available-at", "reported_at", "--out", "training.parquet", "--json"]  # fmt: skip
    made = CliRunner().invoke(cli, call)
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["rows"] == 200
    training = pl.read_parquet(project / "training.parquet")
    assert {"spend_1h", "is_fraud", "_label_available_at"} <= set(training.columns)
    sooner = chargebacks(payments(200)).with_columns(pl.col("reported_at") - timedelta(hours=23, minutes=50))
    sooner.write_parquet("sooner.parquet")
    split = [*call, "--at", "paid_at", "--splits", "splits.parquet", "--folds", "2"]
    tested = CliRunner().invoke(cli, [one if one != "chargebacks" else "sooner.parquet" for one in split])
    assert tested.exit_code == 0, tested.output
    fates = pl.read_parquet(project / "splits.parquet")
    assert fates.height == 2 * 200 and set(fates["role"]) == {"train", "test", "dropped"}
    assert sum(row["rows"] for row in json.loads(tested.stdout)["splits"]) == 2 * 200
    for command in (["run", "cards_shop.py:cards", "--until-end", "--close"],
                    ["replay", "cards_shop.py:cards", "--by-event-time", "--must-equal", "--out", "history"]):
        answer = CliRunner().invoke(cli, command)
        assert answer.exit_code == 0, answer.output
    keys = {"card_id": ["c3", "nobody", "c0"]}
    (project / "local.toml").write_text('[log]\npath = ".streamproc/log.db"\n')
    for moment in ("2026-11-01T00:40:00Z", "2026-11-01T02:00:07Z"):
        live = sp.read_features("cards.features", keys, at="paid_at", as_of=moment)
        filed = sp.read_features(project / "history" / "features.parquet", keys, at="paid_at", as_of=moment)
        bound = sp.read_features("cards.features", keys, at="paid_at", as_of=moment, bind="local.toml")
        assert live["payment_id"].null_count() == 1
        assert filed.select(live.columns).equals(live, null_equal=True) and bound.equals(live, null_equal=True)
    late = CliRunner().invoke(cli, split)  # labels a day later, of payments within hours
    assert isinstance(late.exception, InputError) and "test 1 of 2 has nothing to learn" in str(late.exception)
    for more in (["--splits", "splits.parquet"], ["--at", "paid_at", "--splits", "splits.csv"]):
        refused = CliRunner().invoke(cli, [*call, *more])
        assert isinstance(refused.exception, InputError) and "--splits needs" in str(refused.exception)
    early = CliRunner().invoke(cli, [*call, "--until", "2026-11-01T00:00:00Z"])
    assert json.loads(early.stdout)["rows"] == 0
    wrong = CliRunner().invoke(cli, [*call[:2], "featurs", *call[3:]])
    assert isinstance(wrong.exception, InputError) and "did you mean 'features'?" in str(wrong.exception)


def test_features_of_entities_are_tried_for_look_ahead_and_said_not_to_be_recomputed() -> None:
    paid = payments()
    owner = parse_contract("""{"type": "record", "name": "owner", "sp:version": 1, "fields": [
        {"name": "card_id", "type": "string", "sp:role": "key"}, {"name": "entity_id", "type": "string"},
        {"name": "known_at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}""")
    owners = pl.DataFrame({"card_id": ["c1", "c2", "c3"], "entity_id": ["e", "e", "f"],
                           "known_at": paid["paid_at"].sort()[[100, 200, 300]]})  # fmt: skip
    moves = sp.source("owners", contract=owner, lateness="1m") | sp.key_by("card_id") | sp.ordered("entity_id")
    spend = (
        sp.source("payments", contract=PAYMENT, lateness="1m")
        | sp.key_by("card_id")
        | sp.ordered("payment_id")
        | sp.follow(moves, keep="6h")
        | sp.key_by("entity")
        | sp.features(spend=sp.total("amount").over("6h"))
    )
    of_entities = sp.Topology("entities", sinks={"features": spend})
    audit = audit_features(of_entities, {"payments": paid, "owners": owners}, MemoryRegistry((PAYMENT, owner)))
    assert audit.not_recomputed == ["features"] and audit.recomputed == 0
    assert audit.fine and audit.auc["features"] == {"spend": 0.5}
