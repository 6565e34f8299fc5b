"""One run of the demo for all tests here, whichever process they run in."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from demo_run import DemoRun

from connectors.embedded import EmbeddedLog
from streamproc.cli.app import cli


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRun]:
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders side by side: the first one to come runs the demo for all.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, answer = shared / "demo", shared / "demo.json"
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            ran = CliRunner().invoke(cli, ["demo", "--json", "--dir", str(folder)], catch_exceptions=False)
            assert ran.exit_code == 0, ran.output
            answer.write_text(json.dumps([ran.stdout, ran.stderr]))
    printed, told = json.loads(answer.read_text())
    with EmbeddedLog(folder / "log.db", create=False) as log:
        yield DemoRun(json.loads(printed), told, log)
