"""The same supervisor on Kafka, by a binding: a killed worker comes back, SIGTERM drains in time, nothing is lost."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from deployed import answer_of, deployed, within, write_payments

from streamproc.cli.app import run
from tests.services.kafka import kafka_cluster


@pytest.mark.long
@pytest.mark.usefixtures("project")
def test_workers_on_kafka_are_killed_drained_and_started_again_and_every_row_has_one_fate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with kafka_cluster() as cluster:
        Path("kafka.toml").write_text(
            f'[kafka]\nbrokers = ["{cluster.bootstrap}"]\n[checkpoints]\ntopic = "card_risk.checkpoints"\n'
        )
        bound = ("--bind", "kafka.toml")
        for round_ in range(3):
            write_payments(200 * round_, 200, *bound)
            with deployed("--workers", "2", "--http", "0", "--drain-timeout", "30s", *bound) as there:
                there.is_ready()
                there.children()[round_ % 2].kill()
                within(60, "the crash", lambda there=there: "killed by signal 9, starts again in" in there.said)
                within(120, "all rows", lambda there=there, rows=200 * (round_ + 1): rows == there.total(
                    "streamproc_ledger_rows", source="payments", fate="in"))  # fmt: skip
                began = time.monotonic()
                assert there.stop() == 0, there.said
                assert time.monotonic() - began < 30
        told = answer_of(capsys, "run", "card_risk.py", "--until-end", "--close", *bound)
        assert told["sources"]["payments"]["in"] == 600
        assert run(["verify", "card_risk.py", *bound]) == 0
        assert run(["replay", "card_risk.py", *bound]) == 0
        assert run(["replay", "card_risk.py", "--by-event-time", "--must-equal", *bound]) == 0
