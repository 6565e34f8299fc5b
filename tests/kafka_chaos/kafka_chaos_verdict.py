"""What the topics hold, held against what must come out. Reads with plain clients and decodes with fastavro."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import fastavro
import kafka_chaos_oracle as oracle
import kafka_chaos_topology as world
from kafka_chaos_worker import Place

from streamproc.runtime.binding import Binding, bind
from streamproc.runtime.verify import verify

_EPOCH = datetime.fromtimestamp(0, tz=UTC)
Values = Mapping[str, Iterable[bytes]]


def _plain(value: Any) -> Any:
    """Moments as µs."""
    if isinstance(value, datetime):
        span = value - _EPOCH
        return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
    return value


def decoded(values: Iterable[bytes], schema: Any) -> list[dict[str, Any]]:
    """Records behind their five bytes of header."""
    parsed = fastavro.parse_schema(dict(schema))
    out = []
    for value in values:
        row = fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed, None)
        assert isinstance(row, dict)
        out.append({name: _plain(cell) for name, cell in row.items()})
    return out


def schemas(binding: Binding) -> dict[str, Any]:
    """The schema of each source and sink by topic."""
    found: dict[str, Any] = {"bids": world.BID.avro, "floors": world.FLOOR.avro}
    return found | {sink.topic: sink.contract.avro for sink in binding.plan.sinks}


def judge(topology: str, found: Values, schema: Mapping[str, Any], *, produced: Values | None = None) -> list[str]:
    """What is wrong with the sinks, given what the sources' topics hold; nothing if all is well.

    found     values of the sources and the sinks, by topic
    produced  what was produced, by topic: the sources must hold that, and nothing else. Some of it may be there twice:
              what a plain client sends again while brokers die is an input like any other
    """
    wrong: list[str] = []
    for topic, sent in (produced or {}).items():
        once, there = _bytes(sent), _bytes(found[topic])
        again = Counter({row: times for row, times in (there - once).items() if row in once})
        wrong += [f"{topic}: {line}" for line in oracle.differences(once, there - again)]
    bids, floors = decoded(found["bids"], schema["bids"]), decoded(found["floors"], schema["floors"])
    assert bids, "nothing went in, so nothing is proved"
    sinks = [topic.removeprefix(f"{topology}.") for topic in world.SINKS[topology]]
    expected: dict[str, oracle.Multiset] = {}
    if set(world.ORDERED) <= set(sinks):
        expected |= oracle.chain(
            bids, floors, dedupe_us=world.DEDUPE_US, max_age_us=world.MAX_AGE_US, window_us=world.WINDOW_US
        )
    if set(world.UNORDERED) <= set(sinks):
        expected |= oracle.flat(bids, window_us=world.WINDOW_US)
    for sink in sinks:
        topic = f"{topology}.{sink}"
        made = decoded(found[topic], schema[topic])
        if sink in ("spend", "counted"):
            got = Counter(oracle.window(row, "who" if sink == "spend" else "auction") for row in made)
        else:
            got = Counter(oracle.bid(row, *(("floor",) if sink == "checked" else ())) for row in made)
        if sink == "once":
            wrong += [f"{topic}: {line}" for line in oracle.badly_deduped(bids, got, world.DEDUPE_US)[:20]]
            continue
        assert expected[sink], f"nothing must come out of {topic}, so nothing is proved"
        wrong += [f"{topic}: {line}" for line in oracle.differences(expected[sink], got)]
    wrong += [f"{topic}: {line}" for topic in (f"{topology}.late", f"{topology}.dlq") for line in _none(found[topic])]
    return wrong


def same(seen: Values, found: Values) -> list[str]:
    """What one reader saw and another did not, record for record, by topic."""
    return [
        f"{topic}: {line}" for topic in seen for line in oracle.differences(_bytes(found[topic]), _bytes(seen[topic]))
    ]


def verified(topology: str, place: Place) -> list[str]:
    """What the product's own `verify` finds."""
    log = place.open()
    try:
        binding = bind(world.TOPOLOGIES[topology](), log, world.registry(), create=False)
        report = verify(binding, log)
        assert report.steps, "verify saw no step"
        return [f"{finding.place}: {finding.what}" for finding in report.findings]
    finally:
        log.close()


def _bytes(values: Iterable[bytes]) -> oracle.Multiset:
    return Counter((value,) for value in values)


def _none(values: Iterable[bytes]) -> list[str]:
    rows = list(values)
    return [f"{len(rows)} rows that should not be there, the first: {rows[0][:200]!r}"] if rows else []
