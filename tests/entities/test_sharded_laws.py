"""The stages of `sharded` keep the laws of an operator, those that find pairs with their naive twins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
from naive_entities import Known, NaiveResolve
from test_resolve_laws import COMMAND, GOLDEN, PERSON, commands, model, people

import streamproc as sp
from streamproc.contracts.model import Field, Schema
from streamproc.entities.block_copies import BLOCK, ENTRY, LEAVES, RECORD_ITSELF, REVISION, TURN, BlockCopies
from streamproc.entities.block_keys import block_keys
from streamproc.entities.block_pairs import AGREED, BEHIND_ALL, COMPARED, HELD, OTHER, PLACE, WEIGHT, BlockPairs
from streamproc.entities.linkage_model import weight_of
from streamproc.entities.links import ACROSS, BOTH
from streamproc.entities.resolve import Resolve
from streamproc.entities.sharding import ResolvePairs, sharded
from streamproc.keys import keys_of
from streamproc.operator import StreamType
from streamproc.testing import check_operator
from streamproc.testing.trials import Event

BY_RECORD: Final = StreamType(PERSON.schema, ("id",))
GONE: Final = StreamType(Schema((Field("record", pl.String(), nullable=True),)), ("record",))
COMPARED_COLUMNS: Final = ("name", "town", "card", "born", "source")
COPIES: Final = BlockCopies(model(), "id", COMPARED_COLUMNS)


# ── copies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def deletions(random: np.random.Generator, n: int) -> pl.DataFrame:
    return pl.DataFrame({"record": [f"r{i}" for i in random.integers(0, 14, n)]}, GONE.schema.polars())


def copies_twin(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Record by record: blocks that it leaves, blocks that it is in, itself."""
    member: dict[str, list[int]] = {}
    revisions: dict[str, int] = {}
    out: list[dict[str, Any]] = []
    nothing = dict.fromkeys(PERSON.schema.names)
    for event in events:
        name = event.row.get("id" if event.port == 0 else "record")
        if event.port < 0 or name is None:
            continue
        turn = event.port
        revisions[name] = revisions.get(name, 0) + 1
        now: list[int] = []
        if turn == 0:
            now = block_keys(pl.DataFrame([event.row], PERSON.schema.polars()), model())[0].tolist()
        said = {TURN: turn, REVISION: revisions[name]}
        for block in member.get(name, []):
            if block >= 0 and block not in now:
                out.append({**nothing, "id": name, BLOCK: block, ENTRY: LEAVES, **said})
        member[name] = now
        travels = {column: event.row[column] for column in COMPARED_COLUMNS} if turn == 0 else {}
        for entry, block in enumerate(now):
            if block >= 0:
                out.append({**nothing, **travels, "id": name, BLOCK: block, ENTRY: entry, **said})
        if turn == 0:
            key = int(keys_of(pl.DataFrame({"id": [name]}), ["id"]).hashes[0]) >> 1
            out.append({**event.row, BLOCK: key, ENTRY: RECORD_ITSELF, **said})
    return out


def test_copies_keep_the_eight_laws() -> None:
    samples = (people, deletions)
    check_operator(COPIES, BY_RECORD, GONE, seeds=40, rows=24, unit="1s", samples=samples, twin=copies_twin)
    check_operator(COPIES, BY_RECORD, seeds=10, rows=24, unit="1s", samples=samples[:1], twin=copies_twin)


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

BY_BLOCK: Final = StreamType(COPIES.schema(BY_RECORD).schema, (BLOCK,))
LEAST, REVIEW = 0.6, 0.2


def copies(random: np.random.Generator, n: int) -> pl.DataFrame:
    """Copies of few records for few blocks; some leave, some are the record itself."""
    kinds = [0, 1, 1, 2, 2, LEAVES, RECORD_ITSELF]
    return people(random, n).with_columns(
        pl.col("id").fill_null("r0"),
        pl.Series(BLOCK, random.integers(0, 3, n)),
        pl.Series(ENTRY, [kinds[i] for i in random.integers(0, len(kinds), n)], dtype=pl.Int64),
        pl.Series(TURN, random.integers(0, 2, n)),
        pl.Series(REVISION, random.integers(1, 4, n)),
    )


