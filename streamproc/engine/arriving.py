"""What really comes at each port of a stage: columns that nobody reads are not decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from streamproc.batch import Batch, empty_batch
from streamproc.contracts.model import Schema
from streamproc.graph import Source
from streamproc.keys import keys_of
from streamproc.operator import StepTime, StreamType
from streamproc.planning.plan import Port, Stage

_NO_TIME = np.empty(0, np.int64)


def arriving(stage: Stage) -> tuple[Mapping[Port, StreamType], Mapping[Port, Batch]]:
    """Per port of the stage, the type of what comes, and a batch of it without rows.

    Found by handing batches without rows through the steps: so a step is opened for the columns that it will get, and a
    port where nothing came in a step has the same columns as one where rows did.
    """
    types: dict[Port, StreamType] = {}
    nothing: dict[Port, Batch] = {}
    for inlet in stage.inputs:
        known = inlet.type.schema
        if inlet.source is not None:
            read = inlet.source.columns
            known = Schema(tuple(column for column in known if column.name in read))
        types[inlet.port] = replace(inlet.type, schema=known)
        batch = empty_batch(known.polars())
        keyed_by = inlet.type.keyed_by
        nothing[inlet.port] = batch if keyed_by is None else batch.with_keys(keys_of(batch.frame, keyed_by))
    for node in stage.nodes:
        if isinstance(node.origin, Source):
            continue
        kinds = tuple(types[port] for port in node.inputs)
        batches = tuple(nothing[port] for port in node.inputs)
        _, output = node.operator.process(node.operator.open(*kinds), batches, StepTime(_NO_TIME, node.rank))
        rows, late = (node.rank, "rows"), (node.rank, "late")
        # A column that nobody needs may come under the name of another that was not decoded: its own type counts.
        came = output.rows.frame.schema
        there = Schema(tuple(replace(node.type.schema[name], dtype=dtype) for name, dtype in came.items()))
        types[rows], nothing[rows] = replace(node.type, schema=there), replace(output.rows, raw=None)
        for name, batch in output.sides:
            types[node.rank, name], nothing[node.rank, name] = node.sides[name], batch
        types[late], nothing[late] = replace(kinds[0], ordered=False), batches[0]
    return types, nothing
