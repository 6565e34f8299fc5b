"""`.avsc` text to a `Contract`: columns, roles, and the promises in the `sp:` attributes.

    record   sp:subject sp:version sp:owner sp:steward sp:scope sp:retention sp:sla sp:doc
             sp:key_encoding sp:partitioner sp:compatibility
    field    sp:role ("event_time", "key" or "deleted") sp:unit sp:pii sp:owner

An unknown `sp:` attribute is refused: a promise with a typing error would be no promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, cast

import polars as pl

from streamproc.contracts.avro_json import expand, load_schema
from streamproc.contracts.columns import kind_of, logical_of, polars_type
from streamproc.contracts.defaults import check_defaults
from streamproc.contracts.lint import refuse
from streamproc.contracts.model import Contract, Field, Schema
from streamproc.contracts.sensitivity import strictest
from streamproc.errors import InputError, InvalidSchema, did_you_mean
from streamproc.event_time import span_us

MODES: Final = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
_RECORD: Final = (
    "sp:subject",
    "sp:version",
    "sp:owner",
    "sp:steward",
    "sp:scope",
    "sp:retention",
    "sp:sla",
    "sp:doc",
    "sp:key_encoding",
    "sp:partitioner",
    "sp:compatibility",
)
_FIELD: Final = ("sp:role", "sp:unit", "sp:pii", "sp:owner")
_ROLES: Final = ("event_time", "key", "deleted")
_ENCODINGS: Final = ("utf8", "int64", "composite")
_PARTITIONERS: Final = ("murmur2", "crc32", "fnv1a", "unknown")
_SUBJECT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*\Z")
_VERSIONED: Final = re.compile(r"\.v\d+\Z")


def parse_contract(text: str) -> Contract:
    """The contract that an `.avsc` text declares.

    Columns come in field order; each has the unit, sensitivity and doc of its field, and itself as origin. A column
    without `sp:pii` of its own takes the strictest one of the fields inside it.
    Raises InvalidSchema, with the place and the way out, for what is not Avro, what the lint refuses, a top level that
    is no record, defaults of a wrong type, and attributes that are unknown or ill-formed.

    >>> contract = parse_contract('''{"type": "record", "name": "tick", "sp:version": 2, "fields": [
    ...     {"name": "at", "type": "long", "sp:role": "event_time"}]}''')
    >>> str(contract), contract.event_time, contract.schema["at"].dtype
    ('tick.v2', 'at', Int64)
    """
    value = load_schema(text)
    if kind_of(value) != "record" or not isinstance(value, dict):
        raise refuse(
            "", f"the top level is {kind_of(value)!r}, not a record", "wrap it in a record: its fields are the columns"
        )
    return contract_of_avro(value)


def contract_of_avro(avro: Mapping[str, object]) -> Contract:
    """The contract of a record schema that `load_schema` accepted, given as JSON value."""
    record = cast(Mapping[str, object], expand(avro))
    check_defaults(record)
    _check_attributes(record, "")
    short = str(record["name"]).rpartition(".")[2]
    name = _text(record, "sp:subject", "") or short
    if not _SUBJECT.match(name) or _VERSIONED.search(name):
        raise refuse("", f"'{name}' is not a subject", "use letters, digits, '_', '-' and '.', and no '.v2' at the end")
    fields = cast(list[Mapping[str, object]], record["fields"])
    columns = Schema(tuple(_column(name, item) for item in fields))
    event_time, key = _roles(fields)
    return Contract(
        name=name,
        version=_version(record),
        avro=avro,
        schema=columns,
        event_time=event_time,
        key=key,
        owner=_text(record, "sp:owner", ""),
        steward=_text(record, "sp:steward", ""),
        scope=_scope(record),
        retention_us=_retention(record),
        sla=_sla(record),
        doc=_text(record, "sp:doc", "") or _text(record, "doc", ""),
        key_encoding=_key_encoding(record, columns, key),
        partitioner=_one_of(record, "sp:partitioner", _PARTITIONERS) or "unknown",
        compatibility=_one_of(record, "sp:compatibility", MODES) or "BACKWARD_TRANSITIVE",
    )


def _column(contract: str, item: Mapping[str, object]) -> Field:
    name = str(item["name"])
    dtype, nullable = polars_type(item["type"], path=name)
    inherited = strictest(str(field["sp:pii"]) for _, field in _nested(item["type"], name) if "sp:pii" in field)
    return Field(
        name, dtype, nullable,
        unit=_text(item, "sp:unit", name),
        pii=_text(item, "sp:pii", name) or inherited,
        doc=_text(item, "doc", name),
        origins=frozenset((f"{contract}.{name}",)),
        deletes=item.get("sp:role") == "deleted",
        owner=_text(item, "sp:owner", name),
    )  # fmt: skip


def _nested(node: object, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Fields of records inside a type, outermost first."""
    if isinstance(node, list):
        for branch in node:
            yield from _nested(branch, path)
    elif isinstance(node, Mapping):
        yield from _nested(node.get("items"), path)
        yield from _nested(node.get("values"), path)
        for item in node.get("fields", []):
            yield f"{path}.{item['name']}", item
            yield from _nested(item["type"], f"{path}.{item['name']}")


