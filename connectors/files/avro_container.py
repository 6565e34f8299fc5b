"""Avro object container files: a header with the writer's schema, then blocks of records with a sync marker each.

A block is decoded at once by the engine's own kernel: with its count in front and a zero behind, the body of a block
is one record that holds an array of the file's records.
Source: Avro specification 1.12, "Object Container Files".
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa
import zstandard

from connectors.files.formats import open_bytes
from connectors.files.rows import FramePiece
from streamproc.contracts.avro_json import expand, load_schema
from streamproc.errors import InputError, InvalidSchema, StreamprocError
from streamproc.wire.decoder import Decoder
from streamproc.wire.encoder import Encoder

MAGIC: Final = b"Obj\x01"
MAX_BLOCK: Final = 256 << 20
"""Bytes that one block may have, packed or unpacked: a small file must not claim all memory."""
_ROWS: Final = "rows"
_DAMAGE: Final = (EOFError, ValueError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pa.ArrowException)
_arrow: Any = pa


@dataclass(frozen=True, slots=True)
class Header:
    """What a container says of itself: the writer's schema (JSON value), the codec, the marker behind each block."""

    schema: Mapping[str, object]
    codec: str
    sync: bytes


def container_columns(path: Path) -> list[str]:
    """The names of the record's fields; raises InputError where the file is no container of records."""
    with open_bytes(path) as stream:
        fields = cast(list[Mapping[str, object]], read_header(path, stream).schema["fields"])
    return [str(field["name"]) for field in fields]


def container_frames(path: Path, names: Sequence[str], *, rows: int) -> Iterator[FramePiece]:
    """The records as frames of the named fields, each of at most `rows` rows, with the bad rows behind them.

    Before each frame stands how many rows come before it in the file. A record whose text is not UTF-8 is one bad row;
    a block whose bytes are no records at all is one bad row as a whole.
    Raises InputError, naming the block, where the file itself is broken: cut off, or a marker is missing.
    """
    with open_bytes(path) as stream:
        header = read_header(path, stream)
        blocks = _Blocks(path, header.schema, names)
        done = 0
        for count, body in _blocks(path, stream, header):
            frame = blocks.whole(count, body)
            if frame is None:
                yield from blocks.row_by_row(count, body, done)
            else:
                for start in range(0, frame.height, rows):
                    yield done + start, frame[start : start + rows], []
            done += count


class _Blocks:
    """Decodes the blocks of one file."""

    __slots__ = ("_block", "_record", "_schema")

    def __init__(self, path: Path, schema: Mapping[str, object], names: Sequence[str]) -> None:
        self._schema = cast(Mapping[str, object], expand(schema))
        fields = cast(list[Mapping[str, object]], self._schema["fields"])
        wanted = {**self._schema, "fields": [field for field in fields if field["name"] in names]}
        try:
            self._block = Decoder(_block_schema(schema), _block_schema(wanted))
            self._record = Decoder(schema, wanted)
        except StreamprocError as error:
            raise InputError(f"the schema in '{path}' cannot be used: {error.message}", hint=error.hint) from None

    def whole(self, count: int, body: bytes) -> pl.DataFrame | None:
        """The records of a block, or None if it does not hold that many good ones."""
        return _decoded(self._block, count, body)

    def row_by_row(self, count: int, body: bytes, done: int) -> Iterator[FramePiece]:
        """A block with bad records: cut into them if texts are all that is wrong, else one bad row for all of it.

        Texts and bytes look the same on the wire. So the block is read with bytes in the place of its texts and written
        again record by record, which tells where each one begins and ends.
        """
        try:
            loose = cast(Mapping[str, object], _texts_as_bytes(self._schema))
            frame = _decoded(Decoder(_block_schema(loose)), count, body)
            payloads = None if frame is None else Encoder(loose).encode(frame, schema_id=None)
        except StreamprocError:
            payloads = None
        if payloads is None:
            reason = f"rows {done + 1} to {done + count}: a block that does not hold {count} records of its schema"
            yield done, self._record.decode_payloads([]).frame, [(done + 1, reason, body)]
            return
        decoded = self._record.decode(payloads.buffer, payloads.starts, payloads.ends)
        start = good = 0
        for row, why in decoded.why():
            raw = payloads.buffer[int(payloads.starts[row]) : int(payloads.ends[row])].tobytes()
            yield done + start, decoded.frame[good : good + row - start], [(done + row + 1, why, raw)]
            good, start = good + row - start, row + 1
        yield done + start, decoded.frame[good:], []


