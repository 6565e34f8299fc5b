"""What joins have in common at plan time: keys that fit, and names for the columns of the right side."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

from streamproc.batch import Batch
from streamproc.contracts.model import Schema
from streamproc.errors import DefinitionError, TypeMismatch
from streamproc.keys import key_kinds
from streamproc.operator import StreamType


def require_same_key(verb: str, left: StreamType, right: StreamType) -> None:
    """Raises DefinitionError where a side has no key, TypeMismatch where the keys cannot be equal."""
    ours, theirs = left.require_key(verb), right.require_key(f"{verb} (right side)")
    kinds, other_kinds = key_kinds(left.schema, ours), key_kinds(right.schema, theirs)
    if kinds != other_kinds:
        raise TypeMismatch(
            f"'{verb}' joins {_said(ours, kinds)} with {_said(theirs, other_kinds)}",
            hint="key both sides by columns of the same types in the same order",
        )


def _said(columns: tuple[str, ...], kinds: tuple[str, ...]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in zip(columns, kinds, strict=True)) or "no column"


def right_columns(right: StreamType, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """Columns of the right side that the join brings: the chosen ones, else all but its key and what tells deletes."""
    if chosen is None:
        own = (*(right.keyed_by or ()), right.schema.deletes)
        return tuple(name for name in right.schema.names if name not in own)
    return tuple(right.schema[name].name for name in chosen)


def deleting(batch: Batch, column: str) -> npt.NDArray[np.bool_]:
    """Which rows of a batch delete their key; none where the stream has no column that tells so."""
    if not column:
        return np.zeros(len(batch), np.bool_)
    return np.array(batch.frame.get_column(column).fill_null(False).to_numpy(), np.bool_)


def only_columns(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """These columns of a frame (`select` goes through the query engine, which costs more than a small step does)."""
    return frame if frame.columns == names else pl.DataFrame([frame.get_column(name) for name in names])


def output_name(name: str, left: Iterable[str], suffix: str) -> str:
    """What a column of the right side is called in the output.

    >>> output_name("rate", ["amount"], "_right"), output_name("rate", ["rate"], "_right")
    ('rate', 'rate_right')
    """
    return name + suffix if name in left else name


def reads_of(
    needed: frozenset[str], left: Schema, right: Schema, *, suffix: str, chosen: tuple[str, ...] | None
) -> tuple[frozenset[str], frozenset[str]]:
    """Columns that each side must have if `needed` of the output are needed further down.

    A column of the right side that carries the suffix needs its namesake on the left too: without it the name would
    be another one.
    """
    ours, theirs = {name for name in left.names if name in needed}, set()
    for name in right.names if chosen is None else chosen:
        if name in left and name + suffix in needed:
            ours.add(name)
            theirs.add(name)
        elif name not in left and name in needed:
            theirs.add(name)
    return frozenset(ours), frozenset(theirs)


def require_suffix(suffix: str) -> str:
    """The suffix, or DefinitionError for an empty one."""
    if not suffix:
        raise DefinitionError(
            "a join needs a suffix for columns that both sides have", hint='leave it out: it is "_right"'
        )
    return suffix
