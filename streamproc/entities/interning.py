"""Values of records as numbers: each distinct text of each stored column is kept once, with what kernels ask of it.

Two records that have equal values have equal numbers, so that equality costs one comparison of integers. A value is
kept as long as a record has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from streamproc.batch import Keys
from streamproc.columns import grow
from streamproc.entities.few_rows import FEW, days_of_few, keys_of_few, texts_of_few
from streamproc.entities.linkage_model import Floats, LinkageModel
from streamproc.entities.program import Program, adjustment, unseen_share
from streamproc.entities.signatures import WORDS, Signatures, sign
from streamproc.entities.similarity import LONGEST
from streamproc.entities.stored_columns import StoredColumn, texts_of
from streamproc.entities.words import ValueWords, add_words, forget_words, value_words
from streamproc.hashing import hash_bytes
from streamproc.key_table import KeyTable
from streamproc.keys import keys_of
from streamproc.ports import Int64s

_arrow: Any = pa
Values = npt.NDArray[np.int32]
_POINTS: Final = np.empty(LONGEST, np.int32)


@dataclass(slots=True)
class Interned:
    """Texts and what belongs to each; indexed by the slot of the text.

    counts      how many records have it
    numbers     float64[slots, 2]: a number, a date in days, or latitude and longitude
    rarity      what equality in it adds to a weight, in bits
    signatures  uint64[slots, 3]: what the text is made of
    words       of the values of columns that are read as words
    """

    table: KeyTable
    counts: Int64s
    numbers: Floats
    rarity: Floats
    signatures: Signatures
    words: ValueWords

    def release(self, slots: Int64s) -> None:
        """Forgets those of these values that no record has any more."""
        if not slots.size:
            return
        gone = np.unique(slots)
        gone = gone[self.counts[gone] == 0]
        if gone.size:
            forget_words(self.words, gone)
            self.table.release(gone)


def interned() -> Interned:
    """No values."""
    signatures = np.zeros((0, WORDS), np.uint64)
    return Interned(KeyTable(), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0), signatures, value_words())


def intern_frame(
    kept: Interned, frame: pl.DataFrame, stored: tuple[StoredColumn, ...], model: LinkageModel, program: Program
) -> Values:
    """The values of rows as numbers, int32[rows, columns], -1 where they are missing; new ones are added to `kept`."""
    n = frame.height
    out = np.full(len(stored) * n, -1, np.int64)
    at, keys = _keys(frame, stored)
    slots, fresh = kept.table.intern_marked(keys)
    out[at] = slots
    capacity = kept.table.capacity
    kept.counts = grow(kept.counts, capacity)
    kept.numbers = grow(kept.numbers, capacity)
    kept.rarity = grow(kept.rarity, capacity)
    kept.signatures = grow(kept.signatures, capacity)
    worded = any(one.form == "words" for one in stored)
    if worded:
        kept.words.starts = grow(kept.words.starts, capacity)
    new = np.flatnonzero(fresh)
    if new.size:
        kept.counts[slots[new]] = 0
        kept.rarity[slots[new]] = 0.0
        if worded:
            kept.words.starts[slots[new]] = 0
        columns = at[new] // n
        # Behind the letter that names the stored column.
        sign(keys.buffer, keys.starts[new] + 1, keys.ends[new], slots[new], _POINTS, kept.signatures)
        _weigh(kept, keys, slots, new, columns, model, program)
        for number, one in enumerate(stored):
            mine = new[columns == number] if one.form == "words" else new[:0]
            if mine.size:
                starts, ends = keys.starts[mine] + 1, keys.ends[mine]
                shares, unseen = model.word_shares.get(one.column), unseen_share(model)
                add_words(kept.words, slots[mine], keys.buffer, starts, ends, shares, unseen)
    values = out.reshape(len(stored), n)
    for number, one in enumerate(stored):
        if one.numeric:
            for side, column in enumerate(_numbers(frame, one)):
                known = values[number] >= 0
                kept.numbers[values[number][known], side] = column[known]
    return np.ascontiguousarray(values.T.astype(np.int32))


def _keys(frame: pl.DataFrame, stored: tuple[StoredColumn, ...]) -> tuple[Int64s, Keys]:
    """Where `texts_of` has a text, and these texts as keys."""
    few = texts_of_few(frame, stored)
    if few is None:
        texts = texts_of(frame, stored)
        at = np.flatnonzero(texts.is_not_null().to_numpy())
        return at, keys_of(pl.DataFrame({"t": texts if at.size == len(texts) else texts.drop_nulls()}), ["t"])
    at = np.array([place for place, text in enumerate(few) if text is not None], np.int64)
    return at, keys_of_few([text for text in few if text is not None])


def _numbers(frame: pl.DataFrame, one: StoredColumn) -> list[Floats]:
    """As `StoredColumn.numbers`."""
    if frame.height <= FEW and one.form == "date" and frame.get_column(one.column).dtype == pl.String:
        days = days_of_few(frame.get_column(one.column).to_list())
        if days is not None:
            return [days]
    return one.numbers(frame)


def _weigh(
    kept: Interned, keys: Keys, slots: Int64s, new: Int64s, columns: Int64s, model: LinkageModel, program: Program
) -> None:
    weighed = np.flatnonzero(program.frequencies).tolist()
    if not weighed:
        return
    # Behind the letter that names the stored column.
    hashes = hash_bytes(keys.buffer, keys.starts[new] + 1, keys.ends[new])
    for i in weighed:
        known = model.frequencies.get(model.comparisons[i].column)
        if known is not None:
            mine = columns == program.columns[i]
            if mine.any():
                kept.rarity[slots[new[mine]]] = adjustment(model, i, known.of(hashes[mine], unseen_share(model)))


def texts(kept: Interned, slots: Int64s) -> pl.Series:
    """The texts of values, null for -1, without the letter of their column."""
    return texts_of_keys(kept.table, slots).str.slice(1)


def texts_of_keys(table: KeyTable, slots: Int64s) -> pl.Series:
    """Text keys of slots as a column, null for -1."""
    there = slots >= 0
    if not there.any():
        return pl.Series("text", [None] * slots.size, dtype=pl.String)
    keys = table.key_bytes(slots[there])
    bounds = np.append(keys.starts, keys.ends[-1])
    made = _arrow.LargeStringArray.from_buffers(
        bounds.size - 1, _arrow.py_buffer(bounds), _arrow.py_buffer(keys.buffer)
    )
    return spread(pl.Series("text", made, dtype=pl.String), there)


def spread(values: pl.Series, there: npt.NDArray[np.bool_]) -> pl.Series:
    """Values put where `there` holds, nulls elsewhere."""
    if bool(there.all()):
        return values
    if not len(values):
        return pl.Series(values.name, [None] * there.size, dtype=values.dtype)
    at = pl.Series(np.cumsum(there) - 1).zip_with(pl.Series(there), pl.Series([None], dtype=pl.Int64))
    # By index and not by `gather`, which is an expression.
    return values[at]
