"""Whatever a broker answers, or does not, is told of the partitions that were asked for; nothing of it is believed."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from connectors.kafka import fetching
from connectors.kafka.binding import kafka_settings
from connectors.kafka.fetching import Fetched, Fetcher
from streamproc.ports import TopicPartition
from tests.deploy.deployed import within

PLACES = {TopicPartition("t", 0): 5, TopicPartition("t", 1): 7, TopicPartition("other", 0): 0}
Answer = Callable[[bytes], bytes | None]


@contextmanager
def broker(answer: Answer, *, connections: int = 1) -> Iterator[tuple[str, int]]:
    """Gives each request what is said of it, None for silence.

    Hangs up behind what is no whole answer, and behind every answer where more connections than one are taken.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), server:  # The other side hangs up when it has heard enough.
            for _ in range(connections):
                with server.accept()[0] as peer:
                    while len(head := peer.recv(4, socket.MSG_WAITALL)) == 4:
                        said = answer(peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
                        for at in range(0, len(said or b""), 7):
                            peer.sendall((said or b"")[at : at + 7])
                        whole = said is None or (len(said) >= 4 and int.from_bytes(said[:4], "big") == len(said) - 4)
                        if not whole or connections > 1:
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    address: tuple[str, int] = server.getsockname()
    try:
        yield address
    finally:
        server.close()
        thread.join(5)


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def sound(number: int, *, error: int = 0, parts: int = 2, aborted: int = -1, size: int = -1) -> bytes:
    """An answer of one topic."""
    out = struct.pack(">iihii", number, 0, error, 0, 1) + struct.pack(">h", 1) + b"t" + struct.pack(">i", parts)
    for partition in range(parts):
        out += struct.pack(">ihqqqi", partition, 0, 20, 10, 0, aborted)
        out += struct.pack(">qq", 9, 8) * max(0, aborted) + struct.pack(">ii", -1, size) + b"x" * max(0, size)
    return out


def number_of(request: bytes) -> int:
    kind, version, number = struct.unpack_from(">hhi", request)
    assert (kind, version) == (1, 11)
    return int(number)


def told(answer: Answer) -> list[Fetched | TopicPartition]:
    """What a fetcher makes of the answer to one request."""
    with broker(answer) as address:
        settings = kafka_settings({"brokers": f"{address[0]}:{address[1]}"})
        watch = select.poll()
        sizes = {"partition_bytes": 1 << 20, "most_bytes": 1 << 22, "largest": 1 << 16}
        with closing(Fetcher(settings, watch=watch, **sizes)) as one:
            assert one.connect(address)
            assert one.ask({address: PLACES}) == []
            found: list[Fetched | TopicPartition] = []
            within(10, "an answer", lambda: bool(found.extend(one.answers()) or found))
            assert one.is_free
            return found


def test_what_an_answer_says_of_a_partition_is_told_and_the_rest_is_lost() -> None:
    found = told(lambda request: framed(sound(number_of(request), aborted=2, size=3)))
    fetched = {one.place: one for one in found if isinstance(one, Fetched)}
    assert [one for one in found if not isinstance(one, Fetched)] == [TopicPartition("other", 0)]
    assert {place: one.asked for place, one in fetched.items()} == {place: PLACES[place] for place in list(PLACES)[:2]}
    for one in fetched.values():
        assert (one.error, one.stable, one.batches.tobytes()) == (0, 10, b"xxx")
        assert (one.producers.tolist(), one.firsts.tolist()) == ([9, 9], [8, 8])


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: framed(sound(number_of(request) + 1)),
        lambda request: framed(sound(number_of(request), error=70)),
        lambda request: framed(sound(number_of(request), size=50)[:-10]),
        lambda request: framed(sound(number_of(request), parts=2)[:40]),
        lambda request: framed(b"short"),
        lambda request: struct.pack(">i", 1 << 20) + b"more than is taken",
        lambda request: struct.pack(">i", -5),
        lambda request: struct.pack(">i", 500) + b"closed in the middle",
        lambda request: b"",
    ],
    ids=["other question", "error", "cut records", "cut", "short", "too large", "negative", "half", "closed"],
)
def test_an_answer_that_is_none_is_no_answer(answer: Answer) -> None:
    found = told(answer)
    assert {one for one in found if not isinstance(one, Fetched)} == set(PLACES)


def test_a_broker_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SILENT_S", 0.2)
    assert set(told(lambda _request: None)) == set(PLACES)


def test_a_connection_that_was_closed_while_nothing_was_asked_is_opened_again() -> None:
    with broker(lambda request: framed(sound(number_of(request))), connections=3) as address:
        settings = kafka_settings({"brokers": f"{address[0]}:{address[1]}"})
        with closing(Fetcher(settings, watch=select.poll(), partition_bytes=1, most_bytes=1, largest=1 << 16)) as one:
            assert one.connect(address)
            for _ in range(3):
                assert one.ask({address: PLACES}) == []
                found: list[Fetched | TopicPartition] = []
                within(10, "an answer", lambda told=found: bool(told.extend(one.answers()) or told))
                assert sum(isinstance(each, Fetched) for each in found) == 2
                within(10, "that it hangs up", lambda: not list(one.answers()) and not one._brokers)


def test_a_broker_that_was_not_reached_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int]] = []

    def unreachable(address: tuple[str, int], *_: object) -> None:
        tried.append(address)
        raise OSError

    monkeypatch.setattr(fetching, "connect", unreachable)
    settings = kafka_settings({"brokers": "localhost:1"})
    with closing(Fetcher(settings, watch=select.poll(), partition_bytes=1, most_bytes=1, largest=1)) as one:
        for _ in range(100):
            assert not one.connect(("localhost", 1))
            assert one.ask({("localhost", 1): PLACES}) == list(PLACES)
        assert len(tried) == 1, "each attempt may cost half a second"
        monkeypatch.setattr(fetching, "_AWAY_S", 0.0)
        one._away.clear()
        assert not one.connect(("localhost", 1))
        assert not one.connect(("localhost", 1))
        assert len(tried) == 3


def test_a_broker_that_is_not_there_cannot_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address: tuple[str, int] = gone.getsockname()
    settings = kafka_settings({"brokers": f"{address[0]}:{address[1]}"})
    with closing(Fetcher(settings, watch=select.poll(), partition_bytes=1, most_bytes=1, largest=1)) as one:
        assert not one.connect(address)
        assert one.ask({address: PLACES}) == list(PLACES)
