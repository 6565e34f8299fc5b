"""What an operator is, and the eight laws that it keeps.

An operator turns batches into batches, per task, and keeps all that it remembers in a *state* of plain arrays.

1. **Cut**: cutting the same rows into other batches changes no output row and no later one.
2. **Resume**: a snapshot and restore between any two batches changes nothing.
3. **Replay**: the same input gives the same bytes.
4. **Key** (keyed operators): per key, given the watermark column, how other keys interleave is irrelevant.
5. **Purity**: equal state and input give equal state and output; inputs are not changed; no clock, no random.
6. **Shape**: an empty batch gives an empty batch; the promised schema is the schema given.
7. **Lineage**: an output column depends on no input column that was not declared.
8. **Twin**: equals the naive row-at-a-time version.

`streamproc.testing.check_operator` proves them, for ours and for users' own.

**Time inside a batch.** For each input row of a step, time is first advanced through the whole stage, then the row
goes. `StepTime.watermarks[i]` is the stage's watermark at input row i. An operator that releases things by time
therefore does, for each of its rows in order: release what is due before the row, then take the row; and at the end
release what is due by the last watermark. Before an input row (odd ROW), due means `due <= its WATERMARK`; before a row
that time itself released upstream (even ROW 2i), due means `due < its DUE` or `due <= watermarks[i - 1]`, because at
one moment operators release in order of rank, and upstream ranks are smaller. A released row carries position
(2i, due, rank) where i is the first input row with `watermarks[i] >= due`, event time and watermark equal to `due`, and
several at the same due stand in order of key bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError
from streamproc.ports import Int64s


class Fates:
    """The ledger of a step: which source rows an operator holds back, and which it lets go.

    Every source row ends with one fate, the best over its paths: emitted > held > late > filtered > dead-lettered.
    An operator that keeps a row waiting (to emit it later as the same row) calls `hold` with the row's ACCOUNT, and
    `release` when the row goes on. Rows that an operator drops need no call: a row without a better fate is filtered.
    Rows absorbed into state (a window's contents, a join's table) are emitted: call `absorb`.
    """

    __slots__ = ("absorbed", "held", "released")

    def __init__(self) -> None:
        self.held: list[Int64s] = []
        self.released: list[Int64s] = []
        self.absorbed: list[Int64s] = []

    def hold(self, accounts: Int64s) -> None:
        """These rows wait in the operator's state."""
        if accounts.size:
            self.held.append(np.array(accounts, np.int64))

    def release(self, accounts: Int64s) -> None:
        """These rows wait no longer; the operator's output, or its absence, decides their fate."""
        if accounts.size:
            self.released.append(np.array(accounts, np.int64))

    def absorb(self, accounts: Int64s) -> None:
        """These rows did their work in the operator's state: they count as emitted."""
        if accounts.size:
            self.absorbed.append(np.array(accounts, np.int64))


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time during one step of a task, and the operator's place in it.

    watermarks  int64[m], never decreasing: the stage's watermark once it was advanced for input row i of the step
    rank        the operator's rank in the plan: the RANK of what it releases
    fates       the ledger
    clock       µs: the journal's `now` of a tick step, else None; what an operator makes of it is *clocked*
    heard       µs: up to this moment of the journal's clock all feedback that was written is in this step or an earlier
                one; None in a stage that has none. It is *clocked* too
    """

    watermarks: Int64s
    rank: int
    fates: Fates = field(default_factory=Fates)
    clock: int | None = None
    heard: int | None = None

    @property
    def end(self) -> int | None:
        """The watermark at the end of the step, or None in a step without input rows."""
        return int(self.watermarks[-1]) if self.watermarks.size else None


@dataclass(frozen=True, slots=True)
class Output:
    """What an operator makes of one batch: rows in position order, and rows that came too late for it.

    late      input rows (the first input's columns) that the operator could not use any more, or None
    rejected  input rows that broke a rule, each with the rule's name: they go to the dead-letter topic
    late_others  per input from the second on: what `late` is for the first; () where nothing came too late there
    sides        rows of other columns that leave beside the main ones, by name, as the operator's `sides` promises
    """

    rows: Batch
    late: Batch | None = None
    rejected: tuple[tuple[str, Batch], ...] = ()
    late_others: tuple[Batch | None, ...] = ()
    sides: tuple[tuple[str, Batch], ...] = ()


@runtime_checkable
class Operator(Protocol):
    """One step of a topology: a frozen value that makes, from state and batches, state and batches."""

    @property
    def verb(self) -> str:
        """The word by which the step is named where the author gives no name ("where", "tumbling")."""
        ...

    def schema(self, *inputs: StreamType) -> StreamType:
        """Types of the output, from those of the inputs; raises DefinitionError for what cannot work."""
        ...

    def reads(self, needed: frozenset[str], *inputs: Schema) -> tuple[frozenset[str], ...]:
        """Per input, the columns that this step needs if `needed` of its output are needed further down."""
        ...

    def open(self, *inputs: StreamType) -> Any:
        """The empty state of one task: None, or a dataclass of arrays (see `streamproc.state`)."""
        ...

    def process(self, state: Any, inputs: tuple[Batch, ...], time: StepTime) -> tuple[Any, Output]:
        """Consumes `state` (arrays may be reused) and one batch per input, gives the new state and the output.

        Called with empty batches too when time has moved.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamType:
    """What the plan knows of a stream: its columns, its key, and whether rows come in order of event time.

    keyed_by   columns that form the key of each row; None where the stream has no key yet. `()` is one key for all rows
    ordered    rows come in order of event time, and so do their watermarks
    placed_by  columns whose bytes already chose the partition of each row (murmur2), as a source's contract declares;
               a `key_by` of the same columns then moves nothing
    """

    schema: Schema
    keyed_by: tuple[str, ...] | None = None
    ordered: bool = False
    placed_by: tuple[str, ...] | None = None

    def require_key(self, step: str) -> tuple[str, ...]:
        """The key columns, or DefinitionError that says how to get some."""
        if self.keyed_by is None:
            raise DefinitionError(
                f"step '{step}' needs a keyed stream",
                hint="put sp.key_by(column) before it; sp.key_by() treats all rows as one key",
            )
        return self.keyed_by


def sides_of(operator: object, inputs: Sequence[StreamType]) -> Mapping[str, StreamType]:
    """Streams that an operator gives beside its rows, by name: what its method `sides(*inputs)` says, else none.

    A decision's log and a model's metrics leave so: in the same step as the rows that they speak of.
    """
    sides: Mapping[str, StreamType] = operator.sides(*inputs) if hasattr(operator, "sides") else {}
    return sides


def passes_through(needed: frozenset[str], reads: Sequence[str], made: Sequence[str] = ()) -> frozenset[str]:
    """Columns that a step needs: those needed further down that it does not make itself, and those that it reads."""
    return (needed - frozenset(made)) | frozenset(reads)