def pairs_twin(step: BlockPairs) -> Any:
    """Block by block, the newest first, weights as the twin of `resolve` finds them."""
    weigh = NaiveResolve(Resolve(model(), "id"), []).weight

    def play(events: Iterable[Event]) -> list[dict[str, Any]]:
        blocks: dict[int, list[Known]] = {}
        out: list[dict[str, Any]] = []
        names = list(PERSON.schema.names)
        for event in events:
            if event.port < 0:
                continue
            row = event.row
            said = {**dict.fromkeys([*names, OTHER, WEIGHT, HELD, COMPARED, AGREED]), "id": row["id"]}
            said[REVISION] = row[REVISION]
            if row[ENTRY] == RECORD_ITSELF:
                out.append({**said, **{name: row[name] for name in names}, PLACE: BEHIND_ALL})
                continue
            there = blocks.setdefault(row[BLOCK], [])
            there[:] = [one for one in there if one.name != row["id"]]
            if row[ENTRY] == LEAVES:
                continue
            new = Known(row["id"], row, 0, 0, ("", 0), 0, 0)
            newest = there[::-1][: step.block_cap]
            both = [one for one in newest if step.mode == BOTH or one.row["source"] != row["source"]]
            weights = [(one, weigh(new, one)) for one in both]
            for nth, one in enumerate(newest):
                weight = {other.name: w for other, w in weights}.get(one.name)
                if weight is not None and weight >= weight_of(REVIEW):
                    place = (row[ENTRY] << 32) + nth
                    out.append({**said, PLACE: place, OTHER: one.name, WEIGHT: weight})
            if len(there) > step.block_cap:
                agreed = sum(weight >= weight_of(LEAST) for _, weight in weights)
                told = {HELD: len(there), COMPARED: len(both), AGREED: agreed}
                out.append({**said, PLACE: (row[ENTRY] << 32) + 2**32 - 1, **told})
            there.append(new)
        return out

    return play


@pytest.mark.parametrize(("mode", "cap"), [(BOTH, 200), (BOTH, 2), (ACROSS, 3)])
def test_pairs_keep_the_eight_laws(mode: int, cap: int) -> None:
    step = BlockPairs(model(), "id", "source", mode, LEAST, REVIEW, cap)
    twin = pairs_twin(step)
    check_operator(step, BY_BLOCK, seeds=40, rows=40, unit="1s", samples=(copies,), twin=twin)


def test_columns_that_are_compared_are_those_that_travel() -> None:
    step = BlockPairs(model(), "id", "source", ACROSS, LEAST, REVIEW, 200)
    assert set(step.compared) == set(COMPARED_COLUMNS)


# ── entities of pairs ────────────────────────────────────────────────────────────────────────────────────────────────


def test_entities_of_pairs_keep_the_laws() -> None:
    """Their twin is the single writer, in test_sharded.py."""
    single = sp.resolve(model(), record="id", review=REVIEW, golden=GOLDEN, source="source", source_order=("crm",))
    step = sharded(single)
    assert isinstance(step.operator, ResolvePairs)
    pairs = BlockPairs(model(), "id", "", BOTH, LEAST, REVIEW, 2).schema(BY_BLOCK)
    one_key = StreamType(pairs.schema, ())

    def rows(random: np.random.Generator, n: int) -> pl.DataFrame:
        frame = people(random, n).with_columns(pl.col("id").fill_null("r0"))
        place = np.where(random.random(n) < 0.5, BEHIND_ALL, random.integers(0, 3, n) << 32)
        capped = (random.random(n) < 0.2) & (place != BEHIND_ALL)
        made = pl.DataFrame(
            {
                REVISION: np.ones(n, np.int64), PLACE: place,
                OTHER: [f"r{i}" for i in random.integers(0, 12, n)], WEIGHT: random.normal(0, 4, n),
                HELD: random.integers(3, 9, n), COMPARED: random.integers(0, 3, n), AGREED: random.integers(0, 2, n),
            }
        )  # fmt: skip
        paired = pl.Series((place != BEHIND_ALL) & ~capped)
        made = made.with_columns(
            *(pl.when(paired).then(pl.col(name)).alias(name) for name in (OTHER, WEIGHT)),
            *(pl.when(pl.Series(capped)).then(pl.col(name)).alias(name) for name in (HELD, COMPARED, AGREED)),
        )
        return pl.concat([frame, made], how="horizontal").select(pairs.schema.names).cast(dict(pairs.schema.polars()))

    check_operator(step.operator, one_key, COMMAND, seeds=40, rows=30, unit="1s", samples=(rows, commands))
