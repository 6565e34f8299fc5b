"""One step: recorded input and state in, state and blocks out. Pure: no clock, no random source, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from streamproc.batch import ACCOUNT, C0, C1, DUE, EVENT_TIME, RANK, ROW, Batch, merge
from streamproc.engine import units as unit
from streamproc.engine.compiled import Channel, CompiledStage, EdgeWriter, SinkWriter, TaskState
from streamproc.engine.leaving import Hashed, edge_blocks, reject_block, sink_blocks
from streamproc.engine.ledger import StepFates
from streamproc.engine.rejects import Rejects, row_json
from streamproc.engine.timeline import BAD, place_rows, run_time, stage_time
from streamproc.engine.timeline import ROW as IS_ROW
from streamproc.engine.units import Units
from streamproc.errors import StepFailed, StreamprocError
from streamproc.event_time import MAX_TIME
from streamproc.graph import Source
from streamproc.hashing import chain, frozen, row_hashes, sum128
from streamproc.keys import keys_of
from streamproc.operator import Fates, StepTime
from streamproc.planning.plan import Node, Port
from streamproc.ports import Block, Int64s

IDLE: Final = 1
"""A mark: the channel no longer holds time back."""
CLOSE: Final = 2
"""A mark: the channel has ended for good, and time with it."""
HEARD: Final = 3
"""A mark: all that was written to the channel before the step's clock was read is taken (feedback alone)."""
SETTLED: Final = 4
"""A mark: the channel is idle, and has been for so long that nothing older than its newest row is waited for."""
SLEEP: Final = {IDLE: 1, SETTLED: 2}
"""What a channel's `idle` is after these marks."""

