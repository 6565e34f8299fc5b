"""How good clusters are where the truth is known: pairs, B-cubed, and what blocking could have found at most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from streamproc.entities.linkage_model import Floats


@dataclass(frozen=True, slots=True)
class ClusterQuality:
    """Precision and recall of pairs of records that share a cluster, and of each record's own cluster (B-cubed)."""

    precision: float
    recall: float
    f1: float
    b_cubed_precision: float
    b_cubed_recall: float
    b_cubed_f1: float


def cluster_quality(found: pl.Series, true: pl.Series) -> ClusterQuality:
    """Compares clusters with the truth, both given as a label a record.

    >>> cluster_quality(pl.Series([1, 1, 2, 2]), pl.Series([7, 7, 7, 8])).precision
    0.5
    """
    both = pl.DataFrame({"found": found, "true": true})
    cells = both.group_by("found", "true").len("n").cast({"n": pl.Float64})
    hit = _pairs(cells["n"])
    precision = hit / max(_pairs(_sizes(both, "found")), 1e-300) if _pairs(_sizes(both, "found")) else 1.0
    recall = hit / max(_pairs(_sizes(both, "true")), 1e-300) if _pairs(_sizes(both, "true")) else 1.0
    for name in ("found", "true"):
        cells = cells.join(both.group_by(name).len(f"of_{name}"), on=name)
    n = max(both.height, 1)
    own = float((cells["n"] ** 2 / cells["of_found"]).sum()) / n
    whole = float((cells["n"] ** 2 / cells["of_true"]).sum()) / n
    return ClusterQuality(precision, recall, _f1(precision, recall), own, whole, _f1(own, whole))


def _sizes(frame: pl.DataFrame, by: str) -> pl.Series:
    return frame.group_by(by).len("n")["n"].cast(pl.Float64)


def _pairs(sizes: pl.Series) -> float:
    return float((sizes * (sizes - 1) / 2).sum())


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def calibration(posteriors: Floats, matches: Floats, *, bins: int = 10) -> tuple[float, pl.DataFrame]:
    """The expected calibration error of posteriors, and the table behind it: per bin the pairs, mean and true share."""
    at = np.minimum((posteriors * bins).astype(np.int64), bins - 1)
    table = (
        pl.DataFrame({"bin": at, "posterior": posteriors, "match": matches})
        .group_by("bin")
        .agg(pairs=pl.len(), posterior=pl.col("posterior").mean(), match=pl.col("match").mean())
        .sort("bin")
    )
    error = float(((table["posterior"] - table["match"]).abs() * table["pairs"]).sum()) / max(len(posteriors), 1)
    return error, table
