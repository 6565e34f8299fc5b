"""The event is valid against OpenLineage's own schemas, and says what the lineage says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from lineage_topologies import EVENT, EVERY
from referencing import Registry, Resource

import streamproc as sp
from connectors.registry import FolderRegistry
from streamproc.contracts.registry import MemoryRegistry
from streamproc.planning.lineage import plan_lineage
from streamproc.runtime.binding import plan_topology
from streamproc.runtime.openlineage import Names, job_event
from topologies.customer_value import customer_value
from topologies.people.topology import topology as people
from topologies.refunds.topology import refunds

SPEC = {
    schema["$id"]: schema
    for path in sorted((Path(__file__).parent / "openlineage_spec").glob("*.json"))
    for schema in [json.loads(path.read_text(encoding="utf-8"))]
}
RESOURCES: Any = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in SPEC.items())
EVENT_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
KAFKA = Names("kafka://a.example:9093")
AT_US = 1_793_500_000_000_000
SHIPPED = FolderRegistry((Path(__file__).parents[2] / "schemas_avro",))


def validate(value: Any, schema: str) -> None:
    Draft202012Validator(SPEC[schema], registry=RESOURCES, format_checker=FormatChecker()).validate(value)


def require_valid(event: dict[str, Any]) -> int:
    """Raises for an event that is not as the specification says, its facets by their own schemas; counts these."""
    validate(event, EVENT_SCHEMA)
    facets = 0
    for place in (event["job"], *event["inputs"], *event["outputs"]):
        for name, facet in place["facets"].items():
            schema, _, definition = facet["_schemaURL"].partition("#/$defs/")
            # The schema of a facet names the key under which it stands.
            assert name in SPEC[schema]["properties"] and definition in SPEC[schema]["$defs"], name
            validate({name: facet}, schema)
            facets += 1
    return facets


def event_of(topology: sp.Topology, registry: Any, names: Names = KAFKA) -> dict[str, Any]:
    plan = plan_topology(topology, registry)
    return json.loads(json.dumps(job_event(plan, plan_lineage(plan), names, at_us=AT_US)))


@pytest.mark.parametrize("topology", [refunds, customer_value, people], ids=lambda topology: topology.name)
def test_the_event_of_a_shipped_topology_is_valid(topology: sp.Topology) -> None:
    assert require_valid(event_of(topology, SHIPPED)) > 10


@pytest.mark.parametrize("name", EVERY)
def test_the_event_of_any_operator_is_valid(name: str) -> None:
    sinks, _ = EVERY[name]()
    require_valid(event_of(sp.Topology("t", sinks=sinks), MemoryRegistry((EVENT,))))


def test_it_says_what_the_lineage_says() -> None:
    plan = plan_topology(refunds, SHIPPED)
    lineage = plan_lineage(plan)
    event = event_of(refunds, SHIPPED)
    assert event["eventTime"] == datetime.fromtimestamp(AT_US / 1e6, UTC).isoformat().replace("+00:00", "Z")
    assert (event["job"]["namespace"], event["job"]["name"]) == ("streamproc", "refunds")
    assert [one["name"] for one in event["inputs"]] == [node.name for node in plan.sources]
    assert {one["namespace"] for one in (*event["inputs"], *event["outputs"])} == {"kafka://a.example:9093"}
    assert [one["name"] for one in event["outputs"]] == [told.sink.topic for told in lineage.values()]
    for output, told in zip(event["outputs"], lineage.values(), strict=True):
        facet = output["facets"]["columnLineage"]
        assert [field["name"] for field in output["facets"]["schema"]["fields"]] == list(facet["fields"])
        said = {
            column: {
                (one["name"], one["field"]): [(how["type"], how["subtype"]) for how in one["transformations"]]
                for one in field["inputFields"]
            }
            for column, field in (*facet["fields"].items(), ("rows", {"inputFields": facet["dataset"]}))
        }
        direct = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")
        assert said == {
            column: {
                (part.topic, part.column): [("DIRECT" if k in direct else "INDIRECT", k) for k in part.how]
                for part in parts
            }
            for column, parts in (*told.columns.items(), ("rows", told.rows))
        }
        versions = {tag["field"]: tag["value"] for tag in output["facets"]["tags"]["tags"] if tag["key"] == "version"}
        assert versions == told.versions


def test_the_spend_of_a_window_in_words() -> None:
    (window,) = (one for one in event_of(refunds, SHIPPED, Names("file", "/var/log.db"))["outputs"]
                 if one["name"] == "/var/log.db/refunds.customer_1d")  # fmt: skip
    spend = window["facets"]["columnLineage"]["fields"]["spend"]["inputFields"]
    assert spend[1:3] == [
        {
            "namespace": "file", "name": "/var/log.db/sales.orders", "field": "gross",
            "transformations": [{"type": "DIRECT", "subtype": "AGGREGATION", "description": "through customer_1d"}],
        },
        {
            "namespace": "file", "name": "/var/log.db/sales.orders", "field": "ordered_at",
            "transformations": [{"type": "INDIRECT", "subtype": "WINDOW", "description": "through customer_1d"}],
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spoiled",
    [
        {"eventTime": None}, {"producer": 7}, {"job": {"namespace": "streamproc"}}, {"outputs": [{"name": "t"}]},
        {"run": {"runId": "x"}},
    ],
)  # fmt: skip
def test_the_schemas_refuse_an_event_that_is_none(spoiled: dict[str, Any]) -> None:
    event = event_of(refunds, SHIPPED)
    with pytest.raises(ValidationError):
        require_valid({**event, **spoiled})


def test_the_schemas_refuse_a_facet_without_its_fields() -> None:
    event = event_of(refunds, SHIPPED)
    del event["outputs"][0]["facets"]["columnLineage"]["fields"]["severity"]["inputFields"]
    with pytest.raises(ValidationError):
        require_valid(event)
