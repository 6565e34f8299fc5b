"""Servers for tests: started as processes of their own, never outliving the tests, never skipped in silence."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REQUIRED = bool(os.environ.get("STREAMPROC_REQUIRE_SERVICES"))
_PR_SET_PDEATHSIG = 1


def cache() -> Path:
    """Where what was downloaded stays from run to run."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamproc-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def need(*programs: str) -> None:
    """Skips the test loudly where a program is missing; fails it where services are required."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    message = f"NOT TESTED against a real service: {' and '.join(missing)} not found on PATH (see .ci/services)"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


def maven(pom: Path, goal: str, *settings: str) -> None:
    """Runs Maven quietly on a pom; what it cannot fetch fails the test with Maven's own words."""
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(pom), *settings, goal], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"mvn {goal} failed:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")


@contextlib.contextmanager
def locked(path: Path):
    """Holds a lock file, so that parallel test processes download once."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Ports below the range from which the kernel takes those of outgoing connections.

    A client that dials a stopped server on a port of that range can take it, or connect to itself.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


_LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    """In a child between fork and exec: it ends when its parent does, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One process with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one system call, and no lock is taken in it
            )

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until it is ready; a process that ended fails at once with what it said."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3_000:]
                self.stop(grace=0)
                raise RuntimeError(f"the server did not start:\n{said}")
            time.sleep(0.05)

    def signal(self, what: signal.Signals) -> None:
        """Sends a signal to a live process."""
        if self.process.poll() is None:
            self.process.send_signal(what)

    def stop(self, *, grace: float = 10.0) -> None:
        """Ends it: politely, then for good."""
        self.signal(signal.SIGCONT)
        if grace:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        self.signal(signal.SIGKILL)
        self.process.wait()
