"""A topology: named streams that leave, with an owner and a version. A frozen value; nothing runs here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import polars as pl

from streamproc.contracts.model import Contract
from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.graph import Stream

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Sla:
    """What the topology promises to those who subscribe: `p99` latency from record to decision, oldest `staleness`."""

    p99: Span | None = None
    staleness: Span | None = None

    def __post_init__(self) -> None:
        for span in (self.p99, self.staleness):
            if span is not None:
                span_us(span)


@dataclass(frozen=True, slots=True)
class Truth:
    """Of which person (or thing) each record is, where that is known: `sp.sink(events, truth=sp.Truth("people"))`.

    known   a topic that holds the truth, or a function that gives it as a frame; either is read once a run has ended
    record  its column of a record's id, any type that prints as the id that `resolve` was given
    person  its column of the person, null where that is not known: such a record is not judged

    No step can read it, and what a topology writes does not hang on it.

    >>> Truth("people.truth", person="customer").record
    'record_id'
    """

    known: str | Callable[[], pl.DataFrame]
    record: str = "record_id"
    person: str = "person"


@dataclass(frozen=True, slots=True)
class Sink:
    """A stream that leaves, and how.

    contract  the schema that is written; without one the plan derives it from the stream's columns
    topic     the topic; without one `<topology>.<name of the sink>`
    key       columns whose bytes key the records; without them the stream's own key, else no key
    identified  records carry the header `sp`, whose id is the same however often a row is made: for decisions and
              alerts, on which somebody acts. It triples the cost of writing, so bulk sinks go without
    latest    a new topic is compacted: of each key the newest record stays, however old, and older ones may go
    truth     of a sink of `entity_rows("events")`: what entities should have been; `run --until-end` holds them to it
    """

    stream: Stream
    contract: str | Contract | None = None
    topic: str = ""
    key: tuple[str, ...] | None = None
    identified: bool = False
    latest: bool = False
    truth: Truth | None = None


def sink(
    stream: Stream,
    *,
    contract: str | Contract | None = None,
    topic: str = "",
    key: tuple[str, ...] | str | None = None,
    identified: bool = False,
    latest: bool = False,
    truth: Truth | None = None,
) -> Sink:
    """A stream that leaves under a contract, to a topic, with a key of its own.

    With latest=True the topic is a table: the newest record of each key stays for ever, see `FeatureTable`. A row that
    deletes its key (`table`, `join`, `changes`) leaves as a record without a value. With a truth, a run to
    the end says how good the entities of its events were.

    >>> from streamproc.graph import source
    >>> sink(source("t", contract="c"), contract="alert.v1").contract
    'alert.v1'
    """
    return Sink(stream, contract, topic, (key,) if isinstance(key, str) else key, identified, latest, truth)


@dataclass(frozen=True, slots=True)
class Topology:
    """Named sinks over sources.

    name     lower-case letters, digits, `_` and `-`; it begins the names of all topics and groups
    version  grows when the meaning changes; state, journal and internal topics belong to one version
    sinks    name to stream or `sink(...)`
    commit   how often a step is closed and committed
    max_wait how long rows wait for an input that is at its end and behind them in event time; what stood in the log
             when a worker took a task over is waited for in any case
    late     "topic": late rows go to `<topology>.late`; "count": they are only counted

    Raises DefinitionError for a malformed name, version or sink; everything else is checked by the plan.
    """

    name: str
    sinks: Mapping[str, Stream | Sink]
    version: int = 1
    owner: str = ""
    scope: str = ""
    sla: Sla | None = None
    commit: Span = "100ms"
    max_wait: Span = "0s"
    late: str = "topic"
    doc: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"'{self.name}' cannot name a topology", hint="use lower-case letters, digits, _ and -, a letter first"
            )
        if self.version < 1:
            raise DefinitionError(f"topology '{self.name}' has version {self.version}", hint="versions count from 1")
        if not self.sinks:
            raise DefinitionError(
                f"topology '{self.name}' has no sinks", hint="give at least one: sinks={'name': stream}"
            )
        if self.late not in ("topic", "count"):
            raise DefinitionError(f"late='{self.late}' is not a policy of '{self.name}'", hint="use 'topic' or 'count'")
        span_us(self.commit)
        span_us(self.max_wait)
        for name, leaves in self.sinks.items():
            if not _NAME.fullmatch(name):
                raise DefinitionError(
                    f"'{name}' cannot name a sink of '{self.name}'", hint="use lower-case letters, digits, _ and -"
                )
            if name in ("late", "dlq"):
                raise DefinitionError(
                    f"sink '{name}' of '{self.name}' takes a reserved name",
                    hint="'late' and 'dlq' are written by the engine",
                )
            if not isinstance(leaves, Stream | Sink):
                raise DefinitionError(
                    f"sink '{name}' of '{self.name}' is {type(leaves).__name__}, not a stream",
                    hint="end the pipe in a stream, or use sp.sink(stream, contract=...)",
                )
        object.__setattr__(self, "sinks", MappingProxyType(dict(self.sinks)))

    def sink(self, name: str) -> Sink:
        """The sink of that name."""
        leaves = self.sinks[name]
        return leaves if isinstance(leaves, Sink) else Sink(leaves)
