"""Appends that wait for their commit: encoded early, bounded in memory, the rest in a nameless file beside the log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from connectors.embedded.layout import BLOCK_BYTES, BLOCK_RECORDS, Encoded, encode, joined, pieces, record_bytes
from streamproc.errors import LogError
from streamproc.ports import Block, TopicPartition

WAITING_BYTES: Final = 16 << 20
"""Small appends wait up to this size, over all partitions, to be stored as one block."""
ENCODED_BYTES: Final = 16 << 20
"""Encoded blocks stay in memory up to this size; beyond it they go to the file."""


class Pending:
    """The appends of one transaction, by partition, in order.

    They are kept out of SQLite until the commit, so that a long step does not hold the log's write lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._small: dict[TopicPartition, list[Block]] = {}
        self._small_bytes: dict[TopicPartition, int] = {}
        self._encoded: dict[TopicPartition, list[tuple[Encoded, int]]] = {}
        self._encoded_bytes = 0
        self._file: IO[bytes] | None = None
        self._file_end = 0

    def add(self, block: Block) -> None:
        """Takes the records; the block's arrays may be kept until the commit."""
        if len(block) == 0:
            return
        place = TopicPartition(block.topic, block.partition)
        waiting = self._small.setdefault(place, [])
        if waiting and (waiting[0].timestamps.size > 0) != (block.timestamps.size > 0):
            self._encode(place)
            waiting = self._small.setdefault(place, [])
        size = int(record_bytes(block).sum())
        # A few records cut from a large buffer would keep all of it in memory.
        waiting.append(block if 4 * size >= block.buffer.size else joined([block]))
        total = self._small_bytes.get(place, 0) + size + 8 * len(block)
        self._small_bytes[place] = total
        if total >= BLOCK_BYTES or sum(map(len, waiting)) >= BLOCK_RECORDS:
            self._encode(place)
        elif sum(self._small_bytes.values()) > WAITING_BYTES:
            self.settle()

    def settle(self) -> None:
        """Encodes what still waits for company."""
        for place in list(self._small):
            self._encode(place)

    def partitions(self) -> list[TopicPartition]:
        """Partitions with appends; call `settle` before."""
        return sorted(self._encoded)

    def blocks(self, partition: TopicPartition) -> Iterator[Encoded]:
        """The partition's encoded blocks in order; call `settle` before."""
        for encoded, at in self._encoded[partition]:
            if at < 0:
                yield encoded
            elif self._file is not None:
                self._file.seek(at)
                yield replace(encoded, payload=self._file.read(int.from_bytes(encoded.payload, "little")))

    def discard(self) -> None:
        """Forgets everything."""
        self._small.clear()
        self._small_bytes.clear()
        self._encoded.clear()
        self._encoded_bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None
            self._file_end = 0

    def _encode(self, place: TopicPartition) -> None:
        blocks = self._small.pop(place)
        self._small_bytes.pop(place, None)
        if not blocks:
            return
        whole = blocks[0] if len(blocks) == 1 else joined(blocks)
        for piece in pieces(whole):
            encoded = encode(piece)
            self._encoded.setdefault(place, []).append((encoded, -1))
            self._encoded_bytes += len(encoded.payload)
            if self._encoded_bytes > ENCODED_BYTES:
                self._spill()

    def _spill(self) -> None:
        """Moves the encoded payloads to the file; what stays behind is their length."""
        try:
            self._move_to_file()
        except OSError as error:
            raise LogError(
                f"a large transaction cannot be kept in '{self._folder}' until its commit ({error})",
                hint="free disk space, or commit smaller steps",
            ) from error

    def _move_to_file(self) -> None:
        if self._file is None:
            # Beside the log and not in the system's folder, which often is memory; without a name it goes with us.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as the transaction
        self._file.seek(self._file_end)
        for place, entries in self._encoded.items():
            moved = []
            for encoded, at in entries:
                if at < 0:
                    size = self._file.write(encoded.payload)
                    at = self._file_end
                    self._file_end += size
                    encoded = replace(encoded, payload=size.to_bytes(8, "little"))
                moved.append((encoded, at))
            self._encoded[place] = moved
        self._encoded_bytes = 0
