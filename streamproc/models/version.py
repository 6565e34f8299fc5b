"""Versions of models: what a learner had become at a moment, under a name that is a hash of all of it.

A version is its *content* and its models' tables. The content is plain values: the definitions of what the learner saw
and was told, offsets consumed, versions of libraries, metrics at that moment, and a digest of the learner's whole
state. The id is SHA-256 over both, so whoever has the id can tell that nothing of it was changed. Beside the content
stands the *origin*, which says how to make the version again; it is signed and not part of the id: the same model that
was reached by two ways has one id.

The file is sealed (`sealing`); its body is JSON, the table of each model by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streamproc.errors import InputError, StateError, did_you_mean
from streamproc.models.sealing import seal, unseal
from streamproc.models.snapshot import table_bytes
from streamproc.models.structure import check_names, model_of

FORMAT: Final = "streamproc.model_version.1"
ID_DIGITS: Final = 32
SHOWN: Final = 12
"""Digits of an id that people are shown; any beginning that is no other's will do."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A learner at a moment.

    content  what the id is made of besides the models: kind, into, champion, task, inputs, labels, learner, texts,
             offsets, libraries, metrics, labels_learned, state
    origin   how it was made
    models   by name the table of each model, as JSON bytes; "model" where there is one
    """

    content: Mapping[str, Any]
    origin: Mapping[str, Any]
    models: Mapping[str, bytes] = field(repr=False)

    @property
    def id(self) -> str:
        """SHA-256 over content and models, 32 hexadecimal digits."""
        parts = {name: hashlib.sha256(table).hexdigest() for name, table in self.models.items()}
        return hashlib.sha256(_canonical({"content": self.content, "models": parts})).hexdigest()[:ID_DIGITS]

    def table(self, name: str) -> Any:
        """The table of a model, see `structure`."""
        return json.loads(self.models[name])


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model of a version, to begin with: `sp.learn(sp.model_version("risk.model"), ...)`.

    inputs  the columns that it learned from
    texts   per input the texts that it has learned
    """

    version: str
    name: str
    model: Any = field(repr=False)
    inputs: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(repr=False)


def write_version(version: ModelVersion, *, key: bytes | None = None) -> bytes:
    """The version as a file; the same version gives the same bytes."""
    body = b"{" + b",".join(table_bytes(name) + b":" + table for name, table in version.models.items()) + b"}"
    told = {"version": version.id, "content": dict(version.content), "origin": dict(version.origin)}
    return seal(FORMAT, body, told, key=key)


def read_version(data: bytes, *, key: bytes | None = None, any_river: bool = False) -> ModelVersion:
    """The version in a file, if all of it can be trusted; no object is made of it.

    key        the key that it must be signed with; None asks for the plain digest alone
    any_river  also one that another version of River wrote: to be shown, compared and rebuilt
    Raises StateError with the reason for a file of another format, unsigned, damaged, of another River, whose id is not
    that of what it holds, or that names a class which is not on the list.
    """
    header, body = unseal(data, FORMAT, key=key, any_river=any_river)
    try:
        models = {str(name): table_bytes(table) for name, table in body.items()}
        version = ModelVersion(header["content"], header["origin"], models)
        if header["version"] != version.id:
            raise StateError(
                f"the saved model says that it is version {str(header['version'])[:SHOWN]} and is {version.id[:SHOWN]}",
                hint="take another copy, or rebuild by replay",
            )
        for table in body.values():
            check_names(table)
    except (AttributeError, KeyError, TypeError) as problem:
        raise StateError(f"the saved model cannot be read: {type(problem).__name__}: {problem}") from None
    return version


def saved_model(version: ModelVersion, name: str = "") -> SavedModel:
    """A model of a version as an object; by default the only one, or the champion of its race.

    Raises InputError for a name that is none of its models.
    """
    chosen = name or version.content["champion"]
    if chosen not in version.models:
        raise InputError(
            f"version {version.id[:SHOWN]} has no model '{chosen}'", hint=did_you_mean(chosen, version.models)
        )
    texts = {column: tuple(told) for column, told in version.content["texts"].items()}
    model = model_of(version.table(chosen))
    return SavedModel(version.id, chosen, model, tuple(version.content["inputs"]), texts)


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of plain values differ: the path, and both values, None where there is none.

    >>> list(differences({"x": 1, "y": {"z": 2}}, {"x": 1, "y": {"z": 3}}))
    [('y.z', 2, 3)]
    """
    for name in [*a, *(name for name in b if name not in a)]:
        left, right = a.get(name), b.get(name)
        below = f"{path}.{name}" if path else str(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from differences(left, right, below)
        elif _canonical(left) != _canonical(right):
            yield below, left, right


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
