"""A worker's metrics, in a registry of its own.

Labels are names of the plan (stage, source, sink topic) and fates, so the number of series is settled when a topology
is bound. Counters count what this process committed; the gauges of the ledger say what the journal says, since the
topology's beginning, of the tasks that this worker has: added over all workers they are what `run --json` reports.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets."""


class WorkerMetrics:
    """Every metric of a worker process, by name; `registry` collects them."""

    def __init__(self) -> None:
        # They double the series of counters, and say nothing that a rate needs.
        quiet: Any = disable_created_metrics
        quiet()
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        inlet = ("topology", "stage", "source")

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streamproc_{name}", text, ("topology", *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streamproc_{name}", text, ("topology", *labels), registry=registry)

        self.info = gauge("topology_info", "1, with the topology's version and owner as labels", "version", "owner")
        self.rows = Counter(
            "streamproc_rows_total", "Rows whose fate this process settled", (*inlet, "fate"), registry=registry
        )
        self.rows_read = Counter("streamproc_rows_read_total", "Rows this process took in", inlet, registry=registry)
        self.ledger = Gauge(
            "streamproc_ledger_rows",
            "Rows by fate since the topology's beginning, of the tasks owned; in = the sum of all other fates",
            (*inlet, "fate"),
            registry=registry,
        )
        self.unreadable = counter(
            "unreadable_records_total",
            "Records that the log holds and cannot hand out, too large or damaged; one may stand for a batch",
            "stage",
        )
        self.fresh = counter(
            "rows_by_freshness_total",
            "Rows by how old they were when they came, against what the source's contract promises",
            "source", "verdict",
        )  # fmt: skip
        self.written = counter("rows_written_total", "Rows written to a topic", "topic")
        self.lag = Gauge(
            "streamproc_lag_rows", "Records of a source that are in the log and not committed", inlet, registry=registry
        )
        self.edge_lag = Gauge(
            "streamproc_edge_lag_blocks", "Blocks between two stages that are not committed", inlet, registry=registry
        )
        self.time_lag = gauge(
            "event_time_lag_seconds", "Now minus the least watermark of the stage's tasks owned", "stage"
        )
        self.watermark = gauge("watermark_timestamp_seconds", "The least watermark of the stage's tasks owned", "stage")
        self.steps = counter("steps_total", "Steps committed", "stage")
        self.turns = counter("turns_total", "Turns of the loop in which the log answered")
        self.step_seconds = Histogram(
            "streamproc_step_seconds",
            "Time to compute one step, reading and decoding included",
            ("topology", "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "streamproc_commit_seconds", "Time of one commit", ("topology",), buckets=SECONDS, registry=registry
        )
        self.last_commit = gauge("last_commit_timestamp_seconds", "When the last commit held")
        self.state_bytes = gauge("state_bytes", "Memory that operators' state takes", "stage")
        self.learner_labels = gauge(
            "learner_labels", "Labels that a learner knows, over the tasks owned", "stage", "step"
        )
        self.learner_error = gauge(
            "learner_mean_squared_error",
            "Of a learner and of what costs nothing, at the label's delay and at delay zero, over all labels",
            "stage", "step", "delay", "contender",
        )  # fmt: skip
        self.owned = gauge("owned_tasks", "Tasks that the group gave this worker", "stage")
        self.paused = gauge("paused", "1 while the topology is paused")
        self.draining = gauge("draining", "1 while the topology is drained")
        self.recoveries = counter(
            "recoveries_total", "Times that the worker began again from what is committed", "reason"
        )
        self.restoring = gauge("restoring_tasks", "Tasks owned that are not restored yet")
        self.restore_expected = gauge(
            "restore_expected_steps", "Recorded steps that the restore under way runs again, at most"
        )
        self.restore_done = gauge("restore_done_steps", "Recorded steps that the restore under way ran again so far")
        self.restored_tasks = counter("restored_tasks_total", "Tasks restored")
        self.restored_steps = counter("restored_steps_total", "Recorded steps that were run again")
        self.restore_seconds = counter("restore_seconds_total", "Time spent restoring tasks")
