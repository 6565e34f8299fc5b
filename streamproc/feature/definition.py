"""`features`: what is known of a key at the moment of each of its rows."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from streamproc.errors import DefinitionError
from streamproc.event_time import Span, span_us
from streamproc.feature.derived import Derived
from streamproc.feature.operator import AT_BOUND, Features
from streamproc.graph import Step
from streamproc.operators.aggregates import Aggregate
from streamproc.operators.coverage import Coverage
from streamproc.operators.lookback_plan import EVENTS_AT_MOST


def contributors() -> Aggregate:
    """Names of the sources with a row in the window, in the order of `together`: List(String). For `features`."""
    return Aggregate("contributors")


def features(
    *,
    coverage: Coverage | Mapping[str, Coverage] | None = None,
    max_lag: Span | None = None,
    events_per_key: int = EVENTS_AT_MOST,
    at_bound: str = "stop",
    status: bool = False,
    corrections: bool = False,
    name: str = "",
    **made: Aggregate | Derived | pl.Expr,
) -> Step:
    """Each row, with features of its key at its moment: aggregates over spans that end with the row.

    A row at event time t sees, for `.over(span)`, exactly the rows of its key with event time in (t - span, t] that
    came before it in the task's order, and itself; for `.ever()` all of them up to t. So a row that is exactly one span
    old no longer counts, of rows at one moment each sees those that came before it, and nothing that arrives later
    changes what was said. Below `ordered` rows come in order of event time, and what a row sees is the same live, in a
    replay and in a training set, bit for bit: totals of floats are exactly rounded, and a history that begins
    anywhere before the span gives the same. Late rows go to the late stream.

    Nulls are left out everywhere, NaN and infinities too: no NaN comes out, and where a sum leaves the range of floats
    it stands at its end. A value has a status (see `streamproc.feature.statuses`): where it is none of VALUE it is
    null, unless `.default(x)`, `.indicator(x)` or `.carry(max_age)` says otherwise.

    coverage        when sources were there, one for all or by the source's name in `together`: a window that reaches
                    outside is NOT_COVERED, never zero
    max_lag         a row whose watermark lags behind it by more has SOURCE_LATE instead of values
    events_per_key  events (with a hop: tiles, and events after the watermark) that a key keeps at most
    at_bound        one more "stop"s the task, or drops the oldest: windows that reach it are "not_covered"
    status          adds `<name>_status` and `<name>_age`, µs since the newest row that counts
    corrections     below `follow`: where leaves move, a further row for every entity that this touches, see below

    Needs a keyed stream. Rows keep their order, position and coordinate.

    With `corrections` every row gets `corrected_at`, null, and `deleted`, false. When the moves of a moment are done,
    each entity that a leaf came to or left is told again: its features at that moment (`corrected_at`), in a row whose
    other columns are those of the row that moved last, before rows of the same moment. `deleted` is true where the
    entity has no row left in its longest span, as an alias has none: a sink with latest=True then holds the newest
    features of what there is now. A row that only asks is kept like an event, and seen by none.
    With `.over(span, hop=...)` the window begins at the multiple of the hop at or before t - span: the value is exactly
    that of `.over(s)` for one s with span <= s < span + hop. Coverage is asked of that window.

    Memory: an event of 32 bytes and 8 a column (16 more a minimum or maximum), kept for the longest span. With a hop
    span / hop + 2 tiles a key and the events after the watermark, each with what its aggregates hold, twice; a sketch
    holds 32 KB at most.
    Cost: O(1) a row in order, for quantile, ewma, trend, distinct and top_k O(events of the window); a row out of order
    costs as much as the disorder around it. With a hop a few merges a row.
    Raises DefinitionError without a feature, for one without a span, or for one that does not merge and has a hop.

    >>> from streamproc.operators.aggregates import count, total
    >>> step = features(n=count().over("1h"), spend=total("amount").over("7d"), mean=pl.col("spend") / pl.col("n"))
    >>> step.operator.verb
    'features'
    """
    if not made:
        raise DefinitionError("features: none is named", hint="give at least one, for example n=sp.count().over('1h')")
    if at_bound not in AT_BOUND:
        raise DefinitionError(f"features: at_bound='{at_bound}'", hint=f"use one of {', '.join(AT_BOUND)}")
    if events_per_key < 1:
        raise DefinitionError(f"features: events_per_key={events_per_key}", hint="a key keeps at least one event")
    for each, one in made.items():
        if not isinstance(one, Aggregate | Derived | pl.Expr):
            raise DefinitionError(f"features: {each}={one!r} is no feature", hint="sp.count().over('1h'), for example")
    if not any(isinstance(one, Aggregate) for one in made.values()):
        raise DefinitionError("features: nothing looks back", hint="sp.with_columns computes from the row alone")
    given = {"": coverage} if isinstance(coverage, Coverage) else dict(coverage or {})
    operator = Features(
        tuple((each, Derived(one) if isinstance(one, pl.Expr) else one) for each, one in made.items()),
        tuple(given.items()),
        None if max_lag is None else span_us(max_lag),
        events_per_key, at_bound, status, corrections,
    )  # fmt: skip
    return Step(operator, (), name)
