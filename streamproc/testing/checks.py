"""`check_operator`: holds any operator, ours or yours, to the eight laws on random input.

    from streamproc.testing import check_operator
    check_operator(sp.custom(MyOperator()), StreamType(schema, ("machine",)), seeds=200)

A law that is broken is told with the smallest input found that breaks it: seed, cut, rows, first difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Contract, Schema
from streamproc.errors import InputError
from streamproc.event_time import MAX_TIME, Span, span_us
from streamproc.graph import Step
from streamproc.operator import Operator, StepTime, StreamType
from streamproc.state import export_state, import_state
from streamproc.testing.comparison import Difference, first_difference
from streamproc.testing.random_rows import random_frame
from streamproc.testing.runs import (
    RANK_HERE,
    LawError,
    Ran,
    broken,
    copied,
    keys_of_rows,
    outlets,
    require_same,
    require_shape,
    run_trial,
    table,
)
from streamproc.testing.trials import Event, Sampler, Trial, random_cuts, random_trial

LAWS: Final = ("shape", "replay", "cut", "resume", "purity", "key", "lineage", "twin")

Twin = Callable[[Iterable[Event]], list[dict[str, Any]]]
"""The naive version: goes through the rows one at a time and gives those that go on."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One trial of one operator, and what all laws need of it."""

    operator: Operator
    trial: Trial
    cuts: tuple[int, ...]
    seed: int
    promised: pl.Schema
    twin: Twin | None


def check_operator(
    step: Step | Operator,
    *inputs: StreamType | Schema | Contract,
    seeds: int | Iterable[int] = 50,
    rows: int = 40,
    unit: Span | None = None,
    samples: Sequence[pl.DataFrame | Sampler | None] = (),
    twin: Twin | None = None,
    without: Collection[str] = (),
) -> int:
    """Proves the eight laws of an operator on random streams; gives how many streams were tried.

    Each stream is tried whole, and cut with a restart at each cut; replay, purity, key and lineage are tried in turn.

    step     what stands right of a `|`, or the operator itself
    inputs   what it reads: a StreamType says the key too, and whether rows come in order of event time
    seeds    a number of streams, or the seeds themselves: a stream depends on its seed alone
    rows     at most in a stream
    unit     what event times are multiples of; by default from 1 us to 1 m, so choose spans of the operator to match
    samples  per input, rows to draw from or a function (random, n) that makes n rows, where random values will not do
    twin     gives the expected rows from `Event`s, one at a time
    without  laws that the operator does not promise ("key" for one whose state all keys share)

    Raises LawError (an AssertionError) with law, seed, cut, the smallest input found and the first difference;
    DefinitionError where the operator refuses the inputs.

    >>> from streamproc.contracts.model import Field
    >>> from streamproc.operators.dedupe import dedupe
    >>> check_operator(dedupe("id", within="1m"), Schema((Field("id", pl.Int64()),)), seeds=3)
    3
    """
    unknown = sorted(set(without) - set(LAWS))
    if unknown:
        raise InputError(f"there is no law '{unknown[0]}'", hint=f"the laws are {', '.join(LAWS)}")
    operator = step.operator if isinstance(step, Step) else step
    types = tuple(_stream_type(given) for given in inputs)
    promised = operator.schema(*types).schema.polars()
    samplers = tuple(_sampler(given) for given in samples)
    laws = [law for law in _CHECKS if law not in without]
    if "shape" not in without:
        _empty_in_empty_out(operator, types, promised)
    tried = 0
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        unit_us = None if unit is None else span_us(unit)
        trial = random_trial(seed, types, rows=rows, unit_us=unit_us, samplers=samplers)
        cuts = random_cuts(np.random.default_rng((seed, 1)), trial.watermarks.size)
        case = _Case(operator, trial, cuts, seed, promised, twin)
        found = _broken(case, _laws_of(seed, laws))
        if found is not None:
            raise _smallest(case, *_named(case, *found, laws))
        tried += 1
    return tried


def _stream_type(given: StreamType | Schema | Contract) -> StreamType:
    if isinstance(given, StreamType):
        return given
    return StreamType(given.schema if isinstance(given, Contract) else given)


def _sampler(given: pl.DataFrame | Sampler | None) -> Sampler | None:
    if not isinstance(given, pl.DataFrame):
        return given
    frame = given

    def drawn(random: np.random.Generator, n: int) -> pl.DataFrame:
        return frame[random.integers(0, frame.height, n)] if frame.height else frame

    return drawn


def _empty_in_empty_out(operator: Operator, types: tuple[StreamType, ...], promised: pl.Schema) -> None:
    """Law 6 at its edge: nothing comes, with time and without."""
    none = random_trial(0, types, rows=0)
    for watermarks in (np.empty(0, np.int64), np.array([0, MAX_TIME])):
        state = operator.open(*types)
        for _ in range(2):
            state, output = operator.process(state, none.ports, StepTime(watermarks, RANK_HERE))
            require_shape(output, none.ports, promised, none)
            if any(len(batch) for batch in outlets(output).values()):
                raise LawError(f"shape: '{operator.verb}' makes rows out of an empty batch and an empty state")