def _decoded(decoder: Decoder, count: int, body: bytes) -> pl.DataFrame | None:
    framed = _varint(count) + body + b"\0"
    bounds = np.zeros(1, np.int64), np.full(1, len(framed), np.int64)
    decoded = decoder.decode(np.frombuffer(framed, np.uint8), *bounds)
    if not decoded.rows.size:
        return None
    return decoded.frame.get_column(_ROWS).explode(empty_as_null=False).struct.unnest()


def _texts_as_bytes(node: object) -> object:
    """An expanded schema with bytes for each text; defaults and logical types of texts are left out."""
    if isinstance(node, list):
        return [_texts_as_bytes(branch) for branch in node]
    if isinstance(node, str):
        return "bytes" if node == "string" else node
    assert isinstance(node, Mapping)
    if node["type"] == "string":
        return "bytes"
    if node["type"] == "record":
        fields = cast(list[Mapping[str, object]], node["fields"])
        plain = [{"name": field["name"], "type": _texts_as_bytes(field["type"])} for field in fields]
        return {"type": "record", "name": node["name"], "fields": plain}
    return {key: _texts_as_bytes(item) if key in ("items", "values") else item for key, item in node.items()}


def _block_schema(record: Mapping[str, object]) -> Mapping[str, object]:
    items = {"type": "array", "items": record}
    return {"type": "record", "name": "sp_container_block", "fields": [{"name": _ROWS, "type": items}]}


def read_header(path: Path, stream: IO[bytes]) -> Header:
    """Reads the header; raises InputError for what is no container, or has a codec or schema that cannot be read."""
    if stream.read(4) != MAGIC:
        raise InputError(f"'{path}' is not an Avro container file", hint="its first bytes should be 'Obj' and 1")
    meta: dict[str, bytes] = {}
    try:
        while (count := _read_varint(stream)) != 0:
            if count < 0:
                _read_varint(stream)
            for _ in range(abs(count)):
                key = _read_bytes(stream)
                meta[key.decode()] = _read_bytes(stream)
        sync = _exactly(stream, 16)
        schema = load_schema(meta["avro.schema"].decode())
    except InvalidSchema as error:
        raise InputError(f"the schema in '{path}' cannot be used: {error.message}", hint=error.hint) from None
    except (EOFError, ValueError, KeyError):
        raise InputError(f"the header of '{path}' is damaged", hint="check that the file is whole") from None
    codec = meta.get("avro.codec", b"null").decode(errors="replace")
    if codec not in _UNPACK:
        raise InputError(f"'{path}' uses the codec '{codec}'", hint=f"rewrite it with one of {', '.join(_UNPACK)}")
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise InputError(f"'{path}' does not hold records", hint="wrap its values into a record")
    return Header(schema, codec, sync)


def _blocks(path: Path, stream: IO[bytes], header: Header) -> Iterator[tuple[int, bytes]]:
    number = 0
    while first := stream.read(1):
        number += 1
        try:
            count, size = _read_varint(stream, first), _read_varint(stream)
            if count < 0 or not 0 <= size <= MAX_BLOCK:
                raise ValueError(f"it claims {count} records in {size} bytes")
            body = _UNPACK[header.codec](_exactly(stream, size))
            if _exactly(stream, 16) != header.sync:
                raise ValueError("the marker behind it is not the file's")
        except _DAMAGE as error:
            why = str(error) or "it ends too early"
            hint = "check that the file is whole; the rows before it were read"
            raise InputError(f"block {number} of '{path}' is damaged: {why}", hint=hint) from None
        yield count, body


