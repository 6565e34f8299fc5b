"""Time along a task's input: the order of channels, lateness, idle and ended channels, moments at the ends of time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamproc as sp
from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.engine.step import CLOSE, IDLE
from streamproc.engine.timeline import MARK, ROW, choose_runs, run_time
from streamproc.event_time import MAX_TIME, MIN_TIME
from streamproc.ports import TopicPartition, TopicSettings
from streamproc.runtime.binding import bind
from streamproc.runtime.task import Task
from streamproc.testing import MemoryLog, append_frame, drive
from streamproc.wire import Encoder

channels = st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=4)
laws = settings(max_examples=300, deadline=None)
KINDS = st.sampled_from([ROW, ROW, ROW, MARK, 0])
UNIT = st.tuples(st.integers(0, 2), KINDS, st.integers(-9, 9), st.sampled_from([0, 0, 1, 2]))


def chosen(advances: list[list[int]], watermark: list[int], waits: list[int]) -> list[int]:
    """The channel of each unit, in the order taken."""
    sizes = np.array([len(part) for part in advances], np.int64)
    ends = np.cumsum(sizes)
    runs = choose_runs(np.array([a for part in advances for a in part], np.int64), ends - sizes, ends,
                       np.array(watermark, np.int64), np.array(waits, np.int64))  # fmt: skip
    assert (runs[:, 1] > 0).all() and (runs[1:, 0] != runs[:-1, 0]).all()
    return [channel for channel, count in runs.tolist() for _ in range(count)]


def chosen_on_paper(advances: list[list[int]], watermark: list[int], waits: list[int]) -> list[int]:
    left, now, out = [list(part) for part in advances], list(watermark), []
    while True:
        # What such a channel gives next is at its watermark of now, or beyond.
        awaited = [(now[c], c) for c, wait in enumerate(waits) if wait and not left[c]]
        there = [(max(now[c], part[0]), c) for c, part in enumerate(left) if part]
        if not there or min([*there, *awaited]) in awaited:
            break
        _, c = min(there)
        now[c] = max(now[c], left[c].pop(0))
        out.append(c)
    return out


@laws
@given(channels, st.data())
def test_the_channel_whose_watermark_is_least_goes_first(advances: list[list[int]], data: st.DataObject) -> None:
    n = len(advances)
    watermark = data.draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))
    waits = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    assert chosen(advances, watermark, waits) == chosen_on_paper(advances, watermark, waits)


@laws
@given(channels, st.data())
def test_what_comes_later_of_a_channel_that_is_waited_for_goes_where_it_would_have_gone(
    advances: list[list[int]], data: st.DataObject
) -> None:
    n = len(advances)
    seen = [data.draw(st.integers(0, len(part))) for part in advances]
    waits = [int(cut < len(part)) for cut, part in zip(seen, advances, strict=True)]
    first = chosen([part[:cut] for part, cut in zip(advances, seen, strict=True)], [-9] * n, waits)
    assert first == chosen(advances, [-9] * n, [0] * n)[: len(first)]


def test_a_channel_that_has_ended_is_not_waited_for() -> None:
    assert chosen([[], [1, MAX_TIME]], [MAX_TIME, MIN_TIME], [1, 1]) == [1, 1]


@laws
@given(st.lists(UNIT, max_size=25))
def test_time_never_goes_back_and_a_row_is_late_by_its_own_channel_alone(
    units: list[tuple[int, int, int, int]],
) -> None:
    lateness, sourced = 3, [1, 1, 0]
    parts: list[list[tuple[int, int, int]]] = [[], [], []]
    runs: list[list[int]] = []
    for channel, kind, time, sleeps in units:
        if kind == MARK and sourced[channel]:
            kind = ROW
        parts[channel].append((kind, time, sleeps * (kind == MARK)))
        runs.append([channel, 1])
    joined = [unit for part in parts for unit in part]
    sizes = np.array([len(part) for part in parts], np.int64)
    starts = np.cumsum(sizes) - sizes
    n = len(joined)
    kinds = np.array([kind for kind, _, _ in joined], np.int64)
    event_time = np.array([time for _, time, _ in joined], np.int64)
    watermark, idle = np.full(3, MIN_TIME, np.int64), np.zeros(3, np.int64)
    slack = np.where(np.array(sourced, bool), lateness + 1, 0).astype(np.int64)
    time, unit_of = np.empty(n, np.int64), np.empty(n, np.int64)
    late = np.array([sleeps for _, _, sleeps in joined], np.int64)
    end = run_time(np.array(runs, np.int64).reshape(-1, 2), event_time - lateness, event_time, kinds,
                   np.array(sourced, np.int64), starts, watermark, idle, slack, MIN_TIME, time, late,
                   unit_of)  # fmt: skip
    assert (np.diff(time) >= 0).all() and end == (time[-1] if n else MIN_TIME)

    reached: dict[int, int] = dict.fromkeys(range(3), MIN_TIME)
    asleep: dict[int, int] = {}
    stage = MIN_TIME
    at = dict(enumerate(starts.tolist()))
    for i, (channel, _) in enumerate(runs):
        u = at[channel]
        at[channel] += 1
        assert unit_of[i] == u
        kind, moment, sleeps = joined[u]
        if kind == ROW:
            assert late[u] == (sourced[channel] and moment < reached[channel])
        asleep.pop(channel, None)
        if kind != 0:
            reached[channel] = max(reached[channel], moment - lateness)
        if sleeps:
            asleep[channel] = sleeps
        awake = [reached[c] for c in range(3) if c not in asleep]
        past = [reached[c] + slack[c] for c, level in asleep.items() if level == 2 and reached[c] > MIN_TIME]
        stage = max([stage, min(awake)] if awake else [stage, *past])
        assert time[i] == stage


@laws
@given(st.lists(UNIT, max_size=25))
def test_feedback_changes_nothing_about_time_and_is_never_late(units: list[tuple[int, int, int, int]]) -> None:
    """The third channel is feedback: with it and without it, the others' units meet the same time."""

    def walked(channels: int) -> tuple[list[int], list[int], list[int], list[int]]:
        there = [(c, kind if c == 2 or kind != MARK else ROW, time) for c, kind, time, _ in units if c < channels]
        joined = sorted(enumerate(there), key=lambda one: (one[1][0], one[0]))
        kinds, times = (np.array([unit[i] for _, unit in joined], np.int64) for i in (1, 2))
        sizes = np.bincount([c for c, *_ in there], minlength=channels).astype(np.int64)
        runs = np.array([[c, 1] for c, *_ in there], np.int64).reshape(-1, 2)
        watermark, idle = np.full(channels, MIN_TIME, np.int64), np.array([0, 0, 1][:channels], np.int64)
        n = len(there)
        time, unit_of, late = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, np.int64)
        run_time(runs, times, times, kinds, np.array([1, 1, 2][:channels], np.int64), np.cumsum(sizes) - sizes,
                 watermark, idle, np.zeros(channels, np.int64), MIN_TIME, time, late, unit_of)  # fmt: skip
        others = [int(at) for at, (c, *_) in zip(time, there, strict=True) if c < 2]
        return others, late[: sizes[:2].sum()].tolist(), late[sizes[:2].sum() :].tolist(), [*watermark, *idle]

    (time, late, never, end), (alone, late_alone, _, _) = walked(3), walked(2)
    assert (time, late) == (alone, late_alone)
    assert not any(never)
    heard = [moment for c, kind, moment, _ in units if c == 2 and kind == MARK]
    assert end[2] == max(heard, default=MIN_TIME) and end[5] == 1


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TICK = parse_contract(
    """{"type": "record", "name": "tick", "sp:version": 1, "fields": [{"name": "n", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "sp:role": "event_time"}]}"""
)


