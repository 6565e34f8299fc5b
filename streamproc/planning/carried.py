"""How columns travel between stages: in the types that Avro has, and back to what they were.

Avro has no small integers, categories, zones and fixed-size arrays. Such columns are written as the next type that
holds every value of theirs, and become what they were when they are read. Columns travel under numbers, so that any
name will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from streamproc.contracts.derive import contract_of
from streamproc.contracts.model import Schema


@dataclass(frozen=True, slots=True)
class Carriage:
    """The columns of an edge, here and on the way.

    here   name and type of each column, in order
    there  the same under its number, as Avro has it
    avro   the Avro schema of `there`
    """

    here: pl.Schema
    there: pl.Schema
    avro: Mapping[str, object]

    def packed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame as it travels; further columns stay behind."""
        pairs = zip(self.here, self.there.items(), strict=True)
        return pl.DataFrame([_cast(frame.get_column(name), dtype).alias(number) for name, (number, dtype) in pairs])

    def unpacked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame as it was."""
        pairs = zip(self.here.items(), self.there, strict=True)
        return pl.DataFrame([_cast(frame.get_column(number), dtype).alias(name) for (name, dtype), number in pairs])


def carriage(schema: Schema) -> Carriage:
    """How these columns travel.

    Raises TypeMismatch for a type that Avro cannot hold, InvalidSchema for a field of a struct whose name it cannot.

    >>> from streamproc.contracts.model import Field
    >>> small = carriage(Schema((Field("größe", pl.Int8()),)))
    >>> small.unpacked(small.packed(pl.DataFrame({"größe": [1]}, schema={"größe": pl.Int8}))).schema
    Schema({'größe': Int8})
    """
    contract = contract_of("edge", Schema(tuple(replace(f, name=f"c{n}", doc="") for n, f in enumerate(schema))))
    return Carriage(schema.polars(), contract.schema.polars(), contract.avro)


def _cast(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    return column if column.dtype == dtype else column.cast(dtype)
