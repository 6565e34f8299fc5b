"""Sensitivity flows with the columns, and rises where records are linked."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

import streamproc as sp
from streamproc.cli.app import run as command
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Field, Schema
from streamproc.contracts.sensitivity import linked, strictest
from streamproc.feature.together import Together
from streamproc.graph import Stream
from streamproc.operator import StreamType
from streamproc.operators.key_by import KeyBy

CLASSES = ("", "quasi", "health", "pseudonym", "direct")


def test_the_strictest_class_wins_in_any_order() -> None:
    for tags in itertools.permutations(CLASSES):
        assert strictest(tags) == "direct"
    assert [strictest([a, b]) for a, b in itertools.pairwise(CLASSES)] == list(CLASSES[1:])
    # A word of one's own that sorts before "direct" does not hide it.
    assert strictest(["contact", "direct"]) == "direct" and strictest([]) == ""


@pytest.mark.parametrize("tags", [t for n in (1, 2, 3) for t in itertools.combinations_with_replacement(CLASSES, n)])
def test_linking_never_lowers_and_raises_what_becomes_identifying(tags: tuple[str, ...]) -> None:
    schema = Schema(tuple(Field(f"c{n}", pl.Int64(), pii=tag) for n, tag in enumerate(tags)))
    made = [column.pii for column in linked(schema)]
    named = "direct" if "direct" in tags else "pseudonym" if "pseudonym" in tags else ""
    together = named or ("pseudonym" if tags.count("quasi") > 1 else "quasi")
    assert made == [together if tag == "quasi" else tag for tag in tags]


TOPOLOGY = """
import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from test_sensitivity import LEFT, RIGHT
left, right = (sp.source(t, contract=c) | sp.key_by("k") for t, c in (("sales", LEFT), ("support", RIGHT)))
one = sp.Topology("linked", sinks={"out": left | sp.as_of(right) | sp.with_columns(area=sp_col("zip").str.head(2))})
"""
AT = '{"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}'
LEFT = parse_contract(
    '{"type": "record", "name": "sale", "sp:version": 1, "fields": [{"name": "k", "type": "long", "sp:role": "key", '
    '"sp:pii": "pseudonym"}, {"name": "zip", "type": "string", "sp:pii": "quasi"}, ' + AT + "]}"
)
RIGHT = parse_contract(
    '{"type": "record", "name": "case", "sp:version": 1, "fields": [{"name": "k", "type": "long", "sp:role": "key"}, '
    '{"name": "born", "type": "int", "sp:pii": "quasi"}, {"name": "name", "type": "string", "sp:pii": "direct"}, '
    + AT
    + "]}"
)


MADE, STRICT = (
    parse_contract(
        f'{{"type": "record", "name": "made_{zip_code}", "sp:version": 1, "fields": [{{"name": "k", "type": "long", '
        '"sp:role": "key", "sp:pii": "pseudonym"}, '
        f'{{"name": "zip", "type": "string", "sp:pii": "{zip_code}"}}, '
        f'{{"name": "area", "type": "string"{area}}}, '
        '{"name": "born", "type": ["null", "int"], "sp:pii": "direct"}, '
        '{"name": "name", "type": ["null", "string"], "sp:pii": "direct"}, ' + AT + "]}"
    )
    for zip_code, area in (("quasi", ""), ("direct", ', "sp:pii": "direct"'))
)


def test_the_plan_shows_what_linking_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("linked.py").write_text(
        TOPOLOGY.replace("sp_col", "pl.col").replace("import streamproc", "import polars as pl\nimport streamproc", 1)
    )
    assert command(["describe", "linked.py", "--json"]) == 0
    steps = {step["name"]: step for stage in orjson.loads(capsys.readouterr().out)["stages"] for step in stage["steps"]}
    assert steps["sales"]["pii"] == {"k": "pseudonym", "zip": "quasi"} and steps["sales"]["raised"] == {}
    assert steps["as_of"]["pii"] == {"k": "pseudonym", "zip": "direct", "born": "direct", "name": "direct"}
    assert steps["as_of"]["raised"] == {"zip": "quasi", "born": "quasi"}
    # What is derived further down is as sensitive as what it is made of, and so is the sink's contract.
    assert steps["with_columns"]["pii"]["area"] == "direct"
    assert command(["describe", "linked.py"]) == 0
    assert "raised here from" in capsys.readouterr().out
    assert command(["check", "linked.py"]) == 0
    assert '{"name": "area", "type": "string", "sp:pii": "direct"}' in capsys.readouterr().out


def test_what_a_contract_calls_less_sensitive_than_it_is_made_of_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TOPOLOGY.replace("sp_col", "pl.col").replace("import stre", "import polars as pl\nimport stre", 1)
    text = text.replace('{"out": ', '{"out": sp.sink(').replace(".str.head(2))", """\
