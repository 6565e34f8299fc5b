"""What a run of the retail story came to, in plain values: what the demo prints, and what a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import polars as pl

from streamproc.cli.demo_blocks import recall_of_blocks, written_blocks
from streamproc.cli.demo_score import at_shares, judged_events, lifetime_values, person_quality
from streamproc.ports import Log
from streamproc.runtime.binding import Binding
from streamproc.runtime.reading import read_topic

LAST: Final = 5


def story_topics(binding: Binding, log: Log) -> dict[str, pl.DataFrame]:
    """The rows of a finished run that facts and pictures are made of, by sink; also of a sink that got none.

    Beside them "blocks": the blocks of each writing of a person.
    """
    told = {
        sink.name: read_topic(log, binding.registry, sink.topic, sink.contract.schema.polars())
        for sink in binding.plan.sinks
        if sink.name in _READ
    }
    return told | {"blocks": written_blocks(binding, log)}


def story_facts(topics: Mapping[str, pl.DataFrame], truth: pl.DataFrame) -> dict[str, Any]:
    """Persons, model, drift, decisions, alerts and worth of a finished run, in values that JSON knows, but for times.

    topics  of `story_topics`
    truth   of `topologies.retail.make_story`: topic, id, person, customer_id
    """
    judged = judged_events(topics["events"], topics["links"], truth)

    def quality(events: pl.DataFrame, by: str) -> dict[str, Any]:
        return {**asdict(person_quality(events, by)), "block_recall": recall_of_blocks(events, topics["blocks"])}

    return {
        "persons": {
            **quality(judged, "found"),
            "by_share": {share: quality(events, "told") for share, events in at_shares(judged).items()},
            "doubtful_pairs": topics["doubts"].height,
        },
        "model": model_facts(topics["metrics"]),
        "drift": _rows(pl.concat([topics["drift"], topics["label_drift"]]), _DRIFT),
        "decisions": decision_facts(topics["decisions"]),
        "alerts": alert_facts(topics["refund_alerts"], topics["stock_alerts"]),
        "worth": worth_facts(lifetime_values(judged, topics["customers"])),
        "quality": _raised(topics["quality"]).to_dicts(),
    }


_READ: Final = (
    "links", "doubts", "events", "customers", "metrics", "calibration", "decisions", "refund_alerts",
    "stock_alerts", "drift", "label_drift", "quality",
)  # fmt: skip
_DRIFT: Final = ("columns", "evidence", "threshold", "rows", "promise", "picture")


def model_facts(metrics: pl.DataFrame) -> dict[str, Any]:
    """Scores at the label's true delay, of the model and of what costs nothing: the last report of each task.

    There is one model a task; figures are means over all labels. `of_last` is the same over the labels after the first
    half: at the begin of a run only true labels are known, because no 14 days are over.
    """
    true = metrics.filter((pl.col("delay") == "label") & pl.col("segment").is_null())
    last = true.filter(pl.col("labels") == pl.col("labels").max().over("_partition"))
    half = true.filter(pl.col("labels") <= pl.col("labels").max().over("_partition") // 2).filter(
        pl.col("labels") == pl.col("labels").max().over("_partition")
    )
    parts = last.join(half, on=("_partition", "contender"), how="left", suffix="_half")
    n, before = pl.col("n"), pl.col("n_half").fill_null(0)
    late = (pl.col("brier") * n - pl.col("brier_half").fill_null(0.0) * before).sum() / (n - before).sum()
    found = (
        parts.group_by("contender")
        .agg(
            n.sum().alias("labels"),
            ((pl.col("brier") * n).sum() / n.sum()).alias("brier"),
            late.alias("brier_of_last"),
            ((pl.col("accuracy") * n).sum() / n.sum()).alias("accuracy"),
            ((pl.col("auc") * n).sum() / n.sum()).alias("auc"),
        )
        .sort("brier", "contender")
    )  # fmt: skip
    return {row.pop("contender"): row for row in found.to_dicts()}


def decision_facts(decisions: pl.DataFrame) -> dict[str, Any]:
    """How often what was decided, and by which rung; the last ones that were not just accepted."""
    by = decisions.group_by("decision", "rule").len("orders").sort("orders", "rule", descending=[True, False])
    rungs = decisions.group_by("rung").len("orders").sort("orders", "rung", descending=[True, False])
    stopped = decisions.filter(pl.col("decision") != "accept").sort("ordered_at", "order_id")
    columns = ("order_id", "ordered_at", "decision", "rule", "reason", "risk", "cents")
    return {"by_rule": by.to_dicts(), "by_rung": rungs.to_dicts(), "last": _rows(stopped.tail(LAST), columns)}


def alert_facts(refunds: pl.DataFrame, stock: pl.DataFrame) -> dict[str, Any]:
    """How many alerts of which kind, and the last refunds that were out of line."""
    kinds = refunds.group_by("kind", "severity").len("alerts").sort("kind", "severity")
    columns = ("return_id", "returned_at", "kind", "severity", "cents", "reason")
    return {
        "refunds": kinds.to_dicts(),
        "last_refunds": _rows(refunds.sort("returned_at", "return_id").tail(LAST), columns),
        "shelves": stock.filter(pl.col("status") == "raised").height,
        "codes": stock["stock_code"].n_unique(),
    }


def worth_facts(values: pl.DataFrame) -> dict[str, Any]:
    """What all persons are worth, said and true, in euros; and the entities for which it is not the same."""
    off = values.filter((pl.col("off") != 0) | (pl.col("strangers") > 0) | (pl.col("absent") > 0))
    return {
        "said": int(values["said"].sum()) / 100, "true": int(values["true"].sum()) / 100,
        "entities": values.height, "off": off.height, "rows": off.head(50).to_dicts(),
    }  # fmt: skip


def _raised(quality: pl.DataFrame) -> pl.DataFrame:
    """How often each rule began to be broken."""
    return quality.filter(pl.col("status") == "RAISED").group_by("rule").len("raised").sort("rule")


def _rows(frame: pl.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return frame.select(columns).to_dicts()