def task(frames: dict[str, list[int]]) -> Task:
    """A task that unites sources and counts windows, with rows at these times."""
    log, registry = MemoryLog(now=2**60), MemoryRegistry([TICK])
    for topic, times in frames.items():
        log.create_topic(topic, TopicSettings(1))
        append_frame(log, registry, topic, TICK, pl.DataFrame({"n": range(len(times)), "at": times}))
    first, *others = (sp.source(topic, contract=TICK) for topic in frames)
    rows = first | sp.union(*others) if others else first
    binding = bind(sp.Topology("t", sinks={"o": rows | sp.ordered()}), log, registry)
    return Task(binding, 0, log)


def taken(task: Task, marks: tuple[tuple[int, int], ...] = ()) -> list[int]:
    """The rows that leave in a step that takes all that there is."""
    ends = {channel.place: task.log.end_offset(channel.place) for channel in task.channels}
    units, runs = task.choose(ends, most=100)
    return task.run(units, runs, marks=marks, keep=True).output.frames["o"]["n"].to_list()


def test_an_idle_channel_holds_nothing_back() -> None:
    one = task({"a": [1, 2, 3], "b": []})
    assert taken(one) == []
    assert taken(one, ((1, IDLE),)) == [0, 1]


def test_channels_that_sleep_can_be_ended() -> None:
    one = task({"a": [1, 2, 3], "b": []})
    assert taken(one, ((1, IDLE), (0, IDLE))) == [0, 1]
    assert taken(one, ((0, CLOSE), (1, CLOSE))) == [2]
    assert one.state.watermark == MAX_TIME and one.is_closed()


