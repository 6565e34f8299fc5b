"""A proxy before the brokers that knows requests and their answers, and does to them what networks and brokers do.

    with Meddler(cluster.proxy_targets) as meddler:
        meddler.fates[END_TXN] = ["lose"]       # the next end is heard, and its answer lost; those behind it pass

Of each kind of request the next ones get the fates that are listed, the last of which stays if it is in `stays`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import NamedTuple

from confluent_kafka import KafkaError

PRODUCE, FIND, VERSIONS, INIT, END_TXN, OFFSETS = 0, 10, 18, 22, 26, 28

Fate = str | float | Callable[[bytearray], bool | None]
"""What becomes of a request: "cut" ends its connection before it is heard, "lose" after the broker has answered; "keep"
is an answer that never comes; a number of seconds is how late the request goes on; a function changes the answer, or
says False and waits for the next."""


class Seen(NamedTuple):
    """A request as it came: when, on which connection, of which kind, all of it."""

    at: float
    connection: int
    kind: int
    data: bytes


class Meddler:
    """Listens on ports and passes on to others.

    seen   every request
    rate   bytes a second that go to the brokers on each connection, 0 for as many as come
    """

    def __init__(self, targets: Mapping[int, int], *, rate: int = 0) -> None:
        self.fates: dict[int, list[Fate]] = {}
        self.stays: set[int] = set()
        self.seen: list[Seen] = []
        self.rate = rate
        self._targets = dict(targets)
        self._listening: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._connections = count()

    def __enter__(self) -> Meddler:
        for port, target in self._targets.items():
            listener = socket.create_server(("127.0.0.1", port))
            if self.rate:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
            self._listening.append(listener)
            threading.Thread(target=self._accept, args=(listener, target), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in [*self._listening, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def of(self, kind: int) -> list[Seen]:
        """The requests of a kind."""
        return [one for one in self.seen if one.kind == kind]

    def _accept(self, listener: socket.socket, target: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", target))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, broker}
                asked: deque[tuple[int, Fate | None]] = deque()
                for work in (self._requests, self._answers):
                    threading.Thread(target=work, args=(client, broker, asked), daemon=True).start()

    def _requests(self, client: socket.socket, broker: socket.socket, asked: deque[tuple[int, Fate | None]]) -> None:
        number = next(self._connections)
        with contextlib.suppress(OSError, EOFError):
            while True:
                data = self._whole(client, self.rate)
                kind = struct.unpack_from(">h", data)[0]
                with self._lock:
                    self.seen.append(Seen(time.monotonic(), number, kind, bytes(data)))
                    listed = self.fates.get(kind, [])
                    stays = kind in self.stays and len(listed) == 1
                    fate = None if not listed else listed[0] if stays else listed.pop(0)
                if fate == "cut":
                    break
                if isinstance(fate, float):
                    time.sleep(fate)
                if fate == "keep":
                    continue
                asked.append((kind, fate))
                broker.sendall(struct.pack(">i", len(data)) + data)
        self._end(client, broker)

    def _answers(self, client: socket.socket, broker: socket.socket, asked: deque[tuple[int, Fate | None]]) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                data = self._whole(broker, 0)
                kind, fate = asked.popleft()
                if fate == "lose":
                    break
                if callable(fate) and fate(data) is False:
                    with self._lock:
                        self.fates[kind].insert(0, fate)
                client.sendall(struct.pack(">i", len(data)) + data)
        self._end(client, broker)

    def _whole(self, one: socket.socket, rate: int) -> bytearray:
        size, found = struct.unpack(">i", _exactly(one, 4, 0))[0], bytearray()
        return found + _exactly(one, size, rate)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            self._open.discard(one)


def _exactly(one: socket.socket, size: int, rate: int) -> bytearray:
    found = bytearray()
    while len(found) < size:
        more = one.recv(min(size - len(found), 1 << 12 if rate else 1 << 20))
        if not more:
            raise EOFError
        found += more
        if rate:
            time.sleep(len(more) / rate)
    return found


def called(fate: Fate | list[Fate]) -> str:
    """The name of a test's fate, the same in every process."""
    if isinstance(fate, list):
        return "-".join(map(called, fate))
    return fate.__name__ if callable(fate) else str(fate)


def end_says(code: int) -> Fate:
    """Makes the answer to InitProducerId or EndTxn an error."""

    def change(data: bytearray) -> None:
        struct.pack_into(">h", data, 4 + 1 + 4, code)

    change.__name__ = KafkaError(code).name()
    return change


def _first_partition(data: bytearray, at: int) -> int:
    """Where the first partition of the first topic stands in an answer whose topics are listed from there on."""
    return at + 1 + data[at + 1] + 1  # Less than 127 topics and bytes of a name, each counted one too many.


def base_offset(data: bytearray) -> int:
    """What the answer to the first batch of a Produce request says of where it lies."""
    return int(struct.unpack_from(">q", data, _first_partition(data, 4 + 1) + 6)[0])


def records_say(code: int, offset: int | None = None) -> Fate:
    """Makes the answer to the first batch of a Produce request an error; a duplicate is one that was taken."""

    def change(data: bytearray) -> bool | None:
        at = _first_partition(data, 4 + 1) + 4
        if code == KafkaError.DUPLICATE_SEQUENCE_NUMBER and struct.unpack_from(">h", data, at)[0]:
            return False
        struct.pack_into(">h", data, at, code)
        if offset is not None:
            struct.pack_into(">q", data, at + 2, offset)
        return None

    change.__name__ = KafkaError(code).name()
    return change


def offsets_say(code: int) -> Fate:
    """Makes the answer to the first offset of a TxnOffsetCommit request an error."""

    def change(data: bytearray) -> None:
        struct.pack_into(">h", data, _first_partition(data, 4 + 1 + 4) + 4, code)

    change.__name__ = KafkaError(code).name()
    return change
