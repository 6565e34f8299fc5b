"""Several workers of one supervisor as one: their metrics side by side, and the worst of their answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import orjson
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streamproc.runtime.telemetry.vital import Verdict

_PATIENCE_S: Final = 2.0
_NOBODY: Final = (0, b"")


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket's file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetched(path: str, page: str) -> tuple[int, bytes] | None:
    """Status and body of a page of a worker's Unix socket; None if it does not answer within two seconds.

    Status 0: nobody listens there.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionRefusedError, FileNotFoundError):
        return _NOBODY
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


class GatheredMetrics(Collector):
    """The metrics of all workers, each sample with the label `worker`; one that does not answer is left out.

    sockets  worker name to the path of its socket
    """

    def __init__(self, sockets: Mapping[str, str]) -> None:
        self._sockets = dict(sockets)

    def collect(self) -> Iterable[Metric]:
        """One family for each name, over all workers."""
        families: dict[str, Metric] = {}
        for worker, answer in _of_all(self._sockets, "/metrics").items():
            if answer is None or answer[0] != 200:
                continue
            for family in text_string_to_metric_families(answer[1].decode()):
                into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    into.samples.append(sample._replace(labels={"worker": worker, **sample.labels}))
        return families.values()


def gathered_verdict(
    page: str,
    sockets: Mapping[str, str],
    not_running: Callable[[], Mapping[str, str]],
    ages: Callable[[], Mapping[str, float]],
    start_within_s: float,
) -> Verdict:
    """The answer of all workers to `/health` or `/ready`: yes if all say yes.

    not_running  workers that do not run now, and why: one that ended well or waits for its restart is not unhealthy,
                 because the supervisor takes care of it; but it is not ready either
    ages         seconds since the start of each worker that runs: one that does not listen yet, and is younger than
                 `start_within_s`, is starting
    """
    away = dict(not_running())
    answers = _of_all({name: path for name, path in sockets.items() if name not in away}, page)
    facts: dict[str, Any] = {name: {"ok": page == "/health", "status": why} for name, why in sorted(away.items())}
    age = ages()
    for name, answer in sorted(answers.items()):
        if answer == _NOBODY and age.get(name, 0.0) < start_within_s:
            facts[name] = {"ok": page == "/health", "status": "starting"}
            continue
        told: Any = None
        if answer is not None:
            with contextlib.suppress(ValueError):
                told = orjson.loads(answer[1])
        facts[name] = told if isinstance(told, dict) else {"ok": False, "status": "does not answer"}
    bad = [name for name, fact in facts.items() if not fact["ok"]]
    word = "working" if page == "/health" else "ready"
    status = word if not bad else ", ".join(f"{name}: {facts[name]['status']}" for name in bad)
    return Verdict(not bad, status, {"workers": facts})


def _of_all(sockets: Mapping[str, str], page: str) -> dict[str, tuple[int, bytes] | None]:
    """Asks all at once: a worker that hangs must not make the answer of the others too late."""
    if not sockets:
        return {}
    with ThreadPoolExecutor(len(sockets)) as pool:
        return dict(zip(sockets, pool.map(lambda path: fetched(path, page), sockets.values()), strict=True))
