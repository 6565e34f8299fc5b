"""A command: the event as JSON on its stdin, its exit code as the answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any, Final

from streamproc.errors import InputError
from streamproc.event_time import Span, span_us
from streamproc.reaction import Event, GiveUp, TryLater

_MOST_READ: Final = 1 << 16
_SAID: Final = 300
_DATA_ERROR: Final = 65
"""EX_DATAERR of sysexits.h: what is wrong is the event, and it stays so."""
_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "PATH", "TZ")


@dataclass(frozen=True, slots=True)
class Command:
    """Starts a program for each event, without a shell; exit code 0 means that it succeeded.

    arguments    the program and its arguments, as they are: nothing of the event is put among them
    timeout      after it the program, and what it started, is killed
    environment  names of variables that it gets beside HOME, LANG, LC_ALL, PATH and TZ; SP_ID is the event's id

    Exit code 65 is given up, any other one tried again. A JSON object on its stdout is returned; of its stderr the last
    lines are kept in the dead letter.
    Raises InputError for an empty list.

    >>> Command(("logger", "--tag", "alerts")).timeout
    '10s'
    """

    arguments: tuple[str, ...]
    timeout: Span = field(default="10s", kw_only=True)
    environment: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.arguments, str) or not self.arguments:
            raise InputError("a command is a list of texts", hint='write Command(("program", "argument"))')
        object.__setattr__(self, "arguments", tuple(self.arguments))
        span_us(self.timeout)

    async def __call__(self, event: Event) -> Any:
        """Runs it for one event; raises GiveUp or TryLater where it did not succeed."""
        program = self.arguments[0]
        kept = {name: os.environ[name] for name in (*_PASSED_ON, *self.environment) if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *self.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**kept, "SP_ID": event.id},
                start_new_session=True,
            )
        except OSError as error:
            raise TryLater(f"the command '{program}' does not start: {error.strerror}") from None
        try:
            async with asyncio.timeout(span_us(self.timeout) / 1e6):
                _, out, said = await asyncio.gather(
                    _fed(process, event.envelope() + b"\n"), _read(process.stdout), _read(process.stderr)
                )
                code = await process.wait()
        except TimeoutError:
            raise TryLater(f"the command '{program}' took longer than {self.timeout}") from None
        finally:
            # Also what it left behind: the group is its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if code:
            text = said.decode(errors="replace").strip()[-_SAID:]
            kind = GiveUp if code == _DATA_ERROR else TryLater
            raise kind(f"the command '{program}' ended with code {code}" + (f": {text}" if text else ""))
        return _answer(out)


async def _fed(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None
    # A program that does not read its stdin is not wrong.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """The last bytes of a stream; all of it is read, so that the program never waits."""
    assert stream is not None
    kept = b""
    while part := await stream.read(_MOST_READ):
        kept = (kept + part)[-_MOST_READ:]
    return kept


def _answer(out: bytes) -> Any:
    import orjson

    try:
        answer = orjson.loads(out)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None
