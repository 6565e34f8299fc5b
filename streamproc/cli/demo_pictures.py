"""The pictures of the demo's report, from the topics of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from streamproc.cli.demo_score import judged_events, lifetime_values, person_quality
from streamproc.planning.plan import Plan
from streamproc.runtime.pictures import Line, line_chart
from streamproc.runtime.topology_picture import topology_picture

_POINTS: Final = 12
"""At how many places of the stream the quality is looked at."""
_BINS: Final = ("bin_n", "bin_score", "bin_true")


def demo_pictures(
    plan: Plan, answer: Mapping[str, Any], topics: Mapping[str, pl.DataFrame], truth: pl.DataFrame
) -> dict[str, str]:
    """SVGs by name.

    answer  what `demo --json` prints
    topics  rows of the sinks that are drawn, by name
    """
    rows = {name: row["in"] for name, row in answer["inputs"].items()}
    rows |= {topic: one["rows"] for topic, one in answer["topics"].items()}
    judged = judged_events(topics["events"], topics["links"], truth)
    return {
        "topology": topology_picture(plan, rows, seconds=answer["seconds"]),
        "quality": quality_picture(judged),
        "metrics": tasks_picture(topics["metrics"]),
        "reliability": reliability_of_tasks(topics["calibration"]),
        "worth": worth_picture(lifetime_values(judged, topics["customers"])),
    }


def quality_picture(judged: pl.DataFrame) -> str:
    """How well persons were found, as it was told then, along the stream."""
    ends = [judged.height * (n + 1) // _POINTS for n in range(_POINTS)]
    found = [(float(end), person_quality(judged.head(end), "told")) for end in ends]
    lines = [
        Line(name, tuple((end, getattr(one, key)) for end, one in found))
        for name, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
    ]
    return line_chart(lines, title="pairs of events of one person, as told up to then", x="events of persons", y="")


def tasks_picture(metrics: pl.DataFrame) -> str:
    """Squared errors at the label's delay over labels, of all tasks together, as far as each of them has come."""
    true = metrics.filter((pl.col("delay") == "label") & pl.col("segment").is_null() & pl.col("brier").is_not_null())
    reached = true.group_by("_partition").agg(pl.col("labels").max())["labels"].min()
    together = (
        true.filter(pl.col("labels") <= reached)
        .group_by("contender", "labels")
        .agg(brier=(pl.col("brier") * pl.col("n")).sum() / pl.col("n").sum(), all=pl.col("labels").sum())
        .sort("contender", "labels")
    )
    lines = [
        Line(name, tuple(part.select(pl.col("all").cast(pl.Float64), "brier").rows()))
        for (name,), part in together.group_by("contender", maintain_order=True)
    ]
    return line_chart(lines, title="squared error of the chance that was said, all tasks", x="labels", y="brier")


def reliability_of_tasks(calibration: pl.DataFrame) -> str:
    """What was true where a chance was said, in tenths, over all labels of all tasks."""
    whole = calibration.filter(pl.col("segment").is_null())
    last = whole.filter(pl.col("labels") == pl.col("labels").max().over("_partition"))
    bins = (
        last.select("contender", pl.int_ranges(pl.col("bin_n").list.len()).alias("bin"), *_BINS)
        .explode("bin", *_BINS)
        .filter(pl.col("bin_n") > 0)
        .group_by("contender", "bin")
        .agg(((pl.col(side) * pl.col("bin_n")).sum() / pl.col("bin_n").sum()) for side in ("bin_score", "bin_true"))
        .sort("contender", "bin")
    )
    lines = [
        Line(name, tuple(part.select("bin_score", "bin_true").rows()))
        for (name,), part in bins.group_by("contender", maintain_order=True)
    ]
    x, y = "chance that was said", "share that was true"
    return line_chart(lines, title="reliability, all tasks", x=x, y=y, unit=True)


def worth_picture(values: pl.DataFrame) -> str:
    """What persons are worth in the end, added up from the worthiest one on, as said and by the truth."""
    lines = []
    for name, column in (("as told", "said"), ("by the truth", "true")):
        summed = (values[column].drop_nulls().cast(pl.Float64) / 100).sort(descending=True).cum_sum().to_list()
        step = max(1, len(summed) // 200)
        lines.append(Line(name, tuple((float(n + 1), summed[n]) for n in range(0, len(summed), step))))
    return line_chart(lines, title="lifetime value, the worthiest persons first", x="persons", y="EUR, added up")
