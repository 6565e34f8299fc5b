"""Runs fields over rows as a stage would, and over each row alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

import streamproc as sp
from streamproc.batch import ACCOUNT, EVENT_TIME, ROW, WIDTH, Batch
from streamproc.contracts.model import Field, Schema
from streamproc.operator import Output, StepTime, StreamType


def schema_of(frame: pl.DataFrame) -> Schema:
    """The frame's columns, all nullable."""
    return Schema(tuple(Field(name, dtype, True) for name, dtype in frame.schema.items()))


def harmonised(frame: pl.DataFrame, *, at: list[int] | None = None, **fields: Any) -> Output:
    """What `harmonise` makes of the frame, event times `at` (µs); the plan's check included."""
    operator: Any = sp.harmonise(**fields).operator
    promised = operator.schema(StreamType(schema_of(frame))).schema.polars()
    meta = np.zeros((frame.height, WIDTH), np.int64)
    meta[:, EVENT_TIME] = at if at is not None else 0
    meta[:, ACCOUNT] = np.arange(frame.height)
    meta[:, ROW] = 2 * np.arange(frame.height) + 1
    _, output = operator.process(None, (Batch(frame, meta),), StepTime(np.zeros(frame.height, np.int64), 1))
    assert output.rows.frame.schema == promised
    return output


def values(frame: pl.DataFrame, *, at: list[int] | None = None, **fields: Any) -> dict[str, list[Any]]:
    """The columns made, where nothing is refused."""
    output = harmonised(frame, at=at, **fields)
    assert not output.rejected
    return {name: output.rows.frame[name].to_list() for name in output.rows.frame.columns if name not in frame.columns}


def reasons(output: Output) -> dict[str, list[int]]:
    """Per reason, the rows (by their number in the input) that were refused."""
    return {reason: batch.meta[:, ACCOUNT].tolist() for reason, batch in output.rejected}
