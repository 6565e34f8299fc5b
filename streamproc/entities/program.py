"""A linkage made ready for kernels: small tables of numbers instead of objects.

columns      int64[c]      number of the stored column that a comparison reads
measures     int64[c, k]   per level, its measure; -1 behind the last one
limits       float64[c, k]
weights      float64[c, k + 2]   bits: of each level, of "different" behind them; the last one, 0, is for missing
frequencies  uint8[c]      whether rare values weigh more
reach        float64[c + 1]      what comparisons from c on can still add at most: a hopeless pair ends early
parts        int64[r, p]   per block, stored columns of its parts; -1 behind the last one
rare         int64[r]      per block, the stored column whose rare words are its keys, or -1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from streamproc.entities.comparisons import MOST_LEVELS, RARE_WORDS, Block
from streamproc.entities.linkage_model import MEASURE_CODES, Floats, LinkageModel
from streamproc.entities.stored_columns import StoredColumn, part_column
from streamproc.ports import Bytes, Int64s

MISSING: Final = MOST_LEVELS
"""Where in a row of `weights` the weight of a missing value stands: always 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """See the module. `entries` is how many blocks a record can be in: one a block, `RARE_WORDS` of rare words."""

    columns: Int64s
    measures: Int64s
    limits: Floats
    weights: Floats
    frequencies: Bytes
    reach: Floats
    parts: Int64s
    rare: Int64s
    entries: int
    entry_rule: Int64s
    prior: float


def program_of(
    model: LinkageModel, stored: tuple[StoredColumn, ...], blocks: tuple[Block, ...] | None = None
) -> Program:
    """The tables of a model over these stored columns.

    blocks  where they are looked up elsewhere: none of them
    """
    blocks = model.blocks if blocks is None else blocks
    place = {one: number for number, one in enumerate(stored)}
    c = len(model.comparisons)
    columns = np.array([place[StoredColumn(o.column, o.form, 0, o.other)] for o in model.comparisons], np.int64)
    measures = np.full((c, MOST_LEVELS), -1, np.int64)
    limits = np.zeros((c, MOST_LEVELS))
    weights = np.zeros((c, MOST_LEVELS + 1))
    frequencies = np.zeros(c, np.uint8)
    most = np.zeros(c)
    for i, (one, row) in enumerate(zip(model.comparisons, model.weights(), strict=True)):
        for k, level in enumerate(one.levels):
            measures[i, k] = MEASURE_CODES[level.measure]
            limits[i, k] = level.limit
        weights[i, : len(row)] = row
        frequencies[i] = one.frequencies
        most[i] = max(0.0, *row)
        if one.frequencies:
            most[i] = max(most[i], row[0] + highest_adjustment(model, i))
    reach = np.zeros(c + 1)
    reach[:c] = np.cumsum(most[::-1])[::-1]
    widest = max([len(one.parts) for one in blocks] + [1])
    parts = np.full((len(blocks), widest), -1, np.int64)
    rare = np.full(len(blocks), -1, np.int64)
    rules: list[int] = []
    for i, two in enumerate(blocks):
        for k, (column, letters) in enumerate(two.parts):
            parts[i, k] = place[part_column(column, letters)]
        if two.words:
            rare[i] = place[StoredColumn(two.words, "words")]
        rules += [i] * (RARE_WORDS if two.words else 1)
    return Program(
        columns, measures, limits, weights, frequencies, reach, parts, rare, len(rules), np.array(rules, np.int64),
        model.prior_weight,
    )  # fmt: skip


def adjustment(model: LinkageModel, comparison: int, shares: Floats) -> Floats:
    """What equality in values of these shares adds to the weight, in bits: log2(u / share)."""
    adjusted: Floats = np.log2(model.u[comparison][0] / shares)
    return adjusted


def unseen_share(model: LinkageModel) -> float:
    """The share of a value that no record of the training had."""
    return 1.0 / max(model.records, 1)


def highest_adjustment(model: LinkageModel, comparison: int) -> float:
    """The most that equality can add in a comparison that weighs frequencies."""
    known = model.frequencies.get(model.comparisons[comparison].column)
    if known is None:
        return 0.0
    least = min([unseen_share(model), *known.shares.tolist()])
    return float(adjustment(model, comparison, np.array([least]))[0])
