"""`resolve` keeps the laws of an operator, its naive twin included."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from naive_entities import twin

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.entities.comparisons import block, compare
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.resolve import ACTIONS, Resolve
from streamproc.entities.training import frequencies_of
from streamproc.graph import Stream
from streamproc.operator import StreamType
from streamproc.operators.key_by import KeyBy
from streamproc.testing import check_operator

PERSON = StreamType(
    Schema(
        (
            Field("id", pl.String(), nullable=True),
            Field("source", pl.String(), nullable=True),
            Field("name", pl.String(), nullable=True),
            Field("town", pl.String(), nullable=True),
            Field("card", pl.String(), nullable=True),
            Field("born", pl.Float64(), nullable=True),
            Field("note", pl.Int64(), nullable=True),
        )
    ),
    (),
)
COMMAND = StreamType(
    Schema(
        (
            Field("action", pl.String(), nullable=True),
            Field("record", pl.String(), nullable=True),
            Field("other", pl.String(), nullable=True),
        )
    ),
    (),
)
NAMES = ["anna", "Anna ", "anne", "bernd", "bernt", "berd", "clara", None, "", "élodie", "elodie"]
TOWNS = ["Ulm", "Ulm", "Köln", "Koln", "Bonn", None]
CARDS = ["12345", "12354", "1234", "99999", "88888", None]
GOLDEN = {"name": "longest", "town": "most_frequent", "note": "most_recent", "card": "source_rank"}


def model() -> LinkageModel:
    comparisons = (
        compare("name", "name", frequencies=True),
        compare("town", "exact"),
        compare("card", "typing"),
        compare("born", "number", limits=(1, 10)),
    )
    m = ((0.8, 0.1, 0.05, 0.03, 0.02), (0.9, 0.1), (0.85, 0.1, 0.02, 0.03), (0.7, 0.2, 0.06, 0.04))
    u = ((0.1, 0.02, 0.03, 0.1, 0.75), (0.3, 0.7), (0.02, 0.03, 0.05, 0.9), (0.1, 0.1, 0.2, 0.6))
    names = pl.Series("t", ["anna"] * 5 + ["bernd"] * 2 + ["clara"])
    blocks = (block("name[:1]"), block("card"), block("town", "name[:2]"))
    return LinkageModel(comparisons, blocks, 0.08, m, u, {"name": frequencies_of(names, 8)}, {}, 8)


def people(random: np.random.Generator, n: int) -> pl.DataFrame:
    def drawn(of: list[object], dtype: type[pl.DataType]) -> pl.Series:
        return pl.Series([of[i] for i in random.integers(0, len(of), n)], dtype=dtype)

    ids: list[object] = [*[f"r{i}" for i in range(12)], None]
    return pl.DataFrame(
        {
            "id": drawn(ids, pl.String), "source": drawn(["crm", "shop", "web", None], pl.String),
            "name": drawn(list(NAMES), pl.String), "town": drawn(list(TOWNS), pl.String),
            "card": drawn(list(CARDS), pl.String), "note": drawn([1, 2, None], pl.Int64),
            "born": drawn([1.0, 2.0, 9.5, -0.0, 0.0, None, float("nan")], pl.Float64),
        }
    ).select(PERSON.schema.names)  # fmt: skip


def commands(random: np.random.Generator, n: int) -> pl.DataFrame:
    actions = [*ACTIONS, "must_link", "delete", "nonsense", None]
    ids = [*[f"r{i}" for i in range(12)], None]
    return pl.DataFrame(
        {
            "action": [actions[i] for i in random.integers(0, len(actions), n)],
            "record": [ids[i] for i in random.integers(0, len(ids), n)],
            "other": [ids[i] for i in random.integers(0, len(ids), n)],
        },
        COMMAND.schema.polars(),
    )


STREAM = Stream(KeyBy(()))
CASES = {
    "alone": sp.resolve(model(), record="id"),
    "with all": sp.resolve(
        model(), record="id", source="source", review=0.3, threshold=0.8, golden=GOLDEN, source_order=("crm", "shop"),
        commands=STREAM,
    ),
    "across": sp.resolve(
        model(), record="id", source="source", sources="across", one_per_source=True, threshold=0.6, review=0.2,
        golden={"name": "most_frequent"}, commands=STREAM,
    ),
    "within": sp.resolve(model(), record="id", source="source", sources="within", threshold=0.5, commands=STREAM),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_resolve_keeps_the_eight_laws(case: str, seeds: range = range(40), rows: int = 24) -> None:
    step = CASES[case]
    inputs = (PERSON, COMMAND)[: 1 + len(step.others)]
    operator = step.operator
    assert isinstance(operator, Resolve)
    columns = list(operator.schema(*inputs).schema.names)
    samples = (people, commands)[: len(inputs)]
    check_operator(step, *inputs, seeds=seeds, rows=rows, unit="1s", samples=samples, twin=twin(operator, columns))


@pytest.mark.long
@pytest.mark.parametrize("case", sorted(CASES))
def test_resolve_keeps_the_eight_laws_on_longer_streams(case: str) -> None:
    test_resolve_keeps_the_eight_laws(case, range(1_000, 1_400), 60)


@pytest.mark.parametrize("kind", ["records", "events", "golden", "review"])
def test_views_of_entities_keep_the_eight_laws(kind: str) -> None:
    operator = CASES["with all"].operator
    resolved = operator.schema(PERSON, COMMAND)
    check_operator(sp.entity_rows(kind), resolved, seeds=16, rows=16)  # type: ignore[arg-type]
