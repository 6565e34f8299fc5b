"""`outcome`: an event is a label, and so is its absence."""

from __future__ import annotations

from dataclasses import dataclass

from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.graph import Stream


@dataclass(frozen=True, slots=True)
class Outcome:
    """True for a row at an event of its key within the span after it; False once the watermark is above its end."""

    events: Stream
    within: Span


def outcome(events: Stream, *, within: Span) -> Outcome:
    """Labels for `sp.learn`: whether an event of the row's key comes within a span after the row.

    events  the stream of events; each is the label True for the rows of its key that lie up to `within` before it
    within  how long silence must last: once the watermark is above row + within the label is False. It is released by
            event time alone, so that a replay releases it at the same place

    >>> outcome(Stream(None), within="14d").within
    '14d'
    """
    if not isinstance(events, Stream):
        raise DefinitionError(
            f"sp.outcome takes a stream of events, not {type(events).__name__}",
            hint="sp.outcome(cancellations, within='14d')",
        )
    if span_us(within) <= 0:
        raise DefinitionError("sp.outcome needs a span above zero", hint="within='14d'")
    return Outcome(events, within)
