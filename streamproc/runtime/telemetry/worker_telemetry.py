"""From what a worker tells to metrics and signs of life.

Everything costs per turn, step or commit. What has to ask the log or walk through state is looked at again only after a
hundred times as long as the look took, and at least a second: at most one per cent of the worker's time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamproc.errors import LogError, LogUnavailable
from streamproc.event_time import MAX_TIME, MIN_TIME, instant_text
from streamproc.ports import CheckpointStore, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.control import Request
from streamproc.runtime.task import TakenStep, Task
from streamproc.runtime.telemetry.learners import look_at_learners
from streamproc.runtime.telemetry.metrics import WorkerMetrics
from streamproc.runtime.telemetry.observer import Observer
from streamproc.runtime.telemetry.sizes import state_bytes
from streamproc.runtime.telemetry.vital import Vital

_LOOK_S: Final = 1.0
_SHARE: Final = 100
_SETTLED: Final = ("emitted", "filtered", "late", "dead_lettered")


class WorkerTelemetry(Observer):
    """Listens to one worker.

    ready_lag  rows of lag below which the worker is ready, once after each restore; None asks for the first commit only
    """

    def __init__(
        self,
        binding: Binding,
        log: Log,
        checkpoints: CheckpointStore | None,
        vital: Vital,
        metrics: WorkerMetrics,
        *,
        ready_lag: int | None = None,
    ) -> None:
        self._binding, self._log, self._checkpoints = binding, log, checkpoints
        self._vital, self._metrics, self._ready_lag = vital, metrics, ready_lag
        self._topology = binding.names.topology
        self._fates: dict[int, dict[str, dict[str, int]]] = {}
        self._caught_up = False
        self._look_at = float("-inf")
        self._lag = 0
        self._owned = self._standing = 0
        metrics.info.labels(self._topology, str(binding.names.version), binding.plan.topology.owner).set(1)
        metrics.paused.labels(self._topology).set(0)
        metrics.draining.labels(self._topology).set(0)
        for stage in binding.stages:
            self._metrics.owned.labels(self._topology, self._stage(stage)).set(0)
            self._metrics.unreadable.labels(self._topology, self._stage(stage))

    # ── restores ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def restoring(self, number: int, owned: int) -> None:
        """A task is about to be restored: its journal behind its newest checkpoint is what may have to run again."""
        self._caught_up = False
        self._owned, self._standing = owned, len(self._fates)
        metrics, name = self._metrics, self._topology
        metrics.restoring.labels(name).set(max(1, owned - self._standing))
        metrics.restore_done.labels(name).set(0)
        metrics.restore_expected.labels(name).set(self._steps_to_run(number))
        self._vital.beat()
        self._vital.tell("restoring", tasks_owned=owned, tasks_restored=self._standing)

    def restored_step(self) -> None:
        """One recorded step ran again."""
        self._metrics.restore_done.labels(self._topology).inc()
        self._vital.beat()

    def restored(self, task: Task, steps: int, seconds: float) -> None:
        """A task stands."""
        metrics, name = self._metrics, self._topology
        self._fates[task.number] = task.state.ledger.summary([inlet.name for inlet in task.stage.stage.inputs])
        metrics.restored_tasks.labels(name).inc()
        metrics.restored_steps.labels(name).inc(steps)
        metrics.restore_seconds.labels(name).inc(seconds)
        metrics.restoring.labels(name).set(max(0, self._owned - len(self._fates)))
        self._vital.beat()

    def waiting(self, error: LogError) -> None:
        """A task is to be restored later."""
        self._vital.troubled(str(error))

    def _steps_to_run(self, number: int) -> int:
        place = TopicPartition(self._binding.names.tasks, number)
        stage, index = self._binding.task_of(number)
        task = f"{self._binding.names.prefix}.s{stage.stage.index}.t{index}"
        first = self._log.start_offset(place)
        for manifest in self._checkpoints.manifests(task)[:1] if self._checkpoints is not None else ():
            offset = manifest.head.get("journal_offset")
            first = max(first, offset + 1 if isinstance(offset, int) else first)
        return max(0, self._log.end_offset(place) - first)

    # ── work ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def stepped(self, task: Task, seconds: float) -> None:
        """A step took so long."""
        self._metrics.step_seconds.labels(self._topology, self._stage(task.stage)).observe(seconds)

    def committed(self, steps: Sequence[tuple[Task, TakenStep]], seconds: float) -> None:
        """Rows have their fate when the commit holds that says so."""
        metrics, name = self._metrics, self._topology
        metrics.commit_seconds.labels(name).observe(seconds)
        metrics.last_commit.labels(name).set(time.time())
        for task, taken in steps:
            stage = self._stage(task.stage)
            metrics.steps.labels(name, stage).inc()
            metrics.unreadable.labels(name, stage).inc(taken.unreadable)
            for source, counts in taken.fresh.items():
                for verdict, rows in counts.items():
                    metrics.fresh.labels(name, source, verdict).inc(rows)
            for topic, (rows, _) in taken.output.digests.items():
                if rows:
                    metrics.written.labels(name, topic).inc(rows)
            before = self._fates.get(task.number, {})
            for source, now in taken.entry.fates.items():
                then = before.get(source, {})
                metrics.rows_read.labels(name, stage, source).inc(max(0, now["in"] - then.get("in", 0)))
                for fate in _SETTLED:
                    metrics.rows.labels(name, stage, source, fate).inc(max(0, now[fate] - then.get(fate, 0)))
            self._fates[task.number] = {source: dict(now) for source, now in taken.entry.fates.items()}
        if steps and self._ready_lag is None:
            self._caught_up = True

    def troubled(self, error: LogError) -> None:
        """The worker forgets its tasks and begins again."""
        self._metrics.recoveries.labels(self._topology, type(error).__name__).inc()
        self._fates.clear()
        self._caught_up = False
        if isinstance(error, LogUnavailable):
            self._vital.troubled(str(error))
        self._vital.tell(f"beginning again after {type(error).__name__}")

    def turned(self, tasks: Mapping[int, Task], *, idle: bool, request: Request | None) -> None:
        """A turn came to its end: the worker lives."""
        metrics, name = self._metrics, self._topology
        metrics.turns.labels(name).inc()
        metrics.restoring.labels(name).set(0)
        for number in set(self._fates) - set(tasks):
            del self._fates[number]
        now = time.monotonic()
        if now >= self._look_at:
            try:
                self._look(tasks)
            except LogUnavailable as error:
                # The turn itself went well: its next one finds out whether the log is gone.
                self._vital.troubled(str(error))
                return
            spent = time.monotonic() - now
            self._look_at = now + max(_LOOK_S, _SHARE * spent)
        paused = request is not None and request.deed == "pause"
        metrics.paused.labels(name).set(paused)
        metrics.draining.labels(name).set(request is not None and not paused)
        if idle and not paused and self._ready_lag is None:
            self._caught_up = True  # Nothing is to do: that is as good as a commit.
        elif self._ready_lag is not None and self._lag <= self._ready_lag:
            self._caught_up = True
        self._vital.beat()
        self._vital.tell(self._waits_for(request), **self._facts(len(tasks), request))

    def _waits_for(self, request: Request | None) -> str:
        if request is not None:
            return "paused" if request.deed == "pause" else "draining"
        if self._caught_up:
            return ""
        if self._ready_lag is None:
            return "waiting for the first commit after a restore"
        return f"lag of {self._lag} rows, above {self._ready_lag}"

    def _facts(self, owned: int, request: Request | None) -> dict[str, Any]:
        facts: dict[str, Any] = {"tasks_owned": owned, "lag_rows": self._lag}
        if request is not None:
            facts |= {"by": request.who, "since": instant_text(request.when_us), "why": request.why}
        return facts

    # ── what is looked at now and then ───────────────────────────────────────────────────────────────────────────────

    def _look(self, tasks: Mapping[int, Task]) -> None:
        """Lag, watermarks, state and the ledger's gauges, over the tasks that are owned now."""
        metrics, name = self._metrics, self._topology
        self._lag = 0
        now_us = time.time_ns() // 1_000
        for stage in self._binding.stages:
            label = self._stage(stage)
            mine = [task for task in tasks.values() if task.stage is stage]
            metrics.owned.labels(name, label).set(len(mine))
            metrics.state_bytes.labels(name, label).set(sum(state_bytes(task.state.operators) for task in mine))
            marks = [task.state.watermark for task in mine if MIN_TIME < task.state.watermark < MAX_TIME]
            for gauge, seconds in (
                (metrics.watermark, min(marks, default=0) / 1e6),
                (metrics.time_lag, (now_us - min(marks, default=now_us)) / 1e6),
            ):
                if marks:
                    gauge.labels(name, label).set(seconds)
                else:
                    gauge.remove_by_labels({"topology": name, "stage": label})
            self._look_at_inputs(label, mine)
            look_at_learners(metrics, name, label, [task.state.operators for task in mine])

    def _look_at_inputs(self, stage: str, tasks: Sequence[Task]) -> None:
        metrics, name = self._metrics, self._topology
        behind: dict[tuple[str, bool], int] = {}
        fates: dict[str, dict[str, int]] = {}
        for task in tasks:
            for c, channel in enumerate(task.channels):
                inlet = task.stage.stage.inputs[channel.inlet]
                end = self._log.end_offset(channel.place)
                # Behind the last record some logs keep marks of their own: read past them, nothing is left.
                left = 0 if task.feeds[c].ended(end) else max(0, end - int(task.state.positions[c, 0]))
                key = (inlet.name, inlet.source is not None)
                behind[key] = behind.get(key, 0) + left
            for source, row in self._fates.get(task.number, {}).items():
                sums = fates.setdefault(source, dict.fromkeys(row, 0))
                for fate, rows in row.items():
                    sums[fate] += rows
        for (source, outer), left in behind.items():
            (metrics.lag if outer else metrics.edge_lag).labels(name, stage, source).set(left)
            self._lag += left if outer else 0
        for gauge in () if tasks else (metrics.lag, metrics.edge_lag, metrics.ledger):
            gauge.remove_by_labels({"topology": name, "stage": stage})
        for source, row in fates.items():
            for fate, rows in row.items():
                metrics.ledger.labels(name, stage, source, fate).set(rows)

    @staticmethod
    def _stage(stage: Any) -> str:
        return str(stage.stage.index)
