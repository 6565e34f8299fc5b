"""A client that the library does not let go of is left behind: who closes it goes on, and its memory stays."""

from __future__ import annotations

import logging
import time

import pytest

from connectors.kafka import Profile, kafka_settings, native, writing_blocks
from connectors.kafka.answers import Connection
from connectors.kafka.native import CONSUMER, Client
from connectors.kafka.writing_blocks import BlockSender

PROFILE = Profile(kafka_settings({"brokers": "localhost:1"}))


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeing a client takes longer than anybody waits (librdkafka 5434: for ever)."""
    free = native.rd.destroy_flags
    monkeypatch.setattr(native, "_DESTROY_S", 0.2)
    monkeypatch.setattr(native.rd, "destroy_flags", lambda *one: (time.sleep(1.5), free(*one)))


def test_a_reader_s_client_that_cannot_be_freed_is_left_behind(stuck: None, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(CONSUMER, PROFILE.common(), Connection("localhost:1"))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not client.close()
    assert time.monotonic() - began < 1.0
    assert "left behind" in caplog.text


def test_what_a_producer_left_behind_reads_stays(stuck: None) -> None:
    sender = BlockSender(PROFILE.writer("t"), Connection("localhost:1"), most_bytes=1 << 20)
    sender.close()
    assert writing_blocks._LEFT_BEHIND[-1][0] is sender


def test_a_client_that_can_be_freed_is_gone() -> None:
    client = Client(CONSUMER, PROFILE.common(), Connection("localhost:1"))
    assert client.close()
