"""The blocks that a record is in, as numbers that mean the same in every task.

A block is named by a hash of its rule and of the texts that its records share. Two blocks of one name would bring more
pairs than they should, and no fewer; with 63 bits that is one in 10^18 for each two blocks.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.entities.comparisons import RARE_WORDS
from streamproc.entities.interning import Values
from streamproc.entities.linkage_model import LinkageModel
from streamproc.entities.program import unseen_share
from streamproc.entities.stored_columns import StoredColumn, part_column
from streamproc.entities.words import add_words, rarest, value_words
from streamproc.hashing import UInt64s, mix64, mix_pair
from streamproc.kernels import kernel
from streamproc.keys import keys_of
from streamproc.ports import Int64s

NO_BLOCK: Final = -1
Flags = npt.NDArray[np.bool_]


def block_keys(frame: pl.DataFrame, model: LinkageModel) -> Int64s:
    """int64[rows, entries]: the block of each row by each rule (several of a rule of rare words), -1 for none."""
    n = frame.height
    if not n:
        return np.empty((0, entry_rules(model).size), np.int64)
    columns: list[Int64s] = []
    for rule, one in enumerate(model.blocks):
        if one.words:
            hashes, there = _rare_words(frame, one.words, model)
            columns += [_named(rule, [hashes[:, k]], there[:, k]) for k in range(RARE_WORDS)]
            continue
        parts = [_hashed(frame, part_column(column, letters)) for column, letters in one.parts]
        there = np.logical_and.reduce([known for _, known in parts])
        columns.append(_named(rule, [hashes for hashes, _ in parts], there))
    return np.ascontiguousarray(np.stack(columns, axis=1))


def entry_rules(model: LinkageModel) -> Int64s:
    """Which rule each entry is of: a rule is one entry, one of rare words several."""
    return np.repeat(np.arange(len(model.blocks)), [RARE_WORDS if one.words else 1 for one in model.blocks])


@kernel
def hash_blocks(values: Values, parts: Int64s, rare: Int64s, hashes: Int64s, there: Flags) -> None:
    """Writes per entry and row a hash of the values that name its block, and whether it has one.

    parts, rare    see `Program`; entries of rules of rare words are left as they are
    hashes, there  [entries, rows]
    """
    entry = 0
    for rule in range(rare.size):
        if rare[rule] >= 0:
            entry += RARE_WORDS
            continue
        for i in range(values.shape[0]):
            known = True
            mixed = np.uint64(0)
            for k in range(parts.shape[1]):
                if parts[rule, k] < 0:
                    break
                value = values[i, parts[rule, k]]
                known = known and value >= 0
                if k == 0:
                    mixed = np.uint64(np.int64(value))
                else:
                    mixed = mix_pair(mixed, np.uint64(np.int64(value)))
            if parts.shape[1] < 2 or parts[rule, 1] < 0:
                mixed = mix_pair(mixed, np.uint64(0))
            hashes[entry, i] = np.int64(mixed)
            there[entry, i] = known
        entry += 1


def _named(rule: int, hashes: list[UInt64s], there: npt.NDArray[np.bool_]) -> Int64s:
    parts = [np.ascontiguousarray(one).view(np.int64) for one in hashes]
    mixed = mix64(np.full(there.size, rule, np.int64), *parts)
    return np.where(there, (mixed >> np.uint64(1)).astype(np.int64), NO_BLOCK)


def _hashed(frame: pl.DataFrame, stored: StoredColumn) -> tuple[UInt64s, npt.NDArray[np.bool_]]:
    text = frame.select(stored.text(frame.schema[stored.column])).to_series()
    return keys_of(pl.DataFrame({"t": text}), ["t"]).hashes, text.is_not_null().to_numpy()


def _rare_words(
    frame: pl.DataFrame, column: str, model: LinkageModel
) -> tuple[UInt64s, npt.NDArray[np.bool_]]:  # fmt: skip
    """The rarest words of each row's text."""
    text = frame.select(StoredColumn(column, "words").text(frame.schema[column])).to_series()
    at = np.flatnonzero(text.is_not_null().to_numpy())
    hashes, there = np.zeros((frame.height, RARE_WORDS), np.uint64), np.zeros((frame.height, RARE_WORDS), np.bool_)
    if at.size:
        keys = keys_of(pl.DataFrame({"t": text.drop_nulls()}), ["t"])
        words, slots = value_words(), np.arange(at.size)
        words.starts = np.zeros((at.size, 2), np.int64)
        shares = model.word_shares.get(column)
        add_words(words, slots, keys.buffer, keys.starts, keys.ends, shares, unseen_share(model))
        found, known = rarest(words, slots, RARE_WORDS)
        hashes[at], there[at] = found, known == 1
    return hashes, there
