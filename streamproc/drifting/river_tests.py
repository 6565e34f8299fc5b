"""River's detectors as plain options: each column has its own, which sees every value that is there.

They are offered as River has them. What they promise about false alarms is little, and nothing where rows depend on
each other: benchmarks/quality/drift compares them at equal run length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from streamproc.batch import C1, Batch
from streamproc.contracts.model import Schema
from streamproc.drifting.alarms import ALARM, absorb_all, alarm_batch, place
from streamproc.errors import DefinitionError, StateError
from streamproc.models.snapshot import read_snapshot, unseeded_part, write_snapshot
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.ranked_columns import ranked, require_columns
from streamproc.state import Packed

_KNOWN: Final = ("ADWIN", "KSWIN", "PageHinkley")


class KeptDetector(Packed):
    """A detector of River in the state of a task."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def packed(self) -> bytes:
        return write_snapshot(self.detector)

    @classmethod
    def unpacked(cls, data: bytes) -> KeptDetector:
        return cls(read_snapshot(data))


@dataclass(slots=True)
class RiverState:
    """A detector per column, rows since each began anew, and the offset of its first row."""

    detectors: list[KeptDetector]
    rows: list[int]
    first_offsets: list[int]
    texts: list[list[str]]


@dataclass(frozen=True, slots=True)
class RiverTest:
    """Watches each column with a detector of River, see `drift`."""

    columns: tuple[str, ...]
    kind: str
    blueprint: bytes = field(repr=False)

    @property
    def verb(self) -> str:
        return "drift"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Alarms.  Raises UnknownColumn, TypeMismatch."""
        require_columns(inputs[0].schema, self.columns)
        return StreamType(ALARM)

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset(self.columns),)

    def open(self, *inputs: StreamType) -> RiverState:
        detectors = [KeptDetector(read_snapshot(self.blueprint)) for _ in self.columns]
        return RiverState(detectors, [0] * len(detectors), [0] * len(detectors), [[] for _ in detectors])

    def process(self, state: RiverState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[RiverState, Output]:
        (batch,) = inputs
        offsets = batch.meta[:, C1].tolist()
        found: list[tuple[int, int, dict[str, Any]]] = []
        for j, name in enumerate(self.columns):
            values = ranked(batch.frame[name], state.texts[j])
            for row, value in enumerate(np.where(np.isfinite(values), values, math.nan).tolist()):
                if math.isnan(value):
                    continue
                if not state.rows[j]:
                    state.first_offsets[j] = offsets[row]
                state.rows[j] += 1
                detector = state.detectors[j].detector
                detector.update(value)
                if detector.drift_detected:
                    found.append((row, j, self._alarm(state, j, place(batch.meta, row), value)))
                    state.detectors[j] = KeptDetector(read_snapshot(self.blueprint))
                    state.rows[j] = 0
        found.sort(key=lambda one: one[:2])
        absorb_all(batch.meta, time)
        alarms = alarm_batch([alarm for _, _, alarm in found], [row for row, _, _ in found], batch.meta, time)
        return state, Output(alarms)

    def _alarm(self, state: RiverState, j: int, where: tuple[int, int], value: float) -> dict[str, Any]:
        return {
            "detector": self.kind, "columns": [self.columns[j]], "statistic": value, "evidence": 1.0, "threshold": 1.0,
            "run_length": None, "promise": "none: this detector states no run length", "autocorrelation": None,
            "rows": state.rows[j], "partition": where[0], "first_offset": state.first_offsets[j],
            "last_offset": where[1], "picture": "",
        }  # fmt: skip


def river_test(detector: Any, columns: tuple[str, ...]) -> RiverTest:
    """A detector of River for each of the columns.  Raises DefinitionError for others, and for one without a seed."""
    kind = type(detector).__name__
    if kind not in _KNOWN:
        raise DefinitionError(
            f"step 'drift' cannot test with a {kind}", hint=f"a name, or of River {', '.join(_KNOWN)}"
        )
    try:
        blueprint = write_snapshot(detector)
    except StateError as problem:
        raise DefinitionError(f"step 'drift': {problem.message}", hint=problem.hint) from None
    if unseeded_part(blueprint):
        raise DefinitionError(f"step 'drift': {kind} draws random numbers and has no seed", hint=f"{kind}(seed=1)")
    return RiverTest(columns, kind, blueprint)
