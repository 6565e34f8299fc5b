"""What a linkage knows: for each level of each comparison how often matches and non-matches agree on it.

The weight of a pair is the sum, in bits, of the prior (log2 of the odds that any two records match) and of one weight a
comparison, log2(m / u) (Fellegi and Sunter 1969): m is how often records of one entity fall on the level, u how often
records of different ones do. Where a comparison weighs frequencies and the values are equal, log2(u / f) is added, f
being the share of records that have the value: agreeing in a rare name says more. The posterior is
1 / (1 + 2 ** -weight).

Shares of values are kept under hashes, so that a model file holds no names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamproc.entities.comparisons import MEASURES, MOST_COMPARISONS, Block, Comparison, Level
from streamproc.errors import DefinitionError, InputError
from streamproc.hashing import UInt64s, content_id

FORMAT: Final = "streamproc-linkage-1"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Frequencies:
    """How often values of one column occur: hashes of their texts, ascending, and the share of records of each."""

    hashes: UInt64s
    shares: Floats

    def of(self, hashes: UInt64s, unseen: float) -> Floats:
        """The share of each value, `unseen` for those that are not known."""
        if not self.hashes.size:
            return np.full(hashes.size, unseen)
        at = np.minimum(np.searchsorted(self.hashes, hashes), self.hashes.size - 1)
        return np.where(self.hashes[at] == hashes, self.shares[at], unseen)


@dataclass(frozen=True, slots=True, eq=False)
class LinkageModel:
    """A trained linkage: comparisons, blocks, and what was learned.

    prior        the probability that two records drawn at random are of one entity
    m, u         per comparison, a probability for each level and for "different"
    frequencies  per column that weighs them
    word_shares  per column of words: the share of records that have a word
    records      how many records it was trained on: a value that none of them had has a share of 1 / records
    """

    comparisons: tuple[Comparison, ...]
    blocks: tuple[Block, ...]
    prior: float
    m: tuple[tuple[float, ...], ...]
    u: tuple[tuple[float, ...], ...]
    frequencies: Mapping[str, Frequencies] = field(default_factory=dict)
    word_shares: Mapping[str, Frequencies] = field(default_factory=dict)
    records: int = 0

    def __post_init__(self) -> None:
        check_linkage(self.comparisons, self.blocks)
        if not 0 < self.prior < 1:
            raise InputError(f"a linkage has a prior of {self.prior}", hint="it is a probability, not 0 and not 1")
        for name, table in (("m", self.m), ("u", self.u)):
            if len(table) != len(self.comparisons):
                raise InputError(f"a linkage of {len(self.comparisons)} comparisons has {len(table)} rows of {name}")
            for one, row in zip(self.comparisons, table, strict=True):
                if len(row) != len(one.levels) + 1 or not all(0 < p <= 1 for p in row):
                    raise InputError(
                        f"'{one.column}' has {len(one.levels) + 1} levels, and {name} is {row}",
                        hint="a probability above 0 for each",
                    )

    @property
    def prior_weight(self) -> float:
        """The prior in bits."""
        return math.log2(self.prior / (1 - self.prior))

    def weights(self) -> tuple[tuple[float, ...], ...]:
        """log2(m / u) of each level, in bits."""
        return tuple(
            tuple(math.log2(a / b) for a, b in zip(m, u, strict=True)) for m, u in zip(self.m, self.u, strict=True)
        )

    @property
    def version(self) -> str:
        """What tells this model from any other: a hash of its text."""
        return content_id(self.to_json().encode())[:16]

    def to_json(self) -> str:
        """The model as a text, from which `from_json` makes an equal one."""
        return json.dumps(
            {
                "format": FORMAT,
                "prior": self.prior,
                "records": self.records,
                "comparisons": [
                    {
                        "column": one.column, "form": one.form, "other": one.other, "frequencies": one.frequencies,
                        "levels": [
                            {"measure": level.measure, "limit": level.limit, "m": m, "u": u}
                            for level, m, u in zip(one.levels, self.m[i], self.u[i], strict=False)
                        ],
                        "different": {"m": self.m[i][-1], "u": self.u[i][-1]},
                    }
                    for i, one in enumerate(self.comparisons)
                ],
                "blocks": [{"parts": [list(part) for part in one.parts], "words": one.words} for one in self.blocks],
                "frequencies": {name: _told(one) for name, one in sorted(self.frequencies.items())},
                "word_shares": {name: _told(one) for name, one in sorted(self.word_shares.items())},
            },
            indent=1,
        )  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> LinkageModel:
        """The model of a text; raises InputError for one that is not a linkage."""
        try:
            told = json.loads(text)
            if told.get("format") != FORMAT:
                raise InputError(
                    f"this is no linkage of the format '{FORMAT}'",
                    hint="streamproc train-linkage makes one; a Splink model is read by from_splink",
                )
            comparisons, m, u = [], [], []
            for one in told["comparisons"]:
                levels = tuple(Level(level["measure"], float(level["limit"])) for level in one["levels"])
                comparisons.append(Comparison(one["column"], one["form"], levels, one["frequencies"], one["other"]))
                m.append((*(float(level["m"]) for level in one["levels"]), float(one["different"]["m"])))
                u.append((*(float(level["u"]) for level in one["levels"]), float(one["different"]["u"])))
            blocks = tuple(Block(tuple((p[0], int(p[1])) for p in b["parts"]), b["words"]) for b in told["blocks"])
            return cls(
                tuple(comparisons), blocks, float(told["prior"]), tuple(m), tuple(u),
                {name: _read(one) for name, one in told["frequencies"].items()},
                {name: _read(one) for name, one in told["word_shares"].items()}, int(told["records"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
            raise InputError(f"this is no linkage model: {problem!r}", hint="streamproc train-linkage") from None


def posterior(weight: float) -> float:
    """The probability of a match at a weight in bits.

    >>> posterior(0.0), round(posterior(3.17), 3)
    (0.5, 0.9)
    """
    if weight > 60:
        return 1.0
    return float(1 / (1 + 2.0**-weight)) if weight > -1000 else 0.0


def weight_of(probability: float) -> float:
    """The weight in bits at which a posterior is reached; raises DefinitionError outside of (0, 1).

    >>> weight_of(0.5)
    0.0
    """
    if not 0 < probability < 1:
        raise DefinitionError(f"a threshold is a probability between 0 and 1, not {probability}", hint="0.9")
    return math.log2(probability / (1 - probability))


def check_linkage(comparisons: Sequence[Comparison], blocks: Sequence[Block]) -> None:
    """Raises DefinitionError for what cannot be a linkage."""
    if not comparisons or not blocks:
        raise DefinitionError(
            "a linkage needs comparisons and blocks", hint="compare('surname', 'name') and block('surname')"
        )
    if len(comparisons) > MOST_COMPARISONS:
        raise DefinitionError(f"a linkage has {len(comparisons)} comparisons; {MOST_COMPARISONS} is the most")
    names = [(one.column, one.form) for one in comparisons]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"'{name[0]}' is compared twice in the same way", hint="compare it once")


def _told(one: Frequencies) -> dict[str, Any]:
    return {"hashes": [f"{h:016x}" for h in one.hashes.tolist()], "shares": one.shares.tolist()}


def _read(told: Mapping[str, Any]) -> Frequencies:
    hashes = np.array([int(text, 16) for text in told["hashes"]], np.uint64)
    shares = np.array(told["shares"], np.float64)
    if hashes.size != shares.size or (hashes.size and not (np.diff(hashes.view(np.uint64)) > 0).all()):
        raise InputError("the frequencies of a linkage are damaged", hint="train it again")
    return Frequencies(hashes, shares)


MEASURE_CODES: Final = {name: code for code, name in enumerate(MEASURES)}
