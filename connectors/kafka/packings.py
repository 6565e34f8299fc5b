"""Record batches packed and unfolded: what lies behind a batch's head may be packed with gzip, snappy, lz4 or zstd."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import xxhash
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


NUMBERS: Final[Mapping[str, int]] = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""What a batch's attributes say of each packing."""
_LZ4_HEAD: Final = b"\x04\x22\x4d\x18"
_LZ4_KIND: Final = b"\x60\x40"
"""Version 1, blocks that need no other one, of at most 64 KiB: brokers read no others."""
_LZ4_BLOCK: Final = 64 << 10
_LZ4_PLAIN: Final = 1 << 31


def folded(records: memoryview, packing: str) -> bytes:
    """Records packed as brokers read them."""
    return _FOLD[packing](records)


def _gzipped(data: memoryview) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def _lz4_framed(data: memoryview) -> bytes:
    """A frame of blocks of our own: the library's frames have blocks that build on each other."""
    codec = pa.Codec("lz4_raw")
    parts = [_LZ4_HEAD, _LZ4_KIND, bytes([xxhash.xxh32_intdigest(_LZ4_KIND) >> 8 & 0xFF])]
    for at in range(0, len(data), _LZ4_BLOCK):
        plain = data[at : at + _LZ4_BLOCK]
        packed: bytes = codec.compress(pa.py_buffer(plain), asbytes=True)
        if len(packed) < len(plain):
            parts += [struct.pack("<I", len(packed)), packed]
        else:
            parts += [struct.pack("<I", len(plain) | _LZ4_PLAIN), bytes(plain)]
    parts.append(struct.pack("<I", 0))
    return b"".join(parts)


def _snapped(data: memoryview) -> bytes:
    packed: bytes = pa.Codec("snappy").compress(pa.py_buffer(data), asbytes=True)
    return packed


def _zstandard(data: memoryview) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


_FOLD: Final[Mapping[str, Callable[[memoryview], bytes]]] = {
    "gzip": _gzipped, "snappy": _snapped, "lz4": _lz4_framed, "zstd": _zstandard,
}  # fmt: skip
