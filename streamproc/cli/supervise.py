"""Worker processes under a supervisor: restarts with back-off, a drain within a time, logs with names.

A worker that dies is started again after a pause that doubles with each crash; so many crashes within ten minutes and
the supervisor gives up and stops the others. One that says that it is used wrongly (exit 2) is not tried again: it
would say the same. Workers hold one end of a pipe whose other end is the supervisor's alone: when that closes, however
the supervisor died, they drain and go.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

import click
from prometheus_client import CollectorRegistry, Counter

from streamproc.cli.render import counted, seconds_text

CUT_OFF: Final = 124
"""Exit code of a drain that took longer than it may: what was not committed is done again by the next start."""
UNREACHABLE: Final = 75
"""Exit code of a supervised worker that gave up waiting for its log: that is worth another try."""
_INTERRUPTED: Final = 130
_MISUSE: Final = 2
_LOOK_S: Final = 0.05
_CRASHES_WITHIN_S: Final = 600.0
_PAUSE_S: Final = (0.5, 30.0)


def pause_before(restart: int) -> float:
    """Seconds before the n-th restart (from 1): doubling from half a second to half a minute, give or take a quarter.

    The spread keeps workers that died of one cause from coming back all at once.
    """
    least, most = _PAUSE_S
    return min(most, least * float(2 ** (restart - 1))) * random.uniform(0.75, 1.25)


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    crashes: deque[float] = field(default_factory=deque)
    start_at: float = 0.0
    answer: bytes = b""
    ended: int | None = None
    readers: list[threading.Thread] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the workers: what each printed at its end, whether they were asked to stop, and the exit code."""

    answers: tuple[bytes, ...]
    asked: bool
    code: int


class Supervisor:
    """Runs one process for each command until all have ended.

    commands   by worker name
    crashes    so many crashes of one worker within ten minutes are too many
    drain_s    after a stop was asked for, workers may take so long; then they are killed
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], *, crashes: int, drain_s: float) -> None:
        self._children = [_Child(name, command) for name, command in commands.items()]
        self._most_crashes, self._drain_s = crashes, drain_s
        self._stop_by: float | None = None
        self._asked = False
        self._code = 0
        self.registry = CollectorRegistry()
        self._restarts = Counter(
            "streamproc_worker_restarts_total", "Crashed workers started again", ("worker",), registry=self.registry
        )
        for child in self._children:
            self._restarts.labels(child.name)

    def stop(self) -> None:
        """Asks all workers to drain; may be called from a signal handler, and twice."""
        self._asked = True

    def not_running(self) -> dict[str, str]:
        """Workers that do not run now, and why."""
        away = {}
        for child in self._children:
            if child.ended is not None:
                away[child.name] = "ended" if child.ended == 0 else f"ended with exit code {child.ended}"
            elif child.process is None:
                away[child.name] = f"crashed {counted(len(child.crashes), 'time')}, waits for its restart"
        return away

    def ages(self) -> dict[str, float]:
        """Seconds since the start of each worker that runs."""
        now = time.monotonic()
        return {child.name: now - child.start_at for child in self._children if child.process is not None}

    def run(self) -> Outcome:
        """Starts the workers and looks after them until the last one has ended."""
        try:
            while any(child.ended is None for child in self._children):
                if self._asked and self._stop_by is None:
                    self._begin_drain()
                for child in self._children:
                    self._look_after(child)
                if self._stop_by is not None and time.monotonic() >= self._stop_by:
                    self._kill_rest()
                time.sleep(_LOOK_S)
        finally:
            for child in self._children:
                if child.process is not None and child.process.poll() is None:
                    child.process.kill()
                    child.process.wait()
                for reader in child.readers:
                    reader.join(timeout=5)
        return Outcome(tuple(child.answer for child in self._children), self._asked, self._code)

    def _look_after(self, child: _Child) -> None:
        if child.ended is not None:
            return
        if child.process is None:
            if self._stop_by is not None:
                child.ended = 0
            elif time.monotonic() >= child.start_at:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            return
        _let_go(child)
        if code in (0, _INTERRUPTED) or (code == -signal.SIGTERM and self._stop_by is not None):
            child.ended = 0  # One that had not yet begun is ended by the signal itself.
        elif code == _MISUSE:
            self._end(child, _MISUSE, "cannot work as it was started")
        elif self._stop_by is not None:
            self._end(child, 1 if code != CUT_OFF else CUT_OFF, f"{_how(code)} while it was to stop")
        else:
            self._crashed(child, code)

    def _crashed(self, child: _Child, code: int) -> None:
        now = time.monotonic()
        child.crashes.append(now)
        while child.crashes[0] < now - _CRASHES_WITHIN_S:
            child.crashes.popleft()
        if len(child.crashes) >= self._most_crashes:
            crashes = counted(len(child.crashes), "crash").replace("crashs", "crashes")
            self._end(child, 1, f"{_how(code)}: {crashes} within {seconds_text(_CRASHES_WITHIN_S)}, giving up")
            return
        pause = pause_before(len(child.crashes))
        child.process, child.start_at = None, now + pause
        self._restarts.labels(child.name).inc()
        _say(child, f"{_how(code)}, starts again in {seconds_text(pause)}")

    def _end(self, child: _Child, code: int, why: str) -> None:
        """A worker is over for a reason that is not good: the others stop too."""
        child.ended = code
        self._code = max(self._code, code)
        _say(child, why)
        if self._stop_by is None:
            self._begin_drain()

    def _start(self, child: _Child) -> None:
        child.start_at = time.monotonic()
        child.process = subprocess.Popen(
            child.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.process.stdout is not None
        assert child.process.stderr is not None
        child.readers = [
            _thread(_relay, child.name, child.process.stderr),
            _thread(_keep, child, child.process.stdout),
        ]
        if self._stop_by is not None:
            child.process.terminate()

    def _begin_drain(self) -> None:
        self._stop_by = time.monotonic() + self._drain_s
        for child in self._children:
            if child.process is not None and child.ended is None:
                child.process.terminate()

    def _kill_rest(self) -> None:
        for child in self._children:
            if child.ended is None and child.process is not None:
                child.process.kill()
                child.process.wait()
                _let_go(child)
                self._end(child, CUT_OFF, f"was not done after {seconds_text(self._drain_s)} and was killed")


def _let_go(child: _Child) -> None:
    """Closes this side of the pipes, after what the worker still said was read."""
    for reader in child.readers:
        reader.join(timeout=5)
    if child.process is not None:
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _thread(work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def _relay(name: str, pipe: IO[bytes]) -> None:
    """Passes a worker's lines on, each with its name in front."""
    for line in iter(pipe.readline, b""):
        sys.stderr.write(f"[{name}] {line.decode(errors='replace').rstrip()}\n")
        sys.stderr.flush()


def _keep(child: _Child, pipe: IO[bytes]) -> None:
    child.answer = pipe.read()


def _say(child: _Child, what: str) -> None:
    click.echo(f"[{child.name}] {what}", err=True)


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
