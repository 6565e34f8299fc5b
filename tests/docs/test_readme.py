"""The README says what is: its Python runs, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from streamproc.cli.app import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs_from_top_to_bottom() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})


def test_every_command_of_the_readme_has_help() -> None:
    verbs = set(re.findall(r"^\s+(?:\S+/)?streamproc ([a-z-]+)", README, re.M))
    assert {"check", "run", "replay", "verify", "produce", "subscribe", "dlq"} <= verbs
    for verb in verbs:
        answer = CliRunner().invoke(cli, [verb, "--help"])
        assert answer.exit_code == 0, f"streamproc {verb} --help: {answer.output}"


def test_ci_calls_the_readmes_test_command() -> None:
    command = re.search(r"python3 \.ci/setup --tests && (.*)", README)
    assert command is not None
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python3 .ci/setup --tests" in script
    assert command.group(1) in script
