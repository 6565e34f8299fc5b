"""A model as bytes that are judged before they are believed: format, library version, signature, classes.

The bytes are one line of JSON, the *header*, and the table of `structure`. The header names the format, the version of
River that wrote it, what the author wants known of the model (offsets, metrics, name), and the signature: SHA-256 of
header and table, or HMAC-SHA-256 under a key, where files go from one place to another. A reader looks at all of it,
and at the name of every class, before the first object is made.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from streamproc.errors import StateError
from streamproc.models.structure import model_of, table_of

FORMAT: Final = "streamproc.model.1"


def river_version() -> str:
    """The version of River that is installed."""
    from importlib.metadata import version

    return version("river")


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
    body = json.dumps(table_of(model), separators=(",", ":")).encode()
    header = {
        "format": FORMAT,
        "river": river_version(),
        "signed": "hmac-sha256" if key else "sha256",
        "bytes": len(body),
        "about": dict(about or {}),
    }
    header["signature"] = _signature(header, body, key)
    return _line(header) + b"\n" + body


def describe(data: bytes) -> dict[str, Any]:
    """The header; nothing is believed or made.  Raises StateError if there is none."""
    line, _, _ = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or not str(header.get("format", "")).startswith("streamproc.model."):
        raise StateError("this is not a saved model of streamproc", hint="pickle and joblib files are never read")
    return header


def version_of(data: bytes) -> str:
    """The model's name by content: the first 16 digits of SHA-256 over its table, so equal models have one version."""
    return hashlib.sha256(data.partition(b"\n")[2]).hexdigest()[:16]


def read_snapshot(data: bytes, *, key: bytes | None = None) -> Any:
    """The model, if all of it can be trusted.

    key  the key that it must be signed with; None asks for the plain digest alone
    Raises StateError, before anything is made, for a file of another format, without the signature asked for, changed
    after it was signed, written by another River, or naming a class that is not on the list.
    """
    header = describe(data)
    if header["format"] != FORMAT:
        raise StateError(f"the saved model has format '{header['format']}', this version reads '{FORMAT}'")
    body = data.partition(b"\n")[2]
    wanted = "hmac-sha256" if key else "sha256"
    if header.get("signed") != wanted or not isinstance(header.get("signature"), str):
        raise StateError(
            f"the saved model is signed by {header.get('signed', 'nobody')}, {wanted} is asked for",
            hint="export it again with the key that this place knows",
        )
    signature = header.pop("signature")
    if header.get("bytes") != len(body) or not hmac.compare_digest(signature, _signature(header, body, key)):
        raise StateError(
            "the saved model was changed or damaged after it was signed", hint="take another copy, or rebuild by replay"
        )
    if header.get("river") != river_version():
        raise StateError(
            f"the saved model was written by River {header.get('river')}, installed is {river_version()}",
            hint="install that version, or rebuild the model by replay",
        )
    return model_of(json.loads(body))


def unseeded_part(data: bytes) -> str:
    """The class of a part that draws random numbers without a seed, "" if there is none: it could not be replayed."""
    table = json.loads(data.partition(b"\n")[2])
    for line in table:
        if line[0] != "object" or line[1].startswith("river.proba."):
            continue
        state = table[line[3][0]] if isinstance(line[3], list) else ["none"]
        if state[0] == "dict" and ["seed", None] in state[1]:
            return str(line[1].partition(":")[2])
    return ""


def _line(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _signature(header: Mapping[str, Any], body: bytes, key: bytes | None) -> str:
    plain = {name: value for name, value in header.items() if name != "signature"}
    message = _line(plain) + b"\n" + body
    if key:
        return hmac.new(key, message, hashlib.sha256).hexdigest()
    return hashlib.sha256(message).hexdigest()
