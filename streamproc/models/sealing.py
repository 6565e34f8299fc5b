"""What a saved file is asked before it is believed: its format, its signature, the River that wrote it.

A file is one line of JSON, the *header*, and a body. The header names the format, the version of River, what the author
wants known, and the signature: SHA-256 of header and body, or HMAC-SHA-256 under a key, where files go from one place
to another. SHA-256 tells damage, not malice: whoever can write the file can sign it so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from streamproc.errors import StateError

FAMILY: Final = ("streamproc.model.", "streamproc.model_version.")


def river_version() -> str:
    """The version of River that is installed."""
    from importlib.metadata import version

    return version("river")


def seal(kind: str, body: bytes, told: Mapping[str, Any], *, key: bytes | None = None) -> bytes:
    """Header and body, signed.

    kind  the format
    told  what else the header says, plain values
    key   signs with HMAC
    """
    header = {
        "format": kind,
        "river": river_version(),
        "signed": "hmac-sha256" if key else "sha256",
        "bytes": len(body),
        **told,
    }
    header["signature"] = _signature(header, body, key)
    return _line(header) + b"\n" + body


def header_of(data: bytes) -> dict[str, Any]:
    """The header; nothing of it is believed yet.  Raises StateError if there is none."""
    line, _, _ = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or not str(header.get("format", "")).startswith(FAMILY):
        raise StateError("this is not a saved model of streamproc", hint="pickle and joblib files are never read")
    return header


def unseal(data: bytes, kind: str, *, key: bytes | None = None, any_river: bool = False) -> tuple[dict[str, Any], Any]:
    """Header and body, if the file is what was signed; the body is JSON, of which nothing was made yet.

    key        the key that it must be signed with; None asks for the plain digest alone
    any_river  also of another version of River, for those who make no object of it
    Raises StateError for a file of another format, without the signature asked for, changed after it was signed, or
    written by another River.
    """
    header = header_of(data)
    if header["format"] != kind:
        raise StateError(f"the saved model has format '{header['format']}', '{kind}' is read here")
    body = data.partition(b"\n")[2]
    wanted = "hmac-sha256" if key else "sha256"
    if header.get("signed") != wanted or not isinstance(header.get("signature"), str):
        raise StateError(
            f"the saved model is signed by {header.get('signed', 'nobody')}, {wanted} is asked for",
            hint="export it again with the key that this place knows",
        )
    signature = header.pop("signature")
    if header.get("bytes") != len(body) or not hmac.compare_digest(
        signature.encode(), _signature(header, body, key).encode()
    ):
        raise StateError(
            "the saved model was changed or damaged after it was signed", hint="take another copy, or rebuild by replay"
        )
    if header.get("river") != river_version() and not any_river:
        raise StateError(
            f"the saved model was written by River {header.get('river')}, installed is {river_version()}",
            hint="install that version, or rebuild the model by replay",
        )
    try:
        return header, json.loads(body)
    except ValueError:
        raise StateError("the saved model is not JSON", hint="use a file that streamproc wrote") from None


def _line(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _signature(header: Mapping[str, Any], body: bytes, key: bytes | None) -> str:
    plain = {name: value for name, value in header.items() if name != "signature"}
    message = _line(plain) + b"\n" + body
    if key:
        return hmac.new(key, message, hashlib.sha256).hexdigest()
    return hashlib.sha256(message).hexdigest()
