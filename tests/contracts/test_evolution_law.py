"""What the checker lets through, another decoder can read; what the library refuses, the checker refuses too."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import fastavro
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro_strategies import data, edited, records
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from streamproc.contracts.avro_json import avro_schema, qualify
from streamproc.contracts.avro_schema import contract_of_avro
from streamproc.contracts.evolution import incompatibilities
from streamproc.contracts.model import Contract
from streamproc.errors import InvalidSchema
from streamproc.wire import Decoder

_CHECKER: Callable[[], ReaderWriterCompatibilityChecker] = ReaderWriterCompatibilityChecker
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def contract(schema: Any) -> Contract | None:
    """The contract of a schema; None for one that has no columns (a union of two like-named branches)."""
    try:
        return contract_of_avro(schema)
    except InvalidSchema:
        return None


def without_logical(node: Any) -> Any:
    if isinstance(node, list):
        return [without_logical(item) for item in node]
    if isinstance(node, dict):
        return {
            key: without_logical(item) for key, item in node.items() if key not in ("logicalType", "precision", "scale")
        }
    return node


@RELAXED
@given(st.data())
def test_what_is_compatible_can_be_decoded(drawn: st.DataObject) -> None:
    schema = drawn.draw(records())
    new = drawn.draw(edited(schema))
    writer, reader = contract(schema), contract(new)
    if writer is None or reader is None or incompatibilities(reader, writer):
        event("refused")
        return
    event("compatible")
    old_form, new_form = without_logical(qualify(schema)), without_logical(qualify(new))
    for datum in drawn.draw(st.lists(data(old_form), min_size=1, max_size=5)):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, fastavro.parse_schema(old_form), datum, strict=True)
        buffer.seek(0)
        got = fastavro.schemaless_reader(buffer, old_form, new_form)
        assert isinstance(got, dict)
        assert set(got) == {field["name"] for field in new_form["fields"]}
        assert not buffer.read()


@RELAXED
@given(st.data())
def test_what_is_compatible_our_codec_reads_into_the_columns_of_the_contract(drawn: st.DataObject) -> None:
    schema = without_logical(drawn.draw(records()))
    new = drawn.draw(edited(schema))
    writer, reader = contract(schema), contract(new)
    if writer is None or reader is None or incompatibilities(reader, writer):
        return
    payloads = []
    for datum in drawn.draw(st.lists(data(schema), min_size=1, max_size=5)):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), datum, strict=True)
        payloads.append(buffer.getvalue())
    decoded = Decoder(writer.avro, reader.avro).decode_payloads(payloads)
    assert decoded.why() == []
    assert decoded.frame.schema == reader.schema.polars()
    assert decoded.frame.height == len(payloads)


@RELAXED
@given(st.data())
def test_what_the_library_refuses_is_refused_with_a_reason(drawn: st.DataObject) -> None:
    schema = drawn.draw(records())
    writer, reader = contract(schema), contract(drawn.draw(edited(schema)))
    if writer is None or reader is None:
        return
    verdict = _CHECKER().get_compatibility(avro_schema(reader.avro), avro_schema(writer.avro))
    refused = verdict.compatibility is SchemaCompatibilityType.incompatible
    event(f"library refuses: {refused}")
    found = incompatibilities(reader, writer)
    assert found or not refused
    assert all(item.why and item.mend for item in found)


OF_MEANING = ("UTF-8", "were both written")
"""What the library lets through, and a reader would lie or stop: bytes that are no text, two fields for one column."""


@RELAXED
@given(st.data())
def test_what_the_checker_refuses_the_library_refuses_too_or_its_meaning_would_change(drawn: st.DataObject) -> None:
    """Nobody is stopped without cause. Logical types are left out: the library does not look at them."""
    schema = without_logical(drawn.draw(records()))
    writer, reader = contract(schema), contract(without_logical(drawn.draw(edited(schema))))
    if writer is None or reader is None:
        return
    found = [item for item in incompatibilities(reader, writer) if not any(word in item.why for word in OF_MEANING)]
    event(f"refused: {bool(found)}")
    verdict = _CHECKER().get_compatibility(avro_schema(reader.avro), avro_schema(writer.avro))
    assert not found or verdict.compatibility is SchemaCompatibilityType.incompatible, found


@RELAXED
@given(records())
def test_a_schema_reads_itself(schema: Any) -> None:
    same = contract(schema)
    assert same is None or not incompatibilities(same, same)
