"""The command line with a schema registry: push, then produce, run and read with the registry's ids."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import fastavro
import orjson

from connectors.confluent_registry import RegistryClient
from connectors.confluent_registry.registry import schema_text
from connectors.embedded import EmbeddedLog
from streamproc.contracts.model import Contract
from streamproc.ports import TopicPartition, TopicSettings, block_of
from tests.cli.command_line import CommandLine
from tests.registry.conftest import Make
from tests.services.apicurio import schema_registry

BIND = ("--bind", "local.toml")
DAY = 1_760_000_000_000_000


def topology(name: str) -> str:
    """Doubles of one source in a sink with a derived contract."""
    return f"""
import polars as pl
import streamproc as sp

rows = sp.source("payments", contract="{name}", lateness="1m")
doubles = sp.Topology("doubles", version=1, sinks={{"doubled": rows | sp.with_columns(y=pl.col("x") * 2)}})
"""


def put(path: Path, contract: Contract) -> None:
    (path / "schemas_avro" / f"{contract}.avsc").write_text(json.dumps(contract.avro))


def framed(schema_id: int, contract: Contract, x: int, at: int = DAY) -> bytes:
    """A record as any other client of the registry writes it."""
    body = BytesIO()
    fastavro.schemaless_writer(body, dict(contract.avro), {"x": x, "at": at})
    return struct.pack(">bI", 0, schema_id) + body.getvalue()


def append(path: Path, values: list[bytes]) -> None:
    with EmbeddedLog(path) as log:
        log.create_topic("payments", TopicSettings(1))
        transaction = log.producer("somebody else").begin()
        transaction.append(block_of("payments", 0, values, timestamps=[DAY] * len(values)))
        transaction.commit()


def ids_in(path: Path, topic: str) -> set[int]:
    with EmbeddedLog(path) as log:
        block = log.read(TopicPartition(topic, 0), 0)
        return {struct.unpack(">bI", (block.value(row) or b"")[:5])[1] for row in range(len(block))}


def test_push_says_what_it_did_and_a_second_one_that_all_is_there(
    project: Path, command: CommandLine, contract: Make, name: str
) -> None:
    put(project, contract(1))
    dry = command.fine("contracts", "push", "--dry-run", *BIND)
    assert "would be registered" in dry.out and "nothing was written" in dry.out
    first = command.fine("contracts", "push", "--json", *BIND).json
    assert first[0] | {"id": 0} == {
        "contract": f"{name}.v1",
        "subject": name,
        "id": 0,
        "new": True,
        "compatibility": "BACKWARD_TRANSITIVE",
        "compatibility_before": None,
    }
    again = command.fine("contracts", "push", *BIND)
    assert "there already" in again.out and str(first[0]["id"]) in again.out and "(was" not in again.out


def test_push_of_what_does_not_fit_says_why_and_exits_with_one(
    project: Path, command: CommandLine, contract: Make, name: str, client: RegistryClient
) -> None:
    put(project, contract(1))
    command.fine("contracts", "push", *BIND)
    (project / "schemas_avro" / f"{name}.v1.avsc").unlink()
    put(project, contract(2, x="string"))
    refused = command("contracts", "push", *BIND)
    assert refused.code == 1
    assert f"nothing was pushed:\n  - {name}.v2 cannot read {name}.v1 at x" in refused.err
    assert client.versions(name) == [1]


def test_push_of_a_broken_folder_writes_nothing(
    project: Path, command: CommandLine, contract: Make, name: str, client: RegistryClient
) -> None:
    put(project, contract(1))
    (project / "schemas_avro" / "wrong.v1.avsc").write_text("{")
    refused = command("contracts", "push", *BIND)
    assert refused.code == 2 and "cannot be pushed" in refused.err and "wrong.v1.avsc" in refused.err
    assert client.versions(name) == []
    assert command("contracts", "push").err.startswith("InputError: no schema registry is named; write [registry]")


def test_a_run_reads_and_writes_with_ids_of_the_registry(
    project: Path, command: CommandLine, contract: Make, name: str, client: RegistryClient
) -> None:
    """Records of two versions by another client, one with an id that nobody has, and the sink's own contract."""
    put(project, contract(1, x="int"))
    put(project, contract(2))
    ids = {row["contract"]: row["id"] for row in command.fine("contracts", "push", "--json", *BIND).json}
    log = project / ".streamproc" / "log.db"
    log.parent.mkdir()
    (project / "doubles.py").write_text(topology(name))
    append(
        log,
        [
            framed(ids[f"{name}.v1"], contract(1, x="int"), 1),
            framed(ids[f"{name}.v2"], contract(2), 2),
            framed(999_999, contract(2), 3),
        ],
    )
    fates = command.fine("run", "doubles.py", "--until-end", "--json", *BIND).json["sources"]
    assert [(row["in"], row["emitted"], row["dead_lettered"]) for row in fates.values()] == [(3, 2, 1)]
    lines = command.fine("subscribe", "doubles.doubled", *BIND).out.splitlines()
    rows = [orjson.loads(line) for line in lines]
    assert [(row["x"], row["y"]) for row in rows] == [(1, 2), (2, 4)]
    dead = command.fine("dlq", "show", "doubles", *BIND)
    assert "unknown schema" in dead.out


