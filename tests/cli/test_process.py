"""What only a process of its own shows: signals, pipes, terminals, and what an import costs."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from card_payments import payments_csv
from command_line import CommandLine

ROOT = Path(__file__).parents[2]
STREAMPROC = [sys.executable, "-m", "streamproc"]


@pytest.fixture
def process_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(path for path in (os.environ.get("PYTHONPATH"), str(ROOT)) if path)
    )


def cpu_seconds(code: str) -> float:
    """CPU time of a fresh Python that runs the code."""
    timed = f"import time\n{code}\nprint(time.process_time())"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


@pytest.mark.usefixtures("process_path")
def test_help_is_quick_because_it_imports_no_engine() -> None:
    code = """
import contextlib, sys
from streamproc.cli.app import run
with contextlib.redirect_stdout(sys.stderr):
    assert run(["--help"]) == 0
heavy = {"numba", "polars", "numpy", "pyarrow", "rich", "orjson"} & set(sys.modules)
assert not heavy, heavy"""
    assert cpu_seconds(code) < 0.3


@pytest.mark.usefixtures("process_path")
def test_importing_streamproc_imports_nothing_heavy() -> None:
    code = "import sys, streamproc\nassert not {'numba', 'polars', 'pyarrow'} & set(sys.modules)"
    assert cpu_seconds(code) < 0.5


@pytest.mark.usefixtures("process_path")
def test_a_reader_who_leaves_a_pipe_is_no_error(project: Path, command: CommandLine) -> None:
    (project / "payments.csv").write_text(payments_csv(20_000))
    command.fine("produce", "payments.csv", "payments", "--contract", "payment")
    writer = subprocess.Popen([*STREAMPROC, "subscribe", "payments"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    assert writer.stdout.readline().startswith(b'{"_partition":')
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait(timeout=60) == 0


@pytest.mark.usefixtures("process_path")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_run_stops_after_a_commit_and_says_how_to_go_on(
    filled: Path, command: CommandLine, number: signal.Signals
) -> None:
    worker = subprocess.Popen(
        [*STREAMPROC, "run", "card_risk.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_rows(command, "card_risk.large", 27)
    worker.send_signal(number)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err
    assert "card_risk version 1: 200 rows read" in out
    assert (
        "stopped after a commit: 200 of 200 records of its sources are read; 'streamproc run card_risk.py' goes on"
        in err
    )
    command.fine("run", "card_risk.py", "--until-end", "--close")
    command.fine("replay", "card_risk.py", "--by-event-time", "--must-equal")


@pytest.mark.usefixtures("process_path")
def test_two_workers_answer_as_one(filled: Path, command: CommandLine) -> None:
    line = [*STREAMPROC, "run", "card_risk.py", "--until-end", "--close", "--workers", "2", "--json"]
    ran = subprocess.run(line, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b'"rows": 200' in ran.stdout
    command.fine("replay", "card_risk.py", "--by-event-time", "--must-equal")


@pytest.mark.usefixtures("process_path")
def test_a_terminal_shows_a_bar_and_a_pipe_does_not(ran: Path) -> None:
    line = [*STREAMPROC, "replay", "card_risk.py"]
    piped = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert piped.stderr == ""
    leader, follower = pty.openpty()
    shown = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # Linux says so when the other end of a terminal is closed.
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert shown.communicate(timeout=60)[0] == piped.stdout.encode()
    assert re.search(rb"replaying card_risk.*/s.*\d:\d\d:\d\d", seen, re.S)


def _wait_for_rows(command: CommandLine, topic: str, rows: int) -> None:
    """Until a topic has so many rows; a worker that never writes them fails the test."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        told = {one["topic"]: one["records"] for one in command.fine("topics", "--json").json}
        if told.get(topic, 0) >= rows:
            return
        time.sleep(0.2)
    raise AssertionError(f"'{topic}' has no {rows} rows")
