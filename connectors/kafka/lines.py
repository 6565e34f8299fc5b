"""Connections to brokers for writing: several requests are on their way on each, and nothing is waited for here.

A broker answers the requests of a connection in their order. What cannot be sent at once waits here, what has not come
yet waits in the socket. A line is silent, and then let go of, if a broker owes an answer and no byte has moved for some
seconds: neither to us, nor from us, nor out of what the machine still has to send. So a slow line is no dead one. A
broker that says that it holds a client back (a quota) gets no further request until then, and is not silent meanwhile.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from connectors.kafka.binding import KafkaSettings
from connectors.kafka.connecting import Refused, connect
from connectors.kafka.fields import NO_TAGS, Fields
from streamproc.errors import InputError

try:
    import fcntl
    import termios
except ImportError:  # No such question on this system: then only bytes that we move ourselves count.
    _UNSENT = 0
else:
    _UNSENT = getattr(termios, "TIOCOUTQ", 0)

Address = tuple[str, int]
Answer = Callable[[Fields | None, float], None]
"""What is done with an answer, or with None where none will come; and when the last byte moved before that."""

MOST_ASKED: Final = 5
"""Requests on their way on a line: brokers know that many batches of a partition again."""
_CONNECT_S: Final = 2.0
_IDLE_S: Final = 1.0
"""Behind a rest of so long it is looked whether the broker has ended a line: what is sent there is sent twice."""
_AWAY_S: Final = 0.5
"""A broker that could not be reached is left alone for so long."""
_SILENT_S: Final = 6.0
_LARGEST: Final = 64 << 20
_PIECE: Final = 1 << 16
_MOST_PARTS: Final = 64
_CLIENT: Final = b"streamproc.writer"
_HEAD = struct.Struct(">ihhih")
_NUMBER = struct.Struct(">i")
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(slots=True)
class Line:
    """A connection to one broker.

    until  when (monotonic seconds) the proof of who we are runs out
    since  when the last byte moved; later where the broker said that it holds us back
    """

    address: Address
    socket: socket.socket
    until: float
    since: float = 0.0
    muted_until: float = 0.0
    asked: deque[tuple[int, bool, Answer]] = field(default_factory=deque)
    _out: deque[memoryview] = field(default_factory=deque)
    _came: bytearray = field(default_factory=bytearray)
    _number: int = 0
    _queued: int = 0

    def is_free(self, now: float) -> bool:
        """Whether another request may go out."""
        return len(self.asked) < MOST_ASKED and not self._out and now >= self.muted_until and now < self.until

    def ask(
        self, kind: int, version: int, body: Sequence[bytes | memoryview], answer: Answer, *, plain_head: bool = False
    ) -> None:
        """Sends a request; raises OSError. `plain_head`: its answer's head has no optional fields."""
        now = time.monotonic()
        if not self.asked:
            self.since = max(self.since, now)
        self._number = (self._number + 1) & 0x7FFFFFFF
        parts = [_CLIENT + NO_TAGS, *body]
        size = _HEAD.size - _NUMBER.size + sum(map(len, parts))
        self._out.append(memoryview(_HEAD.pack(size, kind, version, self._number, len(_CLIENT))))
        self._out += [memoryview(part) for part in parts if len(part)]
        self.asked.append((self._number, plain_head, answer))
        self.write()

    def hold(self, throttled_ms: int) -> None:
        """Sends nothing for so long, because the broker said so."""
        if throttled_ms > 0:
            self.muted_until = max(self.muted_until, time.monotonic() + throttled_ms / 1e3)

    @property
    def events(self) -> int:
        """What is to be waited for."""
        return (select.POLLIN if self.asked else 0) | (select.POLLOUT if self._out else 0)

    def write(self) -> None:
        """Sends what waits, as much as is taken; raises OSError."""
        while self._out:
            try:
                if isinstance(self.socket, ssl.SSLSocket):
                    sent = self.socket.send(self._out[0])
                else:
                    sent = self.socket.sendmsg(list(islice(self._out, _MOST_PARTS)))
            except _NOT_NOW:
                return
            if sent:
                self.since = max(self.since, time.monotonic())
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.popleft())
            if sent:
                self._out[0] = self._out[0][sent:]

    def read(self) -> list[tuple[Answer, Fields]]:
        """The answers that have come; raises OSError or Refused."""
        with contextlib.suppress(*_NOT_NOW):
            while True:
                came = self.socket.recv(_PIECE)
                if not came:
                    raise Refused("the broker closed the connection")
                self._came += came
                self.since = max(self.since, time.monotonic())
                if len(came) < _PIECE and not isinstance(self.socket, ssl.SSLSocket):
                    break
        found = []
        while len(self._came) >= _NUMBER.size:
            (size,) = _NUMBER.unpack_from(self._came)
            if not _NUMBER.size <= size <= _LARGEST or not self.asked:
                raise Refused(f"an answer of {size} bytes")
            if len(self._came) < _NUMBER.size + size:
                break
            answered = Fields(bytes(self._came[_NUMBER.size : _NUMBER.size + size]))
            del self._came[: _NUMBER.size + size]
            number, plain_head, answer = self.asked[0]
            if answered.numbers(_NUMBER) != (number,):
                raise Refused("the answer to another question")
            if not plain_head:
                answered.skip_tags()
            self.asked.popleft()
            found.append((answer, answered))
        return found

    def is_silent(self, now: float) -> bool:
        """Whether an answer is owed and no byte has moved for too long."""
        if not self.asked or now - max(self.since, self.muted_until) <= _SILENT_S:
            return False
        queued = self._unsent()
        if queued != self._queued:
            self._queued, self.since = queued, now
            return False
        return True

    def look(self, now: float) -> None:
        """Notes whether bytes left this machine that were given to it before."""
        if self.asked and now - self.since > _SILENT_S / 8 and (queued := self._unsent()) != self._queued:
            self._queued, self.since = queued, now

    @property
    def ended(self) -> bool:
        """Whether the broker has ended the connection, or says something that nobody asked for."""
        ready = select.poll()
        ready.register(self.socket, select.POLLIN)
        return bool(ready.poll(0))

    def _unsent(self) -> int:
        """Bytes that this machine has taken and the other one has not confirmed."""
        if not _UNSENT:
            return 0
        told = bytearray(4)
        try:
            fcntl.ioctl(self.socket.fileno(), _UNSENT, told)
        except OSError:
            return 0
        return int.from_bytes(told, sys.byteorder)


