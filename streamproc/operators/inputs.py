"""The rows of one batch as aggregates read them: every form of every column is made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, Batch
from streamproc.hashing import frozen
from streamproc.operators.values import codes_of, floats_of, valid_of, wide_of
from streamproc.ports import Int64s

Arrays = tuple[npt.NDArray[Any], ...]


class Inputs:
    """Columns of a batch in the forms of `values`, for the rows that count, repeated where a row counts more than once.

    rows   indices into the frame, or None for all of its rows in order
    """

    __slots__ = ("_forms", "_frame", "_meta", "_rows")

    def __init__(self, batch: Batch, rows: Int64s | None = None) -> None:
        self._frame = batch.frame
        self._meta = batch.meta
        self._rows = rows
        self._forms: dict[tuple[str, str], Arrays] = {}

    def form(self, form: str, column: str) -> Arrays:
        """The arrays of a column in one form ("valid", "floats", "codes", "placed", "wide"), `valid` last."""
        if (form, column) not in self._forms:
            made = self._make(form, column)
            taken = made if self._rows is None else tuple(frozen(array[self._rows]) for array in made)
            self._forms[form, column] = taken
        return self._forms[form, column]

    def _make(self, form: str, column: str) -> Arrays:
        if not column:
            return (frozen(np.ones(self._meta.shape[0], np.uint8)),)
        values = self._frame[column]
        valid = valid_of(values)
        if form == "floats":
            return floats_of(values), valid
        if form == "codes":
            return codes_of(values), valid
        if form == "placed":
            return codes_of(values), frozen(self._meta[:, [EVENT_TIME, C0, C1, C2, C3]]), valid
        if form == "wide":
            return *wide_of(values), valid
        return (valid,)
