"""Fields of Kafka's protocol in its flexible versions: numbers, text and lists that say how long they are.

Source: Kafka's protocol guide, "Protocol Primitive Types"; KIP-482.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from connectors.kafka.connecting import Refused

NO_TAGS = b"\0"
"""Behind every structure: how many optional fields follow."""


def uvarint(number: int) -> bytes:
    """A number without sign, seven bits a byte, the lowest ones first.

    >>> uvarint(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(words: str | None) -> bytes:
    """Words behind their length; None is null.

    >>> text("ab"), text(None)
    (b'\\x03ab', b'\\x00')
    """
    if words is None:
        return b"\0"
    data = words.encode()
    return uvarint(len(data) + 1) + data


def listed(parts: Sequence[bytes]) -> bytes:
    """A list of structures behind their number."""
    return uvarint(len(parts) + 1) + b"".join(parts)


class Fields:
    """Reads fields one after another; raises Refused where the bytes end before a field does."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        """Numbers of fixed widths."""
        try:
            found = layout.unpack_from(self._data, self._at)
        except struct.error as short:
            raise Refused(f"an answer of {len(self._data)} bytes that ends early") from short
        self._at += layout.size
        return found

    def uvarint(self) -> int:
        """A number without sign."""
        number = 0
        for shift in range(0, 70, 7):
            byte = self._bytes(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise Refused("a number without an end")

    def text(self) -> str | None:
        """Words, or None for null."""
        size = self.uvarint() - 1
        if size < 0:
            return None
        try:
            return bytes(self._bytes(size)).decode()
        except UnicodeDecodeError as wrong:
            raise Refused("words that are no text") from wrong

    def each(self) -> range:
        """The numbers of a list's structures, of which the fields follow."""
        count = self.uvarint() - 1
        if count > len(self._data) - self._at:
            raise Refused(f"a list of {count} structures in an answer of {len(self._data)} bytes")
        return range(max(0, count))

    def tags(self) -> Iterator[tuple[int, Fields]]:
        """Number and content of each optional field."""
        for _ in range(self.uvarint()):
            number, size = self.uvarint(), self.uvarint()
            yield number, Fields(self._bytes(size))

    def skip_tags(self) -> None:
        """Passes over optional fields."""
        for _ in self.tags():
            pass

    def _bytes(self, size: int) -> memoryview:
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise Refused(f"an answer of {len(self._data)} bytes that ends early")
        self._at += size
        return found
