"""`streamproc react` and `streamproc subscribe` as processes: kill -9, SIGTERM, exit codes; and the Python API."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from events import ALERT, column, registry, rows, write_alerts
from serving import WebServer, web_server

import streamproc as sp
from connectors.embedded import EmbeddedLog
from streamproc.cli.app import run as command
from streamproc.contracts.derive import avsc_text
from streamproc.errors import Fenced, InputError, UnknownTopic

ROOT = Path(__file__).parents[2]
PAGER = """
import asyncio
import streamproc as sp

async def slow(event):
    print("begun", flush=True)
    await asyncio.sleep(60)

async def refusing(event):
    raise sp.GiveUp("not for us")

hook = sp.Webhook("http://127.0.0.1:{port}/", sp.Secret(env="HOOK_SECRET"), allow_networks=("127.0.0.1/32",))
pager = sp.Reactions("pager", handlers={{"alerts": hook}})
stuck = sp.Reactions("stuck", handlers={{"alerts": slow}}, drain="500ms")
refused = sp.Reactions("refused", handlers={{"alerts": refusing}})
lines = sp.Reactions("lines", handlers={{"alerts": sp.JsonLines()}})
"""


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WebServer) -> Path:
    """A folder with reactions, contracts and alerts, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(ROOT)) if part)
    )
    monkeypatch.setenv("HOOK_SECRET", "of the receiver")
    (tmp_path / "schemas_avro").mkdir()
    (tmp_path / "schemas_avro" / "alert.v1.avsc").write_text(avsc_text(ALERT))
    (tmp_path / "reactions.py").write_text(PAGER.format(port=server.port))
    (tmp_path / ".streamproc").mkdir()
    return tmp_path


@pytest.fixture
def path(project: Path) -> Path:
    return project / ".streamproc" / "log.db"


def fill(path: Path, numbers: Sequence[int]) -> None:
    with EmbeddedLog(path) as log:
        write_alerts(log, numbers)


PROCESSES: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """A test that fails in the middle leaves nothing running."""
    yield
    for process in PROCESSES:
        process.kill()
        if process.stdout is not None and not process.stdout.closed:
            process.communicate()
    PROCESSES.clear()


def started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamproc", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    PROCESSES.append(process)
    return process


def ran(*arguments: str) -> tuple[int, str, str]:
    process = started(*arguments)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def until(condition: object) -> None:
    end = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_kill_9_in_the_middle_of_deliveries_loses_none_and_repeats_one_a_partition(
    path: Path, server: WebServer
) -> None:
    """Two partitions are delivered side by side: each may have one answer whose record was not written yet."""
    fill(path, range(300))
    dice, kills = random.Random(7), 0
    server.reply = lambda request: (time.sleep(0.02), (204, {}, b""))[1]
    while kills < 4 and len(server.requests) < 220:
        before = len(server.requests)
        process = started("react", "reactions.py:pager")
        until(lambda before=before: len(server.requests) > before + 20)
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 2
    code, _, err = ran("react", "reactions.py:pager", "--until-end")
    assert code == 0, err
    sent = Counter((request.json["row"]["number"], request.headers["webhook-id"]) for request in server.requests)  # type: ignore[index]
    assert {number for number, _ in sent} == set(range(300)), "every alert is delivered"
    assert len(sent) == 300, "a repetition carries the same key"
    assert sum(sent.values()) - 300 <= 2 * kills
    bodies = {request.headers["webhook-id"]: request.body for request in server.requests}
    assert all(request.body == bodies[request.headers["webhook-id"]] for request in server.requests)
    recorded = rows(path, "pager.reactions.deliveries")
    assert Counter(column(recorded, "id")) == Counter(id_ for _, id_ in sent), "one record for each"


def test_sigterm_waits_for_what_is_under_way_and_cuts_it_off_in_time(path: Path, server: WebServer) -> None:
    fill(path, range(4))
    server.reply = lambda request: (time.sleep(0.5), (204, {}, b""))[1]
    process = started("react", "reactions.py:pager")
    until(lambda: server.requests)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "cut off" not in err
    assert len(rows(path, "pager.reactions.deliveries")) == len(server.requests) <= 2

    process = started("react", "reactions.py:stuck")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "begun\n"]
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert 0.4 < time.monotonic() - began < 5
    assert "2 handlers cut off after 500ms: the events are delivered again by the next run, with the same id" in err
    assert rows(path, "stuck.reactions.deliveries") == []