def test_produce_writes_the_id_of_the_registry(
    project: Path, command: CommandLine, contract: Make, name: str, client: RegistryClient
) -> None:
    put(project, contract(1))
    (project / "rows.csv").write_text("x,at\n7,2026-11-01T00:00:00Z\n")
    produce = ("produce", "rows.csv", "payments", "--contract", name, "--partitions", "1", *BIND)
    early = command(*produce)
    assert early.code == 2 and "is not registered under" in early.err and "contracts push" in early.err
    command.fine("contracts", "push", *BIND)
    command.fine(*produce)
    assert ids_in(project / ".streamproc" / "log.db", "payments") == {client.find(name, schema_text(contract(1)))}


def test_a_registry_that_is_away_ends_a_start_with_one_line_unless_all_is_known(
    project: Path, command: CommandLine, contract: Make, name: str
) -> None:
    put(project, contract(1))
    log = project / ".streamproc" / "log.db"
    log.parent.mkdir()
    (project / "doubles.py").write_text(topology(name))
    with schema_registry() as own:
        (project / "local.toml").write_text(f'[registry]\nurl = "{own.url}"\n')
        (row,) = command.fine("contracts", "push", "--json", *BIND).json
        append(log, [framed(row["id"], contract(1), 1)])
        command.fine("run", "doubles.py", "--until-end", *BIND)
    append(log, [framed(row["id"], contract(1), 2)])
    assert command.fine("run", "doubles.py", "--until-end", "--json", *BIND).json["rows"] == 1
    append(log, [framed(row["id"] + 1, contract(1), 3)])
    run, _ = timed(project, "run", "doubles.py", "--until-end", *BIND)
    lines = [line for line in run.stderr.splitlines() if line.startswith("RegistryUnavailable")]
    assert run.returncode == 2 and len(lines) == 1 and "does not answer" in lines[0], run.stderr
    assert "Traceback" not in run.stderr
    _, start = timed(project, "contracts", "check")
    push, took = timed(project, "contracts", "push", *BIND)
    assert push.returncode == 2 and push.stderr.count("\n") == 1
    assert took - start < 9, "beside the time that a process takes to start"


def timed(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A command as a process of its own, and its seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "streamproc", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done, time.monotonic() - began


def test_a_binding_with_a_wrong_registry_is_refused(project: Path, command: CommandLine) -> None:
    (project / "local.toml").write_text('[registry]\nurl = "https://r.example.com"\npasswort = "x"\n')
    assert "[registry] sets 'passwort'; did you mean 'password'" in command("contracts", "list", *BIND).err
