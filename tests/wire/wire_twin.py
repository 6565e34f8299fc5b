"""An Avro codec as the specification reads, one value at a time: the independent twin of the kernels.

Raw values: numbers, bytes, str, bool, None, lists; a map is a list of pairs, a union (branch, value), an enum its
index, a record a dict.  `column_value` gives what a Polars column holds of it, physically (`Series.to_physical`).
"""

from __future__ import annotations

import math
import random
import struct
import uuid

from streamproc.contracts.columns import branch_names, kind_of, logical_of

Raw = object
LIMITS = {"time-millis": 86_400_000, "time-micros": 86_400_000_000}


class BadError(Exception):
    """A payload that is not a value of the schema."""


class Cursor:
    """Bytes and a place in them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size < 0 or self.at + size > len(self.data):
            raise BadError
        self.at += size
        return self.data[self.at - size : self.at]

    def long(self) -> int:
        """A zigzag varint of at most 64 bits."""
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if value >= 1 << 64 or shift > 70:
                raise BadError
            if byte < 128:
                return value >> 1 ^ -(value & 1)


def decode(node: object, data: bytes) -> Raw:
    """The one value that the bytes hold."""
    cursor = Cursor(data)
    value = read(node, cursor)
    if cursor.at != len(data):
        raise BadError
    return value


def read(node: object, cursor: Cursor) -> Raw:
    """A value of an expanded schema node."""
    kind = kind_of(node)
    if kind == "union":
        index = cursor.long()
        if not 0 <= index < len(node):
            raise BadError
        return index, read(node[index], cursor)
    if kind == "null":
        return None
    if kind == "boolean":
        byte = cursor.take(1)[0]
        if byte > 1:
            raise BadError
        return byte == 1
    if kind in ("int", "long"):
        return _number(node, kind, cursor.long())
    if kind in ("float", "double"):
        return struct.unpack("<f" if kind == "float" else "<d", cursor.take(4 if kind == "float" else 8))[0]
    if kind in ("bytes", "fixed"):
        data = cursor.take(cursor.long() if kind == "bytes" else node["size"])
        if logical_of(node) == "decimal" and abs(int.from_bytes(data, "big", signed=True)) >= 10 ** node["precision"]:
            raise BadError
        return data
    if kind == "string":
        try:
            return cursor.take(cursor.long()).decode()
        except UnicodeDecodeError:
            raise BadError from None
    if kind == "enum":
        index = cursor.long()
        if not 0 <= index < len(node["symbols"]):
            raise BadError
        return index
    if kind == "record":
        return {item["name"]: read(item["type"], cursor) for item in node["fields"]}
    return _items(node, kind, cursor)


def _number(node: object, kind: str, value: int) -> int:
    if kind == "int" and not -(2**31) <= value < 2**31:
        raise BadError
    limit = LIMITS.get(logical_of(node))
    if limit is not None and not 0 <= value < limit:
        raise BadError
    return value


def _items(node: dict, kind: str, cursor: Cursor) -> Raw:
    found = []
    while count := cursor.long():
        end = None
        if count < 0:
            count, size = -count, cursor.long()
            end = cursor.at + size
            if size < 0 or end > len(cursor.data):
                raise BadError
        if count > len(cursor.data):
            raise BadError
        for _ in range(count):
            if kind == "array":
                found.append(read(node["items"], cursor))
            else:
                found.append((read("string", cursor), read(node["values"], cursor)))
        if end is not None and end != cursor.at:
            raise BadError
    return found


def zigzag(value: int) -> bytes:
    """A long as the wire has it."""
    value = (value << 1 ^ value >> 63) & (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def encode(node: object, raw: Raw) -> bytes:
    """The canonical bytes of a raw value."""
    kind = kind_of(node)
    if kind == "union":
        return zigzag(raw[0]) + encode(node[raw[0]], raw[1])
    if kind == "null":
        return b""
    if kind == "boolean":
        return bytes([raw])
    if kind in ("int", "long", "enum"):
        return zigzag(raw)
    if kind in ("float", "double"):
        return struct.pack("<f" if kind == "float" else "<d", float("nan") if math.isnan(raw) else raw)
    if kind == "bytes":
        return zigzag(len(raw)) + raw
    if kind == "fixed":
        return raw
    if kind == "string":
        return zigzag(len(raw.encode())) + raw.encode()
    if kind == "record":
        return b"".join(encode(item["type"], raw[item["name"]]) for item in node["fields"])
    if kind == "map":
        items = [encode("string", key) + encode(node["values"], value) for key, value in raw]
    else:
        items = [encode(node["items"], item) for item in raw]
    return (zigzag(len(items)) + b"".join(items) if items else b"") + b"\0"


def column_value(node: object, raw: Raw) -> object:
    """What a column's physical form holds of a raw value."""
    kind, logical = kind_of(node), logical_of(node)
    if kind == "union":
        index, value = raw
        values = [branch for branch in node if kind_of(branch) != "null"]
        if kind_of(node[index]) == "null":
            return None
        inner = column_value(node[index], value)
        if len(values) == 1:
            return inner
        names, chosen = branch_names(values), sum(kind_of(branch) != "null" for branch in node[:index])
        return {name: inner if i == chosen else None for i, name in enumerate(names)}
    if kind == "record":
        return {item["name"]: column_value(item["type"], raw[item["name"]]) for item in node["fields"]}
    if kind == "array":
        return [column_value(node["items"], item) for item in raw]
    if kind == "map":
        return [{"key": key, "value": column_value(node["values"], value)} for key, value in raw]
    if logical == "decimal":
        return int.from_bytes(raw, "big", signed=True)
    if logical == "duration":
        return dict(zip(("months", "days", "millis"), struct.unpack("<III", raw), strict=True))
    if logical == "uuid" and kind == "fixed":
        return str(uuid.UUID(bytes=raw))
    return raw * {"time-millis": 1_000_000, "time-micros": 1_000}.get(logical, 1) if logical in LIMITS else raw