def test_a_step_with_marks_alone_runs_again_to_the_same() -> None:
    one, other = task({"a": [1, 2, 3], "b": []}), task({"a": [1, 2, 3], "b": []})
    entries = []
    for marks in ((), ((1, IDLE),), ((0, CLOSE), (1, CLOSE))):
        ends = {channel.place: one.log.end_offset(channel.place) for channel in one.channels}
        units, runs = one.choose(ends, most=2)
        entries.append(one.run(units, runs, marks=marks).entry)
    for entry in entries:
        again = other.rerun(entry)
        assert again.entry.outputs == entry.outputs and again.entry.watermark == entry.watermark
        assert again.entry.fates == entry.fates


# ── moments that would move time for ever ────────────────────────────────────────────────────────────────────────────


def contract(time_type: str) -> Any:
    return parse_contract(
        f"""{{"type": "record", "name": "odd", "sp:version": 1, "fields": [{{"name": "n", "type": "long"}},
        {{"name": "at", "type": {time_type}}}]}}"""
    )


@pytest.mark.parametrize(
    ("time_type", "moments"),
    [
        ('"long"', [-(2**63), -(2**62) - 1, 2**62, 2**63 - 1]),
        ('{"type": "long", "logicalType": "timestamp-micros"}', [-(2**63), 2**63 - 1]),
        ('{"type": "long", "logicalType": "timestamp-millis"}', [-(2**63), 2**63 - 1, 2**54, -(2**54), 2**64 // 1000]),
        ('{"type": "int", "logicalType": "date"}', [2**31 - 1, -(2**31), 100_000_000]),
        ('{"type": "long", "logicalType": "timestamp-nanos"}', []),
    ],
)
def test_a_moment_beyond_the_ends_of_time_is_a_dead_letter_and_moves_nothing(
    time_type: str, moments: list[int]
) -> None:
    odd = contract(time_type)
    physical = odd.schema["at"].dtype
    times = [1, 2, *moments, 3, 4]
    column = pl.Series("at", times, dtype=pl.Int32 if physical == pl.Date else pl.Int64).cast(physical)
    rows = pl.DataFrame({"n": range(len(times))}).with_columns(column)
    source = sp.source("odd", contract=odd, lateness="1h", event_time="at")
    made = drive(sp.Topology("t", sinks={"o": source | sp.ordered()}), odd=rows, contracts=(odd,))
    assert made["o"]["n"].to_list() == [0, 1, len(times) - 2, len(times) - 1]
    assert set(made.dead_letters["reason"]) <= {"past", "future"}
    assert made.dead_letters.height == len(moments)
    assert made.late.height == 0


# ── refused rows do not show how the input was cut ───────────────────────────────────────────────────────────────────


def test_a_row_that_waited_is_refused_alike_in_one_step_and_in_many() -> None:
    rows = pl.DataFrame({"n": [3, -1, 5, -2, 7, -3], "at": [3, 1, 5, 4, 9, 7]})
    good = sp.source("tick", contract=TICK, lateness="4us") | sp.require(small=pl.col("n") < 7) | sp.ordered()
    topology = sp.Topology("t", sinks={"o": good | sp.require(positive=pl.col("n") > 0)})
    whole = drive(topology, tick=rows, contracts=(TICK,))
    for size in (1, 2, 5):
        cut = drive(topology, tick=rows, contracts=(TICK,), steps=itertools.repeat(size))
        assert dict(cut.sums) == dict(whole.sums)
        # The order of a topic is that of the rows too.
        columns = ["reason", "payload", "encoding", "event_time"]
        assert cut.dead_letters.select(columns).equals(whole.dead_letters.select(columns))
    assert whole.dead_letters["encoding"].to_list() == ["json", "json", "record", "json"]


def test_late_rows_keep_the_record_that_they_came_in() -> None:
    rows = pl.DataFrame({"n": [1, 2], "at": [100, 1]})
    window = sp.source("tick", contract=TICK) | sp.with_columns(m=pl.col("n") + 1) | sp.key_by()
    made = drive(
        sp.Topology("t", sinks={"o": sp.source("tick", contract=TICK) | sp.ordered()}), tick=rows, contracts=(TICK,)
    )
    record = Encoder(TICK.avro).encode(rows[1:].with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))), schema_id=1)
    assert [payload[5:] for payload in made.late["payload"]] == [record.buffer.tobytes()[5:]]
    again = drive(
        sp.Topology("t", sinks={"o": window | sp.tumbling("1us", n=sp.count())}), tick=rows, contracts=(TICK,)
    )
    assert again.late["encoding"].to_list() == ["json"]


