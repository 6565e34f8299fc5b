"""Dead letters sent to their source topics again, each exactly once, however often and by whom that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from streamproc.engine.rejects import REJECTED
from streamproc.hashing import partitions_of
from streamproc.ports import Log, TopicPartition, Transaction, block_of
from streamproc.runtime.reading import TopicReader, read_blocks

_UNREADABLE = "unreadable:"
"""So begins the reason of what the log could not hand out: there is nothing to send."""


@dataclass(frozen=True, slots=True)
class SentAgain:
    """Records by topic, and letters of which no record is left."""

    sent: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def records(self) -> int:
        """How many records over all topics."""
        return sum(self.sent.values())


def send_again(log: Log, letters: str, group: str, reader: TopicReader, *, reason: str | None = None) -> SentAgain:
    """Sends the records of dead letters to where they came from, with key and payload as they came.

    letters  the topic of dead letters
    group    under this name is remembered what was sent, in the transaction that sends it; with a `reason`, under a
             name of its own, so that the letters of other reasons stay to be sent

    The producer is opened first: it ends whatever an earlier call left open, and refuses what one that runs beside this
    might commit yet. Only then is it asked what was sent; any other order sends twice.
    """
    producer = log.producer(group)
    try:
        frame, ends = unsent(log, letters, group, reader, reason=reason)
        transaction = producer.begin()
        answer = _append(log, frame, transaction)
        transaction.commit_offsets(group if reason is None else f"{group}.{reason}", _places(letters, ends))
        transaction.commit()
    finally:
        producer.close()
    return answer


def would_send(log: Log, letters: str, group: str, reader: TopicReader, *, reason: str | None = None) -> SentAgain:
    """What `send_again` would do now; touches nothing, and nobody who sends."""
    return _append(log, unsent(log, letters, group, reader, reason=reason)[0], None)


def unsent(
    log: Log, letters: str, group: str, reader: TopicReader, *, reason: str | None
) -> tuple[pl.DataFrame, Mapping[int, int]]:
    """The letters that were not sent yet, and up to which offset of each partition that was looked at."""
    places = [TopicPartition(letters, p) for p in range(log.topics()[letters].partitions)]
    done = log.committed(group)
    starts = {place.partition: max(done.get(place, 0), log.start_offset(place)) for place in places}
    ends = {place.partition: log.end_offset(place) for place in places}
    frames = [f for block in read_blocks(log, letters, starts=starts, ends=ends) for f in reader.frames(block)]
    frame = pl.concat(frames) if frames else _no_letters()
    # Some reasons may have been sent by themselves: each remembers how far.
    reasons = frame["reason"].unique().sort().to_list() if reason is None else [reason]
    wanted = [
        pl.all_horizontal(
            pl.col("reason") == each,
            *(
                (pl.col("_partition") != place.partition) | (pl.col("_offset") >= offset)
                for place, offset in log.committed(f"{group}.{each}").items()
            ),
        )
        for each in reasons
    ]
    return frame.filter(pl.any_horizontal(wanted) if wanted else pl.lit(True)), ends


def _append(log: Log, frame: pl.DataFrame, transaction: Transaction | None) -> SentAgain:
    topics = log.topics()
    whole = frame.filter(
        (pl.col("encoding") == "record")
        & ~pl.col("reason").str.starts_with(_UNREADABLE)
        & pl.col("topic").is_in(list(topics))
    )
    sent: dict[str, int] = {}
    for (topic,), rows in whole.group_by(["topic"], maintain_order=True):
        sent[str(topic)] = rows.height
        placed = rows.with_columns(_place=_partitions(rows, topics[str(topic)].partitions))
        for (partition,), part in placed.group_by(["_place"], maintain_order=True):
            block = block_of(str(topic), int(str(partition)), part["payload"].to_list(), keys=part["key"].to_list())
            if transaction is not None:
                transaction.append(block)
    return SentAgain(sent, frame.height - whole.height)


def _partitions(rows: pl.DataFrame, count: int) -> pl.Series:
    """Where each record belongs: by its key, else where it was."""
    block = block_of("", 0, rows["key"].to_list())
    by_key = partitions_of(block.buffer, block.value_starts, block.value_ends, count)
    return pl.Series(np.where(by_key < 0, rows["partition"].to_numpy() % count, by_key))


def _places(letters: str, ends: Mapping[int, int]) -> dict[TopicPartition, int]:
    return {TopicPartition(letters, partition): end for partition, end in ends.items()}


def _no_letters() -> pl.DataFrame:
    return pl.DataFrame(schema={**REJECTED.schema.polars(), "_partition": pl.Int64, "_offset": pl.Int64})
