"""How late the rows of a topology's sources came into the log, and what to say of it: made of what the log holds.

No clock is asked. A row's lag is its record's timestamp minus its event time; the moment at which it came is the
running maximum of record timestamps in its partition, and verdicts are given for windows of that. So whoever reads the
same offsets finds the same verdicts, however often and in whatever pieces. A window is *final* once every partition of
the topic has gone past it: no row that comes later can fall into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streamproc.contracts.registry import Registry
from streamproc.engine.intake import event_times
from streamproc.engine.timeline import ROW
from streamproc.engine.units import KIND, STAMP, TIME, Units
from streamproc.errors import UnknownContract
from streamproc.event_time import MIN_TIME
from streamproc.graph import Source
from streamproc.planning.freshness import LATE, OK, UNPROMISED, WARN, Bound, JoinSides, joins, promised, promises
from streamproc.planning.plan import Node, Plan
from streamproc.ports import Log, TopicPartition
from streamproc.runtime.lags import Lags
from streamproc.runtime.reading import read_blocks
from streamproc.wire import Reader

_NICE: Final = tuple(
    number * unit
    for unit, numbers in (
        (1_000, (1, 2, 5, 10, 20, 50, 100, 200, 500)), (1_000_000, (1, 2, 5, 10, 20, 30)),
        (60_000_000, (1, 2, 5, 10, 20, 30)), (3_600_000_000, (1, 2, 3, 6, 12)), (86_400_000_000, (1, 2, 3, 7, 14, 30)),
    )
    for number in numbers
)  # fmt: skip
"""Spans that a person would promise, in µs."""


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """What to say of the rows of a topic that came in [start, start + every), in µs of record time."""

    topic: str
    start_us: int
    rows: int
    p50_us: int
    p99_us: int
    verdict: str
    final: bool


@dataclass(slots=True)
class TopicLags:
    """What was measured of one topic: lags of all rows and by window, how far rows came behind others, late rows."""

    topic: str
    bound: Bound
    lateness_us: int
    all: Lags = field(default_factory=Lags)
    behind: Lags = field(default_factory=Lags)
    windows: dict[int, Lags] = field(default_factory=dict)
    late_rows: int = 0
    reached_us: int = MIN_TIME

    @property
    def verdict(self) -> str:
        """What to say of all its rows together: by the lag that 99 in a hundred keep."""
        return self.bound.verdict(self.all.quantile(0.99)) if self.all.rows else UNPROMISED

    @property
    def proposed(self) -> dict[str, int]:
        """Thresholds that what was measured would keep, in µs: 99 in a hundred rows come within `freshness_warn`, 999
        in a thousand within `freshness`, and so many are not late with `lateness`."""
        if not self.all.rows:
            return {}
        return {
            "freshness_warn": rounded_up(self.all.quantile(0.99)),
            "freshness": rounded_up(self.all.quantile(0.999)),
            "lateness": rounded_up(self.behind.quantile(0.999)),
        }

    def verdicts(self, every_us: int) -> list[WindowVerdict]:
        """A verdict for each window with rows, oldest first."""
        return [
            WindowVerdict(self.topic, start, lags.rows, lags.quantile(0.5), lags.quantile(0.99),
                          self.bound.verdict(lags.quantile(0.99)), start + every_us <= self.reached_us)
            for start, lags in sorted(self.windows.items())
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class JoinLag:
    """A join as its sides really came: the slower side's p99 plus lateness, held against its bound."""

    sides: JoinSides
    p99_us: tuple[int, ...]

    @property
    def lag_us(self) -> int:
        """The slower side plus lateness."""
        return max(self.p99_us, default=0) + self.sides.lateness_us

    @property
    def verdict(self) -> str:
        """`ok`, `warn`, `late`, or that nothing is promised."""
        return self.sides.bound.verdict(self.lag_us)