# ── the laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _whole(case: _Case) -> Ran:
    return run_trial(case.operator, case.trial, promised=case.promised)


def _shape(case: _Case, whole: Ran) -> None:
    """The promised columns, positions, payloads: judged while the trial runs whole."""


def _replay(case: _Case, whole: Ran) -> None:
    require_same(whole, _whole(case), "replay", names=("the first time", "the second time"))


def _cut(case: _Case, whole: Ran) -> None:
    parts = run_trial(case.operator, case.trial, case.cuts, promised=case.promised)
    require_same(whole, parts, "cut", names=("whole", "cut"))


def _resume(case: _Case, whole: Ran) -> None:
    """Saved and restored at each cut; a broken cut law would show too, so it is judged before."""
    template = case.operator.open(*case.trial.types)

    def saved(state: Any) -> Any:
        return import_state(template, copied(export_state(state)))

    parts = run_trial(case.operator, case.trial, case.cuts, through=saved, promised=case.promised)
    require_same(whole, parts, "resume", names=("without a restart", "restored"))


def _purity(case: _Case, whole: Ran) -> None:
    """Two copies of one state take the same step; then neither inputs nor the saved state have changed."""
    end = case.trial.watermarks.size
    middle = min(case.cuts[len(case.cuts) // 2], end)
    template = case.operator.open(*case.trial.types)
    batches, watermarks = case.trial.piece(0, middle)
    state, _ = case.operator.process(case.operator.open(*case.trial.types), batches, StepTime(watermarks, RANK_HERE))
    arrays = copied(export_state(state))
    untouched = copied(arrays)
    given: list[dict[str, Batch]] = []
    exports = []
    pieces, watermarks = case.trial.piece(middle, end)
    # The step gets copies of the columns: were it to write into them, the originals would still show it.
    batches = tuple(replace(batch, frame=batch.frame[np.arange(len(batch))]) for batch in pieces)
    before = [(table(batch), batch.raw) for batch in pieces]
    for _ in range(2):
        state = import_state(template, arrays)
        state, output = case.operator.process(state, batches, StepTime(watermarks, RANK_HERE))
        given.append(outlets(output))
        exports.append(copied(export_state(state)))
    for batch, (rows, raw) in zip(batches, before, strict=True):
        found = rows.difference(table(batch))
        if found is not None or batch.raw is not raw:
            raise LawError(f"purity: the step changed its input: {found.told('it was', 'it is') if found else 'raw'}")
    for name, array in untouched.items():
        if array.tobytes() != arrays[name].tobytes():  # not by value: NaN is not equal to itself
            raise LawError(f"purity: the step wrote into the saved state '{name}' of a snapshot")
    for outlet in sorted({*given[0], *given[1]}):
        if (outlet in given[0]) != (outlet in given[1]):
            raise LawError(f"purity: only one of two equal steps gives {outlet}")
        found = table(given[0][outlet]).difference(table(given[1][outlet]))
        if found is not None:
            raise broken("purity", outlet, found, ("the first time", "from an equal state"))
    _require_equal_states(exports[0], exports[1])


def _require_equal_states(left: dict[str, Any], right: dict[str, Any]) -> None:
    for name in sorted({*left, *right}):
        if name not in left or name not in right or left[name].tobytes() != right[name].tobytes():
            raise LawError(f"purity: equal state and input leave different states behind, at '{name}'")


def _key(case: _Case, whole: Ran) -> None:
    """Rows of one key come out alike whether rows of other keys came between them or not."""
    if whole.rows.keys is None or any(port.keys is None for port in case.trial.ports):
        return
    keys = [keys_of_rows(port) for port in case.trial.ports]
    present = list(dict.fromkeys(key for column in keys for key in column))
    if len(present) < 2:
        return
    one = present[case.seed // 4 % len(present)]
    masks = [np.array([key == one for key in column], np.bool_) for column in keys]
    alone = run_trial(case.operator, case.trial.kept(masks), promised=case.promised)
    for outlet, rows in whole.outputs.items():
        chosen = rows.filter(np.array([key == one for key in rows.keys or ()], np.bool_))
        if outlet not in alone.outputs and not chosen.frame.height:
            continue
        nothing = Difference(0, "*", "rows", "nothing")
        found = chosen.difference(alone.outputs[outlet]) if outlet in alone.outputs else nothing
        if found is not None:
            raise broken(f"key {one!r}", outlet, found, ("among other keys", "alone"))


def _lineage(case: _Case, whole: Ran) -> None:
    """Columns that the step says it does not read are changed, then taken away: what is needed comes out as before."""
    random = np.random.default_rng((case.seed, 2))
    promised = list(case.promised)
    needed = frozenset([promised[case.seed // 4 % len(promised)]] if case.seed // 4 % 4 else promised)
    schemas = [kind.schema for kind in case.trial.types]
    reads = case.operator.reads(needed, *schemas)
    if len(reads) != len(schemas):
        raise LawError(f"lineage: `reads` names columns of {len(reads)} inputs, there are {len(schemas)}")
    other, fewer = [], []
    for port, kind, schema, read in zip(case.trial.ports, case.trial.types, schemas, reads, strict=True):
        unknown = sorted(read - set(schema.names))
        if unknown:
            raise LawError(f"lineage: `reads` names a column '{unknown[0]}' that the input does not have")
        strange = random_frame(random, Schema(tuple(f for f in schema if f.name not in read)), len(port))
        other.append(port.frame.with_columns(strange.get_columns()))
        # As the plan does: the key always comes, and a frame without a column would have no height.
        comes = read | frozenset(kind.keyed_by or ())
        fewer.append(port.frame.select([n for n in schema.names if n in comes] or schema.names[:1]))
    wanted = [name for name in promised if name in needed]
    for what, frames in (("with undeclared columns changed", other), ("without undeclared columns", fewer)):
        ran = run_trial(case.operator, case.trial.with_frames(frames))
        lacking = [name for name in wanted if name not in ran.rows.frame.columns]
        if lacking:
            raise LawError(f"lineage: needed is {sorted(needed)}, {what} the step does not give '{lacking[0]}'")
        found = whole.rows.select(wanted).difference(ran.rows.select(wanted))
        if found is not None:
            raise broken(f"lineage of {sorted(needed)}", "rows", found, ("before", what))


def _twin(case: _Case, whole: Ran) -> None:
    if case.twin is None:
        return
    expected = pl.DataFrame(case.twin(case.trial.events()), schema=case.promised, orient="row")
    found = first_difference(expected, whole.rows.frame)
    if found is not None:
        raise broken("twin", "rows", found, ("the twin", "the operator"))


_CHECKS: Final[dict[str, Callable[[_Case, Ran], None]]] = {
    "shape": _shape, "replay": _replay, "cut": _cut, "resume": _resume, "purity": _purity, "key": _key,
    "lineage": _lineage, "twin": _twin,
}  # fmt: skip
_IN_TURN: Final = ("replay", "purity", "key", "lineage")


def _broken(case: _Case, laws: Sequence[str]) -> tuple[str, LawError] | None:
    """The first of these laws that the case breaks."""
    try:
        whole = _whole(case)
    except LawError as found:
        return ("shape", found) if "shape" in laws else None
    for law in laws:
        try:
            _CHECKS[law](case, whole)
        except LawError as found:
            return law, found
    return None


def _laws_of(seed: int, laws: Sequence[str]) -> list[str]:
    """The laws that a stream is tried for: the first ones always, of the costly others one in turn.

    A run that is saved and restored at each cut shows a broken cut law too; `_named` tells the two apart.
    """
    others = [law for law in laws if law in _IN_TURN]
    turn = others[seed % len(others) :][:1] if others else []
    instead = "resume" if "resume" in laws else "cut"
    return [law for law in laws if law in ("shape", instead, "twin")] + turn


def _named(case: _Case, law: str, found: LawError, laws: Sequence[str]) -> tuple[str, LawError]:
    """What was found in a run with restarts, under the name of the law that it breaks already without them."""
    if law == "resume" and "cut" in laws:
        return _broken(case, ["cut"]) or (law, found)
    return law, found


# ── the smallest case ────────────────────────────────────────────────────────────────────────────────────────────────


def _smallest(case: _Case, law: str, found: LawError) -> LawError:
    """The same law broken by as few rows and cuts as a short search finds, in words."""

    def still(trial: Trial, cuts: tuple[int, ...]) -> LawError | None:
        smaller = _Case(case.operator, trial, cuts, case.seed, case.promised, case.twin)
        try:
            again = _broken(smaller, [law])
        except Exception:  # another failure than the one that is being made smaller
            return None
        return again[1] if again is not None else None

    trial, cuts = case.trial, case.cuts
    for port in range(len(trial.ports)):
        size = max(1, len(trial.ports[port]) // 2)
        while size:
            at = 0
            while at < len(trial.ports[port]):
                keep = [np.ones(len(batch), np.bool_) for batch in trial.ports]
                keep[port][at : at + size] = False
                smaller = trial.kept(keep)
                if (again := still(smaller, cuts)) is not None:
                    trial, found = smaller, again
                else:
                    at += size
            size //= 2
    for cut in cuts:
        fewer = tuple(other for other in cuts if other != cut)
        if fewer and (again := still(trial, fewer)) is not None:
            cuts, found = fewer, again
    count = sum(len(port) for port in trial.ports)
    return LawError(
        f"'{case.operator.verb}' breaks the law of {found}\n  seed {case.seed}, cut before input rows "
        f"{', '.join(map(str, cuts))}, {count} rows are enough:\n{trial.told(40)}"
    )