def test_dead_letters_are_a_finding_and_dlq_shows_them(path: Path) -> None:
    fill(path, range(3))
    code, out, err = ran("react", "reactions.py:refused", "--until-end", "--json")
    assert code == 1, err
    assert orjson.loads(out) == {
        "reactions": "refused", "delivered": 0, "dead_lettered": 3, "retries": 0, "cut_off": 0, "topics": {"alerts": 3},
    }  # fmt: skip
    code, out, _ = ran("dlq", "list", "reactions.py:refused", "--json")
    assert {(row["topic"], row["step"], row["reason"]): row["rows"] for row in orjson.loads(out)} == {
        ("alerts", "refusing", "GiveUp"): 3
    }
    code, out, _ = ran("dlq", "show", "reactions.py:refused")
    assert "GiveUp: not for us (1 attempt)" in out
    assert '{"number":0,"service":"till"}' in out


def test_mistakes_are_one_line_and_exit_2(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: what a slow machine needs to start another one says nothing about a mistake."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for arguments, text in (
        (("react", "reactions.py"), "has 4 reactions"),
        (("react", "reactions.py:hook"), "is a Webhook, not a Reactions"),
        (("react", "reactions.py:pager", "--until-end"), "no such topic"),
        (("react", "reactions.py:pager", "--drain", "soon"), "'soon' is not a span of time"),
        (("react", "nowhere.py"), "there is no file 'nowhere.py'"),
    ):
        with EmbeddedLog(path):
            pass
        capfd.readouterr()
        code = command(list(arguments))
        out, err = capfd.readouterr()
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
        assert text in err
    fill(path, range(1))
    monkeypatch.delenv("HOOK_SECRET")
    code, _, err = ran("react", "reactions.py:pager", "--until-end")
    assert code == 2
    assert "there is no secret in the environment variable 'HOOK_SECRET'" in err


def test_stdout_has_json_lines_and_nothing_else(path: Path) -> None:
    fill(path, range(5))
    code, out, err = ran("react", "reactions.py:lines", "--until-end")
    assert code == 0
    assert sorted(orjson.loads(line)["row"]["number"] for line in out.splitlines()) == list(range(5))
    assert "lines: 5 events delivered" in err


def test_a_subscription_resumes_by_its_group(path: Path) -> None:
    fill(path, range(10))
    with sp.subscribe("alerts", group="desk", limit=4) as alerts:
        first = [alert.row["number"] for alert in alerts]
    assert len(first) == 4
    with pytest.raises(ZeroDivisionError), sp.subscribe("alerts", group="desk") as alerts:
        for place, alert in enumerate(alerts):
            first.append(alert.row["number"])
            if place == 2:
                raise ZeroDivisionError
    # The one that failed was not dealt with: it comes again.
    failed = first.pop()
    with sp.subscribe("alerts", group="desk") as alerts:
        rest = [alert.row["number"] for alert in alerts]
    assert failed in rest
    assert sorted(first + rest) == list(range(10))
    with sp.subscribe("alerts", group="desk") as alerts:
        assert list(alerts) == []
    code, out, _ = ran("subscribe", "alerts", "--group", "desk")
    assert (code, out) == (0, "")


def test_a_subscription_follows_in_an_event_loop_beside_other_work(path: Path) -> None:
    fill(path, range(4))

    async def scenario() -> list[int]:
        seen: list[int] = []
        with sp.subscribe("alerts", follow=True) as alerts:

            async def read() -> None:
                async for alert in alerts:
                    seen.append(alert.row["number"])

            reading = asyncio.create_task(read())
            while len(seen) < 4:
                await asyncio.sleep(0.01)
            fill(path, range(4, 8))
            while len(seen) < 8:
                await asyncio.sleep(0.01)
            alerts.stop()
            await asyncio.wait_for(reading, 5)
        return seen

    assert sorted(asyncio.run(asyncio.wait_for(scenario(), 30))) == list(range(8))


def test_a_second_subscriber_of_a_group_takes_over(path: Path) -> None:
    fill(path, range(4))
    first = sp.subscribe("alerts", group="desk", limit=2)
    assert len(list(first)) == 2
    with sp.subscribe("alerts", group="desk", limit=1) as second:
        assert len(list(second)) == 1
    fill(path, range(4, 6))
    again = iter(sp.subscribe("alerts", group="desk", follow=True))
    with sp.subscribe("alerts", group="desk"), pytest.raises(Fenced):
        list(again)


def test_subscriptions_say_what_is_wrong(path: Path) -> None:
    fill(path, range(1))
    with pytest.raises(UnknownTopic, match="did you mean 'alerts'"):
        sp.subscribe("alert")
    with pytest.raises(InputError, match="never ends"):
        sp.subscribe("alerts", follow=True, until="latest")
    with pytest.raises(InputError, match="no log"):
        sp.subscribe("alerts", log="nowhere.db")
    with EmbeddedLog(path) as log, sp.subscribe("alerts", log=log, contracts=registry()) as alerts:
        assert [alert.id for alert in alerts] == ["alerts-0@0"]
