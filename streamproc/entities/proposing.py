"""A linkage proposed from the records alone, by rules that are written here: a beginning, and no labels are needed.

**Comparisons.** A column of digits, at least four of them on average, is compared for typing errors; fewer digits, or
at most fifty different values, exactly; text of six words and more on average as words, by the cosine of their weights;
all other text as names whose rare values weigh more.

**Blocks.** The rare words of each text of words are a block. The cost of another block is the number of pairs that it
brings, a record. Every column that alone costs at most four pairs a record is a block. Then pairs of columns, the
cheapest first, until each column is in two blocks, where the columns of a pair are not blocks themselves, or one of
them would else be in fewer than two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import polars as pl

from streamproc.entities.comparisons import Block, Comparison, block, compare
from streamproc.entities.stored_columns import WORD_PATTERN

FEW_VALUES: Final = 50
CHEAP: Final = 4.0
EACH_IN: Final = 2
MANY_WORDS: Final = 6.0


def propose_comparisons(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[Comparison, ...]:
    """How to compare these columns of text.

    >>> frame = pl.DataFrame({"card": ["12345", "99999"], "name": ["anna", "berta"]})
    >>> [one.levels[-1].measure for one in propose_comparisons(frame, ["card", "name"])]
    ['damerau_levenshtein', 'equal']
    """
    made = []
    for column in columns:
        texts = frame[column].cast(pl.String).str.strip_chars().drop_nulls()
        texts = texts.filter(texts != "")
        digits = texts.str.contains(r"^[0-9]+$").mean() or 0.0
        length = texts.str.len_chars().mean() or 0.0
        if float(digits) > 0.95 and float(length) >= 4:  # type: ignore[arg-type]
            made.append(compare(column, "typing"))
        elif float(digits) > 0.95 or texts.n_unique() <= FEW_VALUES:  # type: ignore[arg-type]
            made.append(compare(column))
        elif _words(texts) >= MANY_WORDS:
            made.append(compare(column, "words"))
        else:
            made.append(compare(column, "name", frequencies=True))
    return tuple(made)


def propose_blocks(frame: pl.DataFrame, columns: Sequence[str], *, cheap: float = CHEAP) -> tuple[Block, ...]:
    """Blocks of these columns that bring few pairs."""
    clean = frame.select(pl.col(column).cast(pl.String).str.strip_chars().str.to_lowercase() for column in columns)
    clean = clean.with_columns(pl.when(pl.all() != "").then(pl.all()))
    cost: dict[tuple[str, ...], float] = {
        names: _pairs_a_record(clean, names) for size in (1, 2) for names in combinations(columns, size)
    }
    alone = [names for names in cost if len(names) == 1 and cost[names] <= cheap]
    chosen: list[tuple[str, ...]] = list(alone)
    met = {column: sum(column in names for names in chosen) for column in columns}
    for names in sorted((names for names in cost if len(names) == 2), key=lambda names: (cost[names], names)):
        if any((name,) in alone for name in names):
            continue
        if min(met[name] for name in names) < EACH_IN and cost[names] <= cheap:
            chosen.append(names)
            for name in names:
                met[name] += 1
    titles = [name for name in columns if clean[name].n_unique() > FEW_VALUES and _words(clean[name]) >= MANY_WORDS]
    return (*(block(*names) for names in chosen), *(block(f"rare({name})") for name in titles))


def _words(texts: pl.Series) -> float:
    """The mean number of words of texts."""
    return float(texts.str.count_matches(WORD_PATTERN).mean() or 0.0)  # type: ignore[arg-type]


def _pairs_a_record(frame: pl.DataFrame, names: Sequence[str]) -> float:
    counts = frame.select(names).drop_nulls().group_by(names).len()["len"].cast(pl.Float64)
    return float((counts * (counts - 1) / 2).sum()) / max(frame.height, 1)
