"""Packed record batches unfolded: what lies behind a batch's head may be packed with gzip, snappy, lz4 or zstd."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import zstandard

from connectors.kafka.record_batches import HEAD
from streamproc.ports import Bytes

_PACKING: Final = 0x7
_AT_LENGTH, _AT_ATTRIBUTES, _BEFORE_LENGTH = 8, 21, 12
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD: Final = 16
"""The magic and two version numbers; chunks follow, each behind its length."""


class Unfoldable(Exception):
    """What lies behind a batch's head is not what its packing says, or more than it may be."""


def unfolded(batches: memoryview, most_bytes: int) -> Bytes:
    """The same complete batches, none of them packed: heads keep their numbers but for length and attributes.

    most_bytes  what one batch may unfold to; more, or what does not unfold, raises Unfoldable
    Checksums are those of before, so compare them first.
    """
    parts: list[bytes | memoryview] = []
    at = 0
    while at < len(batches):
        (length,) = struct.unpack_from(">i", batches, at + _AT_LENGTH)
        (attributes,) = struct.unpack_from(">h", batches, at + _AT_ATTRIBUTES)
        stop = at + _BEFORE_LENGTH + length
        if attributes & _PACKING:
            try:
                records = _UNFOLD[attributes & _PACKING](batches[at + HEAD : stop], most_bytes)
            except KeyError:
                raise Unfoldable(f"packing {attributes & _PACKING}") from None
            except (zlib.error, zstandard.ZstdError, OSError, ValueError, IndexError, struct.error) as wrong:
                raise Unfoldable(str(wrong)) from wrong
            if len(records) > most_bytes:
                raise Unfoldable(f"a batch of more than {most_bytes} bytes")
            head = bytearray(batches[at : at + HEAD])
            struct.pack_into(">i", head, _AT_LENGTH, HEAD - _BEFORE_LENGTH + len(records))
            struct.pack_into(">h", head, _AT_ATTRIBUTES, attributes & ~_PACKING)
            parts += [bytes(head), records]
        else:
            parts.append(batches[at:stop])
        at = stop
    return np.frombuffer(bytearray().join(parts), np.uint8)  # As the kernels know buffers: not read-only.


def _gzip(data: memoryview, most_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(31)
    found = unpacker.decompress(data, most_bytes + 1)
    if not unpacker.eof and len(found) <= most_bytes:
        raise ValueError("the data end before their end")
    return found


def _zstd(data: memoryview, most_bytes: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        return _all(stream.read, len(data), most_bytes)


def _lz4(data: memoryview, most_bytes: int) -> bytes:
    with pa.input_stream(pa.py_buffer(data), compression="lz4") as stream:
        return _all(stream.read, len(data), most_bytes)


def _all(read: Callable[[int], bytes], packed: int, most_bytes: int) -> bytes:
    """All that a stream gives, in pieces of a likely size: libraries make room for as much as is asked for."""
    found: list[bytes] = []
    left = most_bytes + 1
    while left > 0 and (piece := read(min(left, 8 * packed + 4_096))):
        found.append(piece)
        left -= len(piece)
    return b"".join(found)


def _snappy(data: memoryview, most_bytes: int) -> bytes:
    """One raw block, or several in the framing of the Java library."""
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return _snappy_block(data, most_bytes)
    found, size, at = [], 0, _XERIAL_HEAD
    while at < len(data) and size <= most_bytes:
        (length,) = struct.unpack_from(">i", data, at)
        if not 0 <= length <= len(data) - at - 4:
            raise ValueError("a chunk that is longer than the data")
        found.append(_snappy_block(data[at + 4 : at + 4 + length], most_bytes))
        size += len(found[-1])
        at += 4 + length
    return b"".join(found)


def _snappy_block(data: memoryview, most_bytes: int) -> bytes:
    size, shift = 0, 0
    for byte in data[:5]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > most_bytes:
        raise ValueError(f"a block of {size} bytes")
    found: bytes = pa.Codec("snappy").decompress(pa.py_buffer(data), decompressed_size=size, asbytes=True)
    return found


_UNFOLD: Final[Mapping[int, Callable[[memoryview, int], bytes]]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