.str.head(2)) | sp.select("k", "zip", "area", "born", "name", "at"), contract=MADE)""")
    Path("linked.py").write_text(text.replace("LEFT, RIGHT", "LEFT, MADE, RIGHT", 1))
    assert command(["check", "linked.py"]) == 0
    assert "2 columns of sinks are declared less sensitive than what made them" in capsys.readouterr().out
    assert command(["describe", "linked.py", "--json"]) == 0
    (sink,) = orjson.loads(capsys.readouterr().out)["sinks"]
    assert sink["lowered"] == {"zip": ["quasi", "direct"], "area": ["", "direct"]}
    assert command(["describe", "linked.py"]) == 0
    table = capsys.readouterr().out.partition("declared less sensitive than what made them")[2].splitlines()
    assert [line.split() for line in table[2:4]] == [["out", "zip", "quasi", "direct"], ["out", "area", "-", "direct"]]
    # A contract that calls all of it as sensitive as it is says nothing.
    Path("linked.py").write_text(text.replace("LEFT, RIGHT", "LEFT, STRICT as MADE, RIGHT", 1))
    assert command(["check", "linked.py"]) == 0
    assert "less sensitive" not in capsys.readouterr().out


def test_ids_of_records_and_entities_are_as_sensitive_as_who_they_stand_for() -> None:
    """What `resolve` tells of a record's id is that id; an entity's id stands for a person where records do."""

    def told(record: str, zip_code: str) -> dict[str, dict[str, str]]:
        schema = Schema((Field("id", pl.String(), pii=record), Field("zip", pl.String(), pii=zip_code)))
        linkage = sp.LinkageModel((sp.compare("zip"),), (sp.block("zip"),), 0.1, ((0.9, 0.1),), ((0.1, 0.9),))
        step = sp.resolve(linkage, record="id", golden={"zip": "longest"})
        made = step.operator.schema(StreamType(schema, ()))
        kinds: tuple[Any, ...] = ("records", "events", "links", "golden", "review")
        views = {kind: sp.entity_rows(kind).operator.schema(made).schema for kind in kinds}
        return {kind: {field.name: field.pii for field in view if field.pii} for kind, view in views.items()}

    mail = told("direct", "quasi")
    assert mail["records"] == {"id": "direct", "zip": "quasi", "entity_id": "pseudonym", "matched": "direct"}
    ids = {"entity_id": "pseudonym", "other_id": "pseudonym", "records": "direct"}
    assert mail["events"] == {**ids, "matched": "direct"}
    assert mail["links"] == {"record": "direct", "entity_id": "pseudonym"}
    assert mail["golden"] == {"entity_id": "pseudonym", "zip": "quasi", "zip_from": "direct"}
    assert mail["review"] == ids
    assert told("", "quasi")["links"] == {"entity_id": "pseudonym"}
    assert set(map(str, told("", "").values())) == {"{}"}, "of products nothing is personal"


def test_the_strictest_class_wins_where_columns_come_together() -> None:
    """By rank, and not by which word stands first in the dictionary."""
    one, other = (Schema((Field("k", pl.Int64()), Field("x", pl.Int64(), pii=tag))) for tag in ("contact", "direct"))
    inputs = [StreamType(schema, ("k",)) for schema in (one, other)]
    for step in (sp.union(Stream(KeyBy(("k",)))).operator, Together(("a", "b"))):
        assert step.schema(*inputs).schema["x"].pii == "direct"
    nested = parse_contract(
        '{"type": "record", "name": "n", "sp:version": 1, "fields": [' + AT + ', {"name": "who", "type": {"type": '
        '"record", "name": "w", "fields": [{"name": "a", "type": "int", "sp:pii": "health"}, '
        '{"name": "b", "type": "int", "sp:pii": "pseudonym"}]}}]}'
    )
    assert nested.schema["who"].pii == "pseudonym"


def test_harmonised_columns_are_as_sensitive_as_what_they_are_made_from() -> None:
    schema = Schema((Field("tel", pl.String(), pii="direct"), Field("land", pl.String(), pii="quasi")))
    operator = sp.harmonise(
        phone=sp.canonical.phone("tel", region_column="land"), country=sp.canonical.country("land")
    ).operator  # fmt: skip
    made = operator.schema(StreamType(schema)).schema
    assert [made[name].pii for name in ("phone", "phone_extension", "country")] == ["direct", "direct", "quasi"]
