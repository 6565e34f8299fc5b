"""Every mistake gets one message that names the thing, the place and the way out; exit 2; never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine

SOURCE = 's = sp.source("payments", contract="payment", lateness="1m")\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chekc card_risk.py", "there is no command 'chekc'; did you mean 'check'?"),
        ("run", "Missing argument 'TOPOLOGY'"),
        ("run card_risk.py --nosuch", "No such option"),
        ("run card_risk.py --workers 0", "0 is not in the range 1<=x<=64"),
        ("run card_risk.py --close", "--close needs --until-end"),
        ("run card_risk.py --workers 2 --member a", "--member names one worker"),
        ("check", "Missing argument 'TOPOLOGY'"),
        ("check nosuch.py", "there is no file 'nosuch.py'; name a Python file"),
        ("check nosuch", "there is no module 'nosuch'; write module:name or path/to/file.py:name"),
        ("run nosuch", "there is no module 'nosuch'; write module:name or path/to/file.py:name"),
        ("explain nosuch", "there is no module 'nosuch'; write module:name or path/to/file.py:name"),
        ("check .", "'.' names no topology; write module:name"),
        ("check card_risk.py:card_rsk", "'card_risk.py' has no name 'card_rsk'; did you mean 'card_risk'?"),
        ("check card_risk.py:payments", "'card_risk.py:payments' is a Stream, not a topology; there are: card_risk"),
        ("run card_risk.py", "there is no log at '.streamproc/log.db'; write to one with 'streamproc produce"),
        ("topics --log nosuch.db", "there is no log at 'nosuch.db'"),
        ("topics --bind nosuch.toml", "the binding 'nosuch.toml' cannot be read: No such file or directory"),
        ("diff nosuch.csv payments.csv", "there is no file 'nosuch.csv'; name a file or a topic"),
        ("replay card_risk.py --since 2026-01-01", "go with --by-event-time"),
        ("replay card_risk.py --by-event-time --out all.parquet", "'all.parquet' is one file, 'card_risk' has 2"),
        ("subscribe payments --follow --until latest", "--follow never ends, --until does"),
        ("produce payments.csv", "Missing argument 'TOPIC'"),
        ("produce payments.csv payments", "Missing option '--contract'"),
        ("produce nosuch.csv payments --contract payment", "there is no file 'nosuch.csv'"),
        ("produce payments.csv payments --contract paymnt", "there is no contract 'paymnt'; did you mean 'payment'?"),
        ("produce payments.csv payments --contract payment --map amount", "--map 'amount' is not of the form"),
        ("produce payments.csv payments --contract payment --map nosuch=amount", "has no column 'nosuch'; there are"),
        ("produce payments.csv payments --contract payment --map amount=nosuch", "has no field 'nosuch'"),
        ("produce payments.csv payments --contract payment --key nosuch", "the key column 'nosuch' is not in"),
        ("produce payments.csv payments --contract payment --zone Mars/Base", "there is no time zone 'Mars/Base'"),
        ("produce payments.csv payments --contract payment --bad-rows no/x.csv", "there is no folder 'no'"),
        ("produce card_risk.py payments --contract payment", "the name of 'card_risk.py' does not tell its format"),
        ("contracts register nosuch", "there is no contract 'nosuch'"),
        ("demo --dir payments.csv", "'payments.csv' is there already and is not the demo's; name another with --dir"),
        ("demo --dir schemas_avro", "'schemas_avro' is there already and is not the demo's"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_way_out(project: Path, command: CommandLine, line: str, said: str) -> None:
    answer = command(*line.split())
    assert answer.code == 2
    assert said in " ".join(answer.err.split())
    assert answer.out == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("subscribe paymnts", "the log has no topic 'paymnts'; did you mean 'payments'?"),
        ("subscribe payments --from yesterday", "'yesterday' is not a moment; write it as"),
        ("subscribe payments --from -5", "offset -5 is below zero"),
        ("diff payments nosuch", "'nosuch' is neither a file nor a topic"),
        ("diff payments payments --key nosuch", "'payments' has no column 'nosuch'"),
        ("produce payments.csv payments --contract payment --partitions 3", "topic 'payments' has 2 partitions, not 3"),
        ("dlq list card_risk.py", "topology 'card_risk' version 1 never ran on this log; run it first"),
        ("replay card_risk.py", "version 1 never ran on this log: there is nothing recorded; run it first"),
        ("replay card_risk.py --by-event-time --since yesterday", "'yesterday' is not a moment"),
        ("replay card_risk.py --by-event-time --must-equal", "there is no live run to compare with"),
        ("run card_risk.py --no-create --until-end", "writes topics that the log does not have"),
    ],
)
def test_a_mistake_about_the_log_is_named_too(filled: Path, command: CommandLine, line: str, said: str) -> None:
    answer = command(*line.split())
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "defines no topology; give it one"),
        (SOURCE + 'a = sp.Topology("a", sinks={"x": s})\nb = sp.Topology("b", sinks={"x": s})\n',
         "has 2 topologies; write broken.py:a or broken.py:b"),
        ("def f(:\n", "'broken.py' line 3: invalid syntax"),
        ("import nosuchmodule\n", "'broken.py' needs the module 'nosuchmodule', which is not installed"),
        ("x = 1\ny = x / 0\n", "'broken.py' line 4 fails when it is loaded: ZeroDivisionError: division by zero"),
        (SOURCE + 't = sp.Topology("t", sinks={"x": s | sp.where(pl.col("amont") > 0)})\n',
         "step 'where' reads 'amont'; did you mean 'amount'?"),
        (SOURCE + 't = sp.Topology("t", sinks={"x": s | sp.where(pl.col("card_id") > 0)})\n', "step 'where'"),
        (SOURCE + 't = sp.Topology("t", sinks={"x": s | sp.where(pl.col("amount"))})\n', "step 'where'"),
        (SOURCE + 't = sp.Topology("t", sinks={"x": s | sp.where(pl.col("amount") > 0, name="a") '
                  '| sp.where(pl.col("amount") > 1, name="a")})\n', "two steps of 't' are named 'a'"),
        ('t = sp.Topology("t", sinks={"x": sp.source("payments", contract="paymnt", lateness="1m")})\n',
         "there is no contract 'paymnt'; did you mean 'payment'?"),
    ],
)  # fmt: skip
def test_a_topology_that_cannot_be_used_says_where(
    topology: Callable[[str, str], str], command: CommandLine, text: str, said: str
) -> None:
    answer = command("check", topology("broken.py", text))
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[log\n", "is not TOML"),
        ('[logs]\npath = "x"\n', "sets 'logs'; did you mean 'log'?"),
        ('[log]\npth = "x"\n', "[log] in the binding 'b.toml' sets 'pth'; did you mean 'path'?"),
        ("log = 3\n", "'log' in the binding 'b.toml' is not a table; write [log]"),
        ("[log]\npath = 3\n", "[log] path in the binding 'b.toml' is no text"),
        ('[checkpoints]\ntopic = "a b"\n', "[checkpoints] topic in the binding 'b.toml' is no name of a topic"),
        ('[checkpoints]\ntopic = "t"\npath = "p"\n', "[checkpoints] in the binding 'b.toml' names a path and a topic"),
        ('[contracts]\nfolders = "schemas_avro"\n', "[contracts] folders in the binding 'b.toml' is no list of texts"),
    ],
)
def test_a_binding_that_cannot_be_used_says_why(project: Path, command: CommandLine, text: str, said: str) -> None:
    (project / "b.toml").write_text(text)
    answer = command("topics", "--bind", "b.toml")
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello\n", "is not an embedded log"),
        (bytes(range(256)) * 64, "is not an embedded log"),
    ],
)
def test_a_file_that_is_no_log_is_not_read_as_one(
    project: Path, command: CommandLine, content: bytes, said: str
) -> None:
    (project / "x.db").write_bytes(content)
    for line in ("topics --log x.db", "verify --log x.db", "subscribe payments --log x.db"):
        answer = command(*line.split())
        assert answer.code == 2
        assert said in answer.err


def test_a_file_that_cannot_be_used_leaves_no_topic_behind(project: Path, command: CommandLine) -> None:
    assert command("produce", "payments.csv", "payments", "--contract", "payment", "--map", "x=amount").code == 2
    assert command.fine("topics").out == "the log has no topics\n"


def test_a_topology_that_changed_under_its_version_is_refused(ran: Path, command: CommandLine) -> None:
    (ran / "card_risk.py").write_text((ran / "card_risk.py").read_text().replace("> 500", "> 600"))
    answer = command("run", "card_risk.py", "--until-end")
    assert answer.code == 2
    assert "was written with another logic" in answer.err
    assert "new version=" in answer.err


@pytest.mark.parametrize(
    "line", ["demo --dir payments.csv/x", "replay card_risk.py --by-event-time --out payments.csv/x"]
)
def test_a_folder_that_cannot_be_written_is_named(project: Path, command: CommandLine, line: str) -> None:
    answer = command(*line.split())
    assert answer.code == 2
    assert "cannot write to 'payments.csv/x': Not a directory; name a folder that can be written" in answer.err
