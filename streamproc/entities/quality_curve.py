"""How good entities are while records come: clusters as events told them, against a truth, at parts of the stream."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.entities.block_keys import block_keys, entry_rules
from streamproc.entities.cluster_quality import ClusterQuality, cluster_quality
from streamproc.entities.linkage_model import LinkageModel

SHARES: Final = (10, 25, 50, 100)
"""Percent of the records after which quality is looked at."""
_CAME: Final = ("created", "joined")
_MOVES: Final = ("created", "joined", "corrected", "merged", "split")


@dataclass(frozen=True, slots=True)
class QualityAt:
    """After `share` percent of the records, which are `records`: entities found, people there are, quality.

    blocking_recall  the share of true pairs that agree in a block; None where it was not asked for
    """

    share: int
    records: int
    entities: int
    people: int
    quality: ClusterQuality
    blocking_recall: float | None = None


def quality_curve(
    events: pl.DataFrame, truth: pl.DataFrame, *, model: LinkageModel | None = None,
    records: pl.DataFrame | None = None, shares: Sequence[int] = SHARES,
) -> list[QualityAt]:  # fmt: skip
    """What was told up to parts of the stream, against the truth.

    events   event, entity_id and records, in the order in which `resolve` told them
    truth    record and person; records that it does not name are not judged, but count as come
    model, records  with these the recall of blocking too: the linkage, and `record` with the columns of its blocks

    Of a record that was removed since nothing is judged.  Cost O(events), and the true pairs for blocking.

    >>> told = {"event": ["created", "joined"], "entity_id": ["a", "a"], "records": [["r1"], ["r2"]]}
    >>> truth = pl.DataFrame({"record": ["r1", "r2"], "person": [7, 7]})
    >>> [one.quality.f1 for one in quality_curve(pl.DataFrame(told), truth, shares=(50, 100))]
    [1.0, 1.0]
    """
    told = events.select(pl.col("event").cast(pl.String), "entity_id", "records")
    came = int(told["event"].is_in(_CAME).sum())
    people = dict(truth.select("record", "person").iter_rows())
    keys = None
    if model is not None and records is not None:
        known = records.unique("record", keep="last", maintain_order=True)
        keys = dict(zip(known["record"], block_keys(known, model), strict=True))
    entity: dict[str, str] = {}
    out: list[QualityAt] = []
    ends = iter([(share, -(-came * share // 100)) for share in sorted(shares)])
    share, end = next(ends, (0, came + 1))
    seen = 0
    # A record's own event is followed by what it led to, up to the next one.
    for event, one, named in itertools.chain(told.iter_rows(), [("created", None, [])]):
        while event in _CAME and seen == end:
            out.append(_at(share, seen, entity, people, model, keys))
            share, end = next(ends, (0, came + 1))
        seen += event in _CAME
        if event in _MOVES:
            entity.update(dict.fromkeys(named, one))
        elif event == "removed":
            for name in named:
                entity.pop(name, None)
    return out


def _at(
    share: int, came: int, entity: dict[str, str], people: dict[str, object], model: LinkageModel | None,
    keys: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] | None,
) -> QualityAt:  # fmt: skip
    names = [name for name in entity if name in people]
    found = pl.Series([entity[name] for name in names], dtype=pl.String)
    true = pl.Series([people[name] for name in names]).cast(pl.String)
    recall = None
    if keys is not None and model is not None:
        mine = [keys.get(name) for name in names]
        none = np.full(entry_rules(model).size, -1, np.int64)
        rows = np.array([none if row is None else row for row in mine]).reshape(len(mine), none.size)
        recall = blocking_recall(rows, entry_rules(model), true)
    return QualityAt(share, came, found.n_unique(), true.n_unique(), cluster_quality(found, true), recall)


def blocking_recall(
    keys: np.ndarray[tuple[int, int], np.dtype[np.int64]], rules: np.ndarray[tuple[int], np.dtype[np.int64]],
    people: pl.Series,
) -> float:  # fmt: skip
    """The share of true pairs that agree in a block: what clusters can reach at most but for transitivity.

    keys, rules  of `block_keys` and `entry_rules`.  1 where there is no true pair.
    """
    frame = pl.DataFrame({"person": people}).with_row_index("row")
    pairs = frame.join(frame, on="person", suffix="_b").filter(pl.col("row") < pl.col("row_b"))
    if not pairs.height:
        return 1.0
    left, right = (keys[pairs[name].to_numpy()] for name in ("row", "row_b"))
    agree = np.zeros(pairs.height, np.bool_)
    for a, b in itertools.product(range(rules.size), repeat=2):
        if rules[a] == rules[b]:
            agree |= (left[:, a] == right[:, b]) & (left[:, a] >= 0)
    return float(agree.mean())
