"""Records of a checkpoint topic: pieces of what is stored, each with a seal over its key and bytes.

    block/<content id>/<put>/<piece>           a block of state; every put has a name of its own
    manifest/<task>/<step>-<seal>/<piece>      a manifest as JSON, whose XXH3-128 is the seal
    doom/<sweep>/<piece>                       names of blocks that are about to go, or went

A name is everything before the last slash; its pieces are at most half a mebibyte before compression, because brokers
refuse large records. A piece's value is its seal (XXH3-128 of key and rest), the number of pieces, and the bytes with
zstd level 1. Without a value the piece is deleted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote

import zstandard

from streamproc.hashing import content_id

PIECE_BYTES: Final = 512 << 10
_HEADER: Final = struct.Struct("<16sI")


def pieces_of(name: str, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the records that hold the bytes under a name.

    >>> [key for key, _ in pieces_of("block/00/1", bytes(PIECE_BYTES + 1))]
    [b'block/00/1/0', b'block/00/1/1']
    """
    squeeze = zstandard.ZstdCompressor(level=1)
    count = max(1, -(-len(data) // PIECE_BYTES))
    for piece in range(count):
        key = f"{name}/{piece}".encode()
        body = squeeze.compress(data[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES])
        yield key, _HEADER.pack(_seal(key, count, body), count) + body


def name_and_piece(key: bytes) -> tuple[str, int] | None:
    """Name and number of a piece; None for a key of another form."""
    name, _, piece = key.decode("utf-8", "replace").rpartition("/")
    return (name, int(piece)) if name and piece.isascii() and piece.isdecimal() else None


def piece_count(key: bytes, value: bytes) -> int:
    """How many pieces a sound piece's name has; 0 if the seal does not fit: the record is damaged."""
    if len(value) < _HEADER.size:
        return 0
    seal, count = _HEADER.unpack_from(value)
    return int(count) if seal == _seal(key, count, value[_HEADER.size :]) else 0


def plain(value: bytes) -> bytes:
    """The bytes of a sound piece."""
    return zstandard.ZstdDecompressor().decompress(value[_HEADER.size :])


def block_name(content: str, put: str) -> str:
    """The name of a block."""
    return f"block/{content}/{put}"


def block_of_name(name: str) -> str:
    """The content id in a block's name, "" for another kind of name."""
    kind, _, rest = name.partition("/")
    return rest.partition("/")[0] if kind == "block" else ""


def manifest_name(task: str, step: int, body: bytes) -> str:
    """The name of a manifest: another one for the same step has another name and does not overwrite it."""
    return f"manifest/{quote(task, safe='')}/{step:020d}-{content_id(body)}"


def task_step_seal(name: str) -> tuple[str, int, str] | None:
    """What a manifest's name says; None for another kind of name.

    >>> task_step_seal(manifest_name("a/b", 7, b"{}"))[:2]
    ('a/b', 7)
    """
    kind, _, rest = name.partition("/")
    task, _, last = rest.partition("/")
    step, _, seal = last.partition("-")
    return (unquote(task), int(step), seal) if kind == "manifest" and step.isascii() and step.isdecimal() else None


def _seal(key: bytes, count: int, body: bytes) -> bytes:
    return bytes.fromhex(content_id(key + struct.pack("<I", count) + body))
