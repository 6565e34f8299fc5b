"""State of operators: what it is made of, and how it becomes named arrays and back.

State is a dataclass of arrays, numbers, texts, bytes, None, Polars frames, key tables, and tuples, lists, dataclasses
or dicts by text of such.  An export names every array by its path ("counts.keys.arena"); all that is not an array is
in one array "" of JSON.  There is no pickle: classes come from the template alone, never from the stored bytes.

Equal histories give equal bytes.  A state that was imported goes on as the exported one would have, slot by slot.
"""

from __future__ import annotations

import io
import json
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Keys, Raw
from streamproc.columns import grow
from streamproc.errors import ForeignFingerprint, StateError
from streamproc.hashing import hash_bytes
from streamproc.int_table import (
    IntArrays,
    IntTable,
    int_table_find,
    int_table_find_or_insert,
    int_table_release,
)
from streamproc.key_table import KeyTable
from streamproc.ports import Bytes, Int64s

__all__ = [
    "Arrays",
    "IntArrays",
    "IntTable",
    "KeyTable",
    "Packed",
    "export_state",
    "grow",
    "import_state",
    "int_table_find",
    "int_table_find_or_insert",
    "int_table_release",
    "state_keys",
]  # fmt: skip

Arrays = dict[str, npt.NDArray[Any]]
"""Named arrays, C-contiguous; "" is a JSON text that says how they belong together."""


class Packed(ABC):
    """A part of a state that is no array, and gives itself as bytes: a model.  Equal parts give equal bytes.

    last_bytes  how many they were when it was packed last, for those who watch its size
    """

    last_bytes: int = 0

    @abstractmethod
    def packed(self) -> bytes:
        """All of it."""

    @classmethod
    @abstractmethod
    def unpacked(cls, data: bytes) -> Packed:
        """It again, from its bytes; raises StateError with the reason where they cannot be trusted."""


def export_state(state: Any) -> Arrays:
    """A state as named arrays, in a fixed order.

    The arrays may be views: copy or write them before the state is processed further.  Cost O(bytes), without the hash
    indexes, which an import builds again.  Raises StateError for a value that cannot be stored, naming its path.

    >>> sorted(export_state((np.array([1, 2]), 7)))
    ['', '0']
    """
    arrays: Arrays = {}
    form = _export(state, "", arrays)
    text = json.dumps(form, separators=(",", ":")).encode()
    return {"": np.frombuffer(text, np.uint8), **arrays}


