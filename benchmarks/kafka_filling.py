"""Rows of a contract as records of a Kafka topic, where Kafka's default partitioner puts their keys."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from connectors.kafka import KafkaLog
from streamproc.contracts.model import Contract
from streamproc.contracts.registry import MemoryRegistry
from streamproc.hashing import partitions_of
from streamproc.keys import keys_of
from streamproc.ports import Block
from streamproc.wire import Encoder


def write_rows(log: KafkaLog, topic: str, contract: Contract, pieces: Iterable[pl.DataFrame]) -> float:
    """Writes each piece in a transaction, keyed as the contract says, in order; gives the mean size of a value.

    Records carry their event time, in whole milliseconds. One column of key of the contract, none of it null.
    """
    producer, encoder, schema_id = (
        log.producer(f"fill-{topic}"),
        Encoder(contract.avro),
        MemoryRegistry().adopt(contract),
    )
    partitions, size, rows, none = log.topics()[topic].partitions, 0, 0, np.empty(0, np.int64)
    for frame in pieces:
        encoded = encoder.encode(frame.select(contract.schema.names), schema_id=schema_id)
        keys = keys_of(frame, contract.key)
        places = partitions_of(keys.buffer, keys.starts, keys.ends, partitions)
        stamps = frame[contract.event_time].cast(pl.Int64).to_numpy()
        columns = encoded.starts, encoded.ends, keys.starts + encoded.buffer.size, keys.ends + encoded.buffer.size
        buffer = np.concatenate([encoded.buffer, keys.buffer])
        transaction = producer.begin()
        for number in range(partitions):
            mine = places == number
            if mine.any():
                transaction.append(
                    Block(topic, number, none, stamps[mine], buffer, *(column[mine] for column in columns))
                )
        transaction.commit()
        size, rows = size + int((encoded.ends - encoded.starts).sum()), rows + frame.height
    producer.close()
    return size / rows