class Lines:
    """All lines of one writer, by broker and purpose: what ends a transaction waits behind no records."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lines: dict[tuple[Address, str], Line] = {}
        self._away: dict[Address, tuple[float, str]] = {}
        self._sockets: set[socket.socket] = set()
        # Who forgets a writer without closing it leaves no connection behind.
        weakref.finalize(self, _close_all, self._sockets)
        self.trouble = ""

    def to(self, address: Address, purpose: str) -> Line | None:
        """The line to a broker, opened where there is none; None where it cannot be reached now."""
        line, now = self._lines.get((address, purpose)), time.monotonic()
        if line is not None and not line.asked and (now >= line.until or (now > line.since + _IDLE_S and line.ended)):
            self.close(line)  # A new connection brings a new proof of who we are.
            line = None
        if line is None and now >= self._away.get(address, (0.0, ""))[0]:
            try:
                made, until = connect(address, self._settings, _CONNECT_S)
            except (OSError, Refused, InputError) as refused:
                self.trouble = f"{address[0]}:{address[1]}: {refused}"
                self._away[address] = time.monotonic() + _AWAY_S, self.trouble
                return None
            self._sockets.add(made)
            line = self._lines[address, purpose] = Line(address, made, until, since=now)
        return line

    def serve(self) -> None:
        """Sends what can be sent, and takes up the answers that have come."""
        for line in list(self._lines.values()):
            if not line.asked:
                continue
            try:
                line.write()
                answers = line.read()
            except (OSError, Refused) as broken:
                self.trouble = f"{line.address[0]}:{line.address[1]}: {broken}"
                self.close(line)
                continue
            for answer, fields in answers:
                try:
                    answer(fields, line.since)
                except Refused as garbled:
                    self.trouble = f"{line.address[0]}:{line.address[1]}: {garbled}"
                    self.close(line)
                    answer(None, line.since)
            now = time.monotonic()
            line.look(now)
            if line.is_silent(now):
                self.trouble = f"{line.address[0]}:{line.address[1]} owed an answer for {now - line.since:.1f} s"
                self.close(line)

    def wait(self, seconds: float) -> None:
        """Waits at most so long until a line has something to say, or takes more."""
        ready = select.poll()
        for line in self._lines.values():
            if events := line.events:
                ready.register(line.socket, events)
        ready.poll(max(0.0, 1e3 * seconds))

    def close(self, line: Line | None = None) -> None:
        """Lets go of a line, or of all; whoever waits for its answers is told that none will come."""
        for key, one in list(self._lines.items()):
            if line is None or one is line:
                self._lines.pop(key)
                self._sockets.discard(one.socket)
                one.socket.close()
                asked = list(one.asked)
                one.asked.clear()
                for _, _, answer in asked:
                    answer(None, one.since)


def _close_all(sockets: set[socket.socket]) -> None:
    for one in sockets:
        one.close()