def import_state(template: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """The state of an export; its arrays are copies.

    template  an empty state of the same operator (`operator.open(...)`): where the classes come from
    Raises ForeignFingerprint if the export is of another kind of state, naming the first path that differs.
    """
    if "" not in arrays:
        raise _foreign("", "it has no description")
    form = json.loads(arrays[""].tobytes())
    classes: dict[str, type] = {}
    _collect(template, classes)
    made = _import(form, "", arrays, classes)
    _compare(template, made, "")
    return made


def state_keys(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[Int64s, Keys]]:
    """Per key table of an export: its slots in use and their keys, so that a tool can split state by key offline.

    Rows of the arrays beside the table belong to the slot of the same number.
    """
    found = {}
    for path in sorted(arrays):
        if path.endswith("arena"):
            base = path[: -len("arena")]
            lengths = arrays[base + "lengths"]
            slots = np.flatnonzero(lengths >= 0)
            starts = arrays[base + "starts"][slots]
            ends = starts + lengths[slots]
            keys = Keys(arrays[path], starts, ends, hash_bytes(arrays[path], starts, ends))
            found[base[:-1]] = (slots, keys)
    return found


def _below(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _export(value: Any, path: str, arrays: Arrays) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, np.generic):
        return {"number": value.dtype.str, "bytes": value.tobytes().hex()}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise StateError(f"state holds an array of Python objects at '{path}'", hint="keep numbers or bytes there")
        arrays[path] = np.ascontiguousarray(value)
        return {"array": path}
    if isinstance(value, bytes):
        arrays[path] = np.frombuffer(value, np.uint8)
        return {"bytes": path}
    if isinstance(value, Packed):
        arrays[path] = np.frombuffer(value.packed(), np.uint8)
        return {"packed": type(value).__qualname__, "bytes": path}
    if isinstance(value, (KeyTable, IntTable)):
        for name, array in value.export().items():
            arrays[_below(path, name)] = np.ascontiguousarray(array)
        return {type(value).__name__: path, "capacity": value.capacity}
    if isinstance(value, (pl.DataFrame, pl.Series)):
        frame = value if isinstance(value, pl.DataFrame) else value.to_frame()
        arrays[path] = _frame_bytes(frame)
        return {type(value).__name__: path, "height": frame.height}
    if isinstance(value, (Keys, Raw)):
        value = _compact(value)
    if isinstance(value, (list, tuple)):
        if hasattr(value, "_fields"):
            raise StateError(f"state holds a named tuple at '{path}'", hint="use a frozen dataclass")
        parts = [_export(part, _below(path, number), arrays) for number, part in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _export(part, _below(path, key), arrays) for key, part in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        parts_by_name = {f.name: _export(getattr(value, f.name), _below(path, f.name), arrays) for f in fields(value)}
        return {"dataclass": type(value).__qualname__, "fields": parts_by_name}
    raise StateError(
        f"state holds a {type(value).__name__} at '{path}'",
        hint="use arrays, numbers, texts, bytes, None, frames, KeyTable, IntTable, or dataclasses and tuples of these",
    )


def _frame_bytes(frame: pl.DataFrame) -> Bytes:
    if not frame.height:
        return np.frombuffer(_bytes_without_rows(tuple(frame.schema.items())), np.uint8)
    return _written(frame)


@lru_cache(maxsize=256)
def _bytes_without_rows(columns: tuple[tuple[str, pl.DataType], ...]) -> bytes:
    return _written(pl.DataFrame(schema=dict(columns))).tobytes()


def _written(frame: pl.DataFrame) -> Bytes:
    # The oldest Arrow layout copies strings together, so that bytes do not depend on which rows the frame once had.
    stream = io.BytesIO()
    frame.rechunk().write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
    return np.frombuffer(stream.getvalue(), np.uint8)


def _compact(value: Keys | Raw) -> Keys | Raw:
    """The same ranges over a buffer that holds nothing else."""
    if isinstance(value, Keys):
        buffer, starts, ends = _gathered(value.buffer, value.starts, value.ends)
        return Keys(buffer, starts, ends, value.hashes)
    values, starts, ends = _gathered(value.buffer, value.starts, value.ends)
    keys, key_starts, key_ends = _gathered(value.buffer, value.key_starts, value.key_ends)
    null, size = key_starts < 0, values.size
    return Raw(
        np.concatenate([values, keys]), starts, ends,
        np.where(null, -1, key_starts + size), np.where(null, -1, key_ends + size),
    )  # fmt: skip


def _gathered(buffer: Bytes, starts: Int64s, ends: Int64s) -> tuple[Bytes, Int64s, Int64s]:
    null = starts < 0
    lengths = np.where(null, 0, ends - starts)
    bounds = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    # The bytes of range i begin at bounds[i]: each byte's old place is its new one plus how far its range moved.
    moved = np.repeat(starts - bounds[:-1], lengths)
    gathered = buffer[np.arange(int(bounds[-1]), dtype=np.int64) + moved]
    return gathered, np.where(null, -1, bounds[:-1]), np.where(null, -1, bounds[1:])


def _import(form: Any, path: str, arrays: Mapping[str, npt.NDArray[Any]], classes: Mapping[str, type]) -> Any:
    if form is None or isinstance(form, (bool, int, str)):
        return form
    match form:
        case {"float": text}:
            return float.fromhex(text)
        case {"number": dtype, "bytes": text}:
            return np.frombuffer(bytes.fromhex(text), np.dtype(dtype))[0]
        case {"packed": kind, "bytes": name}:
            if not issubclass(classes.get(kind, object), Packed):
                raise _foreign(path, f"it holds a {kind}, which this operator's state does not know")
            return typing.cast(type[Packed], classes[kind]).unpacked(_array(arrays, name).tobytes())
        case {"array": name}:
            return np.array(_array(arrays, name), order="C")
        case {"bytes": name}:
            return _array(arrays, name).tobytes()
        case {"KeyTable": base, "capacity": capacity}:
            return KeyTable.restored({n: _array(arrays, _below(base, n)) for n in KeyTable.EXPORTED}, capacity)
        case {"IntTable": base, "capacity": capacity}:
            return IntTable.restored({n: _array(arrays, _below(base, n)) for n in IntTable.EXPORTED}, capacity)
        case {"DataFrame": name, "height": height}:
            frame = (_read if height else _without_rows)(_array(arrays, name).tobytes())
            return frame if frame.width else pl.DataFrame(height=height)
        case {"Series": name}:
            return pl.read_ipc_stream(io.BytesIO(_array(arrays, name).tobytes())).to_series()
        case {"list": parts}:
            return [_import(part, _below(path, number), arrays, classes) for number, part in enumerate(parts)]
        case {"tuple": parts}:
            return tuple(_import(part, _below(path, number), arrays, classes) for number, part in enumerate(parts))
        case {"dict": parts}:
            return {key: _import(part, _below(path, key), arrays, classes) for key, part in parts.items()}
        case {"dataclass": name, "fields": parts}:
            if name not in classes:
                raise _foreign(path, f"it holds a {name}, which this operator's state does not know")
            expected = [f.name for f in fields(classes[name])]
            if list(parts) != expected:
                raise _foreign(path, f"a {name} has the fields {', '.join(parts)} instead of {', '.join(expected)}")
            made = {key: _import(part, _below(path, key), arrays, classes) for key, part in parts.items()}
            return classes[name](**made)
    raise _foreign(path, "its description is of a newer version")


def _read(stored: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(stored))


_without_rows = lru_cache(maxsize=256)(_read)
"""Frames are never changed in place, so one without rows may serve many states."""


def _array(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise _foreign(name, "the array is missing")
    return arrays[name]


def _foreign(path: str, why: str) -> ForeignFingerprint:
    return ForeignFingerprint(
        f"the saved state does not fit at '{path}': {why}",
        hint="resume with the version that saved it, or start a new version of the topology",
    )


def _compare(empty: Any, made: Any, path: str) -> None:
    """Refuses arrays whose rows are of another type or width than those of an empty state: kernels check no bounds."""
    if isinstance(empty, np.ndarray) and isinstance(made, np.ndarray):
        differs = empty.dtype != made.dtype or empty.ndim != made.ndim
        if differs or any(a not in (0, b) for a, b in zip(empty.shape[1:], made.shape[1:], strict=True)):
            told, own = (f"{a.dtype}[{', '.join(map(str, ('rows', *a.shape[1:])))}]" for a in (made, empty))
            raise _foreign(path, f"it is {told} instead of {own}")
    elif isinstance(empty, (list, tuple)) and isinstance(made, (list, tuple)):
        for number, (a, b) in enumerate(zip(empty, made, strict=False)):
            _compare(a, b, _below(path, number))
    elif is_dataclass(empty) and not isinstance(empty, type) and type(made) is type(empty):
        for f in fields(empty):
            _compare(getattr(empty, f.name), getattr(made, f.name), _below(path, f.name))


def _collect(value: Any, classes: dict[str, type]) -> None:
    """Every dataclass that such a state can hold, by name: those in the template, and those that fields declare."""
    if isinstance(value, Packed):
        classes[type(value).__qualname__] = type(value)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect(part, classes)
    elif isinstance(value, dict):
        for part in value.values():
            _collect(part, classes)
    elif is_dataclass(value) and not isinstance(value, type):
        _collect_declared(type(value), classes)
        for f in fields(value):
            _collect(getattr(value, f.name), classes)


def _collect_declared(kind: Any, classes: dict[str, type]) -> None:
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return
    if (known := classes.get(kind.__qualname__)) is not None:
        if known is not kind:
            raise StateError(f"two classes of the state are named {kind.__qualname__}", hint="rename one of them")
        return
    classes[kind.__qualname__] = kind
    for inner in _declared(kind):
        _collect_declared(inner, classes)


@cache
def _declared(kind: type) -> tuple[Any, ...]:
    """What the fields of a dataclass may hold; reading annotations costs more than a small import does."""
    return tuple(inner for hint in typing.get_type_hints(kind).values() for inner in _arms(hint))


def _arms(hint: Any) -> Iterator[Any]:
    if isinstance(hint, (types.UnionType,)) or typing.get_origin(hint) is not None:
        for inner in typing.get_args(hint):
            yield from _arms(inner)
    else:
        yield hint