def _check_attributes(record: Mapping[str, object], path: str) -> None:
    _known(record, _RECORD, path)
    for item in cast(list[Mapping[str, object]], record["fields"]):
        name = str(item["name"])
        _known(item, _FIELD, name)
        for below, field in _nested(item["type"], name):
            _known(field, _FIELD, below)
            _text(field, "sp:unit", below)
            _text(field, "sp:pii", below)
            if "sp:role" in field:
                raise refuse(below, "a role on a field inside another one", "roles belong to fields of the top record")
            if "sp:owner" in field:
                raise refuse(below, "an owner of a field inside another one", "a column as a whole has one owner")


def _known(node: Mapping[str, object], names: tuple[str, ...], path: str) -> None:
    for attribute in node:
        if attribute.startswith("sp:") and attribute not in names:
            raise refuse(path, f"there is no attribute '{attribute}' here", did_you_mean(attribute, names))


def _roles(fields: list[Mapping[str, object]]) -> tuple[str, tuple[str, ...]]:
    event_time, deleted, key = "", "", []
    for item in fields:
        name = str(item["name"])
        role = _one_of(item, "sp:role", _ROLES, name)
        if role == "event_time":
            if event_time:
                raise refuse(name, f"'{event_time}' has the role event_time already", "only one field tells the time")
            _check_event_time(item["type"], name)
            event_time = name
        elif role == "key":
            _check_key(item["type"], name)
            key.append(name)
        elif role == "deleted":
            if item["type"] != "boolean":
                raise refuse(name, "what tells deletes is no boolean", 'declare "type": "boolean"')
            if deleted:
                raise refuse(name, f"'{deleted}' has the role deleted already", "only one field tells deletes")
            deleted = name
    return event_time, tuple(key)


def _check_event_time(node: object, path: str) -> None:
    if kind_of(node) == "long" and logical_of(node) in ("", "timestamp-millis", "timestamp-micros", "timestamp-nanos"):
        return
    shown = "nullable" if isinstance(node, list) else logical_of(node) or kind_of(node)
    raise refuse(
        path,
        f"the event time is {shown}",
        'declare {"type": "long", "logicalType": "timestamp-micros"} (or -millis, -nanos), or a long',
    )


def _check_key(node: object, path: str) -> None:
    dtype, _ = polars_type(node, path=path)
    if dtype.is_nested() or dtype.is_float() or dtype == pl.Null():
        raise refuse(path, f"{dtype} cannot be a key", "use text, bytes, integers, enums, dates or times")


def _key_encoding(record: Mapping[str, object], columns: Schema, key: tuple[str, ...]) -> str:
    declared = _one_of(record, "sp:key_encoding", _ENCODINGS)
    if not key:
        if declared:
            raise refuse("", "sp:key_encoding without a key", 'mark the key fields with "sp:role": "key"')
        return ""
    if len(key) > 1:
        natural = "composite"
    else:
        dtype = columns[key[0]].dtype
        natural = (
            "utf8"
            if isinstance(dtype, pl.String | pl.Enum)
            else "int64"
            if dtype.is_integer() or dtype.is_temporal()
            else ""
        )
    if declared and natural and declared != natural:
        raise refuse("", f"the key ({', '.join(key)}) cannot be encoded as '{declared}'", f"it is '{natural}'")
    return declared or natural or "composite"


def _text(node: Mapping[str, object], attribute: str, path: str) -> str:
    value = node.get(attribute, "")
    if not isinstance(value, str):
        raise refuse(path, f"{attribute} is {value!r}", "write a text")
    return value


def _one_of(node: Mapping[str, object], attribute: str, choices: tuple[str, ...], path: str = "") -> str:
    value = _text(node, attribute, path)
    if value and value not in choices:
        raise refuse(path, f"{attribute} is '{value}'", did_you_mean(value, choices))
    return value


def _version(record: Mapping[str, object]) -> int:
    version = record.get("sp:version", 1)
    if type(version) is not int or version < 1:
        raise refuse("", f"sp:version is {version!r}", "write a whole number from 1 on")
    return version


def _scope(record: Mapping[str, object]) -> tuple[str, ...]:
    scope = record.get("sp:scope", [])
    if not isinstance(scope, list) or not all(isinstance(item, str) for item in scope):
        raise refuse("", f"sp:scope is {scope!r}", 'write a list of texts, for example ["fraud", "reporting"]')
    return tuple(scope)


def _retention(record: Mapping[str, object]) -> int | None:
    text = _text(record, "sp:retention", "")
    try:
        return span_us(text) if text else None
    except InputError as error:
        raise InvalidSchema(f"sp:retention: {error}") from None


def _sla(record: Mapping[str, object]) -> Mapping[str, object]:
    sla = record.get("sp:sla", {})
    if not isinstance(sla, Mapping):
        raise refuse("", f"sp:sla is {sla!r}", 'write an object, for example {"freshness": "5m"}')
    spans: dict[str, int] = {}
    for name in ("freshness", "freshness_warn"):
        try:
            spans |= {name: span_us(str(sla[name]))} if name in sla else {}
        except InputError as error:
            raise InvalidSchema(f"sp:sla: {name}: {error}") from None
    if spans.get("freshness_warn", 0) > spans.get("freshness", -1) and "freshness_warn" in spans:
        raise refuse("", "sp:sla warns later than freshness is broken", "freshness_warn is below freshness")
    return sla