# ── ticks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Gives a row for each tick: how many rows it had seen."""

    def schema(self, rows: Any) -> Any:
        return rows

    def open(self) -> dict[str, int]:
        return {"seen": 0}

    def process(self, state: dict[str, int], rows: pl.DataFrame) -> tuple[dict[str, int], pl.DataFrame]:
        return {"seen": state["seen"] + rows.height}, rows.drop("_event_time")

    def tick(self, state: dict[str, int], now: int) -> tuple[dict[str, int], pl.DataFrame]:
        at = pl.Series("at", [now]).cast(pl.Datetime("us", "UTC"))
        return state, pl.DataFrame({"n": [-state["seen"]]}).with_columns(at)


def test_what_a_tick_makes_follows_the_clock_of_the_journal() -> None:
    log, registry = MemoryLog(now=2**60), MemoryRegistry([TICK])
    log.create_topic("tick", TopicSettings(1))
    append_frame(log, registry, "tick", TICK, pl.DataFrame({"n": [1, 2], "at": [5, 6]}))
    binding = bind(sp.Topology("t", sinks={"o": sp.source("tick", contract=TICK) | sp.custom(Clock())}), log, registry)
    live, again, unclocked = (Task(binding, 0, log) for _ in range(3))
    assert live.clocked
    ends = {TopicPartition("tick", 0): 2}
    entries = []
    for clock, most in ((1_000, 1), (None, 1), (2_000, 1)):
        units, runs = live.choose(ends, most=most)
        entries.append(live.run(units, runs, clock=clock, keep=True))
    made = [row for step in entries for row in step.output.frames["o"]["n"].to_list()]
    assert made == [1, -1, 2, -2]
    for step in entries:
        assert again.rerun(step.entry).entry.outputs == step.entry.outputs
    units, runs = unclocked.choose(ends, most=9)
    assert unclocked.run(units, runs, keep=True).output.frames["o"]["n"].to_list() == [1, 2]


def test_a_run_in_order_of_event_time_has_no_clock() -> None:
    rows = pl.DataFrame({"n": [1, 2], "at": [5, 6]})
    made = drive(
        sp.Topology("t", sinks={"o": sp.source("tick", contract=TICK) | sp.custom(Clock())}),
        tick=rows,
        contracts=(TICK,),
    )
    assert made["o"]["n"].to_list() == [1, 2]
