"""What the cap of a block costs, as rows: which record was not compared with how many others, and why.

Of a block's records the newest are looked at, `block_cap` of them. A record that comes to a block that holds more gives
a row here. How many matches that may have cost: of the pairs of that block which were compared, `matched / compared`
agreed, so at most some `unseen * matched / compared` of those that were not compared would have: another block may have
brought them together, and older records match less often than the newest. Summed over rows, by rule, this is a bound
of what the cap costs.
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
