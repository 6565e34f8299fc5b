"""Late rows and dead letters as records: what was refused, where it came from, and why.

Both topics hold the same contract, `sp_rejected`. The payload is the record as it came where the row still is that
record;
for a row that was made or waited inside, it is the row as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract

REJECTED: Final[Contract] = parse_contract("""{
 "type": "record", "name": "sp_rejected", "namespace": "streamproc",
 "doc": "A row that came too late, or a record that could not be used; with its origin.",
 "sp:version": 1, "sp:owner": "streamproc",
 "fields": [
  {"name": "fate", "type": "string", "doc": "late or dead_lettered"},
  {"name": "reason", "type": "string"},
  {"name": "step", "type": "string", "doc": "the step that refused it"},
  {"name": "topic", "type": "string", "doc": "of the source, or of the internal edge"},
  {"name": "partition", "type": "int"},
  {"name": "offset", "type": "long"},
  {"name": "recorded_at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null,
   "doc": "the record's own timestamp"},
  {"name": "event_time", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
  {"name": "key", "type": ["null", "bytes"], "default": null},
  {"name": "payload", "type": ["null", "bytes"], "default": null},
  {"name": "encoding", "type": "string", "doc": "record: payload is the record's value; json: the row as JSON"}
 ]}""")

_COLUMNS: Final = tuple(REJECTED.schema.polars().items())


@dataclass(slots=True)
class Rejects:
    """The refused rows of a step, as columns of `sp_rejected`.

    positions  where each row stood in the step (see `streamproc.batch`) and the rank of the step that refused it: in
               this order they leave, so that it does not show how the input was cut into steps
    """

    positions: list[tuple[int, int, int, int]] = field(default_factory=list)
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in REJECTED.schema.names})

    def add(
        self,
        position: tuple[int, int, int, int],
        *,
        fate: str,
        reason: str,
        step: str,
        topic: str,
        partition: int,
        offset: int,
        recorded_at: int | None,
        event_time: int | None,
        key: bytes | None,
        payload: bytes | None,
        encoding: str,
    ) -> None:
        """One refused row. Refusals are rare: here alone the engine works row by row."""
        self.positions.append(position)
        for name, value in (
            ("fate", fate),
            ("reason", reason),
            ("step", step),
            ("topic", topic),
            ("partition", partition),
            ("offset", offset),
            ("recorded_at", recorded_at),
            ("event_time", event_time),
            ("key", key),
            ("payload", payload),
            ("encoding", encoding),
        ):
            self.rows[name].append(value)

    def __len__(self) -> int:
        return len(self.positions)

    def frames(self) -> dict[str, pl.DataFrame]:
        """The rows by fate, "late" and "dead_lettered"; a fate that no row has is left out."""
        order = sorted(range(len(self)), key=self.positions.__getitem__)
        fates = self.rows["fate"]
        out: dict[str, pl.DataFrame] = {}
        for fate in ("late", "dead_lettered"):
            mine = [row for row in order if fates[row] == fate]
            if mine:
                out[fate] = pl.DataFrame(
                    [pl.Series(name, [self.rows[name][row] for row in mine], dtype) for name, dtype in _COLUMNS]
                )
        return out


def row_json(frame: pl.DataFrame) -> list[bytes]:
    """Each row as one JSON object; binary columns as hexadecimal text.

    >>> row_json(pl.DataFrame({"a": [1]}))
    [b'{"a":1}']
    """
    if frame.width == 0:
        return [b"{}"] * frame.height
    hexed = [pl.col(name).bin.encode("hex") for name, dtype in frame.schema.items() if dtype == pl.Binary]
    return frame.with_columns(hexed).write_ndjson().encode().splitlines()
