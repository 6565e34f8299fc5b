"""The rows of one batch as aggregates read them: every form of every column is made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import C0, C1, C2, C3, EVENT_TIME, Batch
from streamproc.hashing import frozen, mix64
from streamproc.operators.value_table import value_keys
from streamproc.operators.values import codes_of, floats_of, has_codes, labels_of, valid_of, wide_of
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
        """The arrays of a column in one form (see `_make`), `valid` last."""
        if (form, column) not in self._forms:
            made = self._make(form, column)
            if self._rows is None:
                taken = made
            elif form in ("keys", "placed keys"):  # the first array is the buffer that the others point into
                taken = made[0], *(frozen(array[self._rows]) for array in made[1:])
            else:
                taken = tuple(frozen(array[self._rows]) for array in made)
            self._forms[form, column] = taken
        return self._forms[form, column]

    def _places(self) -> npt.NDArray[Any]:
        return frozen(self._meta[:, [EVENT_TIME, C0, C1, C2, C3]])

    def _make(self, form: str, column: str) -> Arrays:
        if form == "moments":
            valid = valid_of(self._frame[column]) if column else frozen(np.ones(self._meta.shape[0], np.uint8))
            return frozen(self._meta[:, EVENT_TIME]), valid
        if not column:
            return (frozen(np.ones(self._meta.shape[0], np.uint8)),)
        values = self._frame[column]
        valid = valid_of(values)
        if form == "floats":
            return floats_of(values), valid
        if form == "codes":
            return codes_of(values), valid
        if form == "codes of floats":
            return codes_of(values.cast(pl.Float64)), valid
        if form == "finite codes":
            floats = values.cast(pl.Float64)
            finite = floats.is_finite().fill_null(False).to_numpy().astype(np.uint8)
            return labels_of(floats), frozen(finite)
        if form == "placed":
            return codes_of(values), self._places(), valid
        if form == "labels":
            return labels_of(values), valid
        if form == "hashes":
            return frozen(mix64(labels_of(values)) if has_codes(values.dtype) else value_keys(values).hashes), valid
        if form in ("keys", "placed keys"):
            keys = value_keys(values)
            found = frozen(keys.buffer), frozen(keys.starts), frozen(keys.ends), frozen(keys.hashes)
            return (*found, valid) if form == "keys" else (*found, self._places(), valid)
        if form == "wide":
            return *wide_of(values), valid
        return (valid,)
