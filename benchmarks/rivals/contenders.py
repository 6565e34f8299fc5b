"""Who takes part, what each needs on this machine, and how it is started.

Each peer has an environment of its own below the cache folder (`~/.cache/streamproc-rivals`, or $XDG_CACHE_HOME), made
when it is first needed: jars from Maven Central and classes compiled by javac, or a virtual environment from PyPI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.services.processes import locked, maven

PEERS: Final = Path(__file__).with_name("peers")


class NotThere(Exception):
    """A peer that cannot be had on this machine, and why."""


def cache() -> Path:
    """Where the peers' environments stay from run to run."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamproc-rivals"
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine.

    exactly_once  yes, or how it falls short
    records       how many bids it gets of each workload where the command names no number; 0: it takes no part
    order         what a row of look-back sees, see `answer`
    newest        workloads of which it writes each change: the newest row of a key counts
    python        a peer in Python
    prepare       makes its environment and gives the command that starts it
    """

    title: str
    exactly_once: str
    records: Mapping[str, int]
    prepare: Callable[[], list[str]]
    order: str = "arrival"
    newest: frozenset[str] = field(default_factory=frozenset)
    python: bool = False
    suffix: str = ""


def _ours() -> list[str]:
    return [sys.executable, "-m", "benchmarks.rivals.ours"]


def _java(name: str, main: str, *options: str) -> Callable[[], list[str]]:
    def prepare() -> list[str]:
        folder = cache() / name
        with locked(cache() / f"{name}.lock"):
            pom = PEERS / "java" / f"{name}-pom.xml"
            jars = folder / "jars"
            made = folder / "pom.xml"
            try:
                if not made.exists() or made.read_bytes() != pom.read_bytes():
                    maven(pom, "dependency:copy-dependencies", f"-DoutputDirectory={jars}")
                    made.write_bytes(pom.read_bytes())
                sources = [str(PEERS / "java" / source) for source in ("Bid.java", f"{main}.java")]
                _done("javac", "-nowarn", "-d", str(folder / "classes"), "-cp", f"{jars}/*", *sources)
            except (OSError, RuntimeError) as error:
                raise NotThere(str(error)) from None
        return ["java", "-Xmx4g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *options,
                "-cp", f"{folder}/classes:{jars}/*", main]  # fmt: skip

    return prepare


def _python(name: str, *packages: str) -> Callable[[], list[str]]:
    def prepare() -> list[str]:
        folder = cache() / name
        with locked(cache() / f"{name}.lock"):
            if not (folder / "complete").exists():
                try:
                    _done(sys.executable, "-m", "venv", str(folder))
                    _done(str(folder / "bin" / "pip"), "install", "-q", *packages)
                except RuntimeError as error:
                    raise NotThere(str(error)) from None
                (folder / "complete").touch()
        return [str(folder / "bin" / "python"), str(PEERS / "python" / f"{name}_peer.py")]

    return prepare


def _done(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-500:]}")


_OPEN: Final = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.util", "java.lang", "java.time")]
_LARGE: Final = {"pass": 12_000_000, "filter": 12_000_000, "tumbling": 4_000_000, "look-back": 2_000_000,
                 "join": 4_000_000}  # fmt: skip
_SMALL: Final = {"pass": 1_000_000, "filter": 1_000_000, "tumbling": 500_000, "look-back": 500_000, "join": 500_000}
_LEAST: Final = dict.fromkeys(_LARGE, 100_000)

CONTENDERS: Final = {
    "streamproc": Contender("streamproc", "yes", _LARGE, _ours),
    "ordered": Contender(
        "streamproc, below `ordered`", "yes", {"look-back": 2_000_000}, _ours, order="time", suffix=" ordered"
    ),
    "flink": Contender("Flink 2.2, DataStream", "yes", _LARGE, _java("flink", "Flink", *_OPEN)),
    "flink-sql": Contender(
        "Flink 2.2, SQL", "yes", {"look-back": 1_000_000, "join": 2_000_000}, _java("flink", "Flink", *_OPEN),
        order="range", suffix=" sql",
    ),
    "kafka-streams": Contender("Kafka Streams 4.3", "yes", _LARGE, _java("streams", "Streams")),
    "quixstreams": Contender(
        "quixstreams", "yes", _SMALL, _python("quixstreams", "quixstreams==3.28.1", "fastavro==1.13.1"), python=True
    ),
    "bytewax": Contender(
        "bytewax", "no: nothing is kept", _SMALL,
        _python("bytewax", "bytewax==0.21.1", "confluent-kafka==2.16.1", "fastavro==1.13.1"), python=True,
    ),
    "faust": Contender(
        "faust-streaming", "no: at least once", _LEAST,
        _python("faust", "faust-streaming==0.15.3", "fastavro==1.13.1"), python=True, newest=frozenset({"tumbling"}),
    ),
}  # fmt: skip
