"""One task at work: its channels, its state, and the steps that it takes. Committing is the worker's business."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xxhash

from streamproc.engine import units as unit
from streamproc.engine.compiled import Channel, CompiledStage, TaskState
from streamproc.engine.step import CLOSE, SETTLED, StepInput, StepOutput, run_step
from streamproc.engine.timeline import choose_runs
from streamproc.engine.units import Units, no_units
from streamproc.errors import InputChanged, InputGone, OffsetOutOfRange, UnknownTopic
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.graph import Source
from streamproc.hashing import frozen, record_digests
from streamproc.kernels import kernel
from streamproc.planning.plan import Node, Stage
from streamproc.ports import Int64s, Log, TopicPartition
from streamproc.runtime.binding import Binding
from streamproc.runtime.feed import MOST_BYTES, Feed, Judge, ranges_of, within
from streamproc.runtime.fingerprints import environment_id
from streamproc.runtime.freshness import rows_by_verdict
from streamproc.runtime.journal import ConsumedRange, Entry
from streamproc.runtime.reach import out_of_reach

_NO_RUNS: Final = np.empty((0, 2), np.int64)


@dataclass(frozen=True, slots=True)
class TakenStep:
    """A step that ran, and its journal entry (still without the ranges that its outputs will get).

    unreadable  how many records it met that the log holds and cannot hand out; one may stand for a batch
    fresh       by source, how many of its rows were ok, warned of or late by what its contract promises
    """

    output: StepOutput
    entry: Entry
    units: int
    unreadable: int = 0
    fresh: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Task:
    """A task between two commits.

    number  its partition of the task topic; `stage` and `index` say which task of which stage that is
    head    the head of its journal, once that is known: which build began it, and where
    note    what the entry of the next step is to say besides; a step is due for it
    future  says which records that it reads now are from the future by a clock; None: nobody looks at a clock
    crowded whether the last choice would have looked at more rows if they did not take too much memory
    held_back whether it left rows because a channel at its end is waited for
    """

    def __init__(
        self,
        binding: Binding,
        number: int,
        log: Log,
        *,
        state: TaskState | None = None,
        stops: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        self.binding = binding
        self.number = number
        self.stage: CompiledStage
        self.stage, self.index = binding.task_of(number)
        self.channels = self.stage.channels(self.index, binding.partitions)
        self.log = log
        self.delivered: tuple[tuple[str, int, int, int], ...] = ()
        self.head: Mapping[str, Any] = {}
        self.note: Mapping[str, Any] = {}
        self.future: Judge | None = None
        self.crowded = self.held_back = False
        self.environment = environment_id(self.stage)
        # Who waits for feedback by the clock must know up to when all of it was heard.
        self.hears = _all_feedback(self.stage.stage) and any(map(_is_clocked, binding.plan.nodes))
        self.clocked = self.hears or any(map(_is_clocked, self.stage.stage.nodes))
        if state is None:
            state = self.stage.open_state(self.channels)
            for c, channel in enumerate(self.channels):
                state.positions[c, 0] = log.start_offset(channel.place)
        self.state = state
        self.feeds = self._feeds(stops or {})

    def _feeds(self, stops: Mapping[TopicPartition, int]) -> list[Feed]:
        return [
            Feed(
                channel,
                self.stage.intakes[channel.inlet],
                offset=int(self.state.positions[c, 0]),
                skip=int(self.state.positions[c, 1]),
                stop=stops.get(channel.place),
            )
            for c, channel in enumerate(self.channels)
        ]

    @property
    def name(self) -> str:
        """What messages and checkpoints call it."""
        return f"{self.binding.names.prefix}.s{self.stage.stage.index}.t{self.index}"

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each partition, as it is committed: where two sources read it, the smaller one."""
        out: dict[TopicPartition, int] = {}
        for c, channel in enumerate(self.channels):
            offset = int(self.state.positions[c, 0])
            out[channel.place] = min(offset, out.get(channel.place, offset))
        return out

    def check_reach(self) -> None:
        """Raises OffsetOutOfRange, with the choices, if the log no longer holds an offset at which the task goes on."""
        for place, position in self.offsets.items():
            start = self.log.start_offset(place)
            if start > position:
                raise out_of_reach(self.name, self.binding.names, place, position, start)

    def is_closed(self) -> bool:
        """Whether every channel has ended for good."""
        return bool(len(self.channels)) and bool((self.state.channel_watermark >= MAX_TIME).all())

    def ended(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether there is nothing left to take up to these ends."""
        return all(feed.ended(ends[feed.channel.place]) for feed in self.feeds)

    def choose(
        self,
        ends: Mapping[TopicPartition, int],
        *,
        most: int,
        waits: Collection[int] = (),
        most_bytes: int = MOST_BYTES,
    ) -> tuple[tuple[Units, ...], Int64s]:
        """Takes up to about `most` units per channel in merged order.

        ends        the log's end of each channel
        waits       channels that are not overtaken where they are at their end either; of none, what there is is taken
        most_bytes  each channel may hold about so much, taken or waiting
        """
        try:
            for feed in self.feeds:
                feed.fill(
                    self.log, wanted=most, end=ends[feed.channel.place], future=self.future, most_bytes=most_bytes
                )
        except OffsetOutOfRange:
            self.check_reach()
            raise
        self.crowded = any(
            feed.held_bytes >= most_bytes and not feed.ended_reading(ends[feed.channel.place]) for feed in self.feeds
        )
        advances = [feed.advances(most) for feed in self.feeds]
        sizes = np.array([part.size for part in advances], np.int64)
        stops = np.cumsum(sizes)
        # A channel with more in the log (or in the feed) than is looked at here must not be overtaken.
        more = [
            1 if c in waits or feed.waiting > most or not feed.ended_reading(ends[feed.channel.place]) else 0
            for c, feed in enumerate(self.feeds)
        ]
        runs = choose_runs(
            np.concatenate(advances) if advances else np.empty(0, np.int64),
            stops - sizes,
            stops,
            self.state.channel_watermark,
            np.array(more, np.int64),
        )
        if not runs.shape[0] and not waits and sizes.sum():
            # Each channel that has rows waits for one that has none yet but will: take what there is.
            runs = choose_runs(
                np.concatenate(advances),
                stops - sizes,
                stops,
                self.state.channel_watermark,
                np.zeros(sizes.size, np.int64),
            )
        counts = (
            np.bincount(runs[:, 0], weights=runs[:, 1], minlength=len(self.feeds)).astype(np.int64)
            if runs.shape[0]
            else np.zeros(len(self.feeds), np.int64)
        )
        self.held_back = counts.sum() < stops.max(initial=0) and any(
            counts[c] == sizes[c] and self.feeds[c].ended_reading(ends[self.feeds[c].channel.place]) for c in waits
        )
        taken = [feed.take(int(count)) for feed, count in zip(self.feeds, counts, strict=True)]
        return tuple(no_units() if part is None else part for part in taken), runs

    def run(
        self,
        units: tuple[Units, ...],
        runs: Int64s,
        *,
        marks: tuple[tuple[int, int], ...] = (),
        clock: int | None = None,
        keep: bool = False,
    ) -> TakenStep:
        """Runs a step over what was chosen and writes its journal entry."""
        before = self.state.positions.copy()
        output = run_step(
            self.stage, self.index, self.channels, self.state, StepInput(units, runs, marks, clock), keep=keep
        )
        self.state = output.state
        ranges, records = consumed(self.channels, units, before, self.state.positions)
        state = self.state
        entry = Entry(
            "step",
            state.steps,
            ranges,
            runs,
            records,
            marks,
            clock,
            outputs={topic: (rows, digest.hex()) for topic, (rows, digest) in output.digests.items()},
            sums={
                topic: (state.written[topic], f"{high:016x}{low:016x}")
                for topic, (high, low) in state.sums.items()
                if state.written[topic]
            },
            fates=state.ledger.summary([inlet.name for inlet in self.stage.stage.inputs]),
            watermark=state.watermark,
            delivered=self.delivered,
            future=_verdicts(units, [part.future for part in units]),
            unknown=_verdicts(units, [part.unknown for part in units]),
            environment=self.environment,
            head=self.note,
        )
        self.note = {}
        unreadable = sum(reason.startswith("unreadable:") for part in units for reason in part.reasons)
        fresh = rows_by_verdict([self.stage.stage.inputs[channel.inlet].source for channel in self.channels], units)
        return TakenStep(output, entry, int(runs[:, 1].sum()) if runs.shape[0] else 0, unreadable, fresh)

    def close_marks(self) -> tuple[tuple[int, int], ...]:
        """Marks that end the task's source channels; internal channels are ended by their senders."""
        return tuple(
            (c, CLOSE)
            for c in range(len(self.channels))
            if self.source(c) is not None
        )

    def source(self, channel: int) -> Source | None:
        """The source of which the channel is a partition; None for an internal one."""
        node = self.stage.stage.inputs[self.channels[channel].inlet].source
        return node.origin if node is not None and isinstance(node.origin, Source) else None

    def silence_marks(self, silent: Collection[TopicPartition]) -> tuple[tuple[int, int], ...]:
        """Marks for channels of these partitions that are awake although nothing ever came of them."""
        state = self.state
        return tuple(
            (c, SETTLED)
            for c, channel in enumerate(self.channels)
            if channel.place in silent and not state.channel_idle[c] and state.channel_watermark[c] <= MIN_TIME
        )

    def rerun(self, entry: Entry, *, keep: bool = False) -> TakenStep:
        """Runs a recorded step again on the recorded input; raises as `recorded`."""
        given = self.recorded(entry)
        return self.run(given.units, given.runs, marks=given.marks, clock=given.clock, keep=keep)

    def recorded(self, entry: Entry) -> StepInput:
        """What a recorded step consumed.

        Raises InputGone if the input is no longer in the log, InputChanged if it is not what the journal saw.
        """
        units = tuple(
            self._recorded(number, channel, taken, entry)
            for number, (channel, taken) in enumerate(zip(self.channels, entry.ranges, strict=True))
        )
        _check_input(self.channels, units, entry)
        return StepInput(units, entry.runs, entry.marks, entry.clock)

    def _recorded(self, number: int, channel: Channel, taken: ConsumedRange, entry: Entry) -> Units:
        if taken.units == 0:
            return no_units()
        place = channel.place
        feed = Feed(channel, self.stage.intakes[channel.inlet], offset=taken.first, skip=taken.skip)
        try:
            feed.fill(
                self.log,
                wanted=taken.units,
                end=taken.last + (1 if taken.last_skip else 0),
                future=lambda _, block, __: within(block.offsets, [(a, b) for c, a, b in entry.future if c == number]),
                unknown=[(a, b) for c, a, b in entry.unknown if c == number],
            )
        except (OffsetOutOfRange, UnknownTopic) as gone:
            raise InputGone(
                f"step {entry.step} of {self.name} read {place.topic}-{place.partition} from {taken.first}: "
                f"{gone.message}",
                hint="replay from a later checkpoint, or from an archive of the topic",
            ) from None
        if feed.waiting < taken.units:
            raise InputGone(
                f"step {entry.step} of {self.name} read {taken.units} rows of {place.topic}-{place.partition} from "
                f"offset {taken.first}; "
                f"the log now has {feed.waiting}",
                hint="rows were removed from the log; replay from an archive",
            )
        units = feed.take(taken.units)
        return no_units() if units is None else units


def _is_clocked(node: Node) -> bool:
    return bool(getattr(node.origin, "clocked", False))


def _all_feedback(stage: Stage) -> bool:
    sources = [inlet.source for inlet in stage.inputs]
    return all(s is not None and isinstance(s.origin, Source) and s.origin.feedback for s in sources)


def _verdicts(units: Sequence[Units], judged: Sequence[Int64s]) -> tuple[tuple[int, int, int], ...]:
    """The verdicts on what a step took, as the journal keeps them: (channel, first, last) of the judged offsets."""
    return tuple(
        (channel, first, last)
        for channel, (part, offsets) in enumerate(zip(units, judged, strict=True))
        if offsets.size
        for first, last in ranges_of(part.units[:, unit.OFFSET], offsets)
    )


@kernel
def _record_hashes(units: Int64s) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The hash of each record, which stands on its first unit."""
    out, found = np.empty(units.shape[0], np.uint64), 0
    for row in range(units.shape[0]):
        if units[row, unit.ORDINAL] == 0:
            out[found] = np.uint64(units[row, unit.DIGEST])
            found += 1
    return out if found == out.size else out[:found].copy()


def consumed(
    channels: Sequence[Any], units: Sequence[Units], before: Int64s, after: Int64s
) -> tuple[tuple[ConsumedRange, ...], np.ndarray[Any, np.dtype[np.uint32]]]:
    """What a step took from each channel, with digests, as the journal notes it."""
    ranges: list[ConsumedRange] = []
    digests: list[np.ndarray[Any, np.dtype[np.uint32]]] = []
    for c, (channel, part) in enumerate(zip(channels, units, strict=True)):
        hashes = _record_hashes(frozen(part.units))
        ranges.append(
            ConsumedRange(
                channel.place.topic,
                channel.place.partition,
                int(before[c, 0]),
                int(before[c, 1]),
                int(after[c, 0]),
                int(after[c, 1]),
                len(part),
                hashes.size,
                xxhash.xxh3_128_hexdigest(hashes.tobytes()),
            )
        )
        digests.append(record_digests(hashes))
    return tuple(ranges), np.concatenate([np.empty(0, np.uint32), *digests])


def _check_input(channels: Sequence[Any], units: Sequence[Units], entry: Entry) -> None:
    at = 0
    for channel, part, taken in zip(channels, units, entry.ranges, strict=True):
        hashes = _record_hashes(frozen(part.units))
        seen = entry.records[at : at + taken.records]
        at += taken.records
        if xxhash.xxh3_128_hexdigest(hashes.tobytes()) == taken.digest:
            continue
        now = record_digests(hashes)
        offsets = part.units[part.units[:, unit.ORDINAL] == 0, unit.OFFSET]
        for row in range(min(now.size, seen.size)):
            if now[row] != seen[row]:
                raise InputChanged(
                    f"{channel.place.topic}-{channel.place.partition}@{int(offsets[row])} is not the record that step "
                    f"{entry.step} read",
                    hint="the topic was rewritten after the run; only a fresh 'replay --by-event-time' can use it",
                )
        raise InputChanged(
            f"{channel.place.topic}-{channel.place.partition} from {taken.first} to {taken.last} is not what step "
            f"{entry.step} read",
            hint="the topic was rewritten after the run",
        )
