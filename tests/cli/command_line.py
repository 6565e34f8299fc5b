"""The command line in this process: what it printed, and its exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from streamproc.cli.app import run


@dataclass(frozen=True)
class Answer:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON value and nothing else."""
        return orjson.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """Runs commands as `streamproc` does."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *args: object) -> Answer:
        self.capture.readouterr()
        code = run([str(arg) for arg in args])
        out, err = self.capture.readouterr()
        assert "Traceback" not in out + err
        return Answer(code, out, err)

    def fine(self, *args: object) -> Answer:
        """The same, of a command that must succeed."""
        answer = self(*args)
        assert answer.code == 0, answer.err
        return answer
