"""Calls into the client that do not keep their time end the worker's wait, and nothing is freed under them."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from confluent_kafka import KafkaError, KafkaException

from connectors.kafka import calls
from connectors.kafka.answers import error_of
from connectors.kafka.calls import Calls


class Polled:
    """A client of which only the polls are counted."""

    polls = 0

    def poll(self, _timeout_s: float) -> None:
        self.polls += 1


def test_a_call_gives_what_it_raises_and_gets_its_time() -> None:
    runs, given = Calls(Polled()), []
    runs(given.append, 1.5)
    assert given == [1.5]
    with pytest.raises(KafkaException) as raised:
        runs(lambda _: (_ for _ in ()).throw(KafkaException(KafkaError(KafkaError._FENCED))), 1.0)
    assert error_of(raised.value).code() == KafkaError._FENCED
    assert not runs.stuck
    runs.close()


def test_a_call_that_waits_for_polls_gets_them() -> None:
    client = Polled()
    runs = Calls(client)
    poll = partial(client.poll, 0.0)
    runs(lambda _: [time.sleep(0.002) for _ in iter(lambda: client.polls < 3, False)], 10.0, meanwhile=poll)
    assert client.polls >= 3
    runs.close()


def test_a_call_that_never_comes_back_is_a_time_out_and_its_client_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "GRACE_S", 0.1)
    client, never = Polled(), threading.Event()
    runs, began = Calls(client), time.monotonic()
    with pytest.raises(KafkaException, match="did not come back") as raised:
        runs(lambda _: never.wait(), 0.1)
    assert error_of(raised.value).code() == KafkaError._TIMED_OUT
    assert not error_of(raised.value).txn_requires_abort()
    assert 0.2 <= time.monotonic() - began < 5
    assert runs.stuck
    assert client in calls._LEFT_BEHIND
    never.set()
    runs.close()
