"""/metrics, /health and /ready of running workers: what they say is what happened, and they mean progress."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from deployed import Deployed, answer_of, deployed, within, write_payments
from prometheus_client.parser import text_string_to_metric_families

from streamproc.cli.app import run

UNITS = (
    "_seconds", "_bytes", "_rows", "_blocks", "_tasks", "_steps", "_info", "_paused", "_draining", "_labels", "_error",
)  # fmt: skip


def ledger(there: Deployed) -> dict[tuple[str, str], float]:
    """Rows by source and fate, over all workers."""
    return {
        (dict(labels)["source"], dict(labels)["fate"]): value
        for (name, labels), value in there.metrics().items()
        if name == "streamproc_ledger_rows"
    }


def reported(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], float]:
    """The same, as a finite run tells it; it finds nothing left to read."""
    inputs: dict[str, Any] = answer_of(capsys, "run", "card_risk.py", "--until-end")["inputs"]
    return {(source, fate): rows for source, row in inputs.items() for fate, rows in row.items()}


def read_all(there: Deployed, rows: int) -> None:
    """Waits until all payments, and the nine tenths of them that are handed on, are taken in, each by one owner."""
    within(120, f"{rows} rows", lambda: there.total("streamproc_ledger_rows", source="payments", fate="in") == rows)
    within(120, "the second stage", lambda: there.total(
        "streamproc_ledger_rows", source="key_by.s1", fate="in") == rows * 0.9)  # fmt: skip
    # Workers look every second: a task that moves is counted by both, or by neither, for so long.
    within(60, "one owner of each task", lambda: there.total("streamproc_owned_tasks") == 4)


def page(there: Deployed) -> dict[str, Any]:
    """Our families of /metrics by name."""
    with urllib.request.urlopen(there.address + "/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    assert {"process_resident_memory_bytes", "process_cpu_seconds"} <= set(families)
    return {name: family for name, family in families.items() if name.startswith("streamproc_")}


def series(families: dict[str, Any]) -> int:
    return len({(s.name, *sorted(s.labels.items())) for family in families.values() for s in family.samples})


@pytest.mark.usefixtures("filled")
def test_a_worker_tells_what_it_does_in_prometheus_text_and_counts_restored_steps_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["run", "card_risk.py", "--until-end"]) == 0
    with deployed("--http", "0") as there:
        there.is_ready()
        assert there.total("streamproc_restored_tasks_total") == 4
        assert there.total("streamproc_restoring_tasks") == 0
        assert there.total("streamproc_rows_read_total") == 0
        assert there.total("streamproc_ledger_rows", source="payments", fate="in") == 200
        write_payments(200, 400)
        read_all(there, 600)
        assert there.total("streamproc_lag_rows", source="payments") == 0
        assert there.total("streamproc_rows_read_total", source="payments") == 400
        assert there.total("streamproc_rows_total", source="payments", fate="dead_lettered") == 40
        assert there.total("streamproc_rows_written_total", topic="card_risk.large") > 0
        assert there.total("streamproc_state_bytes", stage="1") > 0
        assert there.total("streamproc_commit_seconds_count") >= 2
        assert there.total("streamproc_step_seconds_count", stage="0") >= 1
        assert there.total("streamproc_event_time_lag_seconds", stage="0") > 0
        ours = page(there)
        assert all(family.documentation for family in ours.values())
        assert all(name.endswith(UNITS) or family.type == "counter" for name, family in ours.items())
        write_payments(600, 400)
        read_all(there, 1_000)
        assert series(page(there)) == series(ours), "no series for a row"
        assert there.get("/")[0] == 404
        by_fate = ledger(there)
        assert there.stop() == 0
    assert by_fate == reported(capsys)


@pytest.mark.usefixtures("filled")
def test_a_worker_that_stands_still_makes_its_supervisor_unhealthy_and_one_that_was_killed_comes_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with deployed("--workers", "2", "--http", "0") as there:
        there.is_ready()
        assert there.get("/health")[0] == 200
        before = there.children()
        assert len(before) == 2
        before[0].suspend()
        status, told = there.facts("/health")
        assert status == 503
        assert "does not answer" in told["status"]
        before[0].resume()
        within(60, "health", lambda: there.get("/health")[0] == 200)
        psutil.Process(before[1].pid).kill()
        within(60, "the crash", lambda: "killed by signal 9, starts again in" in there.said)
        status, told = there.facts("/health")
        assert status == 200, told
        write_payments(200, 200)
        within(120, "a new process", lambda: len({c.pid for c in there.children()} - {c.pid for c in before}) == 1)
        there.is_ready()
        read_all(there, 400)
        assert there.total("streamproc_worker_restarts_total") == 1
        by_fate = ledger(there)
        assert there.stop() == 0
    assert by_fate == reported(capsys)
    assert run(["run", "card_risk.py", "--until-end", "--close"]) == 0
    assert run(["verify", "card_risk.py"]) == 0
    assert run(["replay", "card_risk.py", "--by-event-time", "--must-equal"]) == 0


def test_ready_waits_for_a_small_lag_if_that_is_asked_for(with_function: Callable[[str], None]) -> None:
    with_function("time.sleep(4)")
    with deployed("--http", "0", "--ready-lag", "0") as there:
        within(60, "a 503", lambda: there.facts("/ready")[0] == 503)
        there.is_ready()
        assert there.facts("/ready")[1]["lag_rows"] == 0


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("address", ["nowhere", "99999", "127.0.0.1:", "203.0.113.7:80"])
def test_an_address_that_cannot_be_had_is_misuse(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "card_risk.py", "--until-end", "--http", address]) == 2
    assert address in capsys.readouterr().err
