"""What the cap of a block costs, as rows: which record was not compared with how many others, and why.

Of a block's records the newest are looked at, `block_cap` of them. A record that comes to a block that holds more gives
a row here. How many matches that may have cost: of the pairs of that block which were compared, `matched / compared`
agreed, so at most some `unseen * matched / compared` of those that were not compared would have: another block may have
brought them together, and older records match less often than the newest. Summed over rows, by rule, this counts pairs,
and in a crowd it is far too high: there a record has few others that it matches, however many it was not compared with.
`lost_at_most` counts records instead, which is near to what the cap costs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import polars as pl

from streamproc.batch import Batch, Meta, empty_batch
from streamproc.contracts.model import Field, Schema
from streamproc.entities.comparisons import Block
from streamproc.entities.entity_rows import ordinals
from streamproc.entities.interning import texts_of_keys
from streamproc.entities.links import AGREED, COMPARED, HELD, OF_ENTRY, OF_OP
from streamproc.entities.program import Program
from streamproc.entities.tables import Tables
from streamproc.operator import StreamType
from streamproc.operators.explode import child_meta
from streamproc.ports import Int64s

CAPPED: Final = "capped"
"""The name of the side."""


def capped_type(record: Field) -> StreamType:
    """Columns of the side: the record that came, the block's rule, how many records the block held, with how many of
    these it was not compared, with how many it was, and how many of those matched."""
    return StreamType(
        Schema(
            (
                Field("record", pl.String(), pii=record.pii, origins=record.origins), Field("rule", pl.String()),
                Field("held", pl.Int64()), Field("unseen", pl.Int64()), Field("compared", pl.Int64()),
                Field("matched", pl.Int64()),
            )
        )
    )  # fmt: skip


def capped_rows(
    state: Tables, capped: Int64s, ops: Int64s, metas: Meta, blocks: tuple[Block, ...], program: Program, cap: int
) -> Batch:
    """What the kernel told of full blocks, as rows beside those of the record that came."""
    if not len(capped):
        return _no_rows()
    of = capped[:, OF_OP]
    frame = capped_frame(
        texts_of_keys(state.keys, ops[of, 1]), program.entry_rule[capped[:, OF_ENTRY]], capped[:, HELD],
        capped[:, COMPARED], capped[:, AGREED], blocks, cap,
    )  # fmt: skip
    return Batch(frame, child_meta(metas[of], ordinals(of)))


@lru_cache(maxsize=1)
def _no_rows() -> Batch:
    return empty_batch(capped_type(Field("record", pl.String())).schema.polars())


def capped_frame(
    records: pl.Series, rules: Int64s, held: Int64s, compared: Int64s, matched: Int64s, blocks: tuple[Block, ...],
    cap: int,
) -> pl.DataFrame:  # fmt: skip
    """The side's columns, a row for each record that came to a full block."""
    names = pl.Series([str(one) for one in blocks], dtype=pl.String)
    return pl.DataFrame(
        {
            "record": records, "rule": names.gather(pl.Series(rules)), "held": held, "unseen": held - cap,
            "compared": compared, "matched": matched,
        }
    )  # fmt: skip


def lost_at_most(capped: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """What the cap of each rule's blocks costs at most, as a row a rule, in the order in which rules appear.

    capped   rows of the side
    records  rows of `entity_rows("records")`: the record's id in the column `record`, and `matched`
    Columns: `rule`; `full` (int64), records that came to a full block; `left_alone` (int64), those of them that matched
    nobody; `unseen` (int64), pairs that were not looked at; `pairs_by_rate` (float64), their bound by rate of matches.
    `left_alone` bounds how many more entities there are than without the cap, as far as records of one entity match
    each other and share the block: every entity too many begins with a record that had older ones in the block and
    found none. Most of these records are the first of their entity, so the bound may be several times too high.
    Cost: one join.

    >>> full = {"record": ["b", "c"], "rule": "name", "unseen": [5, 6], "compared": 2, "matched": [0, 1]}
    >>> lost_at_most(pl.DataFrame(full), pl.DataFrame({"record": ["b", "c"], "matched": [None, "a"]})).rows()
    [('name', 2, 1, 11, 2.75)]
    """
    alone = records.filter(pl.col("matched").is_null())["record"].unique()
    of_rule = capped.with_columns(alone=pl.col("record").is_in(alone.implode())).group_by("rule", maintain_order=True)
    rate = pl.col("matched").sum() / pl.max_horizontal(pl.col("compared").sum(), 1)
    return of_rule.agg(
        pl.col("record").n_unique().cast(pl.Int64).alias("full"),
        pl.col("record").filter("alone").n_unique().cast(pl.Int64).alias("left_alone"),
        pl.col("unseen").sum(), (pl.col("unseen").sum() * rate).alias("pairs_by_rate"),
    )  # fmt: skip
