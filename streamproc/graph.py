"""A stream is a recipe: a source, or a step over other streams. Frozen values, joined with `|`; nothing runs here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamproc.contracts.model import Contract
from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.operator import Operator


@dataclass(frozen=True, slots=True)
class Source:
    """A topic that a topology reads.

    contract           "payment" (the newest version), "payment.v2", or a Contract
    lateness_us        how far behind the running maximum of its partition a row may be without being late
    max_future_skew_us how far beyond its record's own timestamp an event time may be; beyond that it is a dead letter
    idle_after_us      a partition that gave nothing for so long no longer holds time back; None: it always does
    event_time         the column of event time where the contract names none
    table              records are changes of a table: the newest of each key holds, one without a value deletes its key
    feedback           what comes back of what the topology itself asked for: outside the watermark, never late
    """

    topic: str
    contract: str | Contract
    lateness_us: int = 0
    max_future_skew_us: int = 300_000_000
    idle_after_us: int | None = None
    event_time: str = ""
    table: bool = False
    feedback: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What stands right of a `|`: an operator, the other streams that it reads, and the author's name for it.

    before  steps that the rows go through first
    """

    operator: Operator
    others: tuple[Stream, ...] = ()
    name: str = ""
    before: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """An unevaluated recipe for rows.

    origin  the source, or the operator
    inputs  the streams that the operator reads, left first
    port    "rows", "late" for the rows that came too late for the operator, or a stream that the step gives beside
    """

    origin: Source | Operator
    inputs: tuple[Stream, ...] = ()
    name: str = ""
    port: str = "rows"

    def __or__(self, step: Step) -> Stream:
        if not isinstance(step, Step):
            raise DefinitionError(
                f"the right side of | is {type(step).__name__}, not a step",
                hint="call the verb: stream | sp.where(pl.col('amount') > 0)",
            )
        left = self
        for first in step.before:
            left = left | first
        return Stream(step.operator, (left, *step.others), step.name)

    @property
    def late(self) -> Stream:
        """The rows that came too late for this step, as a stream of their own (they go to `<topology>.late` anyway)."""
        if isinstance(self.origin, Source):
            raise DefinitionError(
                f"source '{self.origin.topic}' has no late stream",
                hint="timed steps have one: windows, joins, dedupe, ordered",
            )
        return replace(self, port="late")

    def side(self, name: str) -> Stream:
        """What the step gives beside its rows, as a stream of its own: `scored.side("metrics")`.

        The step's verb says which names there are; the plan refuses any other.
        """
        if isinstance(self.origin, Source):
            raise DefinitionError(f"source '{self.origin.topic}' gives nothing beside its rows")
        return replace(self, port=name)

    @property
    def alerts(self) -> Stream:
        """The alerts that the rules of this step raise, as a stream of their own (`sp.rules`)."""
        raise_them = getattr(self.origin, "alerts", None)
        if isinstance(self.origin, Source) or raise_them is None:
            raise DefinitionError(
                f"'{self.name or getattr(self.origin, 'verb', 'a source')}' raises no alerts",
                hint="sp.rules does: checked = stream | sp.rules(...), then checked.alerts",
            )
        made: Stream = raise_them(self.inputs[0])
        return made

    @property
    def disagreements(self) -> Stream:
        """Who calls so what another does not, by window, as a stream of its own (`sp.definitions`)."""
        compare = getattr(self.origin, "disagreements", None)
        if isinstance(self.origin, Source) or compare is None:
            raise DefinitionError(
                f"'{self.name or getattr(self.origin, 'verb', 'a source')}' compares no definitions",
                hint="sp.definitions does: defined = stream | sp.definitions(...), then defined.disagreements",
            )
        made: Stream = compare(self)
        return made


def source(
    topic: str,
    *,
    contract: str | Contract,
    lateness: Span = "0s",
    max_future_skew: Span = "5m",
    idle_after: Span | None = None,
    event_time: str = "",
) -> Stream:
    """A stream of the records of a topic.

    A row is late if its event time is less than the running maximum of event time in its partition minus `lateness`.
    A partition that gave nothing for `idle_after` holds back no longer what is read beside it. What a step keeps back
    for order goes on, and holds back nobody below, once the silence has taken as long as `lateness` too.
    Raises InputError for a malformed span; the contract is looked up when the topology is planned.

    >>> source("payments", contract="payment.v2", lateness="10m").origin.lateness_us
    600000000
    """
    if not topic:
        raise DefinitionError("a source needs the name of a topic", hint="sp.source('payments', contract='payment.v2')")
    return Stream(
        Source(
            topic,
            contract,
            span_us(lateness),
            span_us(max_future_skew),
            None if idle_after is None else span_us(idle_after),
            event_time,
        )
    )


def table(
    topic: str,
    *,
    contract: str | Contract,
    lateness: Span = "0s",
    max_future_skew: Span = "5m",
    idle_after: Span | None = None,
    event_time: str = "",
) -> Stream:
    """A stream of the changes of a table: a compacted topic, whose records are the newest of their keys.

    The stream is keyed by the contract's key. Beside the contract's columns, which may all be null but for the key and
    the event time, it has `deleted`: true on the row of a record without a value, which deletes its key. So `as_of`
    finds no row of a key that is deleted, `join` ends its row, and a sink with latest=True writes a record without a
    value again. Where the contract has a boolean field with the role "deleted", that column tells deletes too.

    A delete happened at the event time in its header `sp-at`, which our sinks write; without one, at its record's
    timestamp: then it does not move time.

    The rows go through an internal topic, by key: what steps below remember does not hang on what compaction leaves of
    the topic, and it may have any number of partitions. A table that changes seldom holds back the time of all that it
    is joined with, unless it has `idle_after`.

    >>> table("customers", contract="customer.v1").origin.table
    True
    """
    made = source(
        topic, contract=contract, lateness=lateness, max_future_skew=max_future_skew, idle_after=idle_after,
        event_time=event_time,
    )  # fmt: skip
    assert isinstance(made.origin, Source)  # a source is what was asked for
    return replace(made, origin=replace(made.origin, table=True))


def feedback(topic: str, *, contract: str | Contract, event_time: str = "") -> Stream:
    """A stream of what comes back: records that others write because of what the topology told or asked them.

    It is journaled like any source, and stands outside the watermark: it neither holds time back nor moves it, and
    nothing of it is late at a source. A run by event time merges it at its own event time; that this gives what the
    live run gave is not promised, because an answer came when it came. Where the log has no such topic, a run makes one
    of one partition.

    >>> feedback("card_risk.answers", contract="answer.v1").origin.feedback
    True
    """
    made = source(topic, contract=contract, event_time=event_time)
    assert isinstance(made.origin, Source)  # a source is what was asked for
    return replace(made, origin=replace(made.origin, feedback=True))
