"""State of operators."""

from __future__ import annotations

from streamproc.columns import grow
from streamproc.int_table import (
    IntArrays,
    IntTable,
    int_table_find,
    int_table_find_or_insert,
    int_table_release,
)
from streamproc.key_table import KeyTable

__all__ = ["IntArrays", "IntTable", "KeyTable", "grow", "int_table_find", "int_table_find_or_insert", "int_table_release"]
