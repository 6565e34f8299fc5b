"""Random appends, commits, aborts, deletions and reads agree with a log of plain Python lists."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.embedded import EmbeddedLog
from streamproc.errors import OffsetOutOfRange
from streamproc.ports import TopicPartition, TopicSettings, block_of

PLACES = [TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)]
cells = st.none() | st.binary(max_size=4)
places = st.sampled_from(PLACES)
records = st.lists(st.tuples(cells, cells, st.dictionaries(st.sampled_from("hi"), st.binary(max_size=2))), max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), places, records, st.none() | st.integers(0, 1000)),
        st.tuples(st.just("offsets"), st.sampled_from("gh"), places, st.integers(0, 20)),
        st.tuples(st.just("commit")),
        st.tuples(st.just("abort")),
        st.tuples(st.just("delete"), places, st.integers(0, 10)),
        st.tuples(st.just("read"), places, st.integers(-1, 25), st.integers(1, 12), st.integers(1, 40)),
        st.tuples(st.just("time"), places, st.integers(0, 3000)),
        st.tuples(st.just("reopen")),
    ),
    max_size=40,
)
Record = tuple[int, bytes | None, bytes | None, dict[str, bytes]]


class Model:
    """Lists of (timestamp, value, key, headers), offsets by position."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[Record]] = {place: [] for place in PLACES}
        self.start = dict.fromkeys(PLACES, 0)
        self.committed: dict[str, dict[TopicPartition, int]] = {}
        self.pending: list[tuple[TopicPartition, list[tuple[int | None, *tuple[object, ...]]]]] = []
        self.pending_offsets: list[tuple[str, TopicPartition, int]] = []

    def commit(self, now: int) -> dict[TopicPartition, tuple[int, int]]:
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for place, rows in self.pending:
            known = self.records[place]
            first = ranges.get(place, (len(known), 0))[0]
            known += [(now if time is None else time, *rest) for time, *rest in rows]
            if rows:
                ranges[place] = (first, len(known))
        for group, place, offset in self.pending_offsets:
            self.committed.setdefault(group, {})[place] = offset
        self.forget()
        return ranges

    def forget(self) -> None:
        self.pending, self.pending_offsets = [], []

    def offset_at(self, place: TopicPartition, time: int) -> int:
        known = self.records[place]
        return next((i for i in range(self.start[place], len(known)) if known[i][0] >= time), len(known))


@settings(deadline=None, max_examples=50)
@given(steps)
def test_the_log_agrees_with_lists(steps: list[tuple]) -> None:
    model, now = Model(), [1500]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        writer, reader = EmbeddedLog(path, now_us=lambda: now[0]), EmbeddedLog(path)
        writer.create_topic("a", TopicSettings(partitions=2))
        writer.create_topic("b", TopicSettings())
        producer = writer.producer("w")
        transaction = producer.begin()
        for kind, *rest in steps:
            if kind == "append":
                place, rows, time = rest
                times = None if time is None else [time + i for i in range(len(rows))][::-1]
                transaction.append(
                    block_of(*place, [v for v, _, _ in rows], keys=[k for _, k, _ in rows], timestamps=times,
                             headers=[h for _, _, h in rows])
                )  # fmt: skip
                stamps = times or [None] * len(rows)
                model.pending.append((place, [(t, *row) for t, row in zip(stamps, rows, strict=True)]))
            elif kind == "offsets":
                transaction.commit_offsets(rest[0], {rest[1]: rest[2]})
                model.pending_offsets.append(tuple(rest))
            elif kind == "commit":
                now[0] += 10
                assert transaction.commit() == model.commit(now[0])
                transaction = producer.begin()
            elif kind == "abort":
                transaction.abort()
                model.forget()
                transaction = producer.begin()
            elif kind == "delete":
                place, before = rest
                if before <= len(model.records[place]):
                    writer.delete_records(place, before)
                    model.start[place] = max(before, model.start[place])
            elif kind == "read":
                agree_on_read(reader, model, *rest)
            elif kind == "time":
                assert reader.offset_at(*rest) == model.offset_at(*rest)
            else:
                writer.close()
                model.forget()
                writer = EmbeddedLog(path, now_us=lambda: now[0])
                producer = writer.producer("w")
                transaction = producer.begin()
            for place in PLACES:
                assert (reader.start_offset(place), reader.end_offset(place)) == (
                    model.start[place], len(model.records[place]),
                )  # fmt: skip
        for group in "gh":
            assert reader.committed(group) == model.committed.get(group, {})
        for place in PLACES:
            agree_on_read(reader, model, place, model.start[place], 1000, 1 << 20)
        assert list(reader.check()) == []
        writer.close()
        reader.close()


def agree_on_read(log: EmbeddedLog, model: Model, place: TopicPartition, offset: int, most: int, size: int) -> None:
    """Reads as the model says: dense from the offset, as many as the bounds allow, at least one."""
    known = model.records[place]
    if not model.start[place] <= offset <= len(known):
        try:
            log.read(place, offset, max_records=most, max_bytes=size)
        except OffsetOutOfRange:
            return
        raise AssertionError("read out of range")
    block = log.read(place, offset, max_records=most, max_bytes=size)
    n = len(block)
    assert min(1, len(known) - offset) <= n <= most
    if size > 10_000:
        assert n == min(most, len(known) - offset)
    assert block.offsets.tolist() == list(range(offset, offset + n))
    got = [
        (int(block.timestamps[row]), block.value(row), block.key(row),
         {name: cell for name in "hi" if (cell := block.header(row, name)) is not None})
        for row in range(n)
    ]  # fmt: skip
    assert got == known[offset : offset + n]
