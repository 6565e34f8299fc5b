"""The lineage of a topology as an event of OpenLineage, for catalogues that collect such events.

It is a JobEvent: what the job reads and writes by its definition, with nothing said of any run. Columns are in the
facet `columnLineage` of each output, what decides on its rows in that facet's `dataset`; versions of columns, and what
is personal data, are tags. Source: https://openlineage.io, the specification in version 2-0-2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamproc import __version__
from streamproc.contracts.model import Field
from streamproc.event_time import instant_text
from streamproc.graph import Source
from streamproc.planning.lineage import Part, SinkLineage
from streamproc.planning.plan import Plan
from streamproc.planning.uses import DIRECT

SPEC: Final = "https://openlineage.io/spec"
PRODUCER: Final = f"pkg:pypi/streamproc@{__version__}"
_SOURCE: Final = "STREAMPROC"


@dataclass(frozen=True, slots=True)
class Names:
    """How the world outside calls topics and jobs, after OpenLineage's conventions.

    datasets  the namespace of topics: `kafka://host:port`, or `file` for an embedded log
    folder    what stands before a topic's name: of an embedded log its file
    jobs      the namespace of the job, whose name is the topology's
    """

    datasets: str
    folder: str = ""
    jobs: str = "streamproc"

    def of(self, topic: str) -> dict[str, str]:
        """The dataset that a topic is."""
        return {"namespace": self.datasets, "name": f"{self.folder}/{topic}" if self.folder else topic}


def job_event(plan: Plan, lineage: Mapping[str, SinkLineage], names: Names, *, at_us: int) -> dict[str, Any]:
    """The event, as values of JSON; `at_us` is when it is told, µs since 1970 UTC."""
    inputs: dict[str, dict[str, Any]] = {}
    for node in plan.sources:
        if isinstance(node.origin, Source) and node.contract is not None:
            topic = node.origin.topic
            inputs.setdefault(topic, {**names.of(topic), "facets": _columns(node.contract.schema, {})})
    return {
        "eventTime": instant_text(at_us),
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/JobEvent",
        "job": {"namespace": names.jobs, "name": plan.topology.name, "facets": _job(plan)},
        "inputs": list(inputs.values()),
        "outputs": [_output(told, names) for told in lineage.values()],
    }


def _output(told: SinkLineage, names: Names) -> dict[str, Any]:
    columns = [field for field in told.sink.type.schema if field.name in told.columns]
    fields = {name: {"inputFields": _inputs(parts, names)} for name, parts in told.columns.items()}
    made = _facet("1-2-0/ColumnLineageDatasetFacet", fields=fields, dataset=_inputs(told.rows, names))
    return {**names.of(told.sink.topic), "facets": _columns(columns, told.versions) | {"columnLineage": made}}


def _inputs(parts: Iterable[Part], names: Names) -> list[dict[str, Any]]:
    return [
        {
            **names.of(part.topic),
            "field": part.column,
            "transformations": [
                {
                    "type": "DIRECT" if kind in DIRECT else "INDIRECT",
                    "subtype": kind,
                    "description": f"through {', '.join(steps)}" if steps else "",
                }
                for kind, steps in part.how.items()
            ],
        }
        for part in parts
    ]


def _columns(fields: Iterable[Field], versions: Mapping[str, str]) -> dict[str, Any]:
    listed = list(fields)
    described = [
        {"name": f.name, "type": str(f.dtype), "ordinal_position": n, **({"description": f.doc} if f.doc else {})}
        for n, f in enumerate(listed, 1)
    ]
    tags = [
        {"key": key, "value": value, "source": _SOURCE, "field": field.name}
        for field in listed
        for key, value in (("version", versions.get(field.name, "")), ("pii", field.pii), ("unit", field.unit))
        if value
    ]
    facets = {"schema": _facet("1-2-0/SchemaDatasetFacet", fields=described)}
    return facets | ({"tags": _facet("1-0-0/TagsDatasetFacet", tags=tags)} if tags else {})


def _job(plan: Plan) -> dict[str, Any]:
    about = plan.topology
    tags = {"version": str(about.version), "fingerprint": plan.logic, "scope": about.scope}
    facets = {
        "jobType": _facet(
            "2-0-4/JobTypeJobFacet", processingType="STREAMING", integration=_SOURCE, jobType="TOPOLOGY"
        ),
        "tags": _facet(
            "1-0-0/TagsJobFacet", tags=[{"key": k, "value": v, "source": _SOURCE} for k, v in tags.items() if v]
        ),
    }
    if about.owner:
        facets["ownership"] = _facet("1-0-1/OwnershipJobFacet", owners=[{"name": about.owner, "type": "OWNER"}])
    if about.doc:
        facets["documentation"] = _facet("1-1-0/DocumentationJobFacet", description=about.doc)
    return facets


def _facet(schema: str, **said: Any) -> dict[str, Any]:
    """A facet of the specification, whose schema is named after it."""
    name = schema.partition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{schema}.json#/$defs/{name}", **said}