_NONE: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class StepInput:
    """What a step consumes, as the journal records it.

    units  per channel, exactly what is consumed
    runs   int64[r, 2] (channel, count): the order in which it is consumed
    marks  (channel, IDLE, SETTLED, CLOSE or HEARD), after the runs
    clock  µs, of a tick, else None
    """

    units: tuple[Units, ...]
    runs: Int64s
    marks: tuple[tuple[int, int], ...] = ()
    clock: int | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step leaves behind, to be committed as one.

    blocks    what is appended to the log
    digests   per topic written in this step: rows, and the chain after it
    frames    per sink: the rows that left, where the caller asked to keep them
    """

    state: TaskState
    blocks: tuple[Block, ...]
    digests: Mapping[str, tuple[int, bytes]]
    frames: Mapping[str, pl.DataFrame]


def run_step(
    stage: CompiledStage,
    task: int,
    channels: Sequence[Channel],
    state: TaskState,
    given: StepInput,
    *,
    keep: bool = False,
) -> StepOutput:
    """Runs one step of a task. The state is consumed: use the one in the answer.

    keep  also give the rows of each sink as frames
    """
    return _Step(stage, task, channels, state, given).run(keep=keep)


def run_rows(
    stage: CompiledStage, task: int, channels: Sequence[Channel], state: TaskState, given: StepInput
) -> tuple[TaskState, Mapping[Port, Batch]]:
    """The rows at each port of a stage in one step; nothing is encoded, nothing leaves. The state is consumed."""
    return _Step(stage, task, channels, state, given).rows()


class _Step:
    """The parts of one step, in the order in which they run."""

    def __init__(
        self, stage: CompiledStage, task: int, channels: Sequence[Channel], state: TaskState, given: StepInput
    ) -> None:
        self.stage, self.task, self.channels = stage, task, channels
        self.state, self.given = state, given
        self.first_account = state.ledger.next_account
        self.blocks: list[Block] = []
        self.digests: dict[str, tuple[int, bytes]] = {}
        self.rejects = Rejects()

    def rows(self) -> tuple[TaskState, Mapping[Port, Batch]]:
        before = self.state.watermark
        self._advance()
        moved = self.time.size and (int(self.time[-1]) > before)
        outputs = self._operators(self._batches(), awake=bool(moved) or self.given.clock is not None)
        self.state.ledger = self.fates.settle(self.state.ledger, self.operator_fates.held, self.operator_fates.released)
        self.state.steps += 1
        return self.state, outputs

    def run(self, *, keep: bool) -> StepOutput:
        before = self.state.watermark
        slept = self._idle_level()
        self._advance()
        batches = self._batches()
        self._unreadable()
        moved = self.time.size and (int(self.time[-1]) > before)
        outputs = self._operators(batches, awake=bool(moved) or self.given.clock is not None)
        frames: dict[str, pl.DataFrame] = {}
        for writer in self.stage.sinks:
            batch = outputs[writer.sink.port]
            self.fates.emitted.append(batch.meta[:, ACCOUNT])
            self._write_sink(writer, batch)
            if keep:
                frames[writer.sink.name] = batch.frame
        for edge in self.stage.edges:
            batch = outputs[edge.edge.port]
            self.fates.emitted.append(batch.meta[:, ACCOUNT])
            # An idle task must not hold back those below it: they are told when it falls asleep, and when it wakes.
            news = int(self.state.watermark) > before or self._idle_level() != slept
            self._write_edge(edge, batch, moved=news)
        self._write_rejects(frames if keep else None)
        # Rows that operators refuse are counted here too, so the ledger is settled last.
        self.state.ledger = self.fates.settle(self.state.ledger, self.operator_fates.held, self.operator_fates.released)
        self.state.steps += 1
        return StepOutput(self.state, tuple(self.blocks), self.digests, frames)

    def _idle_level(self) -> int:
        """What those below are told: 0 awake, 1 idle, 2 settled, as of a channel.

        A task with state may keep rows for which time has not come yet. It sleeps once they went on: until then those
        below would pass them by.
        """
        inside = self.state.channel_idle[~self.stage.outside(self.channels)]
        level = int(inside.min()) if inside.size else 2 * bool(self.channels)
        keeps = any(state is not None for state in self.state.operators.values())
        return 0 if level == 1 and keeps else level

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """The stage's time at each unit, in the recorded order, then at each mark."""
        parts = [part.units for part in self.given.units]
        filled = [part for part in parts if part.shape[0]]
        joined = filled[0] if len(filled) == 1 else np.concatenate([np.empty((0, unit.UNIT_WIDTH), np.int64), *filled])
        sizes = np.array([part.shape[0] for part in parts], np.int64)
        starts = np.cumsum(sizes) - sizes
        outside = self.stage.outside(self.channels)
        sourced = np.array([self.stage.stage.inputs[c.inlet].source is not None for c in self.channels], np.int64)
        sourced[outside] = 2
        sources = [self.stage.stage.inputs[c.inlet].source for c in self.channels]
        origins = [None if node is None else node.origin for node in sources]
        slack = np.array([o.lateness_us + 1 if isinstance(o, Source) else 0 for o in origins], np.int64)
        n = joined.shape[0]
        time, unit_of = np.empty(n, np.int64), np.empty(n, np.int64)
        late = joined[:, unit.LATE].copy()
        kinds = joined[:, unit.KIND].copy()
        state = self.state
        state.watermark = run_time(
            np.ascontiguousarray(self.given.runs),
            joined[:, unit.ADVANCE].copy(),
            joined[:, unit.TIME].copy(),
            kinds,
            sourced,
            starts,
            state.channel_watermark,
            state.channel_idle,
            slack,
            state.watermark,
            time,
            late,
            unit_of,
        )
        marks = []
        for channel, kind in self.given.marks:
            if kind in SLEEP:
                state.channel_idle[channel] = SLEEP[kind]
            elif kind == HEARD and self.given.clock is not None:
                state.channel_watermark[channel] = max(int(state.channel_watermark[channel]), self.given.clock)
            else:
                # The end of a channel is news of it: it sleeps no more.
                state.channel_watermark[channel], state.channel_idle[channel] = MAX_TIME, 0
            reached = stage_time(state.channel_watermark, state.channel_idle, slack)
            state.watermark = max(state.watermark, int(reached))
            marks.append(state.watermark)
        self.time = np.concatenate([time, np.array(marks, np.int64)])
        self.heard = int(state.channel_watermark[outside].min()) if outside.any() else None
        self.late = late
        self.starts = starts
        self.units = joined
        self.order = np.empty(n, np.int64)  # Where each unit stands: the number of its input row in this step.
        self.order[unit_of] = np.arange(n)
        self.unit_of = unit_of
        self.unit_channel = np.repeat(np.arange(len(parts)), sizes)
        inlets = np.array([c.inlet for c in self.channels], np.int64)
        self.fates = StepFates(
            self.first_account, inlets[self.unit_channel[unit_of]], kinds[unit_of], len(self.stage.stage.inputs)
        )
        self.operator_fates = Fates()
        for number, part in enumerate(self.given.units):
            if len(part):
                last = part.units[-1]
                # A record of an internal topic ends with its mark; before that, some of its rows are still to come.
                inside = sourced[number] == 0 and last[unit.KIND] == IS_ROW
                self.state.positions[number] = (
                    (last[unit.OFFSET], last[unit.ORDINAL] + 1) if inside else (last[unit.OFFSET] + 1, 0)
                )

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _batches(self) -> dict[tuple[int, str], Batch]:
        """The rows of each input, in the recorded order."""
        found: dict[int, list[Batch]] = {}
        for number, part in enumerate(self.given.units):
            if not part.meta.shape[0]:
                continue
            meta = place_rows(
                frozen(part.units),
                frozen(part.meta),
                frozen(self.order),
                int(self.starts[number]),
                frozen(self.time),
                frozen(self.late),
                self.first_account,
            )
            found.setdefault(self.channels[number].inlet, []).append(Batch(part.frame, meta, None, part.raw))
        out: dict[tuple[int, str], Batch] = {}
        for number, inlet in enumerate(self.stage.stage.inputs):
            parts = found.get(number)
            batch = merge(parts) if parts else self.stage.nothing[inlet.port]
            if parts and inlet.type.keyed_by is not None:
                batch = batch.with_keys(keys_of(batch.frame, inlet.type.keyed_by))
            out[inlet.port] = batch
        return out

    def _operators(self, batches: dict[tuple[int, str], Batch], *, awake: bool) -> dict[tuple[int, str], Batch]:
        outputs = dict(batches)
        for node in self.stage.stage.nodes:
            if isinstance(node.origin, Source):
                continue
            inputs = tuple(outputs[port] for port in node.inputs)
            step_time = StepTime(self.time, node.rank, self.operator_fates, self.given.clock, self.heard)
            if not awake and not any(len(batch) for batch in inputs):
                # Nothing came and time stands still: the operator has nothing to do.
                outputs[node.rank, "rows"] = self.stage.nothing[node.rank, "rows"]
                outputs[node.rank, "late"] = inputs[0].take(_NONE)
                outputs.update({(node.rank, name): self.stage.nothing[node.rank, name] for name in node.sides})
                continue
            try:
                self.state.operators[node.name], out = node.operator.process(
                    self.state.operators[node.name], inputs, step_time
                )
            except StreamprocError:
                raise
            except Exception as error:
                raise StepFailed(
                    f"step '{node.name}' of '{self.stage.names.topology}' raised {type(error).__name__}: {error}"
                    f"{_line_of(error)}",
                    hint="mend the function, or filter the rows that it cannot take; nothing of the step was committed",
                ) from error
            outputs[node.rank, "rows"] = out.rows
            outputs[node.rank, "late"] = inputs[0].take(_NONE) if out.late is None else out.late
            outputs.update({(node.rank, name): batch for name, batch in out.sides})
            for late in (out.late, *out.late_others):
                if late is not None and len(late):
                    self.fates.late.append(late.meta[:, ACCOUNT])
                    if self.stage.plan.topology.late == "topic":
                        self._reject(late, node, fate="late", reason="late")
            for reason, refused in out.rejected:
                if len(refused):
                    self.fates.dead.append(refused.meta[:, ACCOUNT])
                    self._reject(refused, node, fate="dead_lettered", reason=reason)
        self.fates.emitted.extend(self.operator_fates.absorbed)
        return outputs

    # ── what leaves ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _write_sink(self, writer: SinkWriter, batch: Batch) -> None:
        if len(batch):
            hashed, blocks = sink_blocks(self.stage, writer, batch, task=self.task, step=self.state.steps + 1)
            self._digest(writer.sink.topic, hashed)
            self.blocks += blocks

    def _write_edge(self, writer: EdgeWriter, batch: Batch, *, moved: bool) -> None:
        if not len(batch) and not moved:
            return
        hashed, blocks = edge_blocks(
            self.stage,
            writer,
            batch,
            task=self.task,
            watermark=self.state.watermark,
            idle=self._idle_level(),
            moved=moved,
        )
        if hashed is not None:
            self._digest(writer.topic, hashed)
        self.blocks += blocks

    def _write_rejects(self, frames: dict[str, pl.DataFrame] | None) -> None:
        if not len(self.rejects):
            return
        for fate, frame in self.rejects.frames().items():
            topic = self.stage.names.late if fate == "late" else self.stage.names.dead_letters
            hashed, block = reject_block(self.stage, topic, frame)
            self._digest(topic, hashed)
            self.blocks.append(block)
            if frames is not None:
                frames[fate] = frame

    def _digest(self, topic: str, hashed: Hashed) -> None:
        hashes = row_hashes(*hashed)
        state = self.state
        state.chains[topic] = chain(state.chains[topic], hashes)
        state.sums[topic] = sum128(hashes, start=state.sums[topic])
        state.written[topic] += hashes.shape[0]
        rows = self.digests.get(topic, (0, b""))[0] + hashes.shape[0]
        self.digests[topic] = (rows, state.chains[topic])

    # ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────

    def _unreadable(self) -> None:
        """Records that gave no row: each goes to the dead-letter topic with its reason."""
        for number, part in enumerate(self.given.units):
            if not part.reasons:
                continue
            bad = np.flatnonzero(part.units[:, unit.KIND] == BAD)
            self.fates.dead.append(self.first_account + self.order[self.starts[number] + bad])
            inlet = self.stage.stage.inputs[self.channels[number].inlet]
            for row in bad.tolist():
                self._refuse_record(
                    int(self.starts[number]) + row,
                    (2 * int(self.order[self.starts[number] + row]) + 1, 0, 0, -1),
                    fate="dead_lettered",
                    reason=part.reasons[int(part.units[row, unit.INDEX])],
                    step=inlet.name,
                    event_time=None,
                )

    def _refuse_record(
        self,
        index: int,
        position: tuple[int, int, int, int],
        *,
        fate: str,
        reason: str,
        step: str,
        event_time: int | None,
    ) -> None:
        number = int(self.unit_channel[index])
        part, row = self.given.units[number], index - int(self.starts[number])
        place = self.channels[number].place
        value_start, value_end, key_start, key_end = part.records[row].tolist()
        self.rejects.add(
            position,
            fate=fate,
            reason=reason,
            step=step,
            topic=place.topic,
            partition=place.partition,
            offset=int(part.units[row, unit.OFFSET]),
            recorded_at=int(part.units[row, unit.STAMP]),
            event_time=event_time,
            key=None if key_start < 0 else part.buffer[key_start:key_end].tobytes(),
            payload=None if value_start < 0 else part.buffer[value_start:value_end].tobytes(),
            encoding="record",
        )

    def _reject(self, batch: Batch, node: Node, *, fate: str, reason: str) -> None:
        """Refused rows: as the record that they came in, or as JSON where time released them or a step made them.

        A row that waited may be of this step or of an earlier one, which must not show.
        """
        accounts = batch.meta[:, ACCOUNT] - self.first_account
        texts: list[bytes] | None = None
        for row, account in enumerate(accounts.tolist()):
            event_time = int(batch.meta[row, EVENT_TIME])
            place, due, rank = batch.meta[row, [ROW, DUE, RANK]].tolist()
            position = (place, due, rank, node.rank)
            if place % 2 == 1 and 0 <= account < self.unit_of.size:
                index = int(self.unit_of[account])
                number = int(self.unit_channel[index])
                if self.given.units[number].records[index - int(self.starts[number]), 0] >= 0:
                    self._refuse_record(
                        index, position, fate=fate, reason=reason, step=node.name, event_time=event_time
                    )
                    continue
            if texts is None:
                texts = row_json(batch.frame)
            rank, partition = divmod(int(batch.meta[row, C0]), 1 << 32)
            self.rejects.add(
                position,
                fate=fate,
                reason=reason,
                step=node.name,
                topic=self.stage.plan.nodes[rank].name,
                partition=partition,
                offset=int(batch.meta[row, C1]),
                recorded_at=None,
                event_time=event_time,
                key=batch.keys.get(row) if batch.keys is not None else None,
                payload=texts[row],
                encoding="json",
            )


def _line_of(error: BaseException) -> str:
    """Where in the user's code an error arose: the innermost line that is not the engine's."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith(("streamproc.", "polars.", "numpy.", "numba.")):
            place = f" ({trace.tb_frame.f_code.co_filename} line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
