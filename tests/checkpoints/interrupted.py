"""A log whose commits are interrupted: something else happens just before or after one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamproc.ports import Block, TopicPartition

Between = Callable[[str, list[str]], None]


class InterruptedLog:
    """The log behind it, but `between` is called with "before" or "after" and the keys of what is committed."""

    def __init__(self, log: Any, between: Between) -> None:
        self._log, self._between = log, between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def producer(self, transactional_id: str) -> InterruptedProducer:
        return InterruptedProducer(self._log.producer(transactional_id), self._between)


class InterruptedProducer:
    def __init__(self, producer: Any, between: Between) -> None:
        self._producer, self._between = producer, between

    def begin(self) -> InterruptedTransaction:
        return InterruptedTransaction(self._producer.begin(), self._between)

    def close(self) -> None:
        self._producer.close()


class InterruptedTransaction:
    def __init__(self, transaction: Any, between: Between) -> None:
        self._transaction, self._between = transaction, between
        self._keys: list[str] = []

    def append(self, block: Block) -> None:
        self._keys += [(block.key(row) or b"").decode() for row in range(len(block))]
        self._transaction.append(block)

    def commit(self) -> dict[TopicPartition, tuple[int, int]]:
        self._between("before", self._keys)
        ranges: dict[TopicPartition, tuple[int, int]] = self._transaction.commit()
        self._between("after", self._keys)
        return ranges

    def abort(self) -> None:
        self._transaction.abort()
