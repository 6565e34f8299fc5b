"""What the plane writes about its own work, as contracts, and rows of any contract as records.

Dead letters have all columns of `sp_rejected`, so that whatever shows those of a topology shows these too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from streamproc.contracts.avro_schema import parse_contract
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import Registry
from streamproc.engine.leaving import HEADER
from streamproc.errors import UnknownColumn, did_you_mean
from streamproc.hashing import content_id, partitions_of
from streamproc.ports import Block, block_of
from streamproc.wire import Encoder

_MOMENT: Final = '{"type": "long", "logicalType": "timestamp-micros"}'

UNDELIVERED: Final[Contract] = parse_contract(f"""{{
 "type": "record", "name": "sp_undelivered", "namespace": "streamproc",
 "doc": "An event that a reaction did not succeed with; with its origin.",
 "sp:version": 1, "sp:owner": "streamproc",
 "fields": [
  {{"name": "fate", "type": "string", "doc": "dead_lettered"}},
  {{"name": "reason", "type": "string", "doc": "the error's name, unreadable, breaker_open or bad_answer"}},
  {{"name": "step", "type": "string", "doc": "the handler"}},
  {{"name": "topic", "type": "string"}},
  {{"name": "partition", "type": "int"}},
  {{"name": "offset", "type": "long"}},
  {{"name": "recorded_at", "type": ["null", {_MOMENT}], "default": null, "doc": "the record's own timestamp"}},
  {{"name": "event_time", "type": ["null", {_MOMENT}], "default": null}},
  {{"name": "key", "type": ["null", "bytes"], "default": null}},
  {{"name": "payload", "type": ["null", "bytes"], "default": null}},
  {{"name": "encoding", "type": "string", "doc": "record: payload is the record's value"}},
  {{"name": "id", "type": "string", "doc": "the idempotency key"}},
  {{"name": "attempts", "type": "int"}},
  {{"name": "detail", "type": "string", "doc": "what the last attempt said"}},
  {{"name": "failed_at", "type": {_MOMENT}}}
 ]}}""")

DELIVERY: Final[Contract] = parse_contract(f"""{{
 "type": "record", "name": "sp_delivery", "namespace": "streamproc",
 "doc": "What became of one event that a reaction acts on.",
 "sp:version": 1, "sp:owner": "streamproc",
 "fields": [
  {{"name": "id", "type": "string", "doc": "the idempotency key"}},
  {{"name": "topic", "type": "string"}},
  {{"name": "partition", "type": "int"}},
  {{"name": "offset", "type": "long"}},
  {{"name": "handler", "type": "string"}},
  {{"name": "outcome", "type": "string", "doc": "delivered or dead_lettered"}},
  {{"name": "attempts", "type": "int"}},
  {{"name": "started_at", "type": {_MOMENT}}},
  {{"name": "ended_at", "type": {_MOMENT}}}
 ]}}""")

BREAKER: Final[Contract] = parse_contract(f"""{{
 "type": "record", "name": "sp_breaker", "namespace": "streamproc",
 "doc": "The state of a circuit breaker from a moment on; written before a probe goes out.",
 "sp:version": 1, "sp:owner": "streamproc",
 "fields": [
  {{"name": "breaker", "type": "string"}},
  {{"name": "state", "type": "string", "doc": "closed, open or half_open"}},
  {{"name": "since", "type": {_MOMENT}}},
  {{"name": "until", "type": {_MOMENT}, "doc": "open: when a probe may go out; half_open: when the probe has failed"}},
  {{"name": "wait_us", "type": "long", "doc": "how long it was, or would next be, open"}},
  {{"name": "probes", "type": "long", "doc": "how many probes went out since it was closed"}}
 ]}}""")

OWN: Final = (UNDELIVERED, DELIVERY, BREAKER)
"""Contracts that no registry needs to hold."""


class Writer:
    """Rows of one contract as records; the schema is compiled once."""

    def __init__(self, contract: Contract, registry: Registry) -> None:
        self._contract, self._schema = contract, contract.schema.polars()
        self._encoder = Encoder(contract.avro)
        self._id = registry.adopt(contract)

    def payloads(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Each row as a record's value; columns that a row lacks are null.

        Raises UnknownColumn for one that the contract does not have, TypeMismatch or Polars' own errors for values that
        it cannot hold.
        """
        for name in sorted({name for row in rows for name in row} - set(self._schema)):
            raise UnknownColumn(f"{self._contract} has no column '{name}'", hint=did_you_mean(name, self._schema))
        frame = pl.DataFrame([dict(row) for row in rows], schema=self._schema, strict=True)
        return self._encoder.encode(frame, schema_id=self._id).to_payloads()

    def block(self, topic: str, rows: Sequence[Mapping[str, Any]], *, key: bytes | None = None) -> Block:
        """The rows as records of partition 0, all under one key."""
        return block_of(topic, 0, self.payloads(rows), keys=[key] * len(rows))


def answer_block(topic: str, partition: int, payloads: Sequence[bytes], key: bytes | None, request: str) -> Block:
    """Answers to one request, with its key; the id of each is made of the request's and its number."""
    headers = [
        {HEADER: bytes.fromhex(content_id(f"{request}\0answer\0{number}".encode()))[:16] + bytes(16)}
        for number in range(len(payloads))
    ]
    return block_of(topic, partition, payloads, keys=[key] * len(payloads), headers=headers)


def partition_of(key: bytes | None, count: int, otherwise: int) -> int:
    """Where a record with this key belongs; one without a key where `otherwise` says."""
    block = block_of("", 0, [key])
    found = int(partitions_of(block.buffer, block.value_starts, block.value_ends, count)[0])
    return otherwise % count if found < 0 else found
