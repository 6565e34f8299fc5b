"""`drift`: has this stream changed, asked after every row, with a stated mean time between false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import C1, Batch, Meta
from streamproc.contracts.model import Field, Schema
from streamproc.drifting.alarms import ALARM, absorb_all, alarm_batch, at_rows, picture, place
from streamproc.drifting.evidence import (
    ROWS,
    SERIAL,
    SINCE_OFFSET,
    WATCHED,
    Evidence,
    blamed,
    no_evidence,
    wagers,
    watch,
)
from streamproc.drifting.river_tests import river_test
from streamproc.drifting.windows import WindowTest
from streamproc.errors import DefinitionError
from streamproc.graph import Step
from streamproc.operator import Output, StepTime, StreamType
from streamproc.operators.ranked_columns import ranked, require_columns
from streamproc.operators.two_samples import TESTS

Floats = npt.NDArray[np.float64]
Serial = Literal["raw", "whiten", "thin"]
_MODES: Final = {"raw": 0, "whiten": 1, "thin": 2}

REPORT: Final = Schema((
    Field("column", pl.String()), Field("rows", pl.Int64()), Field("evidence", pl.Float64()),
    Field("autocorrelation", pl.Float64()), Field("promise", pl.String()), Field("alarms", pl.Int64()),
))  # fmt: skip
"""The side "report": how each column stands, whether or not anything happened."""
_LARGEST_CORRELATION: Final = 0.1
_LEAST_REFERENCE: Final = 2_000
"""Ranks among fewer rows that stay the same lean to where those fell, and wagers find that after some thousand rows."""


@dataclass(slots=True)
class DriftState:
    """Evidence, texts seen (per column, by rarity), and how often it spoke."""

    evidence: Evidence
    texts: list[list[str]]
    alarms: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Tests columns by evidence, see `drift`."""

    columns: tuple[str, ...]
    run_length: int
    reference: int
    warm: int
    serial: Serial
    report: int
    seed: int
    learned: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return "drift"

    def schema(self, *inputs: StreamType) -> StreamType:
        """Alarms.  Raises UnknownColumn, TypeMismatch for columns that cannot be ranked."""
        require_columns(inputs[0].schema, self.columns)
        return StreamType(ALARM)

    def sides(self, *inputs: StreamType) -> dict[str, StreamType]:
        """ "report": every column, every `report` rows."""
        return {"report": StreamType(REPORT)}

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        return (frozenset(self.columns),)

    def open(self, *inputs: StreamType) -> DriftState:
        return DriftState(no_evidence(len(self.columns), self.warm // 2), [[] for _ in self.columns], 0)

    def process(self, state: DriftState, inputs: tuple[Batch, ...], time: StepTime) -> tuple[DriftState, Output]:
        (batch,) = inputs
        meta, seen = batch.meta, state.evidence
        values = np.empty((len(self.columns), len(batch)))
        for j, name in enumerate(self.columns):
            values[j] = ranked(batch.frame[name], state.texts[j])
        offsets = np.ascontiguousarray(meta[:, C1])
        alarms, at = [], []
        reports, reported = [REPORT.empty()], [np.empty(0, np.int64)]
        start = 0
        while start < len(batch):
            # Reports stand at rows that are counted from the beginning, so the next one may cut the batch.
            stop = min(len(batch), start + self.report - int(seen.counts[SERIAL]) % self.report)
            row = watch(
                values, offsets, start, stop, self.warm, self.reference, _MODES[self.serial],
                float(self.run_length), self.seed, wagers(), seen.counts, seen.first, seen.edges, seen.counted,
                seen.fortunes, seen.serial, seen.recent, seen.parts, seen.shares, seen.rise,
            )  # fmt: skip
            if int(seen.counts[SERIAL]) % self.report == 0:
                reports.append(self._report(state))
                reported.append(np.full(len(self.columns), min(row, stop - 1), np.int64))
            if row < stop:
                state.alarms += 1
                alarms.append(self._alarm(state, meta, row))
                at.append(row)
                seen.restart()
            start = min(row + 1, stop)
        absorb_all(meta, time)
        side = Batch(pl.concat(reports), at_rows(meta, np.concatenate(reported), time))
        return state, Output(alarm_batch(alarms, at, meta, time), sides=(("report", side),))

    def promise(self, seen: Evidence) -> tuple[str, float]:
        """Whether the stated run length holds, and the largest correlation of neighbouring rows."""
        correlations = seen.correlations()
        column = int(np.argmax(np.abs(correlations)))
        worst = float(correlations[column])
        if self.learned:
            return f"withdrawn: what makes {', '.join(map(repr, self.learned))} goes on learning", worst
        if self.reference < _LEAST_REFERENCE:
            return f"withdrawn: the reference has {self.reference:,} rows; give it {_LEAST_REFERENCE:,}, or none", worst
        n = max(float(seen.serial[column, 3]), 1.0)
        if abs(worst) - 2.0 / math.sqrt(n) > _LARGEST_CORRELATION:
            said = f"withdrawn: neighbouring rows of '{self.columns[column]}' correlate by {worst:.2f}"
            return said + ("" if self.serial == "whiten" else "; try serial='whiten'"), worst
        return "holds", worst

    def _alarm(self, state: DriftState, meta: Meta, row: int) -> dict[str, Any]:
        seen = state.evidence
        by_column = seen.by_column()
        names = blamed(by_column, int(seen.counts[WATCHED]))
        promise, worst = self.promise(seen)
        partition, offset = place(meta, row)
        first = names[0]
        return {
            "detector": "evidence", "columns": [self.columns[j] for j in names], "statistic": float(by_column[first]),
            "evidence": float(by_column.mean()), "threshold": float(self.run_length),
            "run_length": self.run_length if promise == "holds" else None, "promise": promise, "autocorrelation": worst,
            "rows": int(seen.counts[ROWS]), "partition": partition, "first_offset": int(seen.counts[SINCE_OFFSET]),
            "last_offset": offset,
            "picture": picture(self.columns[first], seen.before(first)[1:], seen.after(first)[1:]),
        }  # fmt: skip

    def _report(self, state: DriftState) -> pl.DataFrame:
        seen = state.evidence
        promise, _ = self.promise(seen)
        by_column, correlations = seen.by_column().tolist(), seen.correlations().tolist()
        rows = [
            (name, int(seen.counts[ROWS]), by_column[j], correlations[j], promise, state.alarms)
            for j, name in enumerate(self.columns)
        ]
        return pl.DataFrame(rows, REPORT.polars(), orient="row")


def drift(
    *columns: str,
    run_length: int = 100_000,
    reference: int | None = None,
    warm: int = 1000,
    serial: Serial = "raw",
    test: str | Any = "evidence",
    window: int = 1000,
    report: int = 10_000,
    seed: int = 0,
    learned: tuple[str, ...] = (),
    name: str = "",
) -> Step:
    """Alarms where these columns are distributed otherwise than before: features, scores, a label.

    columns     numbers, booleans or texts; a null is a value of its own
    run_length  rows between false alarms on average, at least, over all columns together. Where neighbouring rows
                correlate the promise does not hold: the alarm then says "withdrawn", and by how much
    reference   None: rows are ranked among all rows so far; n: among n rows. Below 2,000 alarms say "withdrawn": how so
                few happened to fall looks like drift in the end
    warm        rows before the first bet; half of them choose the grid
    serial      "raw"; "whiten": what is left of each value after the one before it; "thin": only every so many rows, so
                far apart that they hardly correlate
    test        "evidence" (the default, valid at every look); on windows of `window` rows against the first
                `reference` ones "ks", "psi", "chi2" or "wasserstein", thresholds calibrated to the sizes and split over
                columns and windows; or a detector of River (`drift.ADWIN()`, `KSWIN(seed=1)`, `PageHinkley()`), plain
    report      a report of every column each so many rows, on the side "report" (only "evidence")
    learned     those of the columns that are made by what goes on learning, as `into` and `calibrated` of `sp.learn`
                are: they change where nothing else does, so alarms say "withdrawn" (only "evidence")

    The output are alarms (`streamproc.drifting.alarms.ALARM`). Each task tests its own rows: below `sp.key_by()`
    there is one.  After an alarm the test begins anew with a new reference.  Cost 60 ns a value (evidence).

    >>> drift("amount", "risk", run_length=50_000).operator.columns
    ('amount', 'risk')
    """
    if not columns:
        raise DefinitionError("step 'drift' watches no column", hint="sp.drift('amount', 'risk')")
    for word, number, least in (("run_length", run_length, 10), ("warm", warm, 20), ("report", report, 1),
                                ("window", window, 10), ("reference", reference or 20, 20)):  # fmt: skip
        if number < least:
            raise DefinitionError(f"step 'drift': {word}={number}", hint=f"at least {least}")
    if serial not in _MODES:
        raise DefinitionError(f"step 'drift': serial='{serial}'", hint="'raw', 'whiten' or 'thin'")
    if unknown := [one for one in learned if one not in columns]:
        raise DefinitionError(f"step 'drift' does not watch '{unknown[0]}', which is said to be learned",
                              hint=f"it watches {', '.join(columns)}")  # fmt: skip
    if learned and test != "evidence":
        raise DefinitionError("step 'drift': another test than 'evidence' promises nothing that could be withdrawn",
                              hint="leave out learned=")  # fmt: skip
    if not isinstance(test, str):
        return Step(river_test(test, columns), name=name)
    if test == "evidence":
        whole = 2**62 if reference is None else reference
        return Step(Drift(columns, run_length, whole, warm, serial, report, seed, learned), name=name)
    if test not in TESTS:
        raise DefinitionError(
            f"step 'drift' has no test '{test}'", hint=f"'evidence', {', '.join(map(repr, TESTS))}, or one of River's"
        )
    return Step(WindowTest(columns, test, window, reference or 2000, run_length, seed), name=name)
