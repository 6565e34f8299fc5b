"""The instruction set of the decoding kernel: opcodes, the shape of an instruction, and the reasons for bad payloads.

An instruction is a row of ten int64:

    OP  TAG  BASE  VALID  SCOPE  A  B  JUMP  WIDTH  INNER

    TAG    PLAIN, NULL_FIRST or NULL_SECOND (a union index precedes the value), PRESENT (there is a value)
    BASE   the data column and VALID the flag column, as column numbers in a program and as addresses in the kernel
    WIDTH  how many words a null leaves in BASE: see ZERO_*
"""

from __future__ import annotations

from typing import Final

# Plain module integers: Numba freezes them into the kernels as constants.  Its cache does not notice when they change:
# whoever edits them touches decode.py and encode.py too.
OP: Final = 0
TAG: Final = 1
BASE: Final = 2
VALID: Final = 3
SCOPE: Final = 4
A: Final = 5
B: Final = 6
JUMP: Final = 7
WIDTH: Final = 8
INNER: Final = 9
FIELDS: Final = 10

PLAIN: Final = 0
NULL_FIRST: Final = 1
NULL_SECOND: Final = 2
PRESENT: Final = 3

ZERO_NOTHING: Final = 0
ZERO_FLAG: Final = 1
ZERO_WORD: Final = 2
ZERO_PAIR: Final = 3
ZERO_ITEMS: Final = 4
ZERO_COLUMNS: Final = 5

# Opcodes below READS_NO_VARINT begin with a zigzag varint on the wire.
LONG: Final = 0
STRING: Final = 1
INT: Final = 2
BYTES: Final = 3
ENUM: Final = 4
TIME: Final = 5
LONG_TO_DOUBLE: Final = 6
LONG_TO_FLOAT: Final = 7
DECIMAL_BYTES: Final = 8
SWITCH: Final = 9
LIST: Final = 10
SKIP_LONG: Final = 11
SKIP_INT: Final = 12
SKIP_LENGTH: Final = 13
SKIP_ENUM: Final = 14
READS_NO_VARINT: Final = 20
DOUBLE: Final = 20
BOOLEAN: Final = 21
FLOAT: Final = 22
FLOAT_TO_DOUBLE: Final = 23
FIXED: Final = 24
DECIMAL_FIXED: Final = 25
DURATION: Final = 26
SKIP_BYTES: Final = 27
SKIP_BOOLEAN: Final = 28
CONTROL: Final = 40
END: Final = 40
NEXT: Final = 41
RECORD: Final = 42
JUMP_TO: Final = 43
FILL: Final = 44
SET_FLAG: Final = 45
SET_WORD: Final = 46
SET_PAIR: Final = 47
SET_ENDS: Final = 48
ADD_ITEM: Final = 49

GOOD: Final = 0
TRUNCATED: Final = 1
PAST_END: Final = 2
BAD_BRANCH: Final = 3
TRAILING: Final = 4
BAD_UTF8: Final = 5
BAD_BOOLEAN: Final = 6
OVERFLOW: Final = 7
BAD_SYMBOL: Final = 8
INT_RANGE: Final = 9
TOO_MANY_ITEMS: Final = 10
BLOCK_SIZE: Final = 11
DECIMAL_RANGE: Final = 12
TIME_RANGE: Final = 13
FOREIGN_BRANCH: Final = 14
FOREIGN_SYMBOL: Final = 15
UNKNOWN_SCHEMA: Final = 16
NULL_PAYLOAD: Final = 17
NOT_FRAMED: Final = 18
INCOMPATIBLE: Final = 19

REASONS: Final[tuple[str, ...]] = (
    "",
    "truncated",
    "length past the end",
    "bad union branch",
    "trailing bytes",
    "bad UTF-8",
    "bad boolean",
    "varint overflow",
    "enum index out of range",
    "int out of 32-bit range",
    "item count too large",
    "block size does not match its items",
    "decimal out of range",
    "time of day out of range",
    "union branch that the reader's schema lacks",
    "enum symbol that the reader's schema lacks",
    "unknown schema",
    "null payload",
    "not Confluent-framed",
    "writer schema that the reader's schema cannot read",
)
"""Why a payload is bad, by its code; code 0 is a good one."""
