"""Which records speak of the same person: entities, golden records, and questions to people.

The linkage was learned from the records without labels (`streamproc train-linkage`, see `data/README.md`). Answers to
reviews, and deletions, come back on `people.commands`. Who the people are is known of the records that ship: a run to
the end is held to it, and no step reads it.
"""

from __future__ import annotations

from importlib.resources import files

import streamproc as sp
from topologies.people.load import truth

LINKAGE = sp.LinkageModel.from_json((files("topologies.people") / "data" / "linkage.json").read_text(encoding="utf-8"))

records = sp.source("people.records", contract="person_record")
commands = sp.source("people.commands", contract="entity_command")

people = (
    records
    | sp.key_by(name="one_writer")
    | sp.resolve(
        LINKAGE, record="record_id", threshold=0.9, review=0.5,
        golden={"given_name": "most_frequent", "surname": "most_frequent", "date_of_birth": "most_frequent",
                "address_1": "most_recent", "suburb": "most_recent", "postcode": "most_recent"},
        commands=commands | sp.key_by(name="one_judge"),
    )
)  # fmt: skip

topology = sp.Topology(
    "people",
    version=1,
    owner="customer-data",
    scope="customer-service",
    sinks={
        "resolved": people | sp.entity_rows("records", name="resolved_rows"),
        "entity_events": sp.sink(people | sp.entity_rows("events", name="event_rows"), truth=sp.Truth(truth)),
        "golden": people | sp.entity_rows("golden", name="golden_rows"),
        "review": people | sp.entity_rows("review", name="review_rows"),
    },
)
