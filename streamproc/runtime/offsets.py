"""Places in a log as a person names them: `earliest`, `latest`, a moment, or an offset for each partition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from streamproc.errors import InputError
from streamproc.event_time import instant_us
from streamproc.graph import Source
from streamproc.planning.plan import Plan
from streamproc.ports import Log, TopicPartition

_OFFSET: Final = re.compile(r"([A-Za-z0-9._-]+):(\d+)=(\d+)")


def source_places(plan: Plan, log: Log) -> list[TopicPartition]:
    """Every partition of every source that the log has."""
    topics = log.topics()
    names = sorted({node.origin.topic for node in plan.sources if isinstance(node.origin, Source)})
    return [TopicPartition(name, p) for name in names if name in topics for p in range(topics[name].partitions)]


def offsets_at(log: Log, places: Sequence[TopicPartition], text: str) -> dict[TopicPartition, int]:
    """The offset of each partition that a text means.

    text  "earliest", "latest", a moment by the records' own timestamps ("2026-11-01T09:30:00Z"), or offsets of all
          partitions ("orders:0=120,orders:1=99")

    Raises InputError for another text, for partitions that are not named or not there, and for offsets that the log
    does not hold.
    """
    if text == "earliest":
        return {place: log.start_offset(place) for place in places}
    if text == "latest":
        return {place: log.end_offset(place) for place in places}
    if "=" not in text:
        moment = instant_us(text)
        return {place: log.offset_at(place, moment) for place in places}
    named: dict[TopicPartition, int] = {}
    for part in text.split(","):
        found = _OFFSET.fullmatch(part.strip())
        if found is None:
            raise InputError(f"'{part}' is no offset of a partition", hint="write TOPIC:PARTITION=OFFSET, with commas")
        named[TopicPartition(found[1], int(found[2]))] = int(found[3])
    unknown = sorted(set(named) - set(places))
    missing = sorted(set(places) - set(named))
    if unknown or missing:
        place = (unknown or missing)[0]
        raise InputError(
            f"{place.topic}:{place.partition} is " + ("no partition of a source" if unknown else "not named"),
            hint="name each of: " + ", ".join(f"{p.topic}:{p.partition}" for p in places),
        )
    for place, offset in named.items():
        first, last = log.start_offset(place), log.end_offset(place)
        if not first <= offset <= last:
            raise InputError(
                f"{place.topic}:{place.partition} holds offsets {first} to {last}, not {offset}",
                hint="name one of these, or 'earliest' or 'latest'",
            )
    return named


def offsets_text(offsets: dict[TopicPartition, int]) -> str:
    """Offsets as `offsets_at` reads them.

    >>> offsets_text({TopicPartition("orders", 1): 99})
    'orders:1=99'
    """
    return ",".join(f"{place.topic}:{place.partition}={offset}" for place, offset in sorted(offsets.items()))
