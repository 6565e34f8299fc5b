"""Runs an operator over a trial, cut into steps, and collects all that comes out with positions from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import (
    ACCOUNT,
    C0,
    C1,
    C2,
    C3,
    DUE,
    EVENT_TIME,
    LATE,
    RANK,
    ROW,
    WATERMARK,
    WIDTH,
    Batch,
    Meta,
    position_order,
)
from streamproc.operator import Operator, Output, StepTime
from streamproc.testing.comparison import Difference, equal_frames, first_difference
from streamproc.testing.trials import Trial

RANK_HERE: Final = 7
"""The rank of the operator under test: those upstream in a trial are smaller."""

_META: Final = {
    "event time": EVENT_TIME, "watermark": WATERMARK, "position.row": ROW, "position.due": DUE, "position.rank": RANK,
    "late": LATE, "coordinate.0": C0, "coordinate.1": C1, "coordinate.2": C2, "coordinate.3": C3, "account": ACCOUNT,
}  # fmt: skip


class LawError(AssertionError):
    """An operator does not keep one of the eight laws; the message has the smallest input found that shows it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with all that is known of them: columns, meta with positions from the start, keys as bytes if any."""

    frame: pl.DataFrame
    meta: Meta
    keys: list[bytes | None] | None

    def filter(self, mask: npt.NDArray[np.bool_]) -> Table:
        """The rows where the mask is true."""
        keys = None if self.keys is None else [key for key, keep in zip(self.keys, mask.tolist(), strict=True) if keep]
        return Table(self.frame.filter(pl.Series(mask)), self.meta[mask], keys)

    def select(self, names: Sequence[str]) -> Table:
        """Only these columns."""
        return Table(self.frame.select(names), self.meta, self.keys)

    def flat(self) -> pl.DataFrame:
        """All of it as columns: what messages speak of."""
        known = [pl.Series(f"({name})", self.meta[:, at]) for name, at in _META.items()]
        keys = [] if self.keys is None else [pl.Series("(key)", self.keys, dtype=pl.Binary)]
        return pl.DataFrame([*self.frame.get_columns(), *known, *keys])

    def difference(self, other: Table) -> Difference | None:
        """The first difference from another table."""
        if np.array_equal(self.meta, other.meta) and self.keys == other.keys and equal_frames(self.frame, other.frame):
            return None
        return first_difference(self.flat(), other.flat())


@dataclass(slots=True)
class Ran:
    """What came out of a run.

    outputs  per outlet ("rows", "late rows of input 0", "rows that break 'rule'"), where it gave rows
    fates    accounts that still wait at the end and how often (held less released), and those absorbed, sorted
    """

    outputs: dict[str, Table] = field(default_factory=dict)
    fates: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    state: Any = None

    @property
    def rows(self) -> Table:
        """The rows that went on."""
        return self.outputs["rows"]


def run_trial(
    operator: Operator,
    trial: Trial,
    cuts: Sequence[int] = (),
    *,
    through: Callable[[Any], Any] | None = None,
    promised: pl.Schema | None = None,
) -> Ran:
    """Runs the operator over the trial in steps that begin at `cuts`; the state passes `through` between any two.

    promised  the columns that each step's output must have; None lets any pass
    """
    parts: dict[str, list[Table]] = {}
    waiting: Counter[int] = Counter()
    absorbed: Counter[int] = Counter()
    state = operator.open(*trial.types)
    end = trial.watermarks.size
    for begin, stop in pairwise((0, *sorted(min(cut, end) for cut in cuts), end)):
        batches, watermarks = trial.piece(begin, stop)
        time = StepTime(watermarks, RANK_HERE)
        state, output = operator.process(state, batches, time)
        require_shape(output, batches, promised, trial)
        for outlet, batch in outlets(output).items():
            parts.setdefault(outlet, []).append(table(batch, begin))
        for accounts in time.fates.held:
            waiting.update(accounts.tolist())
        for accounts in time.fates.released:
            waiting.subtract(accounts.tolist())
        for accounts in time.fates.absorbed:
            absorbed.update(accounts.tolist())
        if through is not None and stop < end:
            state = through(state)
    outputs = {outlet: _joined(tables) for outlet, tables in sorted(parts.items())}
    fates = {"waiting": sorted((a, n) for a, n in waiting.items() if n), "absorbed": sorted(absorbed.items())}
    return Ran({k: v for k, v in outputs.items() if k == "rows" or v.frame.height}, fates, state)


def outlets(output: Output) -> dict[str, Batch]:
    """All batches of an output by what they are."""
    late = {f"late rows of input {port}": batch for port, batch in enumerate((output.late, *output.late_others))}
    rejected: dict[str, Batch] = {}
    for rule, batch in output.rejected:
        rejected[f"rows that break '{rule}'"] = batch
    sides = {f"side '{name}'": batch for name, batch in output.sides}
    there = {name: batch for name, batch in late.items() if batch is not None}
    return {"rows": output.rows, **sides, **there, **rejected}


def table(batch: Batch, begin: int = 0) -> Table:
    """A batch of the step that begins at input row `begin`."""
    meta = batch.meta.copy()
    meta[:, ROW] += 2 * begin
    return Table(batch.frame, meta, None if batch.keys is None else keys_of_rows(batch))


def _joined(parts: list[Table]) -> Table:
    if len(parts) == 1:
        return parts[0]
    keyed = all(part.keys is not None for part in parts)
    return Table(
        pl.concat([part.frame for part in parts]),
        np.concatenate([part.meta for part in parts]),
        [key for part in parts for key in part.keys or ()] if keyed else None,
    )


def keys_of_rows(batch: Batch) -> list[bytes | None]:
    """The key of each row, None where it is null."""
    if batch.keys is None:
        return [None] * len(batch)
    buffer = batch.keys.buffer.tobytes()
    bounds = zip(batch.keys.starts.tolist(), batch.keys.ends.tolist(), strict=True)
    return [buffer[start:end] if start >= 0 else None for start, end in bounds]


def require_same(left: Ran, right: Ran, law: str, *, names: tuple[str, str], fates: bool = True) -> None:
    """Raises LawError with the first difference of two runs."""
    for outlet in sorted({*left.outputs, *right.outputs}):
        a, b = left.outputs.get(outlet), right.outputs.get(outlet)
        if a is None or b is None:
            given, name = (a, names[0]) if a is not None else (b, names[1])
            first = given.frame.row(0, named=True) if given is not None and given.frame.height else {}
            raise LawError(f"{law}: only {name} gives {outlet}: {first}")
        found = a.difference(b)
        if found is not None:
            raise broken(law, outlet, found, names)
    if fates and left.fates != right.fates:
        for fate in left.fates:
            if left.fates[fate] != right.fates[fate]:
                told = f"{names[0]} {left.fates[fate][:20]}, {names[1]} {right.fates[fate][:20]}"
                raise LawError(f"{law}: accounts {fate} (account, times): {told}")


def broken(law: str, outlet: str, found: Difference, names: tuple[str, str]) -> LawError:
    """A difference as the error that names the law."""
    return LawError(f"{law}: {outlet}, {found.told(*names)}")


def require_shape(output: Output, inputs: tuple[Batch, ...], promised: pl.Schema | None, trial: Trial) -> None:
    """Raises LawError (law "shape") if an output is not what the engine relies on."""
    rows = output.rows
    if promised is not None and rows.frame.schema != promised:
        raise LawError(f"shape: promised are the columns {dict(promised)}, the step gave {dict(rows.frame.schema)}")
    for outlet, batch in outlets(output).items():
        if (
            batch.meta.shape != (batch.frame.height, WIDTH)
            or batch.meta.dtype != np.int64
            or not batch.meta.flags.c_contiguous
        ):
            raise LawError(
                f"shape: {outlet}: meta is {batch.meta.dtype}{batch.meta.shape} for {batch.frame.height} rows, "
                f"needed is C-contiguous int64[rows, {WIDTH}]"
            )
        if batch.keys is not None and len(batch.keys) != len(batch):
            raise LawError(f"shape: {outlet}: {len(batch.keys)} keys for {len(batch)} rows")
        if len(batch) > 1 and not (position_order(batch.meta) == np.arange(len(batch))).all():
            raise LawError(f"shape: {outlet} does not stand in order of position")
    watermarks = rows.meta[:, WATERMARK]
    if (np.diff(watermarks) < 0).any():
        at = int(np.flatnonzero(np.diff(watermarks) < 0)[0]) + 1
        raise LawError(f"shape: rows, row {at}: time goes back from {watermarks[at - 1]} to {watermarks[at]}")
    for port, late in enumerate((output.late, *output.late_others)):
        if late is not None and late.frame.schema != inputs[port].frame.schema:
            raise LawError(f"shape: late rows of input {port} have not the columns of that input")
    if rows.raw is not None:
        _require_payloads(rows, inputs)


def _require_payloads(rows: Batch, inputs: tuple[Batch, ...]) -> None:
    """Raises LawError if a row was changed and yet claims to be the record that it came in."""
    assert rows.raw is not None
    source = next((batch for batch in inputs if batch.raw is not None), None)
    if source is None or source.raw is None or source.frame.schema != rows.frame.schema:
        raise LawError("shape: rows have payloads (raw) under other columns than those that came; drop them")
    known = {
        source.raw.buffer[a:b].tobytes(): i
        for i, (a, b) in enumerate(zip(source.raw.starts, source.raw.ends, strict=True))
    }
    index: list[int] = []
    for a, b in zip(rows.raw.starts, rows.raw.ends, strict=True):
        payload = rows.raw.buffer[a:b].tobytes()
        if payload not in known:
            raise LawError("shape: a row has the payload of no input row")
        index.append(known[payload])
    found = first_difference(source.frame[np.array(index, np.int64)], rows.frame)
    if found is not None:
        raise broken("shape", "rows that claim to be as they came (raw)", found, ("came", "went"))


def copied(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of an export as they are now."""
    return {name: np.array(array) for name, array in arrays.items()}