def _bounded_inflate(data: bytes) -> bytes:
    return _bounded(zlib.decompressobj(-15).decompress(data, MAX_BLOCK + 1))


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BLOCK:
        raise ValueError(f"it unpacks to more than {MAX_BLOCK} bytes")
    return body


def _unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        return _bounded(reader.read(MAX_BLOCK + 1))


def _unsnappy(data: bytes) -> bytes:
    size = _read_unsigned(io.BytesIO(data))
    if size > MAX_BLOCK:
        raise ValueError(f"it unpacks to more than {MAX_BLOCK} bytes")
    body = cast(bytes, _arrow.decompress(data[:-4], decompressed_size=size, codec="snappy", asbytes=True))
    if zlib.crc32(body) != int.from_bytes(data[-4:], "big"):
        raise ValueError("its checksum is wrong")
    return body


_UNPACK: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "null": bytes,
    "deflate": _bounded_inflate,
    "snappy": _unsnappy,
    "bzip2": lambda data: _bounded(bz2.BZ2Decompressor().decompress(data, MAX_BLOCK + 1)),
    "xz": lambda data: _bounded(lzma.LZMADecompressor().decompress(data, MAX_BLOCK + 1)),
    "zstandard": _unzstd,
}
CODECS: Final = ("null", "deflate", "zstandard")
"""What is written."""


class ContainerWriter:
    """Writes frames as blocks of one container.  Equal frames in equal pieces give equal bytes."""

    __slots__ = ("_codec", "_encoder", "_stream", "_sync")

    def __init__(self, stream: IO[bytes], schema: Mapping[str, object], *, codec: str = "null") -> None:
        if codec not in CODECS:
            raise InputError(f"there is no codec '{codec}' to write", hint=f"choose one of {', '.join(CODECS)}")
        self._stream, self._codec, self._encoder = stream, codec, Encoder(schema)
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        # The marker is random elsewhere; here it follows from the schema, so that a file is reproducible.
        self._sync = hashlib.blake2b(text.encode(), digest_size=16, person=b"sp-avro-sync").digest()
        meta = {"avro.schema": text.encode(), "avro.codec": codec.encode()}
        entries = b"".join(_prefixed(key.encode()) + _prefixed(value) for key, value in meta.items())
        stream.write(MAGIC + _varint(len(meta)) + entries + _varint(0) + self._sync)

    def write(self, frame: pl.DataFrame) -> None:
        """Writes the frame as blocks of at most 10,000 rows; raises TypeMismatch for what the schema cannot hold."""
        for start in range(0, frame.height, 10_000):
            piece = frame[start : start + 10_000]
            body = self._encoder.encode(piece, schema_id=None).buffer.tobytes()
            packed = _pack(body, self._codec)
            self._stream.write(_varint(piece.height) + _varint(len(packed)) + packed + self._sync)


def _pack(body: bytes, codec: str) -> bytes:
    if codec == "null":
        return body
    if codec == "zstandard":
        return zstandard.ZstdCompressor(level=3).compress(body)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def _varint(value: int) -> bytes:
    zigzag = value << 1 if value >= 0 else (-value << 1) - 1
    out = bytearray()
    while zigzag > 127:
        out.append(zigzag & 127 | 128)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def _prefixed(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _read_unsigned(stream: IO[bytes], first: bytes = b"") -> int:
    value = shift = 0
    byte = first or _exactly(stream, 1)
    while byte[0] > 127:
        value |= (byte[0] & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a length of more than 64 bits")
        byte = _exactly(stream, 1)
    return value | byte[0] << shift


def _read_varint(stream: IO[bytes], first: bytes = b"") -> int:
    zigzag = _read_unsigned(stream, first)
    return (zigzag >> 1) ^ -(zigzag & 1)


def _read_bytes(stream: IO[bytes]) -> bytes:
    size = _read_varint(stream)
    if not 0 <= size <= MAX_BLOCK:
        raise ValueError(f"a text of {size} bytes")
    return _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
