"""`streamproc model retrain`: a storm of alarms is one run, which waits for whoever is late, and is made once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine
from paid_back import CONTRACTS, DAY, HOUR, csv, written_topology

import streamproc as sp
from connectors.embedded import EmbeddedLog
from streamproc.cli.workspace import load_topology
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.retraining import history_until
from streamproc.runtime.workspace import workspace_of

EVERY = 120_000_000
"""A payment every two minutes."""


@pytest.fixture
def shop(project: Path, command: CommandLine, topology: Callable[[str, str], str]) -> str:
    """Payments of two days, and of what became of them all but the last three hours of the first day."""
    for name, text in CONTRACTS.items():
        (project / "schemas_avro" / f"{name}.v1.avsc").write_text(text)
    write(project, command, "paid", 0, 2 * DAY)
    write(project, command, "back", 0, DAY - 3 * HOUR)
    name = topology("risk.py", written_topology())
    command.fine("run", name, "--until-end")
    return name


def write(project: Path, command: CommandLine, topic: str, first: int, last: int) -> None:
    (project / f"{topic}.csv").write_text(csv(topic, first, last, every=EVERY))
    command.fine("produce", f"{topic}.csv", topic, "--contract", topic, "--partitions", 2)


def test_a_storm_of_alarms_is_one_run_that_waits_and_is_made_once(
    shop: str, project: Path, command: CommandLine
) -> None:
    # Hundreds of alarms, and one input is three hours late: nothing is asked for, nothing is made.
    assert command.fine("subscribe", "risk.requests").out == ""
    nothing = command.fine("model", "retrain", shop, "--json").json
    assert nothing == {"made": [], "done": [], "waiting": []}
    write(project, command, "back", DAY - 3 * HOUR, 2 * DAY)
    command.fine("run", shop, "--until-end")
    (asked,) = command.fine("subscribe", "risk.requests").out.splitlines()
    assert '"request":"19700102T000000.000000Z"' in asked and '"reasons":["harm"]' in asked and '"labels":720' in asked
    (made,) = command.fine("model", "retrain", shop, "--json").json["made"]
    versions = [one["version"] for one in made["versions"]]
    # The window alone is learned: eighteen hours of payments, and those by whose labels the watermark passed the cut.
    assert len(set(versions)) == 2 and 540 <= sum(one["labels_learned"] for one in made["versions"]) <= 542
    shown = command.fine("model", "show", versions[0], "--json").json
    # Each partition ends with the first row by which its own watermark has passed the cut.
    ends = {(topic, part): end for topic, part, _, end, _ in shown["offsets"]}
    assert sum(end for (topic, _), end in ends.items() if topic == "back") == 722
    assert sum(end for (topic, _), end in ends.items() if topic == "paid") == 720 + 5 + 2
    assert shown["origin"]["since_us"] == DAY - 18 * HOUR
    # Run again, after a crash that lost one of the two, and on purpose: always the same.
    again = command.fine("model", "retrain", shop, "--json").json
    assert not again["made"] and [one["version"] for one in again["done"][0]["versions"]] == versions
    next(project.rglob(f"{versions[1]}.model")).unlink()
    (once_more,) = command.fine("model", "retrain", shop, "--json").json["made"]
    assert [one["version"] for one in once_more["versions"]] == versions
    assert command.fine("model", "retrain", shop).out == "nothing to do: 1 requests are done\n"
    for version in versions:
        rebuilt = command.fine("model", "rebuild", version, shop, "--json").json
        assert rebuilt["equal"] and rebuilt["steps"] is None
    # What came of it races the model that went on learning.
    file = next(project.rglob(f"{versions[0]}.model"))
    racing = f'sp.race({{"live": model, "anew": sp.model_version({str(file)!r})}})'
    text = written_topology(racing, "version=2, ")
    (project / "next.py").write_text("import polars as pl\nimport streamproc as sp\n" + text)
    command.fine("replay", "next.py", "--by-event-time")
    assert sp.model_version(file).model.predict_proba_one({"amount": 0.9})[True] > 0.5


RETRAIN_STRIKES = [
    ("the replay begins", "tempfile.mkdtemp", "streamproc-model-", 1),
    ("the replay goes on", "open", "/streamproc-model-", 3),
    ("the first file is opened", "open", ".model.", 1),
    ("the first file gets its name", "os.rename", ".model.", 1),
    ("the second file is opened", "open", ".model.", 2),
    ("the second file gets its name", "os.rename", ".model.", 2),
]
REBUILD_STRIKES = [
    ("the replay begins", "tempfile.mkdtemp", "streamproc-model-", 1),
    ("the file is opened", "open", ".model.", 1),
    ("the file gets its name", "os.rename", ".model.", 1),
]


def killed(event: str, part: str, number: int, *words: str) -> None:
    """A command in a process of its own, killed just before it does that for the n-th time."""
    child = [sys.executable, str(Path(__file__).with_name("killed_child.py")), event, part, str(number), *words]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(child, capture_output=True, text=True, timeout=120, env=paths, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr


def test_killed_at_any_moment_it_leaves_whole_versions_and_is_made_again_as_the_same(
    shop: str, project: Path, command: CommandLine
) -> None:
    write(project, command, "back", DAY - 3 * HOUR, 2 * DAY)
    command.fine("run", shop, "--until-end")
    (made,) = command.fine("model", "retrain", shop, "--json").json["made"]
    versions = [one["version"] for one in made["versions"]]
    files = [next(project.rglob(f"{version}.model")) for version in versions]
    whole = [file.read_bytes() for file in files]

    def kept() -> list[str]:
        listed = command.fine("model", "list", "--json").json
        assert not listed["refused"]
        return [one["version"] for one in listed["kept"]]

    for moment, event, part, number in RETRAIN_STRIKES:
        for file in files:
            file.unlink(missing_ok=True)
        killed(event, part, number, "model", "retrain", shop)
        there = versions[:1] if moment.startswith("the second") else []
        assert kept() == there, moment
        # What is half done asks to be done, and is: the same versions, bit for bit.
        assert command.fine("model", "retrain", shop, "--json").json["made"], moment
        assert sorted(kept()) == sorted(versions) and [file.read_bytes() for file in files] == whole, moment
    elsewhere = project / "asked_for.model"
    elsewhere.write_bytes(whole[0])
    for moment, event, part, number in REBUILD_STRIKES:
        files[0].unlink(missing_ok=True)
        killed(event, part, number, "model", "rebuild", str(elsewhere), shop, "--keep")
        assert kept() == versions[1:], moment
        again = command.fine("model", "rebuild", str(elsewhere), shop, "--keep", "--json").json
        assert again["equal"] and again["rebuilt"] == versions[0] and files[0].read_bytes() == whole[0], moment
    # Each writer that died before its file got its name left a part of it, which goes when an hour has passed over it.
    folder = files[0].parent
    parts = sorted(folder.glob(".*.model.*"))
    assert len(parts) == sum(event == "os.rename" for _, event, *_ in (*RETRAIN_STRIKES, *REBUILD_STRIKES)) == 3
    notes = folder / ".notes.model.of_mine"
    notes.write_text("not ours")
    for path, hours in ((parts[0], 2.0), (parts[1], 0.9), (notes, 5.0)):
        then = time.time() - 3600 * hours
        os.utime(path, (then, then))
    command.fine("model", "import", str(elsewhere))
    assert sorted(folder.glob(".*.model.*")) == sorted([*parts[1:], notes])
    assert sorted(kept()) == sorted(versions)


def test_a_run_waits_for_each_partition_that_has_not_reached_its_cut(
    shop: str, project: Path, command: CommandLine
) -> None:
    workspace = workspace_of(None)
    registry = workspace.registry()
    plan = plan_topology(load_topology(shop), registry)
    with EmbeddedLog(workspace.log_path) as log:
        early, behind = history_until(plan, log, registry, 12 * HOUR, None)
        assert not behind and not early.silent and early.since_us is None
        _, behind = history_until(plan, log, registry, DAY, None)
        assert {place.topic for place in behind} == {"back"} and len(behind) == 2
        # The same cut ends at the same offsets, whatever came since.
        write(project, command, "back", DAY - 3 * HOUR, 2 * DAY)
        assert history_until(plan, log, registry, 12 * HOUR, None)[0] == early
        assert history_until(plan, log, registry, DAY, None)[1] == []


def test_what_asks_for_nothing_is_told(project: Path, command: CommandLine, filled: Path) -> None:
    (project / "deaf.py").write_text(
        "import streamproc as sp\nfrom river import linear_model\n"
        'scored = sp.source("payments", contract="payment") | sp.learn(linear_model.LinearRegression(), '
        'inputs=("amount",), label="amount", into="risk")\n'
        'deaf = sp.Topology("deaf", sinks={"scored": scored})\n'
    )
    for name, told in (("deaf.py", "has 0 sinks of requests"), ("card_risk.py", "learns nothing")):
        answer = command("model", "retrain", name)
        assert answer.code == 2 and told in answer.err