def rounded_up(us: int) -> int:
    """The next span that a person would promise.

    >>> rounded_up(61_000_000), rounded_up(0)
    (120000000, 1000)
    """
    day = _NICE[-1] // 30
    return next((nice for nice in _NICE if nice >= us), -(-us // day) * day)


def measured(
    plan: Plan, log: Log, registry: Registry, *, every_us: int = 60_000_000, newest: int | None = None
) -> list[TopicLags]:
    """Lags of each source topic that the log has, in the plan's order.

    newest  so many offsets of each partition, the newest; None: all. Which rows are late hangs on those before them,
            so of the newest alone some late ones are missed

    Records that cannot be read, and those without an event time, are left out: they are dead letters.
    Cost: all records are read, their event time is decoded; memory does not grow with them but by window.
    """
    topics, bounds, found = log.topics(), promises(plan), dict[str, TopicLags]()
    for node in plan.sources:
        origin = node.origin
        if isinstance(origin, Source) and origin.topic in topics and origin.topic not in found:
            found[origin.topic] = _of_topic(
                node, origin, log, registry, every_us=every_us, newest=newest, bound=bounds[origin.topic],
                partitions=topics[origin.topic].partitions,
            )  # fmt: skip
    return list(found.values())


def rows_by_verdict(sources: Sequence[Node | None], units: Sequence[Units]) -> dict[str, dict[str, int]]:
    """Of what a step took in, by topic with a promise, how many rows were `ok`, `warn` and `late`, each by itself.

    sources  the source that each of `units` comes from, None for rows of another stage
    """
    found: dict[str, dict[str, int]] = {}
    for node, part in zip(sources, units, strict=True):
        if node is None or node.contract is None or not isinstance(node.origin, Source) or not len(part):
            continue
        bound = promised(node.contract)
        if bound.warn_us is None or bound.late_us is None:
            continue
        rows = part.units[part.units[:, KIND] == ROW]
        lag = rows[:, STAMP] - rows[:, TIME]
        warned, late = int((lag > bound.warn_us).sum()), int((lag > bound.late_us).sum())
        counts = found.setdefault(node.origin.topic, dict.fromkeys((OK, WARN, LATE), 0))
        for verdict, number in ((OK, lag.size - warned), (WARN, warned - late), (LATE, late)):
            counts[verdict] += number
    return found


def join_lags(plan: Plan, topics: list[TopicLags]) -> list[JoinLag]:
    """What that means for each step that joins; a side's lag is that of its slowest topic."""
    p99 = {one.topic: one.all.quantile(0.99) for one in topics}
    return [
        JoinLag(sides, tuple(max((p99.get(topic, 0) for topic in side), default=0) for side in sides.sides))
        for sides in joins(plan)
    ]


def _of_topic(
    node: Node, origin: Source, log: Log, registry: Registry, *, every_us: int, newest: int | None, bound: Bound,
    partitions: int,
) -> TopicLags:  # fmt: skip
    def lookup(schema_id: int) -> Mapping[str, object] | None:
        try:
            return registry.schema_of(schema_id)
        except UnknownContract:
            return None

    assert node.contract is not None  # the plan gives each source its contract
    reader = Reader(node.contract.avro, lookup, columns=[origin.event_time])
    lags = TopicLags(origin.topic, bound, origin.lateness_us)
    ends = {p: log.end_offset(TopicPartition(origin.topic, p)) for p in range(partitions)}
    starts = {p: max(log.start_offset(TopicPartition(origin.topic, p)), end - newest) if newest is not None
              else log.start_offset(TopicPartition(origin.topic, p)) for p, end in ends.items()}  # fmt: skip
    came, latest = dict.fromkeys(ends, MIN_TIME), dict.fromkeys(ends, MIN_TIME)
    for block in read_blocks(log, origin.topic, starts=starts, ends=ends):
        decoded = reader.decode(block.buffer, block.value_starts, block.value_ends)
        times = event_times(decoded.frame[origin.event_time])
        known = ~times.is_null().to_numpy()
        event_time, rows = times.drop_nulls().to_numpy(), decoded.rows[known]
        moments = np.maximum.accumulate(np.append(came[block.partition], block.timestamps))[1:]
        came[block.partition] = int(moments[-1])
        sound = event_time <= block.timestamps[rows] + origin.max_future_skew_us  # The others are dead letters.
        event_time, rows = event_time[sound], rows[sound]
        if not rows.size:
            continue
        newest_time = np.maximum.accumulate(np.append(latest[block.partition], event_time))
        latest[block.partition] = int(newest_time[-1])
        behind = newest_time[1:] - event_time
        lags.behind.add(behind)
        lags.late_rows += int((behind > origin.lateness_us).sum())
        lag = block.timestamps[rows] - event_time
        lags.all.add(lag)
        windows = moments[rows] // every_us * every_us
        for start in np.unique(windows).tolist():
            lags.windows.setdefault(start, Lags()).add(lag[windows == start])
    filled = [moment for p, moment in came.items() if ends[p] > starts[p]]
    lags.reached_us = min(filled, default=MIN_TIME)
    return lags


def freshness_findings(plan: Plan, log: Log, registry: Registry, *, newest: int) -> list[str]:
    """Sources whose newest records came later than promised, a line each."""
    return [
        f"source '{one.topic}' comes late: of its newest records 99 in a hundred are up to "
        f"{one.all.quantile(0.99) / 1e6:,.3f} s old, promised are {(one.bound.late_us or 0) / 1e6:,.3f} s; see "
        "'streamproc freshness'"
        for one in measured(plan, log, registry, newest=newest)
        if one.verdict == LATE
    ]
