"""A project to deploy, and `streamproc run` as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamproc.cli.app import run

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


def write_payments(first: int, rows: int, *options: str) -> None:
    """Puts payments a minute apart on the current folder's log, or on that of the options.

    Every tenth is below zero, every seventh above 500.
    """
    start = datetime(2026, 11, 1, tzinfo=UTC)
    lines = ["payment_id,card_id,amount,paid_at"]
    for n in range(first, first + rows):
        amount = -1.0 if n % 10 == 3 else 700.5 if n % 7 == 0 else 5.25
        lines.append(f"p{n},c{n % 5},{amount},{(start + timedelta(minutes=n)).isoformat()}")
    Path("payments.csv").write_text("\n".join(lines) + "\n")
    assert run(["produce", "payments.csv", "payments", "--contract", "payment", "--partitions", "2", *options]) == 0


def answer_of(capture: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """What a command with --json says, run in this process."""
    capture.readouterr()
    got = run([*words, "--json"])
    out, err = capture.readouterr()
    assert got == code, err
    return orjson.loads(out)


def within(seconds: float, what: str, look: Callable[[], Any]) -> Any:
    """The first true thing that a look gives; fails after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Deployed:
    """A running `streamproc run`; what it prints on stderr is kept."""

    def __init__(self, *words: str, topology: str = "card_risk.py") -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamproc", "run", topology, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    @property
    def said(self) -> str:
        """All of stderr so far."""
        return "\n".join(self.lines)

    @property
    def address(self) -> str:
        """Where it serves."""

        def look() -> str:
            assert self.process.poll() is None, self.said
            return next((line.split()[-1] for line in self.lines if "readiness on" in line), "")

        found: str = within(PATIENCE_S, "an address", look)
        return found

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page."""
        try:
            with urllib.request.urlopen(self.address + page, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def facts(self, page: str) -> tuple[int, Any]:
        """Status and JSON of a page."""
        status, body = self.get(page)
        return status, orjson.loads(body)

    def is_ready(self) -> None:
        """Waits until /ready says yes."""
        within(PATIENCE_S, "ready", lambda: self.get("/ready")[0] == 200)

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample by name and labels, without the worker's."""
        out: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "worker"))
                out[sample.name, labels] = out.get((sample.name, labels), 0.0) + sample.value
        return out

    def total(self, name: str, **labels: str) -> float:
        """A metric added over all labels that are not named."""
        return sum(
            value for (sample, have), value in self.metrics().items()
            if sample == name and set(labels.items()) <= set(have)
        )  # fmt: skip

    def children(self) -> list[psutil.Process]:
        """The worker processes of a supervisor."""
        return psutil.Process(self.process.pid).children()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; gives the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self, within_s: float = PATIENCE_S) -> int:
        """Waits for the end; gives the exit code."""
        code = self.process.wait(timeout=within_s)
        self._reader.join(timeout=10)
        return code


@contextlib.contextmanager
def deployed(*words: str, topology: str = "card_risk.py") -> Iterator[Deployed]:
    """`streamproc run` of a topology with these words; nothing of it is left at the end."""
    there = Deployed(*words, topology=topology)
    try:
        yield there
    finally:
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(there.process.pid).children(recursive=True), psutil.Process(there.process.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        there.process.wait()
        there._reader.join(timeout=10)
        for pipe in (there.process.stdout, there.process.stderr):
            if pipe is not None:
                pipe.close()
