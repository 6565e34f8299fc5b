"""What a learner has become: its models, what they have learned of texts, and what they were worth until now."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from streamproc.learning.learn_state import LearnState
from streamproc.learning.operator import Learn
from streamproc.models.snapshot import table_in
from streamproc.state import export_state

ALONE: Final = "model"
"""The name of the model of a learner that has one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A learner at a moment, as plain values.

    models    by name the table of each model as JSON bytes; those that left a race are not there
    champion  whose score leaves
    texts     per input of texts those that the models have learned
    labels    labels learned from, or waiting in a block to be
    metrics   rows as on the side "metrics", of the moment itself
    digest    SHA-256 over the whole state, with rows that wait, calibration and race
    """

    models: dict[str, bytes]
    champion: str
    texts: dict[str, list[str]]
    labels: int
    metrics: list[dict[str, Any]]
    digest: str


def standing(step: Learn, state: LearnState) -> Standing:
    """How a learner stands.  Cost: a snapshot of each model and one pass over its state."""
    names = (ALONE,) if step.race is None else step.race.names
    models = {
        name: table_in(kept.packed()) for name, kept in zip(names, state.models, strict=True) if kept is not None
    }
    texts = {
        name: [text for text, learned in zip(told.names, told.learned, strict=True) if learned]
        for name, told in zip(step.inputs, state.categories[:-1], strict=True)
        if told is not None
    }
    segments = state.categories[-1]
    assert segments is not None, "segments are texts"
    metrics = state.evaluation.report(segments.names, binary=step.kind == "binary").to_dicts()
    champion = names[0 if state.race is None else state.race.champion]
    return Standing(models, champion, texts, state.evaluation.labels, metrics, _digest(state))


def _digest(state: LearnState) -> str:
    whole = hashlib.sha256()
    for name, array in export_state(state).items():
        whole.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()
