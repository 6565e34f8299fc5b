"""Canonical forms and fingerprints: Avro's own test data, and two other implementations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import avro.schema
import fastavro.schema
import pytest
from avro_strategies import records
from hypothesis import given, settings

from streamproc.contracts.avro_json import canonical_form, fingerprint64, load_schema, qualify, resolution_form

DATA = Path(__file__).parent / "data" / "schema-tests.txt"


class Case(NamedTuple):
    schema: str
    canonical: str
    fingerprint: int | None


def cases() -> list[Case]:
    """Every case of the file: a schema on one line or in a block, its canonical form and perhaps a fingerprint."""
    found = []
    for part in re.split(r"^// \d{3}$", DATA.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        block = re.search(r"^<<INPUT\n(.*?)^INPUT$|^<<INPUT (.*?)$", part, flags=re.MULTILINE | re.DOTALL)
        canonical = re.search(r"^<<canonical (.*)$", part, flags=re.MULTILINE)
        printed = re.search(r"^<<fingerprint (.*)$", part, flags=re.MULTILINE)
        assert block
        assert canonical
        found.append(Case(block[1] or block[2], canonical[1], int(printed[1]) if printed else None))
    return found


def test_the_file_holds_34_cases() -> None:
    assert len(cases()) == 34


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.canonical[:40])
def test_avro_test_data_agrees(case: Case) -> None:
    schema = json.loads(case.schema)
    assert canonical_form(schema) == case.canonical
    if case.fingerprint is not None:
        assert fingerprint64(schema) == case.fingerprint


@settings(deadline=None)
@given(records())
def test_fastavro_agrees(schema: Any) -> None:
    canonical = canonical_form(schema)
    assert canonical == fastavro.schema.to_parsing_canonical_form(schema)
    assert fingerprint64(schema).to_bytes(8, "little", signed=True).hex() == fastavro.schema.fingerprint(
        canonical, "CRC-64-AVRO"
    )


@settings(deadline=None)
@given(records())
def test_the_avro_library_agrees_once_attributes_are_gone(schema: Any) -> None:
    plain = json.loads(canonical_form(schema))
    theirs = avro.schema.make_avsc_object(plain)
    assert theirs.canonical_form == canonical_form(schema)
    assert int.from_bytes(theirs.fingerprint(), "little", signed=True) == fingerprint64(schema)


@settings(deadline=None)
@given(records())
def test_the_canonical_form_is_a_schema_with_the_same_canonical_form(schema: Any) -> None:
    assert canonical_form(load_schema(canonical_form(schema))) == canonical_form(schema)
    assert canonical_form(qualify(schema)) == canonical_form(schema)


def test_a_primitive_with_attributes_is_just_its_name() -> None:
    assert canonical_form({"type": "long", "logicalType": "timestamp-micros", "doc": "when"}) == '"long"'


def test_a_fixed_that_is_used_twice_is_defined_once() -> None:
    fixed = {"type": "fixed", "name": "id", "size": 4}
    schema = {"type": "record", "name": "n.r", "fields": [{"name": "a", "type": fixed}, {"name": "b", "type": "id"}]}
    assert canonical_form(schema) == (
        '{"name":"n.r","type":"record","fields":[{"name":"a","type":{"name":"n.id","type":"fixed","size":4}},'
        '{"name":"b","type":"n.id"}]}'
    )


def test_the_resolution_form_tells_millis_from_micros() -> None:
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    assert canonical_form(millis) == canonical_form(micros)
    assert resolution_form(millis) != resolution_form(micros)
    assert resolution_form({**millis, "doc": "when"}) == resolution_form(millis)
