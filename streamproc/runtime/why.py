"""Why a row of a sink is as it is: the source records behind it, column by column, found by running its step again.

A record is a *contributor* of a column if, with the record taken away and time passing as it did, the row is not there
or has another value in that column (a counterfactual cause: Meliou, Gatterbauer, Halpern, Koch, Moore, Suciu 2010).
Nothing is asked of the operators: the recorded steps run again without the record, and the two rows are compared. So it
holds for a user's own operators too.

**Which records are tried.** Rows of one key do not see those of another (law 4), so only rows of the row's own key are
tried, provided that they alone give the same row; where they do not, because a step keeps something for all keys, all
rows of the task are. From an input that is an internal topic the search goes on in the task that wrote it: without a
record that task gives another row, or none, and with that one in its place the row in question is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import polars as pl

from streamproc.batch import C0, C1, C3, ROW, WIDTH, Batch, Meta
from streamproc.engine import units as unit
from streamproc.engine.ablation import Mask, RecordedTask, few, standing_of
from streamproc.engine.compiled import Channel
from streamproc.engine.timeline import ROW as IS_ROW
from streamproc.errors import ReplayDiverged
from streamproc.keys import keys_of
from streamproc.planning.column_versions import column_versions
from streamproc.planning.plan import Port
from streamproc.ports import Int64s, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.made_by import Values, journal_of, makers_of, repeated, row_made, value_at, writer_of
from streamproc.runtime.task import Task

MOST: Final = 2_000
"""So many rows are tried one by one; of more, first blocks of some dozens."""
_BLOCK: Final = 64

Coordinate = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contributor:
    """A source record, and the columns of the row that it had a part in."""

    topic: str
    partition: int
    offset: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """What is known of one row.

    row           its columns
    task, step    where and in which step it was made
    logic         fingerprint of all that shapes what the topology writes
    versions      of each column a hash of all that makes it: of a score that is the model, as it began to learn, too
    contributors  in order of topic, partition and offset
    shared        columns that depend on rows of other keys (a model's score, say): nothing is attributed to them
    by_blocks     so many rows share the key that blocks without effect were left out as a whole: two rows that cancel
                  each other out may be missing
    """

    row: Values
    task: str
    step: int
    logic: str
    versions: Mapping[str, str]
    contributors: tuple[Contributor, ...]
    shared: tuple[str, ...] = ()
    by_blocks: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that leaves a task: at which port, which one, and its columns."""

    port: Port
    coordinate: Coordinate
    values: Values




@dataclass(frozen=True, slots=True)
class _Inputs:
    """Every row that a task consumed, in order.

    steps, channels, rows  where it stands: which step, channel, row of the channel's frame
    units    its number among all units of the step, in the order in which they were consumed
    hashes   of its key; 0 where the input has none
    """

    steps: Int64s
    channels: Int64s
    rows: Int64s
    units: Int64s
    hashes: Int64s
    meta: Meta
    offsets: Int64s

    def __len__(self) -> int:
        return int(self.steps.size)


@dataclass(frozen=True, slots=True)
class _Scene:
    """A row that leaves a task, and the task with the rows alone that it depends on.

    compared  its columns, without those that other keys shape
    """

    task: RecordedTask
    inputs: _Inputs
    row: _Row
    compared: Values

    def changed(self, now: Values | None) -> frozenset[str]:
        """The columns that are others; all if there is no row."""
        if now is None:
            return frozenset(self.compared)
        return frozenset(name for name, value in self.compared.items() if not _same(value, now.get(name)))


@dataclass(frozen=True, slots=True)
class _Effect:
    """A row that a task consumed, its number there, and what would leave the task instead of a row without it."""

    scene: _Scene
    at: int
    stage: int
    channel: Channel
    coordinate: Coordinate
    offset: int
    now: Values | None


@dataclass(slots=True)
class _Search:
    """One question: what was read for it, and what was found."""

    binding: Binding
    log: Log
    recorded: dict[int, RecordedTask]
    outputs: dict[tuple[int, Port], list[Batch]] = field(default_factory=dict)
    effects: dict[tuple[int, Port, Coordinate], list[_Effect]] = field(default_factory=dict)
    found: dict[tuple[str, int, int], set[str]] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    by_blocks: bool = False

    def task(self, number: int) -> RecordedTask:
        """A task with all that it consumed so far."""
        if number not in self.recorded:
            task, entries = journal_of(self.binding, self.log, number)
            steps = few(task.recorded(entry) for entry in entries)
            self.recorded[number] = RecordedTask(task.stage, task.index, task.channels, steps)
        return self.recorded[number]

    def made(self, number: int, port: Port) -> list[Batch]:
        """What left a task at a port, step by step."""
        if (number, port) not in self.outputs:
            self.outputs[number, port] = list(self.task(number).outputs(port))
        return self.outputs[number, port]


def why(binding: Binding, log: Log, place: TopicPartition, offset: int) -> Why:
    """The source records behind one record of a sink, by column.

    Reads the journal of the tasks that had a part in it and all that they consumed; writes nothing. Cost: the tasks'
    history once, then the rows of the key as often as there are of them.
    Raises InputError for a record that is not there or not of a sink of this topology, InputGone where the journal or
    an input was trimmed, ReplayDiverged if this code makes another row than the recorded one.
    """
    writer = writer_of(binding, place.topic)
    value = value_at(log, place, offset)
    for number, entries, begin in makers_of(binding, log, writer, place, offset):
        task = Task(binding, number, log)
        steps = [task.recorded(entry) for entry in entries]
        recorded = RecordedTask(task.stage, task.index, task.channels, (*few(steps[:-1]), steps[-1]))
        search = _Search(binding, log, {number: recorded})
        made = search.made(number, writer.sink.port)[-1]
        at = row_made(made, writer, recorded, value, repeated(log, place, begin, offset, value))
        if at is None:
            continue
        named = [name for name in writer.sink.contract.schema.names if name in made.frame.columns]
        row = _Row(writer.sink.port, _coordinate(made.meta, at), made.frame.select(named).row(at, named=True))
        for effect in _effects(search, number, row):
            _follow(search, (effect,))
        contributors = tuple(
            Contributor(*where, tuple(name for name in named if name in columns))
            for where, columns in sorted(search.found.items())
        )
        shared = tuple(name for name in named if name in search.shared)
        versions = column_versions(binding.plan, writer.sink)
        told = {name: versions[name] for name in named}
        return Why(
            row.values, task.name, entries[-1].step, binding.plan.logic, told, contributors, shared, search.by_blocks
        )
    raise ReplayDiverged(
        f"{place.topic}-{place.partition}@{offset}: no recorded step of '{binding.names.prefix}' gives this record now",
        hint="'streamproc replay' names the first difference; another version may have written it",
    )


# ── what it depends on ───────────────────────────────────────────────────────────────────────────────────────────────


def _follow(search: _Search, path: tuple[_Effect, ...]) -> None:
    """Notes a source record, if it has an effect; goes on in the task that wrote an internal one.

    path  from an input of the task that made the row in question, up to a row behind that input
    """
    named = _along(path)
    if not named:
        return
    effect = path[-1]
    inlet = search.binding.stages[effect.stage].stage.inputs[effect.channel.inlet]
    if inlet.edge is None:
        place = effect.channel.place
        search.found.setdefault((place.topic, place.partition, effect.offset), set()).update(named)
        return
    number = search.binding.number_of(inlet.edge.from_stage, effect.channel.upstream)
    port = inlet.edge.port
    for batch in search.made(number, port):
        at = _find(batch.meta, effect.coordinate)
        if at is not None:
            row = _Row(port, effect.coordinate, batch.frame.row(at, named=True))
            for above in _effects(search, number, row):
                _follow(search, (*path, above))
            return
    raise ReplayDiverged(
        f"{effect.channel.place.topic}-{effect.channel.place.partition}@{effect.offset} is not what its task gives now",
        hint="'streamproc replay' names the first difference",
    )


def _along(path: tuple[_Effect, ...]) -> frozenset[str]:
    """The columns of the row in question that change if the last row of a path is taken away, task by task."""
    now = path[-1].now
    for effect in reversed(path[:-1]):
        changed = _with_another(effect.scene.task, effect.scene.inputs, effect.at, now)
        now = effect.now if changed is None else _values(changed, effect.scene.row)
    return path[0].scene.changed(now)


def _with_another(task: RecordedTask, inputs: _Inputs, at: int, now: Values | None) -> RecordedTask | None:
    """The task with other values in one row of its input; None where that takes the row away from it."""
    step, channel, row = (int(of[at]) for of in (inputs.steps, inputs.channels, inputs.rows))
    part = task.steps[step].units[channel]
    key = task.stage.stage.inputs[task.channels[channel].inlet].type.keyed_by or ()
    if now is None or any(not _same(part.frame[name][row], now.get(name)) for name in key):
        return None
    other = pl.DataFrame({name: [now.get(name)] for name in part.frame.columns}, part.frame.schema)
    frame = pl.concat([part.frame[:row], other, part.frame[row + 1 :]])
    units = tuple(replace(one, frame=frame) if c == channel else one for c, one in enumerate(task.steps[step].units))
    steps = tuple(replace(one, units=units) if s == step else one for s, one in enumerate(task.steps))
    return replace(task, steps=steps)


def _effects(search: _Search, number: int, row: _Row) -> list[_Effect]:
    """The rows that a task consumed without which a row that leaves it would not be, or be another."""
    where = (number, row.port, row.coordinate)
    if where in search.effects:
        return search.effects[where]
    whole = search.task(number)
    inputs = _inputs(whole)
    until = _until(search.made(number, row.port), row.coordinate, inputs)
    tried = np.flatnonzero(until & _of_its_key(search.made(number, row.port), inputs, row.coordinate))
    alone = _without(whole, inputs, tried)
    given = _values(alone, row)
    if given is None:
        # A step keeps something for all keys: nothing can be left out beforehand.
        tried = np.flatnonzero(until)
        alone, given = _without(whole, inputs, tried), row.values
    shared = {name for name, value in row.values.items() if not _same(value, given.get(name))}
    search.shared |= shared
    compared = {name: value for name, value in row.values.items() if name not in shared}
    mine = _inputs(alone)
    scene = _Scene(alone, mine, row, compared)
    found: list[_Effect] = []
    for at in _tried(search, alone, mine, replace(row, values=compared)):
        now = _values(_without(alone, mine, np.delete(np.arange(len(mine)), at)), row)
        if scene.changed(now):
            channel = alone.channels[int(mine.channels[at])]
            stage = alone.stage.stage.index
            coordinate = _coordinate(mine.meta, at)
            found.append(_Effect(scene, at, stage, channel, coordinate, int(mine.offsets[at]), now))
    search.effects[where] = found
    return found


def _tried(search: _Search, task: RecordedTask, inputs: _Inputs, row: _Row) -> Iterator[int]:
    """The rows that are worth to be taken away alone."""
    if len(inputs) <= MOST:
        yield from range(len(inputs))
        return
    search.by_blocks = True
    every = np.arange(len(inputs))
    for start in range(0, len(inputs), _BLOCK):
        block = every[start : start + _BLOCK]
        now = _values(_without(task, inputs, np.delete(every, block)), row)
        if now is None or any(not _same(value, now.get(name)) for name, value in row.values.items()):
            yield from block.tolist()


def _inputs(task: RecordedTask) -> _Inputs:
    """The rows that a task consumed, in the order in which it did."""
    parts: list[tuple[Int64s, ...]] = []
    metas: list[Meta] = [np.empty((0, WIDTH), np.int64)]
    for number, step in enumerate(task.steps):
        standing = standing_of(step)
        for channel, part in enumerate(step.units):
            if not part.frame.height:
                continue
            rows = np.flatnonzero(part.units[:, unit.KIND] == IS_ROW)
            keyed_by = task.stage.stage.inputs[task.channels[channel].inlet].type.keyed_by
            hashes = np.zeros(rows.size, np.int64)
            if keyed_by is not None:
                hashes = keys_of(part.frame, keyed_by).hashes.view(np.int64)
            every = np.arange(rows.size)
            offsets = part.units[rows, unit.OFFSET]
            parts.append((np.full(rows.size, number), np.full(rows.size, channel), every, standing[channel][rows],
                          hashes, offsets))  # fmt: skip
            metas.append(part.meta)
    columns = [np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*parts, strict=True)]
    steps, channels, rows, units, hashes, offsets = columns or [np.empty(0, np.int64)] * 6
    meta = np.concatenate(metas)
    order = np.lexsort((units, steps))
    return _Inputs(steps[order], channels[order], rows[order], units[order], hashes[order], meta[order], offsets[order])


