"""Learns a linkage from records alone, without labels.

* u, how often records of different entities fall on a level, comes from pairs drawn at random (by a hash of their
  number, so that a training gives the same model every time); pairs that look like matches are weighed down.
* m, how often records of one entity do, comes from expectation-maximisation (Dempster, Laird, Rubin 1977; Winkler 1988)
  on the pairs of each block in turn with u held fixed. A comparison that reads a column of the block learns nothing
  there: its m comes from the other blocks, weighed by the matches expected in each.
* the prior is the share of matches among all pairs: the one at which the pairs of all blocks hold as many matches as it
  says there are.
* the shares of values, and of words, are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.entities.comparisons import RARE_WORDS, Block, Comparison
from streamproc.entities.interning import Values, intern_frame, interned
from streamproc.entities.linkage_model import Floats, Frequencies, LinkageModel, check_linkage
from streamproc.entities.program import program_of
from streamproc.entities.scoring import Scorer, levels, patterns, scorer
from streamproc.entities.stored_columns import WORD_PATTERN, StoredColumn, part_column, stored_columns
from streamproc.entities.words import ValueWords, rarest
from streamproc.errors import InputError
from streamproc.hashing import UInt64s, hash_bytes, mix64
from streamproc.kernels import kernel
from streamproc.keys import keys_of
from streamproc.ports import Int64s

Flags = npt.NDArray[np.bool_]
RANDOM_PAIRS: Final = 1_000_000
BLOCK_PAIRS: Final = 2_000_000
BLOCK_CAP: Final = 50
"""Of a block, each record is paired with so many of those before it."""
_ROUNDS: Final = 300


@dataclass(frozen=True, slots=True)
class Trained:
    """A model, and what was seen while it was learned.

    matches      expected matches among the pairs of all blocks
    pairs        pairs of all blocks, each once
    unlearned    columns whose m no block could teach: they keep a guess
    """

    model: LinkageModel
    matches: float
    pairs: int
    unlearned: tuple[str, ...]


@kernel
def _pairs_of_runs(order: Int64s, keys: UInt64s, cap: int, most: int) -> Int64s:
    """Pairs within runs of equal keys (rows in `order` of their keys, then of their numbers); int64[n, 2]."""
    total = 0
    first = 0
    for i in range(order.size):
        if i > 0 and keys[order[i]] != keys[order[i - 1]]:
            first = i
        total += min(i - first, cap)
    out = np.empty((min(total, most), 2), np.int64)
    n = 0
    first = 0
    for i in range(order.size):
        if i > 0 and keys[order[i]] != keys[order[i - 1]]:
            first = i
        for j in range(max(first, i - cap), i):
            if n < out.shape[0]:
                out[n, 0] = order[j]
                out[n, 1] = order[i]
                n += 1
    return out


def block_pairs(keys: UInt64s, there: npt.NDArray[np.bool_], *, cap: int = BLOCK_CAP) -> Int64s:
    """Pairs of rows that have equal keys, the older row first; int64[n, 2]."""
    rows = np.flatnonzero(there)
    order = rows[np.argsort(keys[rows], kind="stable")]
    found: Int64s = _pairs_of_runs(order, np.ascontiguousarray(keys), cap, BLOCK_PAIRS)
    return found


def random_pairs(rows: int, most: int) -> Int64s:
    """Pairs of rows: all where there are no more than `most`, else so many by a hash of their number; int64[n, 2]."""
    if rows * (rows - 1) // 2 <= most:
        return np.stack(np.triu_indices(rows, 1), axis=1).astype(np.int64)
    number = np.arange(most, dtype=np.int64)
    left = (mix64(number, np.full(most, 1, np.int64)) % np.uint64(rows)).astype(np.int64)
    right = (mix64(number, np.full(most, 2, np.int64)) % np.uint64(rows)).astype(np.int64)
    drawn: Int64s = np.stack([left, right], axis=1)[left != right]
    return drawn


def frequencies_of(texts: pl.Series, records: int) -> Frequencies:
    """The share of records that have each text."""
    counted = texts.drop_nulls().value_counts(sort=False, name="n")
    keys = keys_of(counted.select(pl.col(texts.name).alias("t")), ["t"])
    hashes = hash_bytes(keys.buffer, keys.starts, keys.ends)
    order = np.argsort(hashes, kind="stable")
    shares = counted["n"].to_numpy()[order] / max(records, 1)
    return Frequencies(hashes[order], shares.astype(np.float64))


def train(
    frame: pl.DataFrame, comparisons: Sequence[Comparison], blocks: Sequence[Block], *, source: str = "",
    sources: str = "both",
) -> Trained:  # fmt: skip
    """Learns a linkage from a frame of records, a sample or all there are.

    sources  "across" looks at pairs of different `source` only, "within" at pairs of the same, as `resolve` does
    Raises InputError where there is nothing to learn from.  Cost some 3 million pairs weighed.
    """
    comparisons, blocks = tuple(comparisons), tuple(blocks)
    check_linkage(comparisons, blocks)
    if frame.height < 10:
        raise InputError(f"a linkage cannot be learned from {frame.height} records", hint="some thousand are good")
    stored = stored_columns(comparisons, blocks, [source] if source else [])
    model = _guess(frame, comparisons, blocks)
    program = program_of(model, stored)
    kept = interned()
    values = intern_frame(kept, frame, stored, model, program)
    model = replace(model, frequencies=_frequencies(frame, comparisons))
    use = scorer(program, kept)
    keep = _comparable(values, stored, source, sources)
    drawn = random_pairs(frame.height, RANDOM_PAIRS)
    drawn = drawn[keep(drawn)]
    rule_pairs = []
    for one in blocks:
        pairs = np.concatenate(
            [block_pairs(keys, there) for keys, there in _block_keys(one, values, stored, kept.words)]
        )
        pairs = pairs[keep(pairs)]
        rule_pairs.append(pairs)
    union = np.unique(np.concatenate(rule_pairs), axis=0)
    if not union.size:
        raise InputError("no two records agree in any block", hint="choose blocks that bring some records together")
    total = _possible(frame.height, values, stored, source, sources)
    return _Learner(comparisons, use, values, total).learn(model, blocks, rule_pairs, union, drawn)


def _block_keys(
    one: Block, values: Values, stored: tuple[StoredColumn, ...], words: ValueWords
) -> list[tuple[UInt64s, npt.NDArray[np.bool_]]]:
    if one.words:
        column = values[:, stored.index(StoredColumn(one.words, "words"))].astype(np.int64)
        hashes, there = rarest(words, column, RARE_WORDS)
        return [(np.ascontiguousarray(hashes[:, k]), there[:, k] == 1) for k in range(RARE_WORDS)]
    columns = [values[:, stored.index(part_column(*part))].astype(np.int64) for part in one.parts]
    return [(mix64(*columns), np.logical_and.reduce([column >= 0 for column in columns]))]


def _comparable(
    values: Values, stored: tuple[StoredColumn, ...], source: str, sources: str
) -> Callable[[Int64s], Flags]:
    if sources == "both":
        return lambda pairs: np.ones(len(pairs), np.bool_)
    of = values[:, stored.index(StoredColumn(source, "raw"))]
    return lambda pairs: np.asarray((of[pairs[:, 0]] != of[pairs[:, 1]]) == (sources == "across"))


def _possible(rows: int, values: Values, stored: tuple[StoredColumn, ...], source: str, sources: str) -> float:
    every = rows * (rows - 1) / 2
    if sources == "both":
        return every
    counts = np.bincount(values[:, stored.index(StoredColumn(source, "raw"))] + 1)
    within = float((counts * (counts - 1.0) / 2).sum())
    return max(within if sources == "within" else every - within, 1.0)


def _guess(frame: pl.DataFrame, comparisons: tuple[Comparison, ...], blocks: tuple[Block, ...]) -> LinkageModel:
    """A model before anything is learned; with the shares of words, which similarities of texts need."""
    m, u = [], []
    for one in comparisons:
        k = len(one.levels)
        likely = [0.9] + [0.08 / max(k - 1, 1)] * (k - 1) + [0.02 if k > 1 else 0.1]
        m.append(tuple(likely))
        u.append(tuple([1 / (k + 1)] * (k + 1)))
    columns = [one.column for one in comparisons if one.form == "words"] + [one.words for one in blocks if one.words]
    shares = {}
    for column in dict.fromkeys(columns):
        words = frame[column].cast(pl.String).str.to_lowercase().str.extract_all(WORD_PATTERN).list.unique()
        shares[column] = frequencies_of(words.list.explode().rename("t"), frame.height)
    return LinkageModel(comparisons, blocks, 0.01, tuple(m), tuple(u), {}, shares, frame.height)


def _frequencies(frame: pl.DataFrame, comparisons: tuple[Comparison, ...]) -> dict[str, Frequencies]:
    out = {}
    for one in comparisons:
        if one.frequencies:
            texts = frame.select(t=StoredColumn(one.column, one.form, 0, one.other).text(frame.schema[one.column]))["t"]
            out[one.column] = frequencies_of(texts, texts.len() - texts.null_count())
    return out


@dataclass(frozen=True, slots=True)
class _Learner:
    comparisons: tuple[Comparison, ...]
    use: Scorer
    values: Values
    total: float

    def learn(
        self, model: LinkageModel, blocks: tuple[Block, ...], rule_pairs: list[Int64s], union: Int64s, drawn: Int64s
    ) -> Trained:
        """Alternates: u from random pairs, m block by block, the prior from all pairs of blocks."""
        whole, whole_counts = self._counted(union)
        random, random_counts = self._counted(drawn)
        parts = [self._counted(pairs) for pairs in rule_pairs]
        u = self._shares(random, random_counts.astype(np.float64))
        m = [np.array(row) for row in model.m]
        prior, matches = 1e-4, 0.0
        unlearned: list[str] = []
        for _ in range(3):
            m, unlearned = self._m_of_blocks(m, u, blocks, parts)
            prior, matches = self._prior(m, u, whole, whole_counts)
            for at, one in enumerate(self.comparisons):
                if one.column in unlearned:
                    m[at] = self._m_of_union(at, m, u, prior, whole, whole_counts)
            match = self._match(random, m, u, prior)
            u = self._shares(random, random_counts * (1 - match))
        learned = replace(
            model, prior=prior, m=tuple(tuple(row.tolist()) for row in m), u=tuple(tuple(row.tolist()) for row in u)
        )
        return Trained(learned, matches, len(union), tuple(unlearned))

    def _counted(self, pairs: Int64s) -> tuple[Int64s, Int64s]:
        """Distinct patterns as levels, and how many pairs have each."""
        if not len(pairs):
            return np.empty((0, len(self.comparisons)), np.int64), np.empty(0, np.int64)
        left, right = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        distinct, counts = np.unique(patterns(self.use, self.values, left, right), return_counts=True)
        return levels(distinct, len(self.comparisons)), counts.astype(np.int64)

    def _shares(self, of: Int64s, counts: Floats) -> list[Floats]:
        """Per comparison how often each level is met, where both values are there; half a pair more on each level."""
        out = []
        for at, one in enumerate(self.comparisons):
            k = len(one.levels) + 1
            known = of[:, at] < k
            met = np.bincount(of[known, at], counts[known], k) + 0.5
            out.append(met / met.sum())
        return out

    def _log_ratio(self, of: Int64s, m: list[Floats], u: list[Floats], read: list[int]) -> Floats:
        total = np.zeros(of.shape[0])
        for at in read:
            weights = np.concatenate([np.log(m[at] / u[at]), np.zeros(16)])
            weights[len(m[at]) :] = 0.0
            total += weights[of[:, at]]
        return total

    def _match(self, of: Int64s, m: list[Floats], u: list[Floats], prior: float) -> Floats:
        every = list(range(len(self.comparisons)))
        return _logistic(np.log(prior / (1 - prior)) + self._log_ratio(of, m, u, every))

    def _m_of_blocks(
        self, m: list[Floats], u: list[Floats], blocks: tuple[Block, ...], parts: list[tuple[Int64s, Int64s]]
    ) -> tuple[list[Floats], list[str]]:
        met = [np.zeros(len(row)) for row in m]
        for one, (of, counts) in zip(blocks, parts, strict=True):
            read = [at for at, two in enumerate(self.comparisons) if two.column not in one.columns]
            if not read or not counts.size:
                continue
            learned = [row.copy() for row in m]
            share = 0.3
            for _ in range(_ROUNDS):
                match = _logistic(np.log(share / (1 - share)) + self._log_ratio(of, learned, u, read))
                now = self._shares(of, counts * match)
                moved = max(float(np.abs(now[at] - learned[at]).max()) for at in read)
                for at in read:
                    learned[at] = now[at]
                share = float(np.clip((counts * match).sum() / counts.sum(), 1e-6, 1 - 1e-6))
                if moved < 1e-5:
                    break
            expected = counts * match
            for at in read:
                known = of[:, at] < len(m[at])
                met[at] += np.bincount(of[known, at], expected[known], len(m[at]))
        unlearned = [self.comparisons[at].column for at in range(len(m)) if met[at].sum() < 1]
        return [(row + 0.5) / (row.sum() + 0.5 * row.size) if row.sum() >= 1 else m[at]
                for at, row in enumerate(met)], unlearned  # fmt: skip

    def _m_of_union(
        self, at: int, m: list[Floats], u: list[Floats], prior: float, of: Int64s, counts: Int64s
    ) -> Floats:
        """What no block can teach, from the pairs of all blocks, judged by the other comparisons."""
        read = [other for other in range(len(m)) if other != at]
        match = _logistic(np.log(prior / (1 - prior)) + self._log_ratio(of, m, u, read))
        return self._shares(of, counts * match)[at]

    def _prior(self, m: list[Floats], u: list[Floats], of: Int64s, counts: Int64s) -> tuple[float, float]:
        ratio = self._log_ratio(of, m, u, list(range(len(m))))
        prior = 1e-4
        matches = 0.0
        for _ in range(_ROUNDS):
            match = _logistic(np.log(prior / (1 - prior)) + ratio)
            matches = float((counts * match).sum())
            now = float(np.clip((matches + 0.5) / (self.total + 1), 1e-12, 0.5))
            if abs(now - prior) < 1e-9 * prior:
                break
            prior = now
        return prior, matches


def _logistic(log_odds: Floats) -> Floats:
    with np.errstate(over="ignore"):
        odds: Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return odds