TEXTS = (
    "",
    "a",
    "abcd",
    "twelve bytes",
    "thirteen byte",
    "ü",
    "€uro",
    "🦉🦉",
    "a longer text that no view holds inline",
    "\0",
)
NUMBERS = (0, 1, -1, 63, 64, -64, -65, 8191, 8192, 2**31 - 1, -(2**31), 2**31, 2**53, 2**63 - 1, -(2**63))


def draw(rnd: random.Random, node: object) -> Raw:
    """A random value of an expanded schema node, edge values often."""
    kind, logical = kind_of(node), logical_of(node)
    if kind == "union":
        index = rnd.randrange(len(node))
        return index, draw(rnd, node[index])
    if kind == "null":
        return None
    if kind == "boolean":
        return rnd.random() < 0.5
    if kind in ("int", "long"):
        limit = LIMITS.get(logical)
        if limit is not None:
            return rnd.choice((0, limit - 1, rnd.randrange(limit)))
        edge = rnd.choice(NUMBERS)
        number = edge if rnd.random() < 0.5 else rnd.randrange(-(2**40), 2**40)
        return number if kind == "long" else (number + 2**31) % 2**32 - 2**31
    if kind in ("float", "double"):
        number = rnd.choice((0.0, -0.0, 1.5, float("inf"), float("nan"), rnd.gauss(0, 1e10)))
        return struct.unpack("<f", struct.pack("<f", number))[0] if kind == "float" else number
    if kind in ("bytes", "fixed"):
        if logical == "decimal":
            number = rnd.choice((0, 1, -1, 127, -128, 128, 10 ** node["precision"] - 1)) * rnd.choice((1, -1))
            number = number if abs(number) < 10 ** node["precision"] else 1
            short = next(size for size in range(1, 18) if -(2 ** (8 * size - 1)) <= number < 2 ** (8 * size - 1))
            return number.to_bytes(short if kind == "bytes" else node["size"], "big", signed=True)
        return rnd.randbytes(rnd.choice((0, 1, 5, 12, 13, 40)) if kind == "bytes" else node["size"])
    if kind == "string":
        return rnd.choice(TEXTS)
    if kind == "enum":
        return rnd.randrange(len(node["symbols"]))
    if kind == "record":
        return {item["name"]: draw(rnd, item["type"]) for item in node["fields"]}
    count = rnd.choice((0, 0, 1, 2, 5, 40 if rnd.random() < 0.1 else 3))
    if kind == "array":
        return [draw(rnd, node["items"]) for _ in range(count)]
    return [(f"{rnd.choice(TEXTS)}{i}", draw(rnd, node["values"])) for i in range(count)]


def mutated(rnd: random.Random, data: bytes, other: bytes) -> bytes:
    """A payload with one kind of damage, or pure noise."""
    kind = rnd.randrange(7)
    at = rnd.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rnd.randbytes(rnd.choice((1, 1, 2, 9))) + data[at:]
    if kind == 2 and data:
        flipped = bytearray(data)
        flipped[min(at, len(data) - 1)] ^= 1 << rnd.randrange(8)
        return bytes(flipped)
    if kind == 3:
        return data[:at] + data[at + 1 :]
    if kind == 4:
        return data[:at] + other[rnd.randrange(len(other) + 1) :]
    if kind == 5:
        return (
            data[:at]
            + rnd.choice((b"\x80", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x01", b"\xc3\x28"))
            + data[at + 1 :]
        )
    return rnd.randbytes(rnd.choice((0, 1, 3, 10, 30)))
