"""`learn`: a River model that scores each row and learns it once its label is known, or a race of several."""

from __future__ import annotations

import math
from typing import Any

from streamproc.errors import DefinitionError, StateError
from streamproc.event_time import Span, span_us
from streamproc.graph import Step, Stream
from streamproc.learning.importance import Importance, checked
from streamproc.learning.kept_model import kind_of, plain_model
from streamproc.learning.operator import Learn
from streamproc.learning.race import Race
from streamproc.models.snapshot import unseeded_part, write_snapshot
from streamproc.models.version import SHOWN, SavedModel
from streamproc.operators.outcome import Outcome


def learn(
    model: Any,
    *,
    inputs: tuple[str, ...],
    into: str,
    labels: Stream | Outcome | None = None,
    label: str = "",
    on: str | tuple[str, ...] = (),
    horizon: Span | None = None,
    every: int = 1,
    report: int = 1000,
    segment: str = "",
    most_categories: int = 1000,
    calibrated: str = "",
    importance: Importance | None = None,
    name: str = "",
) -> Step:
    """Scores each row with a River model, and lets the model learn the row once its label is known.

    model     a classifier (the score is the chance of True), a regressor, or a detector of anomalies of River, plain or
              as a pipeline. It may have learned before; models that draw random numbers need a seed. Or several that
              race: `sp.race({"linear": ..., "tree": ...})`. Or a version that was kept: `sp.model_version(file)`
    inputs    columns that the model sees: numbers, booleans, texts. Null, NaN and infinite values, and texts that the
              model has not learned, never reach it: it takes them as unknown
    into      the column of the score; null where the model cannot say anything yet
    labels    a stream of labels, keyed by `on`; or `sp.outcome(events, within="14d")`, where an event is the label and
              silence is the other one; or None: each row brings its own
    label     the column of the label; a row without one is not learned
    on        the columns that join labels to rows. Rows go to the task of that key, one model a task. A label belongs
              to every row of its key with row <= label <= row + horizon in event time; each row takes the first
    horizon   how long a row waits for its label; then it is given up and counted
    every     the model learns so many rows at once, in the order in which labels became known: linear models behind
              scalers with River's `learn_many` from 32 on, others row by row
    report    a report every so many labels on the side "metrics"
    segment   a text column by which the model is judged too, and a challenger of a race may be held
    calibrated  a further column with the score as a chance that means what it says: corrected by what became of earlier
              scores, with an intercept of its own for each segment; the side "calibration" reports before and after
              (`streamproc.learning.calibration`). For classifiers
    importance  what each input is worth beside what it costs, on the side "importance": `sp.importance()`
    Late rows and late labels go to `.late`.  Cost: River's, twice asked and once learned.

    Raises DefinitionError for a model that cannot be kept or has no seed.

    >>> from river import linear_model, preprocessing
    >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    >>> learn(model, inputs=("amount",), label="fraud", into="risk", every=256).operator
    Learn(kind='binary', inputs=('amount',), into='risk', label='fraud', on=(), horizon_us=0, negative=nan, every=256, \
report=1000, segment='', most_categories=1000, calibrated='', race=None, importance=None, texts=())
    """
    if not inputs or isinstance(inputs, str):
        raise DefinitionError(
            "step 'learn' needs the columns that the model sees", hint="inputs=('amount', 'spend_1h')"
        )
    for word, number in (("every", every), ("report", report), ("most_categories", most_categories)):
        if number < 1:
            raise DefinitionError(f"step 'learn': {word}={number}", hint="count from 1")
    columns = (on,) if isinstance(on, str) else tuple(on)
    racing = model if isinstance(model, Race) else None
    models = (model,) if racing is None else racing.models
    kind, texts = kind_of(model) if racing is None else racing.kind, _texts(models, tuple(inputs))
    if racing is not None and racing.rules.delta >= 0.0 and not segment:
        raise DefinitionError("the race has a delta and no segments", hint="segment='country', or leave out delta=")
    if calibrated and kind != "binary":
        raise DefinitionError("step 'learn' calibrates chances, and this model gives none", hint="use a classifier")
    if importance is not None:
        checked(importance, tuple(inputs), kind, 0.0 if racing is None else racing.rules.largest)
    span, negative = horizon, math.nan
    others: tuple[Stream, ...] = ()
    if isinstance(labels, Outcome):
        if label or horizon is not None:
            raise DefinitionError("step 'learn': an outcome is the label", hint="leave out label= and horizon=")
        if kind != "binary":
            raise DefinitionError("step 'learn': an outcome is true or false", hint="use a classifier")
        others, span, negative = (labels.events,), labels.within, 0.0
    elif labels is not None:
        others = (labels,)
        if not label or horizon is None:
            raise DefinitionError(
                "step 'learn' needs to know which column the label is, and how long it may take to come",
                hint="label='fraud', horizon='30d'",
            )
    elif not label and kind != "anomaly":
        raise DefinitionError("step 'learn' has no labels", hint="labels=stream, on='payment_id', label=...; or label=")
    if bool(others) != bool(columns):
        raise DefinitionError("step 'learn' joins labels to rows by columns", hint="give labels= and on= together")
    return Step(
        Learn(
            tuple(_blueprint(one) for one in models), kind, tuple(inputs), into, label, columns,
            0 if span is None else span_us(span), negative, every, report, segment, most_categories, calibrated,
            None if racing is None else racing.rules, importance, texts,
        ),
        others,
        name,
    )  # fmt: skip


def _texts(models: tuple[Any, ...], inputs: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Per input the texts that all models have learned before, () where one of them begins with nothing."""
    saved = [model for model in models if isinstance(model, SavedModel)]
    for one in saved:
        if set(one.inputs) != set(inputs):
            raise DefinitionError(
                f"step 'learn': version {one.version[:SHOWN]} learned from {', '.join(one.inputs)}, "
                f"its inputs here are {', '.join(inputs)}",
                hint="give it the columns that it knows",
            )
    if len(saved) < len(models):
        return ()
    known = [[set(one.texts.get(name, ())) for one in saved] for name in inputs]
    return tuple(
        tuple(text for text in saved[0].texts.get(name, ()) if all(text in one for one in of_each))
        for name, of_each in zip(inputs, known, strict=True)
    )


def _blueprint(model: Any) -> bytes:
    try:
        blueprint = write_snapshot(plain_model(model))
    except StateError as problem:
        raise DefinitionError(f"step 'learn': {problem.message}", hint=problem.hint) from None
    unseeded = unseeded_part(blueprint)
    if unseeded:
        raise DefinitionError(
            f"step 'learn': {unseeded} draws random numbers and has no seed", hint="give it one: seed=1"
        )
    return blueprint
