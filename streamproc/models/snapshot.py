"""A model as bytes that are judged before they are believed: format, library version, signature, classes.

The bytes are a sealed file (`sealing`) whose body is the table of `structure`. A reader looks at the seal, and at the
name of every class, before the first object is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from streamproc.models.sealing import header_of, seal, unseal
from streamproc.models.structure import model_of, table_of

FORMAT: Final = "streamproc.model.1"


def write_snapshot(model: Any, *, about: Mapping[str, Any] | None = None, key: bytes | None = None) -> bytes:
    """The model as bytes; equal models give equal bytes.

    about  what else to keep beside it, plain values: it is signed too
    key    signs with HMAC, for files that leave the place where they were written
    Raises StateError for a model that holds functions or classes which are not River's.

    >>> from river.linear_model import LogisticRegression
    >>> data = write_snapshot(LogisticRegression(), about={"name": "risk"})
    >>> describe(data)["about"], type(read_snapshot(data)).__name__
    ({'name': 'risk'}, 'LogisticRegression')
    """
    return seal(FORMAT, table_bytes(table_of(model)), {"about": dict(about or {})}, key=key)


def table_bytes(table: Any) -> bytes:
    """A table as JSON: equal tables give equal bytes."""
    return json.dumps(table, separators=(",", ":")).encode()


def describe(data: bytes) -> dict[str, Any]:
    """The header; nothing is believed or made.  Raises StateError if there is none."""
    return header_of(data)


def read_snapshot(data: bytes, *, key: bytes | None = None) -> Any:
    """The model, if all of it can be trusted.

    key  the key that it must be signed with; None asks for the plain digest alone
    Raises StateError, before anything is made, for a file of another format, without the signature asked for, changed
    after it was signed, written by another River, or naming a class that is not on the list.
    """
    return model_of(unseal(data, FORMAT, key=key)[1])


def table_in(snapshot: bytes) -> bytes:
    """The table in bytes that this process wrote; nothing is judged."""
    return snapshot.partition(b"\n")[2]


def unseeded_part(data: bytes) -> str:
    """The class of a part that draws random numbers without a seed, "" if there is none: it could not be replayed."""
    table = json.loads(table_in(data))
    for line in table:
        if line[0] != "object" or line[1].startswith("river.proba."):
            continue
        state = table[line[3][0]] if isinstance(line[3], list) else ["none"]
        if state[0] == "dict" and ["seed", None] in state[1]:
            return str(line[1].partition(":")[2])
    return ""
