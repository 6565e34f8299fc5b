"""What learners are worth, as gauges: the same sums that the side "metrics" reports, over the tasks owned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamproc.runtime.telemetry.metrics import WorkerMetrics


def look_at_learners(metrics: WorkerMetrics, topology: str, stage: str, states: Sequence[Mapping[str, Any]]) -> None:
    """Sets the gauges of one stage.

    states  per task, the state of each operator by the step's name
    """
    # Most topologies have no learner, and need not load what belongs to one.
    steps = {step for state in states for step, held in state.items() if type(held).__name__ == "LearnState"}
    if not steps:
        return
    from streamproc.learning.evaluation import CONTENDERS, DELAYS, mean_squared_errors

    for step in sorted(steps):
        evaluations = [state[step].evaluation for state in states]
        metrics.learner_labels.labels(topology, stage, step).set(sum(one.labels for one in evaluations))
        errors = mean_squared_errors(np.sum([one.sums for one in evaluations], axis=0))
        for d, delay in enumerate(DELAYS):
            for c, contender in enumerate(CONTENDERS):
                if not np.isnan(errors[d, c]):
                    metrics.learner_error.labels(topology, stage, step, delay, contender).set(errors[d, c])