def _without(task: RecordedTask, inputs: _Inputs, stay: Int64s) -> RecordedTask:
    """The task with these rows of its input alone."""
    masks = task.masks(False)
    for step, channel in {*zip(inputs.steps[stay].tolist(), inputs.channels[stay].tolist(), strict=True)}:
        mine = stay[(inputs.steps[stay] == step) & (inputs.channels[stay] == channel)]
        masks[step][channel][inputs.rows[mine]] = True
    return task.keeping(masks)


def _until(made: list[Batch], coordinate: Coordinate, inputs: _Inputs) -> Mask:
    """Which inputs had come when a row left: no later one had a part in it."""
    for step, batch in enumerate(made):
        at = _find(batch.meta, coordinate)
        if at is not None:
            # ROW is 2 i + 1 for what input number i gave, and 2 i for what time released before it.
            last = (int(batch.meta[at, ROW]) - 1) // 2
            until: Mask = (inputs.steps < step) | ((inputs.steps == step) & (inputs.units <= last))
            return until
    return np.ones(len(inputs), np.bool_)


def _of_its_key(made: list[Batch], inputs: _Inputs, coordinate: Coordinate) -> Mask:
    """The inputs that have the key of a row, as far as the row tells it; the input that it is itself, without a key."""
    own: Mask = (inputs.meta[:, C0] == coordinate[0]) & (inputs.meta[:, C1] == coordinate[1])
    hashes = set(inputs.hashes[own].tolist())
    if not own.any():
        # The coordinate of a window's result holds the hash of its key. Of a pair, its rows hold the key.
        hashes = {coordinate[1]}
        for batch in made:
            at = _find(batch.meta, coordinate)
            if at is not None and batch.keys is not None:
                hashes.add(int(batch.keys.hashes[at].view(np.int64)))
    return own | (np.isin(inputs.hashes, np.array(sorted(hashes - {0}), np.int64)))


def _values(task: RecordedTask, row: _Row) -> Values | None:
    """The row of the same coordinate as a task gives it; None if it gives none."""
    for batch in task.outputs(row.port):
        at = _find(batch.meta, row.coordinate)
        if at is not None:
            return batch.frame.row(at, named=True)
    return None


def _coordinate(meta: Meta, at: int) -> Coordinate:
    return tuple(meta[at, C0 : C3 + 1].tolist())


def _find(meta: Meta, coordinate: Coordinate) -> int | None:
    found = np.flatnonzero((meta[:, C0 : C3 + 1] == np.array(coordinate)).all(axis=1))
    return int(found[0]) if found.size else None


def _same(left: Any, right: Any) -> bool:
    """Equal values; NaN is itself."""
    return left == right or repr(left) == repr(right)
